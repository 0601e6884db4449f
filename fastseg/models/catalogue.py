"""The table of timm's backbones: parameters, strides, licence, and whether each can segment.

`backbones.csv` is written by scripts/backbones.py, and read here without torch.
"""

from __future__ import annotations

import csv
import math
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError, brief, choose

if TYPE_CHECKING:
    from .network import Spec

TABLE = Path(__file__).with_name("backbones.csv")
ANY, BUILT = "any", "built"
MEASURED_SECONDS = 2.0  # for the speed of one backbone; the first batch, which is slower, aside
MEASURED_BATCH = 4  # images
DECODER = "light"  # by which the table's backbones were tried


@dataclass(frozen=True)
class Backbone:
    """A row of the table."""

    name: str
    family: str  # timm's module
    parameters: float  # millions, without the classification head; nan if they are not known
    strides: str  # of its feature maps in px, such as "4 8 16 32"
    # "any", "built" for the size of the training images, or one such as "224x224", to which images
    # are resized; "" if it does not work or was not tried
    sizes: str
    licence: str  # of timm's default weights; "" if there are none or timm names no licence
    refusal: str  # why it cannot segment; "" if it can

    @property
    def works(self) -> bool | None:
        """Whether it can be the backbone of a segmentation network; None if it was not tried."""
        return bool(self.sizes) if self.sizes or self.refusal else None

    def to_json(self) -> dict[str, str | float | bool | None]:
        """Return the fields and whether it works, as JSON values."""
        values = {**asdict(self), "works": self.works}
        return {**values, "parameters": None if math.isnan(self.parameters) else self.parameters}


def backbones(text: str = "") -> list[Backbone]:
    """Return the table's backbones whose name, family or licence contains `text`.

    Raises `ModelError`, naming the nearest names, if there are none.
    """
    rows = read_table()
    wanted = text.lower()
    found = [
        row
        for row in rows
        if any(wanted in value.lower() for value in (row.name, row.family, row.licence))
    ]
    if not found:
        choose("backbone", text, [row.name for row in rows])
    return found


def read_table(path: Path = TABLE) -> list[Backbone]:
    """Return the rows of a table, by name."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Backbone(
                row["name"],
                row["family"],
                float(row["parameters"] or "nan"),
                row["strides"],
                row["sizes"],
                row["licence"],
                row["refusal"],
            )
            for row in csv.DictReader(file)
        ]


def write_table(rows: list[Backbone], path: Path = TABLE) -> None:
    """Write the table, by name."""
    names = [field.name for field in fields(Backbone)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for row in sorted(rows, key=lambda row: row.name):
            values = {name: getattr(row, name) for name in names}
            values["parameters"] = "" if math.isnan(row.parameters) else f"{row.parameters:.2f}"
            writer.writerow(values.values())


def untried(name: str) -> Backbone:
    """Return the row of a backbone that is not tried: its family and licence."""
    from .backbones import licence_of
    from .fitting import family_of

    return Backbone(name, family_of(name), math.nan, "", "", licence_of(name), "")


def examine(name: str, size: tuple[int, int] = (256, 256)) -> Backbone:
    """Return the row of timm's backbone `name`, tried on shapes alone with images of `size` px."""
    from .backbones import licence_of
    from .factory import fitted
    from .fitting import family_of, shapes_only
    from .network import Spec
    from .pyramid import maps_of

    parameters, strides, sizes, refusal = math.nan, "", "", ""
    try:
        with shapes_only():
            body = maps_of(name, 3, None, {})
        parameters = sum(one.numel() for one in body.parameters()) / 1e6
        strides = " ".join(str(stride) for stride in sorted({*body.feature_info.reduction()}))
        del body
        sizes = _sizes(fitted(Spec("segment", name, 4, DECODER), size))
    except (AssertionError, ModelError, RuntimeError) as error:
        refusal = brief(error)
    return Backbone(name, family_of(name), parameters, strides, sizes, licence_of(name), refusal)


def _sizes(spec: Spec) -> str:
    plan = spec.options.get("pyramid", {})
    fixed = plan.get("fixed")
    if not fixed:
        return ANY
    return BUILT if "img_size" in plan["options"] else "x".join(map(str, fixed))


def speed(name: str, size: tuple[int, int], channels: int = 3) -> float:
    """Return how many images of `size` px a second a network over `name` segments here.

    It has the light decoder, random weights, and this machine's best precision; batches of
    `MEASURED_BATCH` images. Raises `ModelError` if the backbone does not work.
    """
    import torch

    from .factory import segmenter

    network = segmenter(name, 4, DECODER, size=size, n_in=channels)[0].eval()
    images = torch.rand(MEASURED_BATCH, channels, *size)
    done = 0
    with torch.inference_mode():
        network(images)
        start = time.perf_counter()
        while (seconds := time.perf_counter() - start) < MEASURED_SECONDS:
            network(images)
            done += MEASURED_BATCH
    return done / seconds
