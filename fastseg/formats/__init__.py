"""Label formats of other tools, such as LabelMe, COCO and CVAT.

A format is recognised here, one module each; this room does not read images and does not know tasks.
"""
