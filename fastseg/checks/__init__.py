"""What can be wrong with a dataset: the survey before training, the full check, and the repaired copy.

Nothing here needs a model, and no original file is changed.
"""
