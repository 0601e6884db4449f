"""Photographs of other datasets, converted to the surfaces task's codes."""

import json

import numpy as np
import pytest

from fastseg import tasks
from fastseg.data.images import save_image

SURFACES = tasks.get("surfaces")


def _opensurfaces(root):
    root.mkdir()
    lines = [
        "name_id,name_name,green_color",
        "11,Wall,7",
        "12,Rug/carpet,8",
        "13,Sofa,9",
        "14,Dining table,10",
    ]
    (root / "label-name-colors.csv").write_text("\n".join(lines) + "\n")
    for number in (1, 2):
        save_image(root / "photos" / f"{number}.jpg", np.full((120, 160, 3), 90, dtype=np.uint8))
        label = np.zeros(
            (60, 80, 3), dtype=np.uint8
        )  # drawn smaller than the photograph, as it is distributed
        if number == 1:
            for row, green in enumerate((7, 8, 9, 10)):
                label[10 * row : 10 * row + 10, :, 1] = green
        save_image(root / "photos-labels" / f"{number}.png", label)


def _openimages(root):
    lines = ["MaskPath,ImageID,LabelName,BoxID"]
    for name, labels in (("aa", ("m0h8n5zk", "m01y9k5", "m04bcr3")), ("bb", ("m01g317",))):
        save_image(root / "train" / f"{name}.jpg", np.full((120, 160, 3), 90, dtype=np.uint8))
        for i, label in enumerate(labels):
            mask = np.zeros((60, 80), dtype=np.uint8)
            mask[20 * i : 20 * i + 15] = 255
            save_image(root / "masks" / f"{name}_{label}_1.png", mask)
            lines.append(f"{name}_{label}_1.png,{name},/m/{label[1:]},1")
    (root / "train-annotations-object-segmentation.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "make, image, expected",
    [
        (_opensurfaces, "1", [(10, 1), (30, 2), (50, 0), (70, 3), (110, 255)]),
        (_openimages, "aa", [(10, 3), (35, 255), (50, 0), (90, 255)]),
    ],
)
def test_other_datasets_are_brought_into_our_codes(make, image, expected, run, tmp_path):
    make(tmp_path / "source")
    told = json.loads(
        run("gather", "surfaces", tmp_path / "source", "--out", tmp_path / "data", "--json").out
    )
    assert told["images"] == 1  # the other picture has none of the classes
    (item,) = SURFACES.items(tmp_path / "data")
    codes = SURFACES.label(item)
    assert item.image.stem == image and codes.shape == (120, 160)
    assert [int(codes[row, 5]) for row, _ in expected] == [code for _, code in expected]
    run("gather", "surfaces", tmp_path / "source", "--out", tmp_path / "data", error="not-empty")
    more = ["gather", "surfaces", tmp_path / "data", "--out", tmp_path / "more"]
    run(*more, error="unknown-dataset")
    assert not (tmp_path / "more").exists()
