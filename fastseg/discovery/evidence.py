"""What was found and why: evidence by subject, and choices between several readings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import DataError

# The options of `fastseg new` that decide between readings, by the name of the choice.
OPTIONS = {
    "kind": "--kind",
    "format": "--format",
    "images": "--images",
    "masks": "--masks",
    "pixels": "--pixels",
    "ignore": "--ignore",
    "label_column": "--label-column",
    "group": "--group",
}


@dataclass(frozen=True)
class Question:
    """Something that the files do not say: several readings, of which one may be likelier.

    `readings` maps the value of the option to what it means. The likelier one is taken unless the
    user says otherwise; None means that all are equally likely.
    """

    subject: str  # a key of `OPTIONS`
    text: str
    readings: Mapping[str, str]
    likelier: str | None = None

    def __str__(self) -> str:
        return f"{self.text}: " + " or ".join(
            f"{meaning} ({OPTIONS[self.subject]} {value})"
            for value, meaning in self.readings.items()
        )


Ask = Callable[[Question], str]  # returns a key of the question's readings


@dataclass
class Notes:
    """Collects evidence and open questions, and decides questions by options or by asking."""

    ask: Ask | None = None
    given: Mapping[str, str] = field(default_factory=dict)  # the user's options, by subject
    evidence: dict[str, list[str]] = field(default_factory=dict)
    open: list[Question] = field(default_factory=list)

    def say(self, subject: str, line: str) -> None:
        """Note one line of evidence, once."""
        lines = self.evidence.setdefault(subject, [])
        if line not in lines:
            lines.append(line)

    def decide(self, question: Question) -> str:
        """Return the chosen reading: the user's option, the likelier one, or the answer.

        Raises `DataError` with code "ambiguous" if nothing decides.
        """
        chosen = self.given.get(question.subject)
        if chosen is not None and chosen in question.readings:
            return chosen
        if question.likelier is not None:
            self.open.append(question)
            return question.likelier
        if self.ask is not None:
            return self.ask(question)
        raise DataError(f"{question}; choose one by this option", "ambiguous")


def listed(names: Sequence[object], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
