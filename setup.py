"""Packaging of fastseg. Lower bounds are versions below which something is known to break."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="fastseg",
    version="0.5.0",
    description="fastai learners over timm backbones for small segmentation and classification datasets, with a CLI",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["fastseg", "fastseg.*"]),
    package_data={"fastseg": ["report/templates/*.html", "tasks/*.tsv"]},
    install_requires=[
        "fastai>=2.8.10",  # exports with the fastcore of today
        "torch>=2.9",  # torch.export of our networks; its imports on the meta device
        "torchvision>=0.24",  # the one of torch 2.9
        "timm>=1.0.22",  # models that can be laid out on the meta device; the tests' own backbones
        "segmentation-models-pytorch>=0.5",  # NHWC and 4-stage backbones, UPerNet, Segformer
        "safetensors>=0.4",
        "onnx>=1.16",  # writing model.onnx
        "onnxruntime>=1.18",
        "huggingface-hub>=0.23",
        "numpy>=1.26",  # numpy.dtypes, which torch.load looks up
        "pandas>=2.0",
        "scipy>=1.10",
        "captum>=0.7",  # Grad-CAM
        "cleanlab>=2.8",  # labels in doubt; from 2.8 on under the Apache licence
        "matplotlib>=3.8",
        "contourpy>=1.2",  # matplotlib's own
        "shapely>=2.0",
        "pycocotools>=2.0.8",
        "pillow>=10.1",  # scalable default font
        "typer>=0.19",  # arguments that are missing are told
        "rich>=13",
        "jinja2>=3.1",
        "httpx>=0.27",
        "filelock>=3.12",
        "imagehash>=4.3.1",  # pictures that are the same again
        "platformdirs>=4",
    ],
    extras_require={
        "face": [
            "mediapipe==0.10.21; python_version < '3.13'"
        ],  # the last that carries its models in the wheel
        "test": [
            "pytest>=8",
            "pytest-xdist>=3",
            "scikit-learn>=1.4",
            "torchmetrics>=1.4",
            "monai>=1.4",
            "hypothesis>=6.100",
            "import-linter>=2.4",
        ],
    },
    entry_points={"console_scripts": ["fastseg=fastseg.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
    ],
)
