"""Helpers that know nothing of images or tasks: files, journals of runs, devices, progress bars, options.

No module here imports from another room but `errors`, and none holds anything about datasets, models or training.
"""
