"""Images that belong together, by the beginnings of their names: subject01_frame3."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

MAX_SHARE = 0.6  # of the images: with more groups than this, most would have one image
FEWEST = 2  # groups
TOKEN = re.compile(r"[^_\-. ]+|[_\-. ]+")


@dataclass(frozen=True)
class Grouping:
    """A pattern at the beginning of stems, and what it finds."""

    pattern: str
    groups: int
    largest: tuple[str, int]  # an example: the group with the most images
    example: str  # the stem of one of its images

    def __str__(self) -> str:
        name, count = self.largest
        return f"{self.groups} groups, such as {name} with {count} images ({self.example})"


def grouping_of(stems: Sequence[str]) -> Grouping | None:
    """Return the shortest pattern by which images form groups, or None.

    All names have the same shape then: words and numbers, divided by the same separators.
    """
    if len(stems) < 4:
        return None
    parts = [TOKEN.findall(stem) for stem in stems]
    length = min(map(len, parts))
    for count in range(1, length, 2):
        columns = [[tokens[at] for tokens in parts] for at in range(count)]
        pattern = "".join(_pattern(column) for column in columns)
        if not any(len(set(column)) > 1 for column in columns):
            continue
        follows = {tokens[count] for tokens in parts if len(tokens) > count}
        if len(follows) != 1 or any(len(tokens) <= count for tokens in parts):
            return None
        found = Counter("".join(tokens[:count]) for tokens in parts)
        if len(found) < FEWEST:
            continue
        if len(found) > MAX_SHARE * len(stems):
            return None
        if not all((match := re.match(pattern, s)) and match.group() in found for s in stems):
            return None
        name, most = found.most_common(1)[0]
        example = next(s for s in stems if s.startswith(name))
        return Grouping(pattern, len(found), (name, most), example)
    return None


def _pattern(column: Sequence[str]) -> str:
    """Return a pattern of one part of the names: literal, letters with a number, or any word."""
    if len(set(column)) == 1:
        return re.escape(column[0]).replace(r"\-", "-").replace(r"\ ", " ")
    shapes = {re.sub(r"\d+", r"\\d+", re.escape(word).replace(r"\-", "-")) for word in column}
    if len(shapes) == 1:
        return shapes.pop()
    return r"[^_\-. ]+"
