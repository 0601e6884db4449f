"""From a learner to an export: options, time budget, loop, callbacks, checkpoints, resuming, cross-validation, studies.

Networks are built in `models`, and learners in `learners`.
"""
