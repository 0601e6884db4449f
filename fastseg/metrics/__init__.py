"""Figures of predictions against truth, as functions of arrays: overlap, boundaries, calibration.

Which images are judged, and where the figures are written, is decided in `evaluation`.
"""
