"""Numbers from masks: measures of objects and classes with intervals, cohort means, a summary.

The formulas of intervals and means are in `metrics.conformal` and `metrics.cohort`.
"""
