"""Helpers for files, locks, journals, devices, measured times, progress bars and options.

They know nothing of images, tasks or training, and import from no other room but `errors`.
"""
