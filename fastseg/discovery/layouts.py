"""From pairs of folders to the layouts of a task.toml: splits, subfolders, list files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ..utils.text import counted
from .classfiles import TEXT_NAMES
from .evidence import Notes, listed
from .pairings import Pairing, stem
from .survey import Survey, join, split_of

MAX_DESCRIBED = 6  # folders that have a line of evidence
MAX_LIST_BYTES = 20_000_000
LIST_SUFFIXES = (".txt", ".lst", ".list")
FIRST_LINES = 50  # of a list file, that are looked at
RESOLVED = 0.9  # share of these lines that must name an image

Key = tuple[str, str, tuple[str, str, str]]


@dataclass(frozen=True)
class Listed:
    """A list file: the folder of its images, their names, and the folder of masks if it has one."""

    path: str
    split: str | None
    images: str
    names: tuple[str, ...]
    masks: str | None


def layouts_of(survey: Survey, found: Sequence[Pairing], notes: Notes) -> list[dict[str, Any]]:
    """Return the layouts of pairings, as task.toml has them, and note the evidence."""
    lists = lists_of(survey, found, notes)
    by_images = {p.images: p for p in found}
    layouts: list[dict[str, Any]] = []
    covered: set[str] = set()
    for entry in lists:
        pairing = by_images[entry.images]
        layouts.append({**_fields(pairing), "split": entry.split, "list_file": entry.path})
        covered.add(entry.images)
        split = f", split {entry.split}" if entry.split else ""
        notes.say(
            "layouts",
            f"{entry.path} lists {counted(len(entry.names), 'image')} of "
            f"{entry.images or '.'}/{split}",
        )
    rest = [p for p in found if p.images not in covered]
    if lists and rest:
        notes.say("layouts", f"not listed, left out: {listed([p.images + '/' for p in rest])}")
    layouts += [] if lists else _without_lists(survey, rest)
    for pairing in found[:MAX_DESCRIBED]:
        _describe(pairing, notes)
    if len(found) > MAX_DESCRIBED:
        total = sum(pairing.count for pairing in found)
        notes.say("layouts", f"{counted(total, 'pair')} in {len(found)} folders")
    return _with_sources([{k: v for k, v in entry.items() if v} for entry in layouts])


def _fields(pairing: Pairing) -> dict[str, Any]:
    return {
        "images": pairing.images or ".",
        "masks": pairing.masks or ".",
        "split": pairing.split,
        "image_end": pairing.image_end,
        "mask_end": pairing.mask_end,
        "class_masks": pairing.class_masks,
    }


def _describe(pairing: Pairing, notes: Notes) -> None:
    image, mask = pairing.example
    where = f"{pairing.images or '.'}/ + {pairing.masks or '.'}/"
    if pairing.images == pairing.masks:
        where = f"{pairing.images or '.'}/ (side by side)"
    split = f", split {pairing.split}" if pairing.split else ""
    kind = {"names": ", one mask a class by name", "folders": ", one mask a class by folder"}
    notes.say(
        "layouts",
        f"{where}: {counted(pairing.count, 'pair')}, such as {image} and {mask}"
        f"{kind.get(pairing.class_masks, '')}{split}",
    )


def _without_lists(survey: Survey, found: Sequence[Pairing]) -> list[dict[str, Any]]:
    """Return layouts of folders; equal paths below two folders make one deep layout."""
    groups: dict[Key, list[Pairing]] = defaultdict(list)
    for pairing in found:
        images, masks, _ = _common_tail(pairing)
        ends = pairing.image_end, pairing.mask_end, pairing.class_masks
        groups[images, masks, ends].append(pairing)
    layouts = []
    for (images, masks, *_), group in groups.items():
        single = len(group) == 1 and (images == group[0].images or not split_of(images))
        if single or not _covers(survey, images, group):
            layouts += [_fields(pairing) for pairing in group]
            continue
        layouts.append({**_fields(group[0]), "images": images or ".", "masks": masks or "."})
        layouts[-1]["split"] = split_of(images) or split_of(masks)
        layouts[-1]["deep"] = True
    return sorted(layouts, key=lambda entry: (_rank(entry["split"]), entry["images"]))


def _rank(split: str | None) -> int:
    return ["train", "valid", "test", None].index(split)


def _common_tail(pairing: Pairing) -> tuple[str, str, str]:
    """Return both folders without the end that they have in common, and that end.

    A component that names a split is kept.
    """
    images, masks = list(PurePosixPath(pairing.images).parts), []
    masks = list(PurePosixPath(pairing.masks).parts)
    if pairing.class_masks == "folders":
        return pairing.images, pairing.masks, ""
    tail: list[str] = []
    while images and masks and images[-1] == masks[-1] and not split_of(images[-1]):
        tail.insert(0, images.pop())
        masks.pop()
    return "/".join(images), "/".join(masks), "/".join(tail)


def _covers(survey: Survey, images: str, group: Sequence[Pairing]) -> bool:
    """Return whether all folders with images below a folder are in the group."""
    ours = {p.images for p in group} | {p.masks for p in group}
    below = [
        folder.path
        for folder in survey.with_images()
        if not images or folder.path == images or folder.path.startswith(f"{images}/")
    ]
    return all(path in ours for path in below)


def _with_sources(layouts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return layouts with a source where several have one split: only the first would be used."""
    found: dict[str | None, int] = defaultdict(int)
    for layout in layouts:
        found[layout.get("split")] += 1
    named: list[dict[str, Any]] = []
    for layout in layouts:
        if found[layout.get("split")] > 1:
            layout = {**layout, "source": source_of(layout)}
        named.append(layout)
    return named


def source_of(layout: Mapping[str, Any]) -> str:
    """Return a name of a layout among others of its split."""
    return str(layout.get("list_file") or layout["images"])


def lists_of(survey: Survey, found: Sequence[Pairing], notes: Notes) -> list[Listed]:
    """Return the list files whose lines name images that have a mask."""
    index = _Index(survey, found)
    lists = [
        entry
        for path in survey.others(*LIST_SUFFIXES)
        if PurePosixPath(path).name.lower() not in TEXT_NAMES
        and (entry := _list_of(survey, path, index, notes)) is not None
    ]
    chosen: list[Listed] = []
    for split in ("train", "valid", "test"):
        of_split = [entry for entry in lists if entry.split == split]
        # Several lists of one split, such as those of VOC's 20 classes: the one of most images
        by_images = {entry.images: entry for entry in sorted(of_split, key=lambda e: len(e.names))}
        chosen += by_images.values()
    if not any(entry.split == "train" for entry in chosen):
        unsplit = [entry for entry in lists if entry.split is None]
        if unsplit:
            notes.say("layouts", f"{unsplit[0].path} lists the images, without a split")
            return [max(unsplit, key=lambda entry: len(entry.names))]
        return []
    return chosen


@dataclass
class _Index:
    """Finds images by name, stem or path, as list files name them."""

    survey: Survey
    pairings: Sequence[Pairing]
    by_name: dict[str, list[tuple[str, Pairing]]] = field(default_factory=dict)
    mask_names: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for pairing in self.pairings:
            lone = set(pairing.lone)
            for name in self.survey.folders[pairing.images].images:
                if name in lone:
                    continue
                texts = {name, stem(name), stem(name).removesuffix(pairing.image_end)}
                for text in texts:
                    self.by_name.setdefault(text, []).append((join(pairing.images, name), pairing))
            masks = self.survey.folders.get(pairing.masks)
            for name in masks.images if masks else ():
                for text in (name, stem(name)):
                    self.mask_names.setdefault(text, []).append(pairing.masks)

    def find(self, text: str) -> tuple[str, Pairing] | None:
        parts = [part for part in re.split(r"[\\/]+", text.strip()) if part]
        if not parts or ".." in parts:
            return None
        found = self.by_name.get(parts[-1], [])
        return max(found, key=lambda entry: _agreeing(entry[0], parts), default=None)


def _agreeing(path: str, parts: Sequence[str]) -> int:
    """Return how many components, from the end, a path and the parts have in common."""
    ours, count = path.split("/"), 0
    for one, other in zip(reversed(ours[:-1]), reversed(parts[:-1])):
        if one != other:
            break
        count += 1
    return count


def _list_of(survey: Survey, path: str, index: _Index, notes: Notes) -> Listed | None:
    """Return a list file's images, or None if its lines do not name images with masks."""
    file = survey.path(path)
    try:
        if file.stat().st_size > MAX_LIST_BYTES:
            return None
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first_lines = lines[:FIRST_LINES]
    named = _named_images(first_lines, index)
    if not lines or named < RESOLVED * len(first_lines):
        if named and split_of(PurePosixPath(path).stem):
            text = (
                f"{path} is not used: {named} of its first {len(first_lines)} lines name an image"
            )
            notes.say("layouts", f"{text} that has a mask")
        return None
    names: list[str] = []
    folders: dict[str, int] = defaultdict(int)
    masks: dict[str, int] = defaultdict(int)
    for line in lines:
        first, *more = re.split(r"\s*[,;\t]\s*|\s+", line, maxsplit=1)
        found = index.find(line) or index.find(first)
        if found is None:
            continue
        names.append(found[0])
        folders[found[1].images] += 1
        if more and (name := PurePosixPath(more[0].strip()).name) in index.mask_names:
            masks[index.mask_names[name][0]] += 1
    if len(folders) != 1:
        return None
    name = PurePosixPath(path).stem
    split = None if {"trainval", "all", "images"} & {name.lower()} else split_of(name)
    return Listed(
        path,
        split,
        next(iter(folders)),
        tuple(names),
        max(masks, key=masks.__getitem__, default=None),
    )


def _named_images(lines: Sequence[str], index: _Index) -> int:
    found = 0
    for line in lines:
        first = re.split(r"\s*[,;\t]\s*|\s+", line, maxsplit=1)[0]
        found += bool(index.find(line) or index.find(first))
    return found
