"""Label formats of other tools, such as LabelMe, COCO and CVAT.

A format is recognised here by its content. This room reads no images and knows no tasks.
"""
