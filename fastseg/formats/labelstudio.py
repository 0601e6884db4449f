"""Label Studio's JSON exports: full JSON and JSON_MIN, with polygons, ellipses and brush strokes.

Points are percentages of the image's size. Brush strokes are bitmaps in Label Studio's own run
lengths. Later regions in `result` lie on top. Boxes and key points are refused: they say where
something is, not which pixels it has.

Of several annotations of a task, one that is marked as ground truth counts, else the one that was
changed last; cancelled (skipped) ones never count. Predictions are not read: they come from a
model, and nobody has looked at them. A task without an annotation is an unlabelled image.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import ImageColor

from ..data.colours import hexadecimal
from ..data.issues import Fault, refuse
from ..data.pairing import IMAGE_SUFFIXES
from ..errors import brief
from ..types import IGNORE, Colour
from ..utils.io import atomic_file
from . import documents
from .base import IGNORED, Format, Labelled, Region, ToWrite, parsed_number
from .brush import decode_brush, encode_brush
from .documents import Bad
from .geometry import ellipse
from .outlines import Outline, outlines
from .recognise import files_of

CONFIGS = ("label_config.xml", "labeling_config.xml", "config.xml")  # beside the export, or above
MAX_CONFIG = 1 << 20  # bytes of a labelling configuration; a convention
WRITTEN = "label_studio.json"
UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an upload
DRAW_AGAIN = "draw this region again"
# Geometries that are no areas of pixels, by a field of their value -> what they are
NO_AREAS = {"x": "a box or a key point", "start": "a part of a text", "vertices": "lines"}
# Fields of values that describe an image, or a region once more
NOTES = {"choices", "text", "rating", "number", "datetime", "taxonomy", "selected"}


class LabelStudioFormat(Format):
    """Label Studio's JSON exports."""

    name = "labelstudio"
    title = "Label Studio"
    rule = "area"
    unlabelled = IGNORED
    order = "later regions in the list `result` lie on top"
    is_writable = True

    def find(self, folder: Path) -> list[Path]:
        """Return the JSON files with tasks in `folder` and below, sorted."""
        return files_of(self.title, folder)

    def classes(self, files: Sequence[Path]) -> dict[str, Colour | None]:
        """Return the labels of the labelling configuration, label_config.xml, with their colours.

        It lies beside the files or one folder above. Without one, the labels that regions have, by
        first use. Raises `DataError` for files that cannot be parsed.
        """
        config = _config_of(files)
        if config is not None:
            try:
                return _declared(config)
            except Bad as bad:
                refuse([bad.fault(config)])
        used: dict[str, Colour | None] = {}
        for file in files:
            faults: list[Fault] = []
            for annotated in _annotated(file, faults):
                for place, result in annotated.results:
                    for label in _labels(result.get("value")):
                        try:
                            used.setdefault(documents.named(label, f"{place}.value", "label"))
                        except Bad as bad:
                            refuse([bad.fault(file)])
            refuse([fault for fault in faults if fault.kind == "label file"])
        used.pop(IGNORED, None)
        return used

    def read(self, files: Sequence[Path], faults: list[Fault]) -> Iterator[Labelled]:
        """Yield the labelled image of each task, one at a time."""
        for file in files:
            for annotated in _annotated(file, faults):
                try:
                    yield _labelled(file, annotated, faults)
                except Bad as bad:
                    faults.append(bad.fault(file))

    def write(
        self,
        images: Iterable[ToWrite],
        out: Path,
        classes: Sequence[str],
        palette: Sequence[Colour],
        background: int | None,
    ) -> list[Path]:
        """Write the tasks, and label_config.xml, the labelling configuration of their project.

        Images are paths for Label Studio's local storage below `out`. Masks with scores are
        predictions, others annotations. A piece of a class is a polygon that encloses what lies in
        it, and what fills it comes later; a piece with holes of background is a brush stroke.
        """
        tasks = out / WRITTEN
        with atomic_file(tasks) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write("[")
            for number, image in enumerate(images):
                found = outlines(image.codes, self.rule, background)
                file.write(",\n" if number else "\n")
                json.dump(_task(image, found, classes), file)
            file.write("\n]\n")
        config = out / CONFIGS[0]
        written = [code for code in range(len(classes)) if code != background]
        lines = [(classes[code], palette[code]) for code in written]
        if background is not None:
            lines.append((IGNORED, (160, 160, 160)))
        config.write_text(_config(lines), encoding="utf-8")
        return [tasks, config]


@dataclass(frozen=True)
class _Annotated:
    """The annotation of a task that counts."""

    place: str  # of the task
    names: tuple[str, ...]  # where the image may be
    results: list[tuple[str, dict[str, Any]]]  # with their places


def _annotated(file: Path, faults: list[Fault]) -> Iterator[_Annotated]:
    """Yield the annotation that counts of each task of a file that has one."""
    count, predicted = 0, 0
    for task in _tasks(file, faults):
        try:
            predicted += bool(task.fields.get("predictions"))
            found = _chosen(task)
        except Bad as bad:
            faults.append(bad.fault(file))
            continue
        if found is not None:
            count += 1
            yield found
    if predicted and not count:
        nothing = Bad(
            "",
            f"holds predictions of {predicted} images, and no annotation",
            "accept or correct them in Label Studio, and export again",
        )
        faults.append(nothing.fault(file))


@dataclass(frozen=True)
class _Task:
    place: str
    fields: dict[str, Any]
    again: tuple[tuple[str, dict[str, Any]], ...] = ()  # JSON_MIN: further annotations of the image


def _tasks(file: Path, faults: list[Fault]) -> Iterator[_Task]:
    """Yield the tasks of a file. JSON_MIN's items of one task, which follow each other, are one."""
    held: _Task | None = None
    for place, fields in _items(file, faults):
        if held is not None and _is_flat(held.fields) and _is_same(held.fields, fields):
            held = _Task(held.place, held.fields, (*held.again, (place, fields)))
            continue
        if held is not None:
            yield held
        held = _Task(place, fields)
    if held is not None:
        yield held


def _items(file: Path, faults: list[Fault]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects in the list of a file with their places; others are faults."""
    items = documents.items(file)
    while True:
        try:
            place, value = next(items)
            fields = documents.mapped(value, place)
        except StopIteration:
            return
        except Bad as bad:  # of one item, or of the rest of the file: then there is no next one
            faults.append(bad.fault(file))
            continue
        yield place, fields


def _is_flat(fields: Mapping[str, Any]) -> bool:
    """Return whether an item is of JSON_MIN: one annotation, with its regions by control tag."""
    return not any(key in fields for key in ("data", "annotations", "completions", "predictions"))


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return _is_flat(other) and one.get("id") is not None and one.get("id") == other.get("id")


def _chosen(task: _Task) -> _Annotated | None:
    """Return the annotation of a task that counts, or None if it has none. Raises `Bad`."""
    if _is_flat(task.fields):
        return _chosen_flat(task)
    key = "completions" if "completions" in task.fields else "annotations"  # before version 1.0
    place = f"{task.place}.{key}"
    found = task.fields.get(key)
    annotations = [] if found is None else _mapped_items(found, place)
    newest = _newest(annotations)
    if newest is None:
        return None
    at, chosen = f"{newest[0]}.result", newest[1]
    results = _mapped_items(chosen.get("result"), at)
    data = documents.mapped(task.fields.get("data"), f"{task.place}.data")
    names = _image_names(data, task.fields.get("file_upload"), f"{task.place}.data")
    return _Annotated(task.place, names, results)


def _mapped_items(value: object, place: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the objects of a list with their places. Raises `Bad`."""
    return [
        (f"{place}[{index}]", documents.mapped(one, f"{place}[{index}]"))
        for index, one in enumerate(documents.listed(value, place))
    ]


def _newest(annotations: list[tuple[str, dict[str, Any]]]) -> tuple[str, dict[str, Any]] | None:
    """Return the annotation that counts: ground truth, else the one that was changed last."""
    counted = [one for one in annotations if not one[1].get("was_cancelled")]
    # the last of equal ones, since Label Studio appends
    return max(reversed(counted), key=lambda one: _rank(one[1]), default=None)


def _rank(annotation: Mapping[str, Any]) -> tuple[bool, str]:
    changed = annotation.get("updated_at") or annotation.get("created_at")
    return annotation.get("ground_truth") is True, str(changed or "")


def _chosen_flat(task: _Task) -> _Annotated | None:
    """Return the annotation of JSON_MIN that counts. Raises `Bad`."""
    newest = _newest([(task.place, task.fields), *task.again])
    if newest is None:
        return None
    place, fields = newest
    results = []
    for tag, values in fields.items():
        if isinstance(values, list) and any(isinstance(value, dict) for value in values):
            for at, value in _mapped_items(values, f"{place}.{tag}"):
                results.append((at, {**value, "value": value}))
    return _Annotated(place, _image_names(fields, None, place), results)


def _image_names(data: Mapping[str, Any], upload: object, place: str) -> tuple[str, ...]:
    """Return where the image of a task may be, the most exact first. Raises `Bad`."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    likely = [text for text in texts.values() if _path_of(text).lower().endswith(IMAGE_SUFFIXES)]
    text = texts.get("image") or (likely or [""])[0]
    given = [one for one in (text, upload) if isinstance(one, str) and one]
    if not given:
        raise Bad(place, "names no image", "export the tasks with their data")
    paths = [path for one in given for path in (_path_of(one), unquote(_path_of(one)))]
    names = []
    for path in paths:
        documents.named(path, place, "image's name")
        names.append(path)
        # a path that leads out of the data is refused, whatever has its name there
        if ".." not in PurePosixPath(path).parts:
            name = PurePosixPath(path).name
            names += [name, UPLOAD.sub("", name)]
    return tuple(dict.fromkeys(name for name in names if name))


def _path_of(text: str) -> str:
    """Return the path of an image in Label Studio's data, relative, with slashes.

    /data/upload/1/ab12cd34-7.jpg, /data/local-files/?d=images/7.jpg, URLs, and s3://bucket/7.jpg.
    """
    path = text.replace("\\", "/")
    before, _, query = path.partition("?")
    if before.rstrip("/").endswith("/local-files"):
        path = parse_qs(query).get("d", [""])[0]
    elif "://" in path:
        try:
            path = urlsplit(path).path
        except ValueError:  # such as http://[
            path = before.partition("://")[2]
    return path.lstrip("/")


def _labels(value: object) -> list[object]:
    """Return the labels of a region: the list of its value whose name ends in "labels"."""
    if not isinstance(value, dict):
        return []
    for key, found in value.items():
        if key.endswith("labels") and isinstance(found, list):
            return found
    return []


def _labelled(file: Path, annotated: _Annotated, faults: list[Fault]) -> Labelled:
    """Return the labels of a task; regions that cannot be used are added to `faults`."""
    size: tuple[int, int] | None = None
    regions, budget = [], documents.Budget()
    # the tag <Labels> repeats a region of <Polygon> or <Brush>, with the label
    repeated = {str(one.get("id")) for _, one in annotated.results if _labels(one.get("value"))}
    for place, result in annotated.results:
        try:
            if not _has_label(result, place, repeated):
                continue
            size = _one_size(result, place, size)
            regions.append(_region(result["value"], f"{place}.value", size, budget))
        except Bad as bad:
            faults.append(bad.fault(file))
    return Labelled(file, annotated.names, size, tuple(regions), annotated.place)


def _has_label(result: Mapping[str, Any], place: str, repeated: set[str]) -> bool:
    """Return whether a result is a region with a label.

    False for notes, and for regions that are in the list once more with their label.
    Raises `Bad` for regions without one.
    """
    if "value" not in result:  # a relation between regions
        return False
    value = documents.mapped(result["value"], f"{place}.value")
    if _labels(value):
        return True
    is_area = any(key in value for key in ("points", "rle", "radiusX", *NO_AREAS))
    if is_area and NOTES.isdisjoint(value) and str(result.get("id")) not in repeated:
        raise Bad(f"{place}.value", "is a region without label", "label it, or delete it")
    return False


def _one_size(
    result: Mapping[str, Any], place: str, size: tuple[int, int] | None
) -> tuple[int, int]:
    """Return the (height, width) that a result states. Raises `Bad`, also if it is not `size`."""
    own = documents.size_of(
        result.get("original_height"),
        result.get("original_width"),
        (f"{place}.original_height", f"{place}.original_width"),
    )
    if size is not None and own != size:
        raise Bad(
            f"{place}.original_width",
            f"states {own[1]} x {own[0]} px, others of this image {size[1]} x {size[0]} px",
            "label each image in a task of its own",
        )
    if result.get("image_rotation") not in (None, 0):
        raise Bad(
            f"{place}.image_rotation",
            "is drawn on a turned image, whose points fastseg does not turn back",
            "turn the image file, and label it upright",
        )
    return own


def _region(
    value: dict[str, Any], place: str, size: tuple[int, int], budget: documents.Budget
) -> Region:
    """Return the region of a result's value. Raises `Bad`."""
    labels = [documents.named(label, place, "label") for label in _labels(value)]
    if len(labels) > 1:
        listed = ", ".join(labels)
        raise Bad(place, f"has several labels: {brief(listed)}", "keep one label a region")
    label = labels[0]
    scale = np.array([size[1], size[0]]) / 100
    if "points" in value:
        ring = documents.points(value["points"], f"{place}.points", 3) * scale
        return Region(label, (ring,), place=place)
    if "radiusX" in value:
        ring = _ellipse(value, place, scale)
        return Region(label, (ring,), place=place)
    if "rle" in value:
        alpha = decode_brush(value["rle"], size, f"{place}.rle")
        bitmap, offset = documents.cut(alpha > 0, (0, 0))
        budget.take(bitmap.size, place)
        return Region(label, bitmap=bitmap, offset=offset, place=place)
    kind = next((what for key, what in NO_AREAS.items() if key in value), "a region")
    raise Bad(
        place,
        f"'{brief(label)}' is {kind}, which does not say which pixels belong to it",
        "draw it as a polygon or with the brush, or delete it",
    )


def _ellipse(value: Mapping[str, Any], place: str, scale: np.ndarray) -> np.ndarray:
    """Return the outline, float64 (n, 2) in px, of an ellipse in percent. Raises `Bad`."""
    numbers = [
        documents.numbered(value.get(key), f"{place}.{key}")
        for key in ("x", "y", "radiusX", "radiusY")
    ]
    centre, radii = np.array(numbers[:2]) * scale, np.array(numbers[2:]) * scale
    degrees = parsed_number(value.get("rotation", 0))
    if degrees is None or radii.min() <= 0 or radii.max() > documents.MAX_SIDE:
        raise Bad(place, "is no ellipse: its radius or angle is wrong", DRAW_AGAIN)
    return ellipse((centre[0], centre[1]), (radii[0], radii[1]), degrees)


def _config_of(files: Sequence[Path]) -> Path | None:
    folders = {file.parent: None for file in files}
    for folder in [*folders, *(folder.parent for folder in folders)]:
        for name in CONFIGS:
            if (folder / name).is_file():
                return folder / name
    return None


def _declared(config: Path) -> dict[str, Colour | None]:
    """Return the labels of a labelling configuration with their colours. Raises `Bad`."""
    from defusedxml import ElementTree
    from defusedxml.common import DefusedXmlException

    try:
        with config.open("rb") as opened:
            content = opened.read(MAX_CONFIG + 1)
        if len(content) > MAX_CONFIG:
            raise Bad("", "is too large for a labelling configuration", "save the project's again")
        root = ElementTree.fromstring(content)
    except OSError as error:
        raise Bad("", f"cannot be read ({error.strerror or error})", "check the file") from None
    except (ElementTree.ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise Bad("", f"is not valid XML: {brief(error)}", "save the project's again") from None
    found: dict[str, Colour | None] = {}
    for tag in root.iter():
        if isinstance(tag.tag, str) and tag.tag.endswith("Labels"):
            for label in tag.iter("Label"):
                name = label.get("alias") or label.get("value") or ""  # exports hold the alias
                documents.named(name, f"<{tag.tag}>", "label")
                found.setdefault(name, _colour(label.get("background")))
    found.pop(IGNORED, None)
    return found


def _colour(text: str | None) -> Colour | None:
    try:
        red, green, blue = ImageColor.getrgb((text or "")[:32])[:3]
    except ValueError:
        return None
    return int(red), int(green), int(blue)


def _task(image: ToWrite, found: Sequence[Outline], classes: Sequence[str]) -> dict[str, Any]:
    """Return a task of Label Studio with the regions of one image."""
    results = [
        _result(outline, image, IGNORED if outline.code == IGNORE else classes[outline.code], index)
        for index, outline in enumerate(found)
    ]
    path = f"/data/local-files/?d={quote(image.name)}"
    if image.scores is None:
        return {
            "data": {"image": path},
            "annotations": [{"result": results, "was_cancelled": False, "ground_truth": False}],
        }
    shown = [image.scores[outline.code] for outline in found if outline.code in image.scores]
    score = float(np.mean(shown)) if shown else float(np.mean([*image.scores.values()] or [0]))
    prediction = {"model_version": "fastseg", "score": score, "result": results}
    return {"data": {"image": path}, "predictions": [prediction]}


def _result(outline: Outline, image: ToWrite, label: str, index: int) -> dict[str, Any]:
    """Return one region as a result of Label Studio."""
    height, width = image.codes.shape
    value: dict[str, Any]
    if outline.ring is not None:
        kind = "polygonlabels"
        value = {"points": (outline.ring * 100 / (width, height)).tolist(), "closed": True}
    else:
        kind = "brushlabels"
        assert outline.bitmap is not None
        left, top = outline.offset
        rows, columns = outline.bitmap.shape
        mask = np.zeros((height, width), bool)
        mask[top : top + rows, left : left + columns] = outline.bitmap
        value = {"format": "rle", "rle": list(encode_brush(mask))}
    result: dict[str, Any] = {
        "id": f"region{index}",
        "type": kind,
        "from_name": "polygons" if kind == "polygonlabels" else "brush",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {**value, kind: [label]},
    }
    if image.scores is not None:
        result["score"] = float(image.scores.get(outline.code, 0))
    else:
        result["origin"] = "manual"
    return result


def _config(labels: Sequence[tuple[str, Colour]]) -> str:
    """Return a labelling configuration with polygons and a brush for the labels."""
    lines = [
        f"      <Label value={quoteattr(name)} background={quoteattr(hexadecimal(colour))}/>"
        for name, colour in labels
    ]
    return "\n".join(
        [
            "<View>",
            '  <Image name="image" value="$image" zoom="true"/>',
            '  <PolygonLabels name="polygons" toName="image">',
            *lines,
            "  </PolygonLabels>",
            '  <BrushLabels name="brush" toName="image">',
            *lines,
            "  </BrushLabels>",
            "</View>\n",
        ]
    )


format = LabelStudioFormat()
