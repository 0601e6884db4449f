"""An export at work: loaded, and used on one image, a photograph, or files and folders.

It predicts and writes predictions. It does not compare them with labels; that is in `evaluation`.
"""
