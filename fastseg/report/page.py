"""One self-contained page about an export: nothing is fetched, every name is escaped, every picture is inside it."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import spearmanr

from ..data.images import resized
from ..evaluation.run import trained_on
from ..exports.card import HISTORY, read_history
from ..metrics.figures import FIGURES
from ..metrics.risk import ERROR_RATE, review_threshold
from ..types import IGNORE
from . import charts, panels
from .evidence import evidence
from .html import address, css_colour, data_address, environment, write_page

if TYPE_CHECKING:
    from ..inference.prediction import Prediction
    from .results import Insight, Interpretation

LISTED, PICTURED, EVIDENCE_CLASSES = 30, 4, 4


def write_report(found: Interpretation, root: Path, split: str, path: Path) -> Path:
    """Write report.html from the template, with the pictures inside it."""
    templates = environment()
    templates.filters["figure"] = _figure
    templates.filters["interval"] = lambda ends: (
        "" if not ends else f"{_figure(ends[0])} to {_figure(ends[1])}"
    )
    task = found.task
    review, doubted = (
        found.needing_review(),
        [image for image in found.suspects() if image.suspicion.predicted],
    )
    passed = [image.error for image in found.images if image not in review]
    errors, expected = (
        [getattr(image, key) for image in found.images] for key in ("error", "expected_error")
    )
    has_ranking = (
        len(found.images) > 2 and min(errors) < max(errors) and min(expected) < max(expected)
    )
    history = read_history(found.folder / HISTORY)
    items = [image.item for image in found.images]
    page = templates.get_template("report.html").render(
        task=task,
        card=found.card,
        metrics=found.metrics,
        data=root,
        split=split,
        seen=trained_on(found.card, items, root),
        found=found,
        figures=FIGURES,
        rows=[key for key in next(iter(found.metrics["classes"].values())) if key in FIGURES],
        legend=[(name, css_colour(colour)) for name, colour in panels.legend(task)],
        errors=[(kind, css_colour(panels.ERRORS[kind])) for kind in panels.wrong_kinds(task)],
        sizes=Counter(f"{i.size[1]} x {i.size[0]}" for i in found.images).most_common(5),
        charts={
            name: _svg(draw)
            for name, draw in (
                ("confusion", found.plot_confusion_matrix()),
                ("bars", found.plot_per_class()),
                ("reliability", found.plot_reliability()),
                *([("curves", charts.curves(history))] if history else []),
            )
        },
        gallery={name: _cases(found, images) for name, images in found.ranked().items()},
        evidence_scale=[
            css_colour(map(int, colour)) for colour in panels.evidence_colours(np.linspace(0, 1, 9))
        ],
        evidence=_evidence(found),
        suspects=doubted[:LISTED],
        suspect_cases=_cases(found, doubted[:PICTURED], boxed=True),
        review=review[:LISTED],
        review_count=len(review),
        error_rate=ERROR_RATE,
        let_through=float(np.mean(passed)) if passed else None,
        ranking=float(spearmanr(errors, expected)[0]) if has_ranking else None,
        threshold=review_threshold(found.card.review, ERROR_RATE),
    )
    return write_page(page, path)


def _figure(value: float | None) -> str:
    return "absent" if value is None else f"{value:.2f}" if abs(value) >= 2 else f"{value:.4f}"


def _cases(found: Interpretation, images: Sequence[Insight], boxed: bool = False) -> list[dict]:
    """Return what the template shows of each image: its pixels, layers of truth and prediction, errors and uncertainty."""
    return [_case(found, *seen, boxed) for seen in found.predicted(images)]


def _case(
    found: Interpretation,
    insight: Insight,
    prediction: Prediction,
    truth: np.ndarray | int,
    boxed: bool,
) -> dict:
    image = panels.shrink(prediction.image)
    height, width = image.shape[:2]
    case = {"insight": insight, "base": _jpeg(image), "width": width, "height": height}
    if found.task.kind == "classify":
        return {
            **case,
            "truth": found.task.classes[truth],
            "predicted": prediction.label,
            "probability": float(prediction.probabilities.max()),
        }
    probabilities = np.stack([panels.shrink(p) for p in prediction.probabilities])
    truth, codes = panels.shrink(truth), panels.shrink(prediction.codes)
    entropy = -(probabilities * np.log(np.clip(probabilities, 1e-12, 1))).sum(0) / np.log(
        max(2, len(probabilities))
    )
    case |= {
        "truth_is_empty": bool(np.isin(truth, [found.task.background, IGNORE]).all())
        if found.task.background is not None
        else False,
        "panes": [("truth", _layers(found, truth)), ("prediction", _layers(found, codes))],
        "errors": [
            _layer(where, panels.ERRORS[kind])
            for kind, where in panels.wrong_pixels(truth, codes, found.task.background).items()
            if where.any()
        ],
        "uncertainty": _jpeg(_coloured(entropy)),
    }
    if boxed and insight.suspicion.box:
        own = insight.size
        left, top, right, bottom = insight.suspicion.box
        case["box"] = [
            round(100 * v, 2)
            for v in (left / own[1], top / own[0], (right - left) / own[1], (bottom - top) / own[0])
        ]
    return case


def _layers(found: Interpretation, codes: np.ndarray) -> list[tuple[int, str]]:
    colours = panels.class_colours(found.task)
    return [
        (c, _layer(codes == c, colours[c]))
        for c in range(len(colours))
        if c != found.task.background and (codes == c).any()
    ]


def _layer(where: np.ndarray, colour: tuple[int, int, int]) -> str:
    """Return a PNG, as a data address, that is `colour` where `where` holds and clear elsewhere."""
    picture = Image.fromarray(where.astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, *colour])
    return address(picture, "PNG", transparency=0, bits=1)


def _evidence(found: Interpretation) -> list[dict]:
    """Return evidence maps over a few images: of each foreground class of a mask, or of the predicted class."""
    task, shown = found.task, found.ranked()
    chosen = (
        [*shown["median"][:2], *shown["worst"][:2]]
        if task.kind == "segment"
        else [*shown["best"], *shown["worst"]]
    )
    cases = []
    for insight, prediction, truth in found.predicted(list({i.name: i for i in chosen}.values())):
        small, _ = task.image_near(insight.item, tuple(found.card.size))
        classes = (
            [c for c in range(len(task.classes)) if c != task.background][:EVIDENCE_CLASSES]
            if task.kind == "segment"
            else [int(prediction.labels)]
        )
        maps = evidence(found.predictor, small, classes)
        base = resized(small, insight.size, "squish") if task.recipe.resize == "squish" else small
        base = panels.shrink(base)
        scale = max(
            1, round(panels.MAX_SIDE / max(base.shape[:2]))
        )  # a small image is enlarged, so that the outlines are smooth
        base = resized(base, (base.shape[0] * scale, base.shape[1] * scale), "squish")
        panes = []
        for number, heat in zip(classes, maps):
            heat = np.array(Image.fromarray(heat).resize(base.shape[1::-1], Image.BILINEAR))
            is_predicted = task.kind == "classify" or (prediction.codes == number).any()
            panes.append(
                (
                    task.classes[number] + ("" if is_predicted else " (predicted nowhere)"),
                    _jpeg(panels.evidence_map(base, heat)),
                )
            )
        cases.append(
            {
                "insight": insight,
                "base": _jpeg(base),
                "panes": panes,
                "truth": None if task.kind == "segment" else task.classes[truth],
            }
        )
    return cases


def _coloured(values: np.ndarray) -> np.ndarray:
    """Paint values from 0 to 1 in a colour map that colour-blind people read alike: uint8 (H, W, 3)."""
    return (colormaps["cividis"](np.clip(values, 0, 1))[..., :3] * 255).astype(np.uint8)


def _jpeg(pixels: np.ndarray) -> str:
    return address(Image.fromarray(pixels), "JPEG", quality=85)


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", facecolor="white")
    return data_address("svg+xml", buffer)
