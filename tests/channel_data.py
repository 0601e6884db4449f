"""Images of several channels for tests: TIFFs, and a small dataset with its task.toml."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64  # px


def tiff(
    pages: list[np.ndarray],
    *,
    order: str = "<",
    deflate: bool = False,
    planar: bool = False,
    tile: int = 0,
    predictor: bool = False,
    extra: int | None = 0,
    photometric: int = 1,
    orientation: int = 1,
    sample_format: int = 1,
) -> bytes:
    """Return a TIFF of pages, unsigned (H, W, C), as cameras and microscopes write them.

    `order` is the byte order, `tile` the side of tiles (0: strips of 16 rows), `extra` the kind of
    the samples beyond the first (None: not said), `photometric` 1 for grey and 2 for RGB.
    """
    out, previous = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4)), 4
    for values in pages:
        height, width, channels = values.shape
        bits = values.dtype.itemsize * 8
        planes = np.moveaxis(values, 2, 0)[..., None] if planar else values[None]
        offsets, counts = [], []
        for plane in planes:
            for block in _blocks(plane, tile):
                if predictor:
                    block = np.diff(block, axis=1, prepend=np.zeros_like(block[:, :1]))
                data = block.astype(block.dtype.newbyteorder(order)).tobytes()
                data = zlib.compress(data) if deflate else data
                offsets.append(len(out))
                counts.append(len(data))
                out += data
        colours = 3 if photometric == 2 else 1
        tags = {256: [width], 257: [height], 258: [bits] * channels, 259: [8 if deflate else 1]}
        tags |= {262: [photometric], 274: [orientation], 277: [channels]}
        tags |= {284: [2 if planar else 1], 339: [sample_format] * channels}
        tags |= {317: [2]} if predictor else {}
        tags |= {338: [extra] * (channels - colours)} if extra is not None else {}
        tags |= (
            {322: [tile], 323: [tile], 324: offsets, 325: counts}
            if tile
            else {273: offsets, 278: [16], 279: counts}
        )
        tags = {tag: numbers for tag, numbers in tags.items() if numbers}
        entries = b""
        for tag, numbers in sorted(tags.items()):
            packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
            if len(numbers) > 1:
                place = len(out)
                out += packed
                packed = struct.pack(f"{order}I", place)
            entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + packed
        struct.pack_into(f"{order}I", out, previous, len(out))
        previous = len(out) + 2 + len(entries)
        out += struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return bytes(out)


def _blocks(values: np.ndarray, tile: int) -> list[np.ndarray]:
    height, width, channels = values.shape
    if not tile:
        return [values[top : top + 16] for top in range(0, height, 16)]
    padded = np.zeros((-(-height // tile) * tile, -(-width // tile) * tile, channels), values.dtype)
    padded[:height, :width] = values
    return [
        padded[top : top + tile, left : left + tile]
        for top in range(0, padded.shape[0], tile)
        for left in range(0, padded.shape[1], tile)
    ]


def scene(number: int, channels: int, top: int = 255) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, (64, 64, channels) from 0 to `top`, and its codes: a disc in one channel.

    The disc is visible in the last channel only, so that a model must use it.
    """
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:SIDE, :SIDE]
    inside = np.hypot(y - rng.uniform(20, 44), x - rng.uniform(20, 44)) < rng.uniform(9, 16)
    image = rng.uniform(0.1, 0.5, (SIDE, SIDE, channels))
    image[..., -1] = 0.15 + 0.6 * inside + rng.normal(0, 0.03, (SIDE, SIDE))
    values = (image.clip(0, 1) * top).round()
    return values.astype(np.uint8 if top < 256 else np.uint16), inside.astype(np.uint8)


def dataset(
    folder: Path,
    channels: int = 4,
    *,
    count: int = 12,
    top: int = 255,
    ends: tuple[str, ...] = (),
    more: str = "",
    classes: bool = False,
) -> Path:
    """Write images, masks (or a table of classes) and a task.toml below `folder`, and return it.

    With `ends`, each channel is a file of its own; `more` are further lines of the task.toml.
    """
    for number in range(count):
        values, codes = scene(number, channels, top)
        if classes:
            values[..., -1] = values[..., -1] // 4 if number % 2 else values[..., -1] // 4 * 3
        images, masks = folder / "images", folder / "masks"
        images.mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
        if ends:
            for end, plane in zip(ends, np.moveaxis(values, 2, 0)):
                Image.fromarray(plane).save(images / f"s{number:02d}{end}.tif")
        else:
            (images / f"s{number:02d}.tif").write_bytes(tiff([values]))
        if not classes:
            Image.fromarray(codes).save(masks / f"s{number:02d}.png")
    lines = [f"channels = {channels}", more]
    if ends:
        lines.append(f"channel_files = {list(ends)}")
    if classes:
        lines += ['kind = "classify"', 'classes = ["light", "dark"]']
        lines += ["[folders]", 'all = "images"']
        rows = "".join(f"s{number:02d}\t{number % 2}\n" for number in range(count))
        (folder / "images" / "labels.tsv").write_text(f"Name\tLabel\n{rows}")
    else:
        lines += ['classes = ["ground", "disc"]']
        lines += ["[[layouts]]", 'images = "images"', 'masks = "masks"']
    lines += ["[recipe]", f"size = [{SIDE}, {SIDE}]", 'arch = "test_resnet"', "bs = 4"]
    (folder / "task.toml").write_text("\n".join(lines) + "\n")
    return folder
