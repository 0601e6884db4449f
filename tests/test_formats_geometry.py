"""Polygons become pixels as the tools draw them, and pixels become polygons that give them back."""

import numpy as np
import pytest
from format_cases import blobs, few
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from fastseg.formats.base import Region
from fastseg.formats.geometry import area, draw, fill, join_holes, patch, polygons_of

SQUARE = np.array([[2, 2], [6, 2], [6, 6], [2, 6]], dtype=float)
RULES = ("area", "outline")


def drawn_back(pieces, size, rule):
    pixels = np.zeros(size, bool)
    for outer, holes in pieces:
        pixels |= fill(Region("x", (outer,), tuple(holes)), size, rule)
    return pixels


@st.composite
def rings(draw, low=0.0, high=30.0):
    count = draw(st.integers(3, 12))
    coordinate = st.floats(low, high, width=32)
    return np.array([[draw(coordinate), draw(coordinate)] for _ in range(count)])


@given(ring=rings())
def test_area_is_what_pycocotools_draws(ring):
    size = (30, 30)
    whole = coco_mask.decode(coco_mask.frPyObjects([ring.reshape(-1).tolist()], *size))[..., 0]
    assert np.array_equal(fill(Region("x", (ring,)), size, "area"), whole)


@given(ring=rings())
def test_outline_is_what_labelme_draws(ring):
    image = Image.new("1", (30, 30))
    ImageDraw.Draw(image).polygon([tuple(point) for point in ring.tolist()], fill=1, outline=1)
    assert np.array_equal(fill(Region("x", (ring,)), (30, 30), "outline"), np.asarray(image))


@given(ring=rings(-1e9, 1e9), rule=st.sampled_from(RULES))
def test_rings_far_outside_are_cut_off(ring, rule):
    assert fill(Region("x", (ring,)), (20, 25), rule).shape == (20, 25)


@pytest.mark.parametrize("rule", RULES)
def test_a_ring_around_the_image_covers_it(rule):
    ring = np.array([[-1e9, -1e9], [1e9, -1e9], [1e9, 1e9], [-1e9, 1e9]])
    assert fill(Region("x", (ring,)), (7, 9), rule).all()


def test_the_rules_differ_by_the_outline():
    assert fill(Region("x", (SQUARE,)), (10, 10), "area").sum() == 16
    assert fill(Region("x", (SQUARE,)), (10, 10), "outline").sum() == 25


def test_the_outline_of_a_hole_belongs_to_the_region():
    outer = np.array([[0, 0], [9, 0], [9, 9], [0, 9]], dtype=float)
    region = Region("x", (outer,), (SQUARE,))
    assert fill(region, (10, 10), "outline").sum() == 100 - 9
    assert fill(region, (10, 10), "area").sum() == 81 - 16


@pytest.mark.parametrize("rule", RULES)
def test_relative_coordinates_are_shares_of_the_size(rule):
    relative = fill(Region("x", (SQUARE / 10,)), (20, 40), rule, is_relative=True)
    assert np.array_equal(relative, fill(Region("x", (SQUARE * (4, 2),)), (20, 40), rule))


@pytest.mark.parametrize("offset", [(3, 2), (-2, -1), (8, 8), (100, 0), (-50, -50), (10**9, 0)])
def test_a_bitmap_is_cut_off_at_the_image(offset):
    bitmap = np.ones((4, 5), bool)
    x, y = offset
    expected = np.zeros((10, 10), bool)
    expected[max(0, y) : max(0, y + 4), max(0, x) : max(0, x + 5)] = True
    pixels = fill(Region("x", bitmap=bitmap, offset=offset), (10, 10), "area")
    assert np.array_equal(pixels, expected)


def test_nothing_is_drawn_of_a_region_outside():
    assert patch(Region("x", (SQUARE + 50,)), (10, 10), "area") is None
    assert patch(Region("x", ()), (10, 10), "outline") is None


def test_a_region_is_drawn_over_what_is_there():
    codes = np.zeros((10, 10), np.uint8)
    draw(codes, Region("x", (SQUARE,)), 7, "area")
    assert (codes == 7).sum() == 16 and (codes == 0).sum() == 84


def test_area_counts_holes_off():
    assert area(Region("x", (SQUARE * 2,), (SQUARE,))) == 64 - 16
    assert area(Region("x", bitmap=np.eye(4, dtype=bool))) == 4


@pytest.mark.parametrize("rule", RULES)
@given(mask=blobs())
def test_exact_polygons_give_the_mask_back(rule, mask):
    assert np.array_equal(drawn_back(polygons_of(mask, rule, least=1), mask.shape, rule), mask)


@pytest.mark.parametrize("rule", RULES)
@given(mask=blobs())
@few
def test_simplified_polygons_keep_the_mask(rule, mask):
    pieces = polygons_of(mask, rule)
    back = drawn_back(pieces, mask.shape, rule)
    assert (back & mask).sum() >= 0.99 * (back | mask).sum()
    assert all(len(ring) >= 3 for outer, holes in pieces for ring in (outer, *holes))


@pytest.mark.parametrize("rule", RULES)
@given(mask=blobs())
@few
def test_holes_joined_to_the_outer_ring_stay_holes(rule, mask):
    pieces = polygons_of(mask, rule, least=1)
    joined = [(join_holes(outer, holes), []) for outer, holes in pieces]
    back = drawn_back(joined, mask.shape, rule)
    if rule == "area":
        assert np.array_equal(back, mask)
    else:
        assert (back & mask).sum() >= 0.99 * (back | mask).sum()


def test_smooth_outlines_get_few_points():
    y, x = np.mgrid[:400, :400]
    disc = (x - 200) ** 2 + (y - 190) ** 2 < 150**2
    for rule in RULES:
        ((outer, holes),) = polygons_of(disc, rule)
        assert len(outer) < 60 and holes == []
        assert len(polygons_of(disc, rule, least=1)[0][0]) > 300
