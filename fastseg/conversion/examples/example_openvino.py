"""Run the model on an image: python example.py photo.jpg"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

sys.modules["openvino_telemetry"] = None  # with it, OpenVINO reports its use over the network
import openvino  # noqa: E402

here, file = Path(__file__).parent, sys.argv[1]
classes = json.loads((here / "classes.json").read_text())["classes"]
exact = {"INFERENCE_PRECISION_HINT": "f32"}  # leave it out for bfloat16, where that is faster
model = openvino.Core().compile_model(here / "model.xml", "CPU", exact)
if file.endswith(".npy"):  # an image that is not RGB: uint8 (height, width, channels)
    image = np.load(file)
else:
    image = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
codes = model([image[None]])["codes"]
if codes.ndim == 3:  # a class for each pixel
    Image.fromarray(codes[0]).save("mask.png")
    print("mask.png: the code of each pixel's class")
    for entry in classes:
        print(entry["name"], f"{np.mean(codes[0] == entry['code']):.2%}")
else:
    print(classes[codes[0]]["name"])
