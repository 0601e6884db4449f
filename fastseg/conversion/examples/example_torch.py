"""Run the model on an image: python example.py photo.jpg"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

here, file = Path(__file__).parent, sys.argv[1]
classes = json.loads((here / "classes.json").read_text())["classes"]
model = torch.export.load(here / "model.pt2").module()
if file.endswith(".npy"):  # an image that is not RGB: uint8 (height, width, channels)
    image = np.load(file)
else:
    image = np.array(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
with torch.inference_mode():
    codes, _ = model(torch.from_numpy(image)[None])
codes = codes.numpy()
if codes.ndim == 3:  # a class for each pixel
    Image.fromarray(codes[0]).save("mask.png")
    print("mask.png: the code of each pixel's class")
    for entry in classes:
        print(entry["name"], f"{np.mean(codes[0] == entry['code']):.2%}")
else:
    print(classes[codes[0]]["name"])
