"""Colours as text: "#cc3c3c", as task.toml, label files and pages have them."""

from __future__ import annotations

import re

from ..types import Colour


def hexadecimal(colour: Colour) -> str:
    """Return a colour as "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def from_hexadecimal(text: object) -> Colour | None:
    """Return the colour that a text such as "#cc3c3c" states; None for anything else."""
    if not isinstance(text, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return None
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
