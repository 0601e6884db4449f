"""What `fit --unlabelled` is worth: a part of the labels, with and without the other images.

    python scripts/unlabelled.py eye DATA --share 16 --seeds 5 --size 96x128 --epochs 12

Of the training images 1/SHARE keep their labels, and the others are the images without labels. All
arms train on the same parts, with equally many steps on labelled images and the same average of the
weights: "labels" uses nothing else, "unlabelled" the other images, and "shuffled" the same with
pseudo-labels of other images, which must not help. Prints the mean Dice of the held-out images for
each seed, and the mean difference from "labels" with its 95 % interval over the seeds (t).
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
from peers import SHARED
from scipy import stats

from fastseg import tasks
from fastseg.data.split import DEFAULT_SEED, splitter
from fastseg.learners.options import FitOptions
from fastseg.learners.preparation import learner_of
from fastseg.training import consistency
from fastseg.training.loop import train
from fastseg.training.subsets import Part
from fastseg.training.trials import free_memory, scored

ARMS = ("labels", "unlabelled", "shuffled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task")
    parser.add_argument("data", type=Path)
    parser.add_argument("--share", type=int, default=8, help="of the labels: one of so many")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--size", default="96x128")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument(
        "--weights", default=str(SHARED / "weights" / "mobilenetv2_100.safetensors")
    )
    given = parser.parse_args()
    size = tuple(int(side) for side in given.size.split("x"))
    scores: dict[str, list[float]] = {arm: [] for arm in given.arms}
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        for arm in given.arms:
            begun = time.monotonic()
            dice, per_class = score_of(given, size, seed, arm)
            scores[arm].append(dice)
            seconds = time.monotonic() - begun
            row = {"seed": seed, "arm": arm, "dice": round(dice, 4), "seconds": round(seconds)}
            print(json.dumps({**row, "classes": per_class}), flush=True)
    for arm in given.arms[1:]:
        print(arm, interval(np.array(scores[arm]) - np.array(scores[given.arms[0]])), flush=True)


def score_of(
    given: argparse.Namespace, size: tuple[int, int], seed: int, arm: str
) -> tuple[float, dict[str, float]]:
    """Return the mean Dice of the held-out images of one training, and each class's."""
    task = tasks.get(given.task)
    part = Part(task, given.data, DEFAULT_SEED, seed, 1 / given.share)
    items = [item for item in task.items(given.data) if item.split != "test"]
    train_part, _ = splitter(task, DEFAULT_SEED, data=given.data)(items)
    labelled = set(part.chosen(items, train_part))
    with tempfile.TemporaryDirectory() as temporary:
        for i in train_part:
            if i not in labelled:
                (Path(temporary) / f"{i}{items[i].image.suffix}").symlink_to(
                    items[i].image.resolve()
                )
        options = FitOptions(
            weights=given.weights,
            size=size,
            epochs=given.epochs,
            seed=seed,
            split_seed=DEFAULT_SEED,
            ema=0.99,
            windows=0.0,
            unlabelled=None if arm == "labels" else temporary,
        )
        learn = learner_of(task, given.data, options, part)
        own = consistency.Consistency.pseudo_labels
        if arm == "shuffled":
            consistency.Consistency.pseudo_labels = lambda self, weak: own(self, weak).roll(1, 0)
        try:
            train(learn, options)
        finally:
            consistency.Consistency.pseudo_labels = own
        metrics = scored(learn, task, str(given.data), options).metrics()
        free_memory()
    return metrics["mean_foreground"]["dice"], {
        name: round(figures["dice"], 3) for name, figures in metrics["classes"].items()
    }


def interval(differences: np.ndarray) -> str:
    """Return the mean of differences and its 95 % interval by Student's t, in words."""
    count, mean = len(differences), differences.mean()
    if count < 2:
        return f"{mean:+.4f} (one seed)"
    half = stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / np.sqrt(count)
    return f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f}), {count} seeds"


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
