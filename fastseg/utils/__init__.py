"""Helpers for files, locks, journals, devices, measured times, progress bars and options.

They do not depend on images, tasks or training, and import only from the room `errors`.
"""
