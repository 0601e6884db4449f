"""What a request asks for, and the bytes of its answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.images import encoded
from ..errors import ServeError
from ..formats.runs import encoded_rle
from ..inference.outputs import mask_options, mean_scores
from .exports import Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..inference.prediction import Prediction

JSON, PNG, JPEG = "application/json", "image/png", "image/jpeg"
SUFFIX_OF = {PNG: ".png", JPEG: ".jpg"}
TYPE_OF = {".png": PNG, ".jpg": JPEG}
FORMS = ("json", "rle", "mask", "overlay")


@dataclass(frozen=True)
class Asked:
    """A form of `FORMS`, and the media type of its answer."""

    form: str
    media: str


@dataclass(frozen=True)
class Answer:
    """An answer, and what the log says of it. Of JSON, `value` is what `body` says."""

    body: bytes
    media: str
    pixels: int
    value: Any = None
    needs_review: bool | None = None


def asked_for(form: str | None, accept: str | None, version: Version) -> Asked:
    """Return what `?as=` and the header Accept ask for; `?as=` counts first.

    Without both: JSON. Raises `ServeError` for media types that there are not, and for pictures of
    an export that has no masks.
    """
    task = version.predictor.task
    suffix = getattr(task, "suffix", "")  # of what predict writes
    accepted = _accepted(accept)
    if form is None:
        choices = {JSON: "json", PNG: "mask" if suffix == ".png" else "overlay", JPEG: "overlay"}
        media = next((found for kind in accepted if (found := _match(kind, list(choices)))), None)
        if media is None:
            raise ServeError(
                f"Accept: there are {', '.join(choices)}; give one of them, or ?as=", "not-offered"
            )
        form = choices[media]
    elif form in ("json", "rle"):
        media = JSON
    elif form == "mask":
        media = TYPE_OF.get(suffix, PNG)
    else:
        media = PNG if next(iter(accepted), "") == PNG else JPEG
    if form != "json" and not task.has_masks:
        raise ServeError(
            f"{version.name} {task.purpose}: it has no masks; ask for JSON", "no-picture"
        )
    return Asked(form, media)


def _accepted(header: str | None) -> list[str]:
    """Return the media types of an Accept header, the preferred ones first."""
    found: list[tuple[float, str]] = []
    for part in (header or "*/*").split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        try:
            weight = float(quality)
        except ValueError:
            weight = 0.0
        if weight > 0:
            found.append((-weight, kind))
    return [kind for _, kind in sorted(found, key=lambda pair: pair[0])]


def _match(accepted: str, offered: list[str]) -> str | None:
    """Return the first offered media type that an accepted one, or a pattern such as image/*,
    stands for.
    """
    start = accepted.removesuffix("*").removesuffix("*/")
    if accepted.endswith("/*"):
        return next((kind for kind in offered if kind.startswith(start)), None)
    return accepted if accepted in offered else None


def answering(version: Version, asked: Asked) -> Callable[[Prediction], Answer]:
    """Return the function that makes the answer of a prediction."""
    return partial(_answer, version, asked)


def _answer(version: Version, asked: Asked, prediction: Prediction) -> Answer:
    height, width = prediction.size
    if asked.form in ("json", "rle"):
        value = _judged(version, prediction)
        value |= _label(prediction) if prediction.codes is None else _classes(prediction, asked)
        body = json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
        return Answer(body, JSON, height * width, value, value["needs_review"])
    task = version.predictor.task
    if asked.form == "mask":
        suffix = task.suffix  # type: ignore[attr-defined]  # tasks with masks only
        pixels = task.render(prediction)  # type: ignore[attr-defined]
        body = encoded(pixels, suffix, **mask_options(suffix))
    else:
        pixels = task.overlay(prediction.image, prediction.codes)  # type: ignore[attr-defined]
        body = encoded(pixels, SUFFIX_OF[asked.media], **mask_options(SUFFIX_OF[asked.media]))
    return Answer(body, asked.media, height * width)


def _judged(version: Version, prediction: Prediction) -> dict[str, Any]:
    row = prediction.described(version.threshold)
    return {
        "export": version.name,
        "model": version.model,
        "width": prediction.size[1],
        "height": prediction.size[0],
        **{name: row[name] for name in ("confidence", "entropy", "expected_error")},
        "needs_review": None if row["needs_review"] == "" else bool(row["needs_review"]),
    }


def _label(prediction: Prediction) -> dict[str, Any]:
    classes = prediction.task.classes
    return {
        "kind": "classify",
        "label": prediction.label,
        "code": int(prediction.labels),
        "probabilities": {
            name: round(float(value), 6) for name, value in zip(classes, prediction.probabilities)
        },
    }


def _classes(prediction: Prediction, asked: Asked) -> dict[str, Any]:
    task, codes = prediction.task, prediction.labels
    counts = np.bincount(codes.reshape(-1), minlength=len(task.classes))
    scores = mean_scores(prediction.calibrated, codes)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "code": code,
            "area_px": int(counts[code]),
            "share": round(int(counts[code]) / codes.size, 6),
            "confidence": scores.get(code),
        }
        for code, name in enumerate(task.classes)
    ]
    if asked.form == "json":
        return {"kind": "segment", "classes": rows}
    shown = [row for row in rows if row["area_px"] and row["code"] != task.background]
    for row in shown:
        row["segmentation"] = encoded_rle(codes == row["code"])
    return {"kind": "segment-rle", "classes": shown}
