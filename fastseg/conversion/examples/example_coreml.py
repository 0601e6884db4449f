"""Run the model on an image, on macOS: python example.py photo.jpg"""

import json
import sys
from pathlib import Path

import coremltools  # it predicts on macOS only
import numpy as np
from PIL import Image, ImageOps

if sys.platform != "darwin":
    sys.exit("Core ML runs on macOS and iOS only")
here, file = Path(__file__).parent, sys.argv[1]
about = json.loads((here / "classes.json").read_text())
classes, (height, width) = about["classes"], about["size"]
model = coremltools.models.MLModel(str(here / "model.mlpackage"))
image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
small = image.resize((width, height), Image.Resampling.BILINEAR)
codes = model.predict({"image": small})["codes"].astype(np.uint8)
if codes.ndim == 3:  # a class for each pixel
    Image.fromarray(codes[0]).resize(image.size, Image.Resampling.NEAREST).save("mask.png")
    print("mask.png: the code of each pixel's class")
    for entry in classes:
        print(entry["name"], f"{np.mean(codes[0] == entry['code']):.2%}")
else:
    print(classes[codes[0]]["name"])
