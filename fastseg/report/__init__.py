"""Pictures, tables and pages: a dataset, an export's errors and evidence, suspect labels.

It draws and ranks what others computed: scores come from `evaluation`, figures from `metrics`.
"""
