"""Malicious and damaged JSON label files, for the tests of the formats."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from hypothesis import strategies as st

from fastseg.data.issues import Fault
from fastseg.errors import DataError
from fastseg.formats import base, cache

DEEP = "a list nested 20,000 levels deep"
ODD = (
    None,
    True,
    0,
    -1,
    3,
    2.5,
    float("nan"),
    float("inf"),
    -1e308,
    10**400,
    "",
    " ",
    "a\nb",
    "\ud800",
    "\0",
    "../../etc/passwd",
    "/etc/passwd",
    "http://[",
    "AAAA",
    [],
    [[]],
    [None],
    [[1, 2]],
    [[1, 2], [3, 4]],
    [[1, "2"], [3, 4], [5, 6]],
    {},
    {"points": []},
    DEEP,
)


def places(value: object, at: tuple = ()) -> list[tuple]:
    """Return the paths of all values in a JSON value, as keys and indices."""
    keys = (
        value.keys()
        if isinstance(value, dict)
        else range(len(value))
        if isinstance(value, list)
        else ()
    )
    return [at, *(found for key in keys for found in places(value[key], (*at, key)))]


@st.composite
def mutated(draw, content: object) -> bytes:
    """Draw the text of a label file like `content` with one to three odd values, or cut off."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(content)))
        new = copy.deepcopy(draw(st.sampled_from(ODD)))
        if not path:
            content = new
            continue
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        if draw(st.booleans()):
            parent[path[-1]] = new
        else:
            del parent[path[-1]]
    text = json.dumps(content).replace(json.dumps(DEEP), "[" * 20_000 + "]" * 20_000).encode()
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return text[: draw(st.integers(0, len(text)))]
    if kind == 1:
        at = draw(st.integers(0, len(text)))
        return text[:at] + draw(st.binary(min_size=1, max_size=3)) + text[at + 1 :]
    return text


def survives(form: base.Format, file: Path, root: Path, meaning: dict[str, int]) -> list[Fault]:
    """Read and draw a label file, which must raise nothing, and return the faults.

    Each must be one line that names a file. `classes` may refuse the file.
    """
    try:
        form.classes([file])
    except DataError as error:
        assert error.code in ("label-file", "unknown-class"), error.code
    _, faults = cache.masks_of(form, root, file, root, meaning, 0)
    for one in faults:
        assert one.file and "\n" not in str(one), str(one)
        str(one).encode()  # can be printed
    return faults
