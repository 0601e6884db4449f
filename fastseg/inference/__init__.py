"""Inference: loads an export and predicts one image, a photograph, or files and folders.

It writes predictions, but does not compare them with labels; that is in `evaluation`.
"""
