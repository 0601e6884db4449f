"""One visit of an image is one version, however often it is saved."""

import shutil

import numpy as np
import pytest
from conftest import refuses

from fastseg import tasks
from fastseg.corrections.store import Corrections


@pytest.fixture
def opened(samples, tmp_path):
    """The corrections of a copy of the sample of eyes, one of its images, and its label."""
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    store = Corrections("eye", data)
    image = tasks.get("eye").items(data)[0].image
    return store, image, store.label(image)


def test_an_amended_version_is_replaced(opened):
    store, image, first = opened
    more, most = first.copy(), first.copy()
    more[:4, :4], most[:8, :8] = 3, 3
    changed = int((most != first).sum())
    one = store.save(image, more, action="corrected", by="Ada", seconds=1, base=0)
    two = store.save(image, most, action="corrected", by="Ada", seconds=5, base=1, amend=True)
    assert (one.version, two.version, two.seconds, two.pixels) == (1, 1, 5, changed)
    assert store.history(image) == [two]
    assert np.array_equal(store.label(image), most)
    assert np.array_equal(store.version(image, 0), first)
    assert Corrections("eye", store.root).history(image) == [two]


def test_others_versions_are_not_replaced(opened):
    store, image, first = opened
    store.save(image, first, action="accepted", by="Ada", seconds=1, base=0)
    other = store.save(image, first, action="corrected", by="Grace", seconds=1, base=1, amend=True)
    assert other.version == 2
    with refuses("edited-meanwhile"):
        store.save(image, first, action="corrected", by="Ada", seconds=1, base=1, amend=True)
