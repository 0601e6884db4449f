"""An export against labels: which images are judged, their scores, groups, intervals and
comparisons.

The formulas of the figures are in `metrics`. Pictures and pages are made in `report`.
"""
