"""What mask values mean: codes, colours, greys; declared, ignored and refused values."""

import numpy as np
import pytest
from PIL import Image

from fastseg import tasks
from fastseg.data.decoding import decode_codes, match_colours, ranges
from fastseg.data.images import codes_to_colours, read_image
from fastseg.errors import DataError, TaskError
from fastseg.types import IGNORE

PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
LAYOUT = (tasks.Layout("images", "masks"),)


def task(classes=3, **declared):
    options = {"layouts": LAYOUT, **declared}
    return tasks.SegmentationTask(
        name="x",
        classes=tuple("abcdefgh"[:classes]),
        palette=tuple((60 * i, 90, 200) for i in range(classes)),
        recipe=tasks.Recipe(size=(64, 64)),
        **options,
    )


def painted(rng):
    codes = np.kron(rng.integers(0, 3, (6, 8)), np.ones((10, 10))).astype(np.uint8)
    return codes, codes_to_colours(codes, PALETTE)


def colour_task(**declared):
    return tasks.SegmentationTask(
        name="x",
        classes=("a", "b", "c"),
        palette=PALETTE,
        masks="colours",
        layouts=LAYOUT,
        recipe=tasks.Recipe(size=(64, 64)),
        **declared,
    )


def test_exact_colours():
    codes, colours = painted(np.random.default_rng(0))
    assert (match_colours(colours, PALETTE)[0] == codes).all()


def test_jpeg_noise_snaps_to_the_nearest_colour(tmp_path):
    codes, colours = painted(np.random.default_rng(1))
    Image.fromarray(colours).save(tmp_path / "m.jpg", quality=92, subsampling=0)
    assert (match_colours(read_image(tmp_path / "m.jpg"), PALETTE)[0] == codes).mean() > 0.99


def test_antialiased_edges_take_a_neighbour_even_where_black_is_declared():
    colours = np.array([[[255, 0, 0], [128, 127, 0], [0, 255, 0], [128, 0, 128]]], np.uint8)
    for declared in ({}, {(0, 0, 0): 1}):
        codes, _ = match_colours(colours, PALETTE, declared)
        assert codes[0, 1] in (0, 1) and codes[0, 3] in (0, 2)


@pytest.mark.parametrize("stranger", [(0, 0, 0), (255, 255, 255), (255, 255, 0)])
def test_unknown_colours_are_refused_unless_declared(stranger, tmp_path):
    codes, colours = painted(np.random.default_rng(2))
    colours[:3, :5] = stranger
    Image.fromarray(colours).save(tmp_path / "m.png")
    with pytest.raises(DataError) as caught:
        colour_task().decode(tmp_path / "m.png")
    assert caught.value.code == "unknown-colours" and str(stranger) in str(caught.value)
    decoded = colour_task(codes={stranger: 1}).decode(tmp_path / "m.png")
    assert (decoded[:3, :5] == 1).all() and (decoded[3:] == codes[3:]).all()
    assert (colour_task(ignore=(stranger,)).decode(tmp_path / "m.png")[:3, :5] == IGNORE).all()


def test_few_unknown_colours_are_unlabelled(tmp_path):
    _, colours = painted(np.random.default_rng(3))
    large = np.tile(colours, (4, 4, 1))
    large[0, 0] = (0, 0, 0)
    Image.fromarray(large).save(tmp_path / "m.png")
    codes = colour_task().decode(tmp_path / "m.png")
    assert codes[0, 0] == IGNORE and (codes == IGNORE).sum() == 1


def test_few_stray_codes_are_unlabelled_and_many_an_error(tmp_path):
    codes, path = np.zeros((200, 200), np.uint8), tmp_path / "m.png"
    for count, refused in ((4, False), (5, True)):
        codes[0, :count] = 9
        Image.fromarray(codes).save(path)
        found = decode_codes(path, {0: 0, 1: 1, 255: 255})
        assert [fault.stops for fault in found.faults] == [refused] and (
            found.codes[0, :count] == IGNORE
        ).all()
        assert found.unknown.sum() == count


def test_255_is_unlabelled_beside_other_codes_and_16_bit_codes_keep_their_values(tmp_path):
    values = np.array([[0, 1, 255, 11, 300]], np.uint16)
    Image.fromarray(values).save(tmp_path / "m.png")
    found = task(codes={0: 0, 1: 1, 300: 2}, ignore=(11,)).decode(tmp_path / "m.png")
    assert found.tolist() == [[0, 1, IGNORE, IGNORE, 2]]
    Image.fromarray(values[:, :3].astype(np.uint8)).save(tmp_path / "m.png")
    assert task().decode(tmp_path / "m.png").tolist() == [[0, 1, IGNORE]]
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "m.png")
    assert task(2, codes={0: 0, 255: 1}).decode(tmp_path / "m.png").tolist() == [[0, 1]]


def test_a_declaration_of_one_mapping_alone_is_enough(tmp_path):
    """Each of the fields works without the other."""
    Image.fromarray(np.array([[0, 5, 7]], np.uint8)).save(tmp_path / "m.png")
    assert task(codes={0: 0, 5: 1, 7: 2}).decode(tmp_path / "m.png").tolist() == [[0, 1, 2]]
    Image.fromarray(np.array([[0, 2, 11]], np.uint8)).save(tmp_path / "m.png")
    assert task(ignore=(11,)).decode(tmp_path / "m.png").tolist() == [[0, 2, IGNORE]]


def test_layouts_may_declare_codes_of_their_own(tmp_path):
    layouts = (
        tasks.Layout("a", "b", source="theirs", codes={3: 0, 4: 1, 9: 2}, ignore=(0,)),
        tasks.Layout("c", "d"),
    )
    Image.fromarray(np.array([[0, 3, 4, 9]], np.uint8)).save(tmp_path / "m.png")
    assert task(layouts=layouts).decode(tmp_path / "m.png", "theirs").tolist() == [
        [IGNORE, 0, 1, 2]
    ]
    with pytest.raises(DataError):
        task(layouts=layouts).decode(tmp_path / "m.png")


@pytest.mark.parametrize(
    "declared",
    [
        {"ignore": (2,)},
        {"codes": {0: 0, 1: 1, 2: 3}},
        {"codes": {0: 0, 1: 1}},
        {"codes": {0: 0, 1: 1, 2: 2}, "ignore": (2,)},
        {"ignore": (70000,)},
        {"ignore": ((0, 0, 0),)},
        {"codes": {"0": 0, 1: 1, 2: 2}},
        {"codes": {-1: 0, 1: 1, 2: 2}},
        {"masks": "colors"},
        {"masks": "colours", "ignore": (3,)},
        {"masks": "colours", "ignore": ((0, 90, 200),)},
        {"masks": "threshold", "ignore": (3,)},
        {"layouts": (tasks.Layout("a", "b", ignore=(9,)), tasks.Layout("c", "d", ignore=(8,)))},
    ],
)
def test_declarations_that_contradict_themselves_are_refused(declared):
    with pytest.raises(TaskError) as caught:
        task(**declared)
    assert caught.value.code == "task-codes"


def test_ranges():
    assert (
        ranges([0, 1, 2, 3, 255]) == "0 to 3, 255"
        and ranges([0, 1, 5]) == "0, 1, 5"
        and ranges([7]) == "7"
    )
