"""Networks: timm backbones with a decoder or a classification head, and their weights.

Names are checked in `backbones`, networks are built in `factory`. Nothing here trains, reads images
or writes exports.
"""
