"""What lies beside a converted model: its example, classes and colours, and what to know."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..exports.card import Card
from ..utils.io import write_json
from .targets import Source, Target

CLASSES, EXAMPLE, README = "classes.json", "example.py", "README.md"
EXAMPLES = Path(__file__).with_name("examples")


def write_contents(target: Target, source: Source, said: Mapping[str, Any], folder: Path) -> None:
    """Write classes.json, README.md, and example.py if the format has one."""
    write_json(folder / CLASSES, _classes(source))
    if target.example:
        shutil.copyfile(EXAMPLES / target.example, folder / EXAMPLE)
    (folder / README).write_text(_readme(target, source, said), encoding="utf-8")


def _classes(source: Source) -> dict[str, Any]:
    """Return the classes with their colours, and how images become the network's input."""
    card = source.card
    colours: Sequence[list[int] | None] = card.palette or [None for _ in card.classes]
    return {
        "task": card.task,
        "kind": card.kind,
        "classes": [
            {"code": code, "name": name, "colour": colour}
            for code, (name, colour) in enumerate(zip(card.classes, colours))
        ],
        "channels": card.channels,
        "size": card.size,  # (height, width) in px at which the network sees images
        "resize": card.resize,
        "mean": card.mean,
        "std": card.std,
        "temperature": card.temperature,
        "licence": card.licence,
    }


def _readme(target: Target, source: Source, said: Mapping[str, Any]) -> str:
    card, compared = source.card, said["compared"]
    height, width = card.size
    masks = "a mask of class codes at the image's own size"
    what = masks if source.task.has_masks else "the class of the image"
    lines = [
        f"# {card.task} for {target.name}",
        "",
        f"Converted from a fastseg export by fastseg {said['fastseg']}. The network sees images at "
        f"{height} x {width} px (height x width).",
        "",
        *(["    python example.py photo.jpg", ""] if target.example else []),
        *(f"- {line}" for line in target.usage or _inputs(card, what)),
        *(f"- {name}: {worded(value)}" for name, value in said["format"].items()),
        "",
        _verdict(said),
        *([] if target.as_predict else _beyond(source)),
    ]
    if compared and not compared["held_out"]:
        lines += [
            "",
            "The images of the comparison may have been trained on: both scores may be too high; "
            "their difference counts.",
        ]
    return "\n".join(lines) + "\n"


def _inputs(card: Card, what: str) -> list[str]:
    """Return lines on the inputs and outputs of a graph."""
    return [
        f"Input `images`: uint8 (batch, height, width, {card.channels}).",
        f"Output `codes`: {what}, an index into the classes of `{CLASSES}`.",
        "Output `logits`: the scores at the network's size; divided by the `temperature` of "
        f"`{CLASSES}` and passed through a softmax, they are calibrated probabilities.",
    ]


def worded(value: object) -> str:
    """Return a fact about a format in words."""
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _verdict(said: Mapping[str, Any]) -> str:
    """Return a sentence that says how the two models compare."""
    compared = said["compared"]
    if compared is None:
        return f"Not compared with the export: {said['not_run']}."
    unit = "pixels" if compared["figure"] == "Dice" else "images"
    text = f"On {compared['images']} images, {compared['differing']:.4%} of {unit} differ"
    if compared["difference"] is not None:
        text += (
            f"; {compared['figure']} {compared['export']:.4f} of the export, "
            f"{compared['converted']:.4f} of this model"
        )
    exceeded = said["gate"]["exceeded"]
    return text + (f". **Kept by force**: {'; '.join(exceeded)}." if exceeded else ".")


def _beyond(source: Source) -> list[str]:
    """Return lines on what `fastseg predict` does and the converted model does not."""
    lines = [
        "`fastseg predict` decodes a JPEG of twice the network's size or more at a part of its "
        "size, which is faster, and changes some pixels."
    ]
    if source.card.tta:
        lines.append(
            "It averages each image with its mirror image, which this model does not; the "
            "comparison is without that."
        )
    if source.card.review:
        lines.append("It says which images a person should review.")
    if source.card.depth is not None:
        lines.append(f"It scales images of 16 bits by the range of {source.card.depth} bits.")
    return ["", "What `fastseg predict` does beyond this model:", "", *(f"- {t}" for t in lines)]
