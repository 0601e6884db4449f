"""The model card of an export: README.md with the hub's metadata, written from card.json alone.

Texts in a card may be a stranger's: they are escaped, and figures are shown only if they are
numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from ..exports.card import Card
from ..metrics.figures import FIGURES, never_found
from ..models.backbones import is_non_commercial

README = "README.md"
LIBRARY = "fastseg"
MAIN_FIGURES = {
    "segment": (("dice", "Dice, foreground mean"), ("iou", "IoU, foreground mean")),
    "classify": (("accuracy", "accuracy"),),
}
SEEN = {
    "segment": "what is too small to be seen there is lost",
    "classify": "what cannot be seen there does not count",
}
PIPELINES = {"segment": "image-segmentation", "classify": "image-classification"}
PURPOSES = {
    "segment": "gives each pixel of an image a class",
    "classify": "gives an image a class",
}
SHOWN = {  # kind -> the figures in the table, and whether a mean of classes is the foreground's
    "segment": ("dice", "iou", "precision", "recall", "boundary_f1"),
    "classify": ("precision", "recall", "specificity", "f1"),
}
MEANS = {
    "mean_foreground": "**foreground mean**",
    "mean_with_background": "**mean of all**",
    "mean": "**mean**",
}
TOTALS = {"accuracy": "Accuracy", "pixel_accuracy": "Pixel accuracy", "roc_auc": "ROC AUC"}
TRAINING = {
    "loss": "loss",
    "opt": "optimizer",
    "lr": "learning rate",
    "bs": "batch size",
    "trained_epochs": "epochs",
    "precision": "precision",
    "seconds": "seconds",
}
# Identifiers that the hub knows; another licence is "other", with its name.
LICENCES = """
    apache-2.0 mit openrail bsd bsd-2-clause bsd-3-clause isc zlib unlicense wtfpl cc0-1.0 cc-by-2.0
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nd-4.0 cc-by-nc-2.0 cc-by-nc-3.0
    cc-by-nc-4.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 gpl-2.0 gpl-3.0
    lgpl-2.1 lgpl-3.0 agpl-3.0 mpl-2.0 epl-2.0 eupl-1.1 artistic-2.0 afl-3.0 ms-pl ncsa ofl-1.1
    osl-3.0 bsl-1.0 apple-ascl apple-amlr
"""
NOT_KNOWN = ("", "not stated", "unknown")


def model_card(card: Card, address: str) -> str:
    """Return the text of README.md: metadata, use, classes, figures with intervals, data, licence,
    limits.

    `address` is the export's, as its users would type it. The text depends on the card only.
    """
    head = yaml.safe_dump(metadata(card), sort_keys=False, allow_unicode=True, width=1000)
    body = "\n\n".join(_sections(card, address))
    return f"---\n{head}---\n\n{body}\n"


def metadata(card: Card) -> dict[str, Any]:
    """Return the metadata of a model card, in the hub's own terms."""
    found: dict[str, Any] = _licence(card.licence)
    arch = str(card.network["arch"])
    tags = [
        LIBRARY,
        "timm",
        arch,
        "safetensors",
        *(["onnx"] if "model.onnx" in card.sha256 else []),
    ]
    found |= {
        "library_name": LIBRARY,
        "pipeline_tag": PIPELINES[card.kind],
        "tags": list(dict.fromkeys(tags)),
    }
    base = re.match(r"timm ([\w-]+\.[\w-]+) ", card.weights_origin, re.ASCII)
    if base and not base[1].endswith(".default"):
        found["base_model"] = f"timm/{base[1]}"
    name = _plain(card.task)
    if figures := list(_main_figures(card)):
        result = {
            "task": {"type": PIPELINES[card.kind]},
            "dataset": {"type": name, "name": f"{name}, held-out images"},
            "metrics": figures,
        }
        found["model-index"] = [{"name": name, "results": [result]}]
    return found


def _licence(licence: str) -> dict[str, Any]:
    """Return the licence as the hub names it: "unknown" unless it is certain."""
    plain = licence.partition(" (non-commercial")[0].strip().lower()
    if plain in LICENCES.split():
        return {"license": plain}
    if plain in NOT_KNOWN or ", if " in plain or plain.startswith("unreadable"):
        return {"license": "unknown"}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", plain).strip("-")[:80]}


def _main_figures(card: Card) -> Iterator[dict[str, Any]]:
    values = {**card.metrics, **_at(card.metrics, "mean_foreground")}
    for key, name in MAIN_FIGURES[card.kind]:
        value = _number(values.get(key))
        if value is not None:
            yield {"type": key, "name": name, "value": round(value, 4)}


def _sections(card: Card, address: str) -> Iterator[str]:
    height, width = card.size
    yield f"# {_text(card.task)}"
    yield (
        f"A model that {PURPOSES[card.kind]}: {_listed(card.classes)}. Backbone "
        f"{_text(card.network['arch'])}, {_text(card.network['decoder'] or 'linear')} decoder"
        + (f", an ensemble of {n}" if (n := card.network.get("members", 1)) > 1 else "")
        + f", {width}x{height} px, made with fastseg {_text(card.fastseg)}."
    )
    yield f"## How to use it\n\n{_use(address)}"
    yield f"## Figures\n\n{_figures(card)}"
    yield f"## Data\n\n{_data(card)}"
    yield f"## Training\n\n{_training(card)}"
    yield f"## Licence of the weights\n\n{_licence_text(card)}"
    yield f"## Intended use\n\n{_intended(card)}"
    yield f"## Limits\n\n{_limits(card)}"


def _use(address: str) -> str:
    return (
        f"```bash\nfastseg predict {address} photos/\n```\n\n"
        f'```python\nimport fastseg\n\npredictor = fastseg.load("{address}")\n'
        'prediction = predictor.predict("photo.jpg")\n```\n\n'
        "Without fastseg, `model.onnx`, if it is there, takes uint8 images (batch, height, width, "
        "channels) at that size and returns logits; normalisation is inside. `card.json` names the "
        "classes, and the SHA-256 of each file. There is no pickle."
    )


def _figures(card: Card) -> str:
    images = _number(card.metrics.get("images"))
    if not images:
        return "None are in the card: the model was not measured on held-out images."
    ends = _at(card.metrics, "intervals")
    keys, classes = SHOWN[card.kind], _at(card.metrics, "classes")
    rows = [(_text(name), _at(classes, name), _at(_at(ends, "classes"), name)) for name in classes]
    rows += [(MEANS[key], _at(card.metrics, key), _at(ends, key)) for key in MEANS]
    lines = [
        "| class | " + " | ".join(FIGURES[key][0] for key in keys) + " |",
        "|---" * (len(keys) + 1) + "|",
    ]
    lines += [
        f"| {name} | " + " | ".join(_value(values.get(key), end.get(key)) for key in keys) + " |"
        for name, values, end in rows
        if values
    ]
    totals = "; ".join(
        f"{name} {_value(card.metrics[key], ends.get(key))}"
        for key, name in TOTALS.items()
        if _number(card.metrics.get(key)) is not None
    )
    how = (
        "in brackets: 95 % intervals, from resampling these images"
        if ends
        else "without intervals: `fastseg evaluate` computes them"
    )
    told = f"On {images:.0f} held-out images, at their own size; {how}."
    return "\n\n".join([told, "\n".join(lines), *([f"{totals}."] if totals else [])])


def _data(card: Card) -> str:
    name = _text(card.data.replace("\\", "/").rstrip("/").rpartition("/")[2])
    where = f" of the folder {name}" if name else ""
    if card.is_adopted:
        return f"Adopted from {_text(card.training['adopted_from'])}, and not trained further."
    return (
        f"Trained on {card.train_images} images{where}; {len(card.valid_files)} were held out. "
        "`card.json` has the file names of those that were held out, and the label values. The "
        "images are not part of this repository."
    )


def _training(card: Card) -> str:
    options = ", ".join(
        f"{name} {_text(card.training[key])}"
        for key, name in TRAINING.items()
        if key in card.training
    )
    versions = ", ".join(f"{_text(name)} {_text(v)}" for name, v in card.versions.items())
    return (
        f"Weights at the start: {_text(card.weights_origin)}. Seed {card.seed}"
        + (f"; {options}" if options else "")
        + f". Made on {_text(card.created[:10])} with {versions}."
    )


def _licence_text(card: Card) -> str:
    known = card.licence.strip() not in NOT_KNOWN
    first = (
        f"The weights that training began with: {_text(card.licence)}."
        if known
        else "The licence of the weights that training began with is not known."
    )
    if is_non_commercial(card.licence) or "no commercial" in card.licence.lower():
        first += " **No commercial use.**"
    return f"{first} The licence of the training images may add conditions; it is not in the card."


def _intended(card: Card) -> str:
    review = (
        " For each prediction, `predictions.csv` says whether a person should look at it "
        "(`needs_review`), by thresholds from the held-out images."
        if card.review
        else ""
    )
    return (
        f"Images like those that it was trained on, with {_channels(card)}, and the classes above."
        f"{review} Measure it on labelled images of your own before you rely on it: "
        "`fastseg evaluate`."
    )


def _limits(card: Card) -> str:
    height, width = card.size
    limits = [
        "The figures hold for images like the held-out ones: the same source, cameras and labels. "
        "They say nothing about others.",
        f"Images are seen at {height}x{width} px (height x width); {SEEN[card.kind]}.",
        "It knows only its classes: anything else becomes one of them.",
        "It was not tested for differences between groups of people, devices or places. Decisions "
        "about people need a person's review.",
    ]
    classes = _at(card.metrics, "classes")
    known = {name: _at(classes, name) for name in classes}
    if lost := never_found({"classes": known}):
        limits.append(f"Never found on the held-out images: {_listed(lost)}.")
    key = SHOWN[card.kind][0]
    values = {name: _number(figures.get(key)) for name, figures in known.items()}
    if ranked := sorted((value, name) for name, value in values.items() if value is not None):
        value, worst = ranked[0]
        limits.append(f"Its worst class is {_text(worst)}, with {FIGURES[key][0]} {value:.3f}.")
    return "\n".join(f"- {limit}" for limit in limits)


def _channels(card: Card) -> str:
    channels = {1: "one channel (grey)", 3: "three channels (RGB)"}
    depth = f" of {card.depth} bits" if card.depth else ""
    return channels.get(card.channels, f"{card.channels} channels") + depth


def _at(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the mapping at a key of a stranger's card; an empty one if it is anything else."""
    found = values.get(key)
    return found if isinstance(found, Mapping) else {}


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _value(value: Any, interval: Any) -> str:
    number = _number(value)
    if number is None:
        return ""
    ends = [_number(end) for end in interval] if isinstance(interval, (list, tuple)) else []
    is_range = len(ends) == 2 and None not in ends
    return f"{number:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if is_range else "")


def _plain(text: object) -> str:
    """Return a text as one line of printable characters."""
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "?" for c in line)[:200]


def _text(text: object) -> str:
    """Return a text for Markdown, in which nothing of it is a mark or a tag."""
    return re.sub(r"([\\`*_\[\]<>|#&~$!])", r"\\\1", _plain(text))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(_text, names))
