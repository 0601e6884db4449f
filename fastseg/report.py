"""One self-contained page about an export: no script, no external request, every name escaped."""
from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader

from .card import Card
from .files import atomic_file
from .tasks import Task

CAPTIONS = {
    "show_results.png": "Results on images that training never saw",
    "top_losses.png": "The images with the highest loss: the first places to look for wrong labels",
    "confusion_matrix.png": "Which class is taken for which",
    "per_class.png": "Scores of each class over the whole validation part",
    "loss_curve.png": "Training",
}


def write_report(task: Task, card: Card, metrics: Mapping, losses: Mapping[str, float], pictures: Sequence[Path],
                 path: Path) -> Path:
    """Write report.html from the template, with the pictures inside it."""
    environment = Environment(loader=PackageLoader("fastseg", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = lambda value: "absent" if value is None else f"{value:.4f}"
    images = [{"caption": CAPTIONS.get(p.name, p.stem), "data": base64.b64encode(p.read_bytes()).decode()} for p in pictures]
    page = environment.get_template("report.html").render(
        task=task, card=card, metrics=metrics, count=len(losses), pictures=images, columns=list(next(iter(metrics["classes"].values()))),
        worst=sorted(losses.items(), key=lambda entry: -entry[1])[:10])
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path
