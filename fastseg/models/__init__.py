"""Networks: any timm backbone with a decoder or a head, and their weights.

Nothing here trains, reads data or writes exports.
"""
