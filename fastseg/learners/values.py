"""Values of options as people write them: "240x320", "10m", "0.5", "yes"."""

from __future__ import annotations

import re
from numbers import Integral
from typing import Any

from ..errors import ModelError
from .options import BatchSize, Number, Option, WholeNumber

MB = 2**20  # bytes
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def size_of(text: str) -> tuple[int, int]:
    """Return (height, width) from "256" or "240x320". Raises `ModelError` for other texts."""
    match = re.fullmatch(r"(\d{1,6})(?:[xX](\d{1,6}))?", text.strip())
    if not match:
        raise ModelError(
            f"'{text}' is neither a side such as 256 nor a height x width such as 240x320",
            "option-range",
        )
    return int(match[1]), int(match[2] or match[1])


def seconds_of(text: str) -> float:
    """Return seconds from "90s", "10m", "1.5h" or "90". Raises `ModelError` for other texts."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([smh]?)", text.strip())
    if not match or not float(match[1]):
        raise ModelError(f"'{text}' is not a time such as 90s, 10m or 1h", "option-range")
    return float(match[1]) * SECONDS[match[2]]


def value_of(option: Option, text: str) -> Any:
    """Return an option's value from its text; an empty text is the default.

    Room for images is in MB. Raises `ModelError` for what is no such value, and `FastsegError`
    kinds for values that the option cannot have.
    """
    text = text.strip()
    if not text:
        return option.default
    try:
        value = _converted(option, text)
    except (ValueError, KeyError, OverflowError):
        raise ModelError(f"{option.flag} '{text}': is not such a value", "option-range") from None
    option.check(value)
    return value * MB if option.unit == "bytes" else value


def text_of(option: Option, value: Any) -> str:
    """Return a value as `value_of` reads it; "" for None."""
    if value is None:
        return ""
    if option.unit == "px":
        height, width = (value, value) if isinstance(value, Integral) else value
        return f"{height}" if height == width else f"{height}x{width}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if option.unit == "bytes":
        return str(value // MB)
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return repr(value) if isinstance(value, float) and float(short) != value else short


def _converted(option: Option, text: str) -> Any:
    if option.unit == "px":
        return size_of(text)
    if option.unit == "s":
        return seconds_of(text)
    if option.annotation.startswith("bool"):
        return FLAGS[text.lower()]
    if isinstance(option.rule, BatchSize):  # which says whether a text is "auto"
        return int(text) if text.lstrip("+-").isdecimal() else text
    if isinstance(option.rule, WholeNumber):
        return int(text)
    if isinstance(option.rule, Number):
        return float(text)
    return text
