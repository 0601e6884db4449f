"""From a learner to an export: time budget, loop, callbacks, checkpoints, folds, studies.

Networks are built in `models`, and learners in `learners`.
"""
