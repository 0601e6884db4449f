"""Pictures, tables and pages for people: a dataset, an export's errors, its evidence, suspect labels.

It draws and ranks what others computed: scores come from `evaluation`, figures from `metrics`.
"""
