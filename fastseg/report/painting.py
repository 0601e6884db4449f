"""Colours of classes and errors, and images with them: overlays, error maps, evidence
maps.
"""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from scipy.ndimage import binary_erosion

from ..data import images
from ..tasks import Task
from ..tasks.declared import generated_palette
from ..types import IGNORE, Colour

# Okabe and Ito's colours, which colour-blind people can tell apart
# (https://jfly.uni-koeln.de/color/).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#000000")
# Indices into COLOURS for classes; light colours first: they are visible on skin, walls and pans.
CLASS_ORDER = (5, 1, 2, 3, 0, 6, 4)
# Colours of wrong pixels: foreground predicted as background, background predicted as foreground,
# one foreground class predicted as another.
ERRORS: dict[str, Colour] = {
    "missed": (0, 114, 178),
    "false alarm": (213, 94, 0),
    "wrong class": (136, 34, 85),
}
DIM = 90  # lightest grey level of an image under an evidence map: evidence, up to 255, stands out


def class_colours(task: Task) -> tuple[Colour, ...]:
    """Return one colour a class: black for the background, colour-blind-safe colours for the
    others.

    A task's own palette need not be safe (kitchen's is red, green and blue). Seven classes have
    these colours, the next seven lighter ones, and all others colours of distant hues.
    """
    others = [i for i in range(len(task.classes)) if i != task.background]
    further = generated_palette(len(others), None)
    colours: list[Colour] = [(0, 0, 0)] * len(task.classes)
    for place, i in enumerate(others):
        safe = COLOURS[CLASS_ORDER[place % len(CLASS_ORDER)]]
        red, green, blue = (int(safe[k : k + 2], 16) for k in (1, 3, 5))
        if place >= 2 * len(CLASS_ORDER):
            colours[i] = further[place]
        elif place >= len(CLASS_ORDER):
            colours[i] = (red + 255) // 2, (green + 255) // 2, (blue + 255) // 2
        else:
            colours[i] = red, green, blue
    return tuple(colours)


def overlay(task: Task, image: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return `image`, uint8 (H, W, 3), under semi-transparent class colours."""
    return images.overlay(image, codes, class_colours(task), hide=task.background)


def error_kinds(task: Task) -> tuple[str, ...]:
    """Return the kinds of `ERRORS` that masks of this task can have."""
    if task.background is None:
        return ("wrong class",)
    return tuple(ERRORS)[: 3 if len(task.classes) > 2 else 2]


def wrong_pixels(
    truth: np.ndarray, codes: np.ndarray, background: int | None
) -> dict[str, np.ndarray]:
    """Return where codes (H, W) are wrong, bool (H, W) for each of `ERRORS`; unlabelled pixels are
    never wrong.
    """
    wrong = (truth != codes) & (truth != IGNORE)
    if background is None:
        return {"wrong class": wrong}
    missed, alarm = wrong & (codes == background), wrong & (truth == background)
    return {"missed": missed, "false alarm": alarm, "wrong class": wrong & ~missed & ~alarm}


def error_map(
    image: np.ndarray, truth: np.ndarray, codes: np.ndarray, background: int | None
) -> np.ndarray:
    """Return a pale copy of `image` with the wrong pixels in the colours of `ERRORS`."""
    errors = (image * 0.35 + 150).astype(np.uint8)
    for kind, where in wrong_pixels(truth, codes, background).items():
        errors[where] = ERRORS[kind]
    return errors


def evidence_map(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return evidence, float (H, W) from 0 to 1, over a dark grey copy of `image`, uint8 (H, W, 3).

    A white line surrounds at least half of the highest evidence. The image's contrast is
    stretched and then darkened, so that its shapes are visible and strong evidence is lighter than
    the image. The colours are perceptually uniform: more evidence is always lighter.
    """
    grey = image @ np.array([0.299, 0.587, 0.114])  # luma, ITU-R BT.601
    low, high = np.percentile(grey, (1, 99))
    base = DIM * np.clip((grey - low) / max(high - low, 16), 0, 1)[..., None]
    heat = np.clip(heat, 0, 1)
    share = 0.9 * heat[..., None] ** 0.6
    painted = base * (1 - share) + evidence_colours(heat) * share
    strong = heat >= 0.5
    painted[strong & ~binary_erosion(strong, border_value=1)] = 255
    return painted.astype(np.uint8)


def evidence_colours(heat: np.ndarray) -> np.ndarray:
    """Return the colours (..., 3), from 0 to 255, of evidence (...) from 0 to 1."""
    return (255 * colormaps["inferno"](0.2 + 0.8 * heat)[..., :3]).round()


def entropy_map(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy of probabilities (C, H, W) in a colour-blind-safe colour map, uint8 (H, W,
    3).

    The highest possible entropy, of equal probabilities, is yellow; 0 is dark blue.
    """
    logarithms = np.log(np.clip(probabilities, 1e-12, 1))
    entropy = -(probabilities * logarithms).sum(0) / np.log(max(2, len(probabilities)))
    return (colormaps["cividis"](np.clip(entropy, 0, 1))[..., :3] * 255).astype(np.uint8)
