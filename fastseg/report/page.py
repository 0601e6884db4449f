"""`report.html`: one self-contained page about an export; nothing is downloaded, every name is
escaped, every picture is inside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy.stats import spearmanr

from ..data.colours import hexadecimal
from ..data.images import resized
from ..evaluation.run import trained_on
from ..exports.card import HISTORY, read_history
from ..metrics.agreement import sentence
from ..metrics.figures import FIGURES
from ..metrics.risk import ERROR_RATE, lowest_rate, review_obstacle, review_threshold
from ..utils.io import portable_path
from . import charts, painting, panels
from .html import environment, jpeg, svg, write_page

if TYPE_CHECKING:
    from .analysis import Insight
    from .results import Interpretation

LISTED = 30  # suspected labels, and images that need review
PICTURED = 4  # suspected labels
SIZES = 5  # most common sizes of images
SCALE_STEPS = 9  # colours of the evidence scale


def write_report(found: Interpretation, root: Path, split: str, path: Path) -> Path:
    """Write report.html from the template of the task's kind, with the pictures inside it."""
    templates = environment()
    templates.filters["figure"] = _figure
    templates.filters["interval"] = lambda ends: (
        "" if not ends else f"{_figure(ends[0])} to {_figure(ends[1])}"
    )
    page = templates.get_template(found.view.template).render(
        task=found.task,
        card=found.card,
        export=(found.folder if found.folder.is_dir() else found.folder.parent).resolve().name,
        metrics=found.metrics,
        data=portable_path(root, path.parent),
        split=split,
        found=found,
        agreement=sentence(found.agreement) if found.agreement else "",
        seen=len(trained_on(found.card, [image.item for image in found.images], root)),
        figures=FIGURES,
        rows=[key for key in next(iter(found.metrics["classes"].values())) if key in FIGURES],
        sizes=Counter(f"{i.size[1]} x {i.size[0]}" for i in found.images).most_common(SIZES),
        charts=_charts(found),
        **_colours(found),
        gallery={name: _cases(found, images) for name, images in found.ranked().items()},
        evidence=_evidence(found),
        **_suspects(found),
        **_review(found),
    )
    return write_page(page, path)


def _colours(found: Interpretation) -> dict[str, Any]:
    """Return the colours of classes, errors and evidence as CSS."""
    scale = painting.evidence_colours(np.linspace(0, 1, SCALE_STEPS)).astype(int).tolist()
    return {
        "legend": [(name, hexadecimal(colour)) for name, colour in found.view.legend()],
        "errors": [
            (kind, hexadecimal(painting.ERRORS[kind])) for kind in painting.error_kinds(found.task)
        ],
        "evidence_scale": [hexadecimal((red, green, blue)) for red, green, blue in scale],
    }


def _charts(found: Interpretation) -> dict[str, str]:
    """Return the charts as data addresses; "curves" only where the export has a history."""
    drawn = {
        "confusion": found.plot_confusion_matrix(),
        "bars": found.plot_per_class(),
        "reliability": found.plot_reliability(),
    }
    history = read_history(found.folder / HISTORY)
    if history:
        drawn["curves"] = charts.curves(history)
    return {name: svg(figure) for name, figure in drawn.items()}


def _suspects(found: Interpretation) -> dict[str, Any]:
    """Return the images whose label the model contradicts, and the pictures of the first of
    them.
    """
    contradicted = [image for image in found.suspects() if image.suspicion.predicted]
    return {
        "suspects": contradicted[:LISTED],
        "suspect_cases": _cases(found, contradicted[:PICTURED], boxed=True),
    }


def _review(found: Interpretation) -> dict[str, Any]:
    """Return which images need review, the error of the others, and how well errors were
    estimated.
    """
    review = found.needing_review()
    passed = [image.error for image in found.images if image not in review]
    errors = [image.error for image in found.images]
    expected = [image.expected_error for image in found.images]
    has_ranking = (
        len(found.images) > 2 and min(errors) < max(errors) and min(expected) < max(expected)
    )
    return {
        "review": review[:LISTED],
        "review_count": len(review),
        "error_rate": ERROR_RATE,
        "obstacle": review_obstacle(found.card.metrics.get("images"), ERROR_RATE),
        "lowest_rate": lowest_rate(found.card.review),
        "let_through": float(np.mean(passed)) if passed else None,
        "ranking": float(spearmanr(errors, expected)[0]) if has_ranking else None,
        "threshold": review_threshold(found.card.review, ERROR_RATE),
    }


def _figure(value: float | None) -> str:
    if value is None:
        return "absent"
    return f"{value:.2f}" if abs(value) >= 2 else f"{value:.4f}"


def _cases(
    found: Interpretation, images: Sequence[Insight], boxed: bool = False
) -> list[dict[str, Any]]:
    """Return the template's values for each image, see `View.case`."""
    return [found.view.case(*seen, boxed) for seen in found.predicted(images)]


def _evidence(found: Interpretation) -> list[dict[str, Any]]:
    """Return evidence maps over a few images, see `View.evidence`."""
    task, view = found.task, found.view
    chosen = {image.name: image for image in view.evidence_images(found.ranked())}
    cases = []
    for insight, prediction, truth in found.predicted(list(chosen.values())):
        height, width = found.card.size
        small, _ = task.image_near(insight.item, (height, width))
        base = task.shown(small)
        if task.recipe.resize == "squish":
            base = resized(base, insight.size, "squish")
        base = panels.shrink(base)
        # Enlarge small images, so that the outlines are smooth.
        scale = max(1, round(panels.MAX_SIDE / max(base.shape[:2])))
        base = resized(base, (base.shape[0] * scale, base.shape[1] * scale), "squish")
        size = base.shape[1], base.shape[0]
        panes = []
        for title, heat in view.evidence(found.predictor, prediction, small):
            large = np.array(Image.fromarray(heat).resize(size, Image.Resampling.BILINEAR))
            panes.append((title, jpeg(painting.evidence_map(base, large))))
        cases.append(
            {
                "insight": insight,
                "base": jpeg(base),
                "panes": panes,
                "truth": view.evidence_label(truth),
            }
        )
    return cases
