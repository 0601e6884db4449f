"""Large JSON files one entry at a time, with bounded memory.

The parser is that of the standard library, on a window of the text: faster than parsers that
report each number, and it accepts NaN, which other tools write, so that it can be refused with its
place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

WINDOW = 1 << 20  # characters read at a time
MAX_ENTRY = 1 << 25  # characters of one entry: run lengths of 30 megapixels of noise have fewer
SPACE = re.compile(r"[ \t\r\n]*")
ENDS = tuple(",:]} \t\r\n")  # what may follow a value
# A value that the window cuts off is wrong at the window's end, or where a text begins. The longest
# token that the parser takes as a whole is -Infinity.
UNTERMINATED, TOKEN = "Unterminated string", 16


class JsonError(ValueError):
    """A file that is not JSON; the text says what is wrong and at which character."""


def entries(
    file: Path, on_read: Callable[[int], object] = lambda _: None, largest: int = MAX_ENTRY
) -> Iterator[tuple[str, int, Any]]:
    """Yield (key, index, value) of a JSON file whose outer value is an object or an array.

    Of an object, each value is yielded, with index -1; of values that are arrays, each entry, with
    its index. The entries of an outer array have the key "". Repeated keys are yielded as they
    come. Memory is bounded by the largest entry. `on_read` is told how many characters were read,
    each time that more are, to show progress. Raises `JsonError` for files that are not JSON,
    not UTF-8, nested too deeply, or that have an entry of more than `largest` characters, and
    `OSError` for those that cannot be read.
    """
    with file.open(encoding="utf-8-sig") as opened:
        yield from _Reader(opened, on_read, largest).entries()


class _Reader:
    def __init__(self, file: TextIO, on_read: Callable[[int], object], largest: int):
        self.file, self.on_read, self.largest = file, on_read, largest
        self.text, self.position = "", 0
        self.before = 0  # characters of the file before `text`
        self.is_read = False  # whether `text` goes up to the end of the file
        self.decoder = json.JSONDecoder()

    def entries(self) -> Iterator[tuple[str, int, Any]]:
        opening = self._next()
        if opening == "[":
            yield from ((("", index, value)) for index, value in self._array())
        elif opening == "{":
            yield from self._object()
        else:
            raise self._error("neither an object nor an array")
        if self._next():
            raise self._error("text after the end")

    def _object(self) -> Iterator[tuple[str, int, Any]]:
        self._expect("{")
        if self._next() == "}":
            self._expect("}")
            return
        while True:
            key = self._value()
            if not isinstance(key, str):
                raise self._error("a key that is not text")
            self._expect(":")
            if self._next() == "[":
                for index, value in self._array():
                    yield key, index, value
            else:
                yield key, -1, self._value()
            if self._next() != ",":
                break
            self._expect(",")
        self._expect("}")

    def _array(self) -> Iterator[tuple[int, Any]]:
        self._expect("[")
        index = 0
        if self._next() != "]":
            yield index, self._value()
            while self._next() == ",":
                self._expect(",")
                index += 1
                yield index, self._value()
        self._expect("]")

    def _next(self) -> str:
        """Return the next character that is no space, and go there; "" at the end."""
        while True:
            match = SPACE.match(self.text, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._more():
                return ""

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise self._error(f"no '{character}' where one is expected")
        self.position += 1

    def _value(self) -> Any:
        """Return the value that begins here, and go behind it."""
        self._next()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                reason, position = error.msg, error.pos
                if error.pos < len(self.text) - TOKEN and not error.msg.startswith(UNTERMINATED):
                    self.position = error.pos
                    raise self._error(error.msg) from None
            except RecursionError:
                raise self._error("values nested too deeply") from None
            except ValueError as error:  # a number of too many digits
                raise self._error(str(error)) from None
            else:
                # a number may go on behind the window: 1 of 1.5
                if self.is_read or self.text[end : end + 1] in ENDS:
                    self.position = end
                    return value
                # a JSONDecodeError here would count the window's lines, for each entry
                reason, position = "text after a value", end
            if len(self.text) - self.position > self.largest:
                raise self._error(f"an entry of more than {self.largest} characters")
            if not self._more():
                self.position = position
                raise self._error(reason)

    def _more(self) -> bool:
        """Read on, at least as much again as is left; return whether there was more."""
        rest = self.text[self.position :]
        try:
            added = self.file.read(max(WINDOW, len(rest)))
        except UnicodeDecodeError:
            raise JsonError("is not UTF-8") from None
        self.on_read(len(added))
        self.before += self.position
        self.text, self.position = rest + added, 0
        self.is_read = not added
        return bool(added)

    def _error(self, what: str) -> JsonError:
        return JsonError(f"is not JSON: {what} (character {self.before + self.position + 1})")
