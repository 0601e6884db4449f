"""What can be wrong with a dataset: the check before training, the full check, the repaired copy.

Needs no model. No original file is changed.
"""
