"""segment: tiles without seams, regions for scripts, every kind of picture, a readable legend."""

import json

import numpy as np
import pytest
import shapely
import torch
from conftest import ARCH, size_of
from PIL import Image
from pycocotools import mask as coco

import fastseg
from fastseg import tasks
from fastseg.data.images import overlay
from fastseg.inference.photo import segment, with_legend
from fastseg.inference.regions import regions
from fastseg.inference.tiling import tiled, tiles_for
from fastseg.metrics.calibration import softmax
from fastseg.models.factory import segmenter

SURFACES = tasks.get("surfaces")
CLASSES = SURFACES.classes


def _pictures():
    rng = np.random.default_rng(4)
    large = np.kron(rng.integers(0, 256, (12, 16, 3)), np.ones((32, 32, 1))).astype(np.uint8)
    return np.asarray(Image.fromarray(large).resize((512, 384), Image.BICUBIC))


def test_tiles_agree_with_the_whole_and_show_no_seam():
    """If the receptive field is below half a tile, tiles and the full image give equal results."""
    torch.manual_seed(1)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 9, padding=4), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 9, padding=4)
    ).eval()

    @torch.inference_mode()
    def logits(batch):
        return network(torch.tensor(batch).permute(0, 3, 1, 2) / 64 - 2).numpy()

    image = _pictures()
    whole = softmax(logits(image[None]), 1)[0]
    parts = tiled(logits, image, (128, 128))
    assert parts.shape == whole.shape and np.allclose(parts.sum(0), 1, atol=1e-5)
    assert (parts.argmax(0) == whole.argmax(0)).mean() > 0.99
    assert np.abs(parts - whole).max() < 0.2 and np.abs(parts - whole).mean() < 2e-3
    steps = np.abs(np.diff(parts - whole, axis=2)).max(
        axis=(0, 1)
    )  # a seam would be a step of the difference along a column
    assert steps[8:-8].max() < 0.02


@pytest.mark.slow
def test_tiles_of_a_real_network_leave_no_seam(precision):
    torch.manual_seed(1)  # how visible seams are depends on the random weights
    network = segmenter(ARCH, 4)[0].eval()

    @torch.inference_mode()
    def logits(batch):
        return network(torch.tensor(batch).permute(0, 3, 1, 2) / 255).numpy()

    image, seams = _pictures(), [127, 255, 383]
    rows = [
        [softmax(logits(image[None, y : y + 128, x : x + 128]), 1)[0] for x in range(0, 512, 128)]
        for y in range(0, 384, 128)
    ]
    side_by_side = np.concatenate([np.concatenate(row, axis=2) for row in rows], axis=1)
    blended, hard = (
        np.abs(np.diff(parts, axis=2)) for parts in (tiled(logits, image, (128, 128)), side_by_side)
    )
    assert hard[:, :, seams].mean() > 3 * hard.mean()  # tiles side by side: a seam to be seen
    assert (
        blended[:, :, seams].mean() < 0.5 * hard[:, :, seams].mean()
        and blended[:, :, seams].mean() < 2 * blended.mean()
    )


@pytest.mark.parametrize(
    "own, size, tiles",
    [
        ((768, 1024), (512, 512), 1),
        ((3000, 4000), (512, 512), 2),
        ((3000, 4000), (256, 320), 2),
        ((64, 64), (256, 320), 1),
        ((300, 9000), (256, 320), 1),
    ],
)
def test_large_photographs_are_taken_apart(own, size, tiles):
    assert tiles_for(own, size) == tiles


def test_the_whole_decides_and_tiles_refine(exports):
    predictor = fastseg.load(exports("surfaces"), "cpu")
    image = _pictures()
    whole, fine = predictor.predict(image), predictor.predict(image, tiles=2)
    assert (
        fine.logits.shape[1] == 2 * whole.logits.shape[1]
        and fine.codes.shape == whole.codes.shape == image.shape[:2]
    )
    assert np.allclose(fine.probabilities.sum(0), 1, atol=1e-4)
    certain = whole.probabilities.max(0) > 0.9
    assert (fine.codes == whole.codes)[certain].all()


def test_regions_have_mask_score_area_box_and_polygons():
    codes = np.zeros((100, 200), dtype=np.uint8)
    codes[10:40, 20:60] = 1
    codes[20:30, 30:40] = 0  # a hole
    codes[50:90, 100:180] = 2
    codes[95, 5] = 3  # a speckle
    probabilities = np.full((4, 50, 100), 0.1, dtype=np.float32)
    probabilities[1], probabilities[2] = 0.3, 0.8
    floor, wall = regions(codes, probabilities, CLASSES)
    assert (floor.label, floor.area, floor.box) == (
        "floor",
        3200,
        (100, 50, 80, 40),
    ) and floor.score == pytest.approx(0.8)
    assert (wall.label, wall.area, wall.box) == (
        "wall",
        1100,
        (20, 10, 40, 30),
    ) and wall.score == pytest.approx(0.3)
    for region, code in ((floor, 2), (wall, 1)):
        assert (
            coco.decode({**region.rle, "counts": region.rle["counts"].encode()}) == (codes == code)
        ).all()
        shape = shapely.geometry.shape(region.polygons)
        assert shape.is_valid and shape.area == pytest.approx(region.area, rel=0.03)
        assert shape.bounds == (
            region.box[0],
            region.box[1],
            region.box[0] + region.box[2],
            region.box[1] + region.box[3],
        )
    assert len(wall.polygons["coordinates"][0]) == 2  # the outline and the hole
    json.dumps(wall.to_json())


def test_regions_of_anything_are_valid():
    rng = np.random.default_rng(2)
    for _ in range(5):
        codes = rng.integers(0, 4, (40, 50)).astype(np.uint8)
        for region in regions(codes, np.full((4, 10, 10), 0.25, dtype=np.float32), CLASSES):
            shape = shapely.geometry.shape(region.polygons)
            assert shape.is_valid
            whole = coco.decode({**region.rle, "counts": region.rle["counts"].encode()})
            assert whole.sum() == region.area


def test_json_of_segment(exports, samples, run):
    image = sorted(samples["surfaces"].glob("images/*"))[0]
    result = json.loads(run("segment", image, "--export", exports("surfaces"), "--json").out)
    assert (result["height"], result["width"]) == size_of(image)[::-1] and sum(
        result["shares"].values()
    ) == pytest.approx(1)
    assert size_of(result["file"]) == size_of(image)
    for region in result["regions"]:
        assert (
            region["label"] in CLASSES[1:]
            and 0 <= region["score"] <= 1
            and region["area"] > 0
            and len(region["box"]) == 4
        )
        assert region["polygons"]["type"] == "MultiPolygon" and region["rle"]["size"] == [
            result["height"],
            result["width"],
        ]


@pytest.mark.parametrize("kind", ["L", "CMYK", "RGBA", "P", "16-bit", "turned"])
def test_every_kind_of_picture(kind, exports, tmp_path):
    pixels = Image.fromarray(_pictures()[:96, :128])
    plain, path, options = tmp_path / "plain.png", tmp_path / "picture.png", {}
    if kind == "16-bit":
        grey = np.asarray(pixels.convert("L"))
        Image.fromarray(grey).save(plain)
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    elif kind == "turned":
        pixels.save(plain)
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
        pixels.transpose(Image.ROTATE_90).save(path, **options)
    else:
        path = tmp_path / ("picture.tif" if kind == "CMYK" else "picture.png")
        pixels.convert(kind).save(path)
        Image.open(path).convert("RGB").save(plain)
    one, other = (
        segment(file, out=tmp_path / "out", name=file.stem, export=exports("surfaces"))
        for file in (plain, path)
    )
    assert one.size == other.size == (96, 128)
    assert one.shares == pytest.approx(other.shares, abs=1e-6)


@pytest.mark.parametrize(
    "size", [(30, 40), (60, 90), (480, 640), (1500, 2000), (3000, 30), (30, 3000)]
)
def test_the_legend_fits_the_picture(size):
    plain = np.full((*size, 3), 200, dtype=np.uint8)
    drawn = np.asarray(with_legend(SURFACES, plain, dict(zip(CLASSES, (0.25, 0.25, 0.25, 0.25)))))
    assert drawn.shape == plain.shape
    changed = np.argwhere((drawn != plain).any(axis=2))
    assert (
        len(changed) or min(size) < 60
    )  # with a margin on every side: nothing is cut off; where nothing fits, nothing is drawn
    assert not len(changed) or (
        changed.min() > 0 and (changed.max(axis=0) < np.array(size) - 1).all()
    )


def test_outlines_widen_with_the_picture():
    for side, wide in ((200, 2), (2000, 6)):
        codes = np.zeros((side, side), dtype=np.uint8)
        codes[:, side // 2 :] = 1
        row = overlay(np.zeros((side, side, 3), dtype=np.uint8), codes, SURFACES.palette, hide=0)[
            side // 2
        ]
        solid = (row == np.array(SURFACES.palette[1])).all(axis=1).sum()
        assert 1 <= solid <= wide and (row[: side // 2] == 0).all()
