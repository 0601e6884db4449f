"""Run the model on an image: python example.py photo.jpg"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime reports its use otherwise
here, file = Path(__file__).parent, sys.argv[1]
classes = json.loads((here / "classes.json").read_text())["classes"]
session = onnxruntime.InferenceSession(here / "model.onnx", providers=["CPUExecutionProvider"])
if file.endswith(".npy"):  # an image that is not RGB: uint8 (height, width, channels)
    image = np.load(file)
else:
    image = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
(codes,) = session.run(["codes"], {"images": image[None]})
if codes.ndim == 3:  # a class for each pixel
    Image.fromarray(codes[0]).save("mask.png")
    print("mask.png: the code of each pixel's class")
    for entry in classes:
        print(entry["name"], f"{np.mean(codes[0] == entry['code']):.2%}")
else:
    print(classes[codes[0]]["name"])
