"""An export at work: loaded, and used on one image, a photograph, or a folder of files.

Predictions are not compared with truth here; that is in `evaluation`.
"""
