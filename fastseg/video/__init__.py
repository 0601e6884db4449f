"""Videos: their frames one after the other, and files of masks and overlays. No network here."""
