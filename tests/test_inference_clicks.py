"""The region that a click or a box proposes."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import refuses

from fastseg import load, tasks
from fastseg.errors import ModelError
from fastseg.inference.clicks import Looks, part_around


class Scripted:
    """A predictor whose probabilities come from the image: grey levels 0, 100 and 200 are classes.

    It sees the images at half their size, as networks do.
    """

    task = tasks.get("eye")

    def predict(self, image):
        from fastseg.inference.prediction import MaskPrediction

        grey = image[::2, ::2, 0].astype(np.float32)
        distance = np.stack([abs(grey - level) for level in (0, 100, 200, 255)])
        return MaskPrediction(self.task, image, -distance / 10, image.shape[:2])


@pytest.fixture
def looks():
    """A ring of class 1 around a disc of class 2, and apart from it another disc of class 2."""
    rows, columns = np.mgrid[:120, :160]
    image = np.zeros((120, 160, 3), np.uint8)
    image[(rows - 60) ** 2 + (columns - 60) ** 2 < 30**2] = 100
    image[(rows - 60) ** 2 + (columns - 60) ** 2 < 12**2] = 200
    image[(rows - 60) ** 2 + (columns - 130) ** 2 < 12**2] = 200
    return Looks(Scripted(), image)


def test_a_click_proposes_the_connected_region_of_its_class(looks):
    ((code, disc),) = looks.region_at((60, 60))
    assert code == 2 and disc[60, 60] and not disc[60, 130] and abs(disc.sum() - 452) < 60
    ((code, ring),) = looks.region_at((60, 40))
    assert code == 1 and ring[60, 40] and not ring[60, 60] and abs(ring.sum() - 2375) < 200


def test_the_background_is_proposed_only_as_the_wanted_class(looks):
    assert looks.region_at((10, 110)) == looks.region_at((10, 110), 1) == []
    assert looks.region_at((500, 10)) == []
    for wanted in (1.0, True):
        with refuses("option-range", kind=ModelError):
            looks.region_at((60, 60), wanted)


def test_a_box_proposes_all_classes_inside(looks):
    found = dict(looks.regions_in((20, 20, 100, 100)))
    assert {*found} == {1, 2} and found[2][60, 60] and not found[2][60, 130]
    assert looks.regions_in((150, 0, 160, 10)) == looks.regions_in((5, 5, 5, 9)) == []


def test_a_part_of_the_probabilities_is_that_of_the_whole(looks):
    box = (13, 40, 77, 88)
    part = looks.whole.probabilities[:, box[1] : box[3], box[0] : box[2]]
    assert np.allclose(looks._whole_in(box), part, atol=1e-5)


def test_parts_stay_inside_and_keep_the_aspect():
    assert part_around((0, 0, 1, 1), (100, 200)) == (0, 0, 100, 50)
    assert part_around((190, 90, 200, 100), (100, 200)) == (100, 50, 200, 100)
    assert part_around((10, 10, 190, 90), (100, 200)) == (0, 0, 200, 100)


def test_classes_have_no_regions(exports):
    with refuses("no-masks"):
        Looks(load(exports("mri")), np.zeros((121, 121, 3), np.uint8))
