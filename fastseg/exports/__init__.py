"""The export folder: its card, its weights, its ONNX model, written and found.

Computing with an export is in `inference`; writing one does not train.
"""
