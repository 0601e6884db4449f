"""Looks into a folder of images and labels, says what it found, and writes its task.toml."""
