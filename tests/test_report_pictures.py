"""Pictures: size, proportions, legends, readable labels, evidence on dark images."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.legend import Legend
from matplotlib.text import Annotation
from PIL import Image

from fastseg import tasks
from fastseg.report import charts, painting
from fastseg.report import panels as plots
from fastseg.report.views import view_of
from fastseg.types import Item

pytestmark = pytest.mark.full_pictures

KEYS = ("precision", "recall", "iou", "dice", "boundary_f1")


def rows(count: int, size: tuple[int, int], panels: int = 4) -> list[list[plots.Panel]]:
    pixels = np.zeros((*size, 3), np.uint8)
    return [
        [
            plots.Panel(pixels, f"image_{i}.jpg\nworst, error 0.123"),
            *[plots.Panel(pixels, "truth")] * (panels - 1),
        ]
        for i in range(count)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("size", [(800, 600), (2400, 100), (100, 2400), (3000, 4000), (1, 1)])
@pytest.mark.parametrize("count", [1, 6, 40])
def test_a_grid_is_no_larger_than_the_limit_and_keeps_proportions(size, count, tmp_path):
    figure = view_of(tasks.get("eye")).grid(rows(count, size), "a title", errors=True)
    path = plots.write_png(figure, tmp_path / "grid.png", plots.PRINT_DPI)
    with Image.open(path) as picture:
        assert max(picture.size) <= plots.MAX_PX
    boxes = [axis.get_window_extent() for axis in figure.axes]
    assert len(boxes) == 4 * count
    for box in boxes:
        assert box.width / box.height == pytest.approx(size[1] / size[0], rel=0.01)
        assert (
            0 <= box.x0
            and box.x1 <= figure.bbox.width
            and 0 <= box.y0
            and box.y1 <= figure.bbox.height
        )
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes[:40], 2))
    legend = figure.legends[0].get_window_extent()
    assert legend.width <= figure.bbox.width and not any(legend.overlaps(box) for box in boxes)


def test_images_of_different_shapes_keep_their_proportions():
    sizes = [(100, 300), (300, 100), (200, 200)]
    figure = plots.grid([*itertools.chain(*(rows(1, size) for size in sizes))])
    shapes = [
        axis.get_window_extent().width / axis.get_window_extent().height for axis in figure.axes
    ]
    assert shapes == pytest.approx([size[1] / size[0] for size in sizes for _ in range(4)])


def test_more_rows_than_are_legible_are_left_out_and_said(caplog):
    figure = plots.grid(rows(500, (75, 100), 3))
    assert 50 < len(figure.axes) / 3 < 500 and len(caplog.records) == 1
    assert max(figure.get_size_inches()) < plots.LARGEST + 2


@pytest.mark.slow
def test_every_picture_of_an_export_is_within_the_limit(exports, samples, run):
    run("interpret", "eye", "--export", exports("eye"), "--split", "all", "--out", "look")
    run("show", "eye", "--data", samples["eye"], "--rows", "16")
    pictures = [*Path("look").glob("*.png"), *exports("eye").glob("*.png"), Path("eye_show.png")]
    assert len(pictures) >= 8
    for path in pictures:
        with Image.open(path) as picture:
            assert 300 < min(picture.size) and max(picture.size) <= plots.MAX_PX, path


@pytest.mark.slow
def test_charts_of_many_classes_are_within_the_limit(tmp_path):
    classes = [f"class number {i}" for i in range(150)]
    matrix = plots.write_png(
        charts.confusion(np.eye(150, dtype=int), classes, "pixels"),
        tmp_path / "matrix.png",
        plots.PRINT_DPI,
    )
    bars = charts.bars({name: dict.fromkeys(KEYS, 0.5) for name in classes}, KEYS, "many")
    for path in (matrix, plots.write_png(bars, tmp_path / "bars.png", plots.PRINT_DPI)):
        with Image.open(path) as picture:
            assert max(picture.size) <= plots.MAX_PX


@pytest.mark.parametrize("classes", [1, 4, 9])
def test_no_line_crosses_the_label_of_a_bar(classes, tmp_path):
    rng = np.random.default_rng(0)
    figures, intervals = {}, {}
    for i in range(classes):
        values = dict(zip(KEYS, rng.random(5)))
        intervals[f"class {i}"] = {
            key: (rng.uniform(0, v), rng.uniform(v, 1)) for key, v in values.items()
        }
        figures[f"class {i}"] = values
    figures["class 0"] |= {"recall": 1.0, "iou": None, "dice": 0.0}
    intervals["class 0"] |= {"recall": (1.0, 1.0), "iou": None, "dice": (0.0, 0.0)}
    figure = charts.bars(figures, KEYS, "title", intervals)
    plots.write_png(figure, tmp_path / "bars.png")
    axis = figure.axes[0]
    labels = [text for text in axis.texts if isinstance(text, Annotation)]
    boxes = [label.get_window_extent() for label in labels]
    assert len(labels) == 5 * classes and all(
        label.get_fontsize() >= 9 and label.get_rotation() == 0 for label in labels
    )
    assert len(axis.lines) == 5 * classes - 1  # the interval of each value that is not absent
    others = [line.get_window_extent() for line in axis.lines] + [
        bar.get_window_extent() for bar in axis.patches if bar.get_width()
    ]
    assert not any(box.overlaps(other) for box in boxes for other in others)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(box.x1 <= figure.bbox.width for box in boxes)


def columns(legend: Legend) -> list[int]:
    """Return how many entries each column of a legend has."""
    lefts = [round(text.get_window_extent().x0) for text in legend.get_texts()]
    return [len(list(group)) for _, group in itertools.groupby(lefts)]


@pytest.mark.parametrize("names, width", [(3, 10), (7, 10), (8, 6), (9, 8), (12, 5), (2, 1)])
def test_a_legend_has_even_columns_that_fit(names, width):
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(width, 3))
    legend = plots.even_legend(
        figure, [Patch(label=f"a class {i}") for i in range(names)], loc="lower center", fontsize=9
    )
    figure.savefig(io.BytesIO(), format="png")
    lengths = columns(legend)
    assert sum(lengths) == names and max(lengths) - min(lengths) <= 1 and len(figure.legends) == 1
    assert legend.get_window_extent().width <= figure.bbox.width or len(lengths) == 1


def luminance(pixels: np.ndarray) -> np.ndarray:
    return pixels @ np.array([0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("lightest", [0, 12, 40, 255])
def test_evidence_shows_on_images_of_any_brightness(lightest):
    image = np.random.default_rng(0).uniform(0, lightest, (60, 80, 3)).astype(np.uint8)
    image[:, 40:] //= 2
    heat = np.zeros((60, 80), np.float32)
    heat[20:40, 10:30], heat[20:40, 50:70] = 1, 0.6
    drawn = luminance(painting.evidence_map(image, heat))
    strong, less, none = (drawn[22:38, 12:28], drawn[22:38, 52:68], drawn[heat == 0])
    assert (
        strong.mean() - none.mean() > 100
        and less.mean() - none.mean() > 40
        and strong.mean() > less.mean()
    )
    assert np.percentile(none, 99) < less.mean()


def test_evidence_leaves_a_dark_images_shapes_visible():
    image = np.full((40, 40, 3), 8, np.uint8)
    image[:, 20:] = 30
    drawn = luminance(painting.evidence_map(image, np.zeros((40, 40), np.float32)))
    assert drawn[:, 20:].mean() - drawn[:, :20].mean() > 60


@pytest.mark.parametrize(
    "counts",
    [[0] * 14 + [16], [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 30, 100], [0] * 13 + [3, 10**8]],
)
def test_both_charts_of_reliability_fill_their_half(counts, tmp_path):
    weight = np.array(counts, float)
    bins = np.column_stack([weight, weight * (np.arange(15) + 0.5) / 15, weight * 0.5])
    figure = charts.reliability(bins, 0.1, "pixels")
    plots.write_png(figure, tmp_path / "reliability.png")
    boxes = [axis.get_window_extent() for axis in figure.axes]
    assert boxes[0].x1 < boxes[1].x0 and sum(box.width for box in boxes) > 0.75 * figure.bbox.width
    drawn = [
        bar for bar in figure.axes[1].patches if bar.get_height() > figure.axes[1].get_ylim()[0]
    ]
    assert drawn and figure.axes[1].get_ylim()[1] >= 1


def test_unlabelled_pixels_are_in_the_legend_where_a_mask_shows_them(tmp_path):
    view, codes = view_of(tasks.get("eye")), np.zeros((40, 60), np.uint8)
    item = Item(tmp_path / "a.jpg", tmp_path / "a.png")
    Image.new("RGB", (60, 40)).save(item.image)

    def named():
        Image.fromarray(codes).save(item.label)
        figure = view.grid([view.labelled(item)], "a title")
        return {text.get_text() for text in figure.legends[0].get_texts()}

    assert "unlabelled" not in named()
    codes[:5] = 255
    assert "unlabelled" in named()
