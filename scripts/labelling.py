#!/usr/bin/env python3
"""Does it pay to choose the images to label? A simulation with true masks as the annotator.

    python scripts/labelling.py eye DATA/eye --by mixed --by random --weights W.safetensors
    python scripts/labelling.py --summary

From 30 labelled images, five rounds: `fastseg.next_images` names 20 images, the annotator labels
them, and `fastseg.fit` trains on from the last export. The held-out images are the same in all
rounds and for all orders, and no choice depends on them. Each row of the JSON file is one fit;
finished loops are not computed again. With --app, each label goes through the HTTP interface of
`fastseg app`, as an editor in the browser would send it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
from scipy import stats

import fastseg
from fastseg.corrections.order import ORDERS
from fastseg.corrections.store import Corrections
from fastseg.data.images import save_image
from fastseg.tasks import Item, Layout, Task, get
from fastseg.tasks.converted import task_toml
from fastseg.utils import progress
from fastseg.utils.io import write_json

START, ROUNDS, EACH = 30, 5, 20
PARTS = tuple(Layout(f"{part}/images", f"{part}/masks", part) for part in ("train", "valid"))
WHO = "simulation"


class Annotator(Protocol):
    """Labels one image of the data folder."""

    def __call__(self, image: Path, label: np.ndarray) -> None: ...


@dataclass(frozen=True)
class Problem:
    """One task and its real data, which are only read."""

    task: Task
    data: Path
    held_out: int  # images
    pattern: str  # of the names of the images that count

    def divided(self) -> tuple[list[Item], list[Item]]:
        """Return the pool and the held-out items; the same on each call."""
        items = [item for item in self.task.items(self.data) if item.image.match(self.pattern)]
        pool = [item for item in items if item.split != "valid"]
        valid = [item for item in items if item.split == "valid"]
        random.Random(0).shuffle(pool)
        random.Random(0).shuffle(valid)
        if not valid:
            valid, pool = pool[: self.held_out], pool[self.held_out :]
        return pool, valid[: self.held_out]

    def begin(self, folder: Path) -> dict[str, Item]:
        """Write the pool without masks, the held-out images with them, and a task.toml.

        Returns the items of the pool by the names of their copies.
        """
        pool, valid = self.divided()
        for layout, items in zip(PARTS, (pool, valid)):
            for place in layout.folders(folder):
                place.mkdir(parents=True)
            for item in items:
                shutil.copyfile(item.image, folder / layout.images / item.image.name)
        for item in valid:
            mask = folder / PARTS[1].masks / f"{item.image.stem}.png"
            save_image(mask, np.asarray(self.task.label(item)))
        recipe = replace(self.task.recipe, windows=0.0, tta=False)
        plain = replace(self.task, recipe=recipe, group=None)
        (folder / "task.toml").write_text(task_toml(plain, PARTS, self.task.name))
        return {item.image.name: item for item in pool}


class Direct:
    """Saves labels by `fastseg.corrections`, as the app does."""

    def __init__(self, data: Path):
        self.corrections = Corrections(data, data)
        self.corrections.begin()

    def __call__(self, image: Path, label: np.ndarray) -> None:
        self.corrections.save(image, label, action="new", by=WHO, seconds=0)


class OverHttp:
    """Sends labels to the app, with the base that the label came with, as its editor does."""

    def __init__(self, data: Path, client: httpx.Client):
        self.data, self.client = data, client

    def __call__(self, image: Path, label: np.ndarray) -> None:
        from fastseg.webapp.runs import encode

        name = image.relative_to(self.data).as_posix()
        found = self._get("/api/data/images", text=name).json()["images"]
        path = f"/api/editor/{next(one['id'] for one in found if one['name'] == name)}/label"
        base = self._get(path).headers["X-Label-Base"]
        query = {"base": base, "action": "corrected", "by": WHO, "seconds": "0"}
        answer = self.client.post(path, params=query, content=encode(label))
        answer.raise_for_status()

    def _get(self, path: str, **query: str) -> httpx.Response:
        return self.client.get(path, params=query).raise_for_status()


@contextmanager
def annotator(data: Path, over_http: bool) -> Iterator[Annotator]:
    """Yield the annotator of a data folder, and end its server."""
    if not over_http:
        yield Direct(data)
        return
    command = [sys.executable, "-m", "fastseg", "app", str(data.resolve()), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = urlsplit(json.loads(server.stdout.readline())["url"])
            token = parse_qs(url.query)["token"][0]
            headers = {"Authorization": f"Bearer {token}"}
            address = f"{url.scheme}://{url.netloc}"
            with httpx.Client(base_url=address, headers=headers, timeout=120) as client:
                yield OverHttp(data, client)
        finally:
            server.terminate()


def loop(
    problem: Problem, by: str, seed: int, given: argparse.Namespace, rows: list[dict[str, Any]]
) -> None:
    """Run one loop, and add a row for each of its fits."""
    work = Path(given.work) / f"{problem.task.name}_{by}_{seed}"
    shutil.rmtree(work, ignore_errors=True)
    data = work / "data"
    truth = problem.begin(data)
    common = dict(size=tuple(given.size), seed=seed, resume=False, pins=False)
    # The first images and the first fit are the same for all orders of a seed.
    export = Path(given.work) / f"{problem.task.name}_start_{seed}"
    with annotator(data, given.app) as annotate:
        task = get(data)
        chosen = random.Random(seed).sample(Corrections(task, data).unlabelled(), START)
        for number in range(ROUNDS + 1):
            if number:
                draw = 100 * seed + number
                found = fastseg.next_images(task, data, export, EACH, by=by, seed=draw)
                chosen = [candidate.image for candidate in found]
            for image in chosen:
                annotate(image, np.asarray(problem.task.label(truth[image.name])))
            if number:
                options = dict(weights=export, epochs=given.epochs, freeze_epochs=0)
                export = work / f"export_{number}"
                fastseg.fit(task, data, out=export, **options, **common)
            elif not (export / "metrics.json").is_file():
                options = dict(weights=given.weights, epochs=given.first)
                fastseg.fit(task, data, out=export, **options, **common)
            metrics = json.loads((export / "metrics.json").read_text())
            row = {
                "problem": problem.task.name,
                "by": by,
                "seed": seed,
                "round": number,
                "labelled": START + EACH * number,
                "dice": metrics["mean_foreground"]["dice"],
                "classes": {name: found["dice"] for name, found in metrics["classes"].items()},
            }
            rows.append(row)
            write_json(Path(given.out), rows)
            print(json.dumps(row), flush=True)
    shutil.rmtree(work)


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return tables: Dice by round and order, against random, and labels for the same Dice."""
    lines = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        found: dict[str, dict[int, dict[int, float]]] = {}
        for row in rows:
            if row["problem"] == problem:
                seeds = found.setdefault(row["by"], {})
                seeds.setdefault(row["seed"], {})[row["labelled"]] = row["dice"]
        for curves in found.values():  # complete loops only
            for seed in [s for s, curve in curves.items() if len(curve) <= ROUNDS]:
                del curves[seed]
        found = {by: curves for by, curves in found.items() if curves}
        counts = [START + EACH * number for number in range(ROUNDS + 1)]
        lines.append(f"\n{problem}: held-out Dice (95% interval over seeds, Student's t)")
        lines.append("order".ljust(14) + "".join(f"{count:>18}" for count in counts))
        for by, curves in found.items():
            cells = (interval([curve[count] for curve in curves.values()]) for count in counts)
            lines.append(f"{by} ({len(curves)})".ljust(14) + "".join(f"{c:>18}" for c in cells))
        chance = found.get("random", {})
        for by, curves in found.items():
            both = sorted(curves.keys() & chance.keys())
            if by == "random" or not both:
                continue
            gains = [
                float(np.mean([curves[seed][count] - chance[seed][count] for count in counts[1:]]))
                for seed in both
            ]
            needed = [labels_needed(curves[seed], chance[seed][counts[-1]]) for seed in both]
            lines.append(
                f"{by} minus random, mean of the rounds: {interval(gains, '+')}; labels for the "
                f"Dice of random at {counts[-1]}: {', '.join(needed)} (by seed)"
            )
    return "\n".join(lines)


def interval(values: Sequence[float], sign: str = "") -> str:
    """Return the mean and half the width of its 95% interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:{sign}.4f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{mean:{sign}.4f} +- {half:.4f}"


def labels_needed(curve: Mapping[int, float], dice: float) -> str:
    """Return the labels at which a curve first reaches a Dice, interpolated between rounds."""
    counts = sorted(curve)
    for before, after in zip(counts, counts[1:]):
        if curve[after] >= dice:
            share = (dice - curve[before]) / max(curve[after] - curve[before], 1e-12)
            return f"{before + max(0.0, share) * (after - before):.0f}"
    return f"> {counts[-1]}"


def main() -> None:
    """Parse the command line, run the loops that are left, and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", help="eye, face or another task with masks")
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--by", action="append", choices=ORDERS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(72, 96), help="height, width in px")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--first", type=int, default=12, help="epochs of the first fit")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of each round")
    parser.add_argument("--held-out", type=int, default=80)
    parser.add_argument("--pattern", default="*", help="of the images' names, such as r*")
    parser.add_argument("--work", default="labelling_work")
    parser.add_argument("--out", default="labelling.json")
    parser.add_argument("--app", action="store_true", help="label over HTTP, by fastseg app")
    parser.add_argument("--summary", action="store_true", help="only print the summary of --out")
    given = parser.parse_args()
    out = Path(given.out)
    rows = json.loads(out.read_text()) if out.is_file() else []
    if not given.summary:
        if not given.task or not given.data:
            sys.exit("give a task and its data")
        progress.hide()
        problem = Problem(get(given.task), given.data, given.held_out, given.pattern)
        for seed in range(1, given.seeds + 1):
            for by in given.by or ("mixed", "random"):
                mine = (problem.task.name, by, seed)
                done = [row for row in rows if (row["problem"], row["by"], row["seed"]) == mine]
                if len(done) <= ROUNDS:
                    rows[:] = [row for row in rows if row not in done]
                    loop(problem, by, seed, given, rows)
    print(summary(rows))


if __name__ == "__main__":
    main()
