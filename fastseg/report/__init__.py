"""Pictures, tables and pages: a dataset, an export's errors and evidence, suspect labels.

It only draws and ranks: scores come from `evaluation`, figures from `metrics`.
"""
