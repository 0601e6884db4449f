"""Compares an export with labels: which images are used, their scores, groups, intervals and
comparisons.

The formulas of the figures are in `metrics`. Pictures and pages are made in `report`.
"""
