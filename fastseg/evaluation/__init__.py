"""An export against truth: which images are judged, their scores, and intervals.

The figures themselves are computed in `metrics`; pictures and pages are made in `report`.
"""
