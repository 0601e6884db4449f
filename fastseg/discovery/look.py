"""`new`: looks into a folder, says what it found and why, and writes its task.toml."""

from __future__ import annotations

import codecs
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.slices import missing_reader, real_file, stem_of
from ..errors import DataError, FastsegError, choose
from ..tasks import ClassificationTask, Item, SegmentationTask, Task
from ..tasks.base import reference_of
from ..tasks.declared import TASK_FILE, read_task, task_from
from ..utils.io import atomic_file
from ..utils.text import counted
from . import categories, recipe
from .classfiles import class_files
from .evidence import OPTIONS, Ask, Notes, Question, listed
from .groups import Grouping, grouping_of
from .label_files import MASKS, ToolLabels, choose_format, tool_definition, tool_labels
from .layouts import layouts_of
from .manifest import manifest_in
from .mask_detection import spaced
from .mask_meaning import Meaning, meaning_of
from .mask_values import DETAILED, measure, read_values
from .pairings import Pairing, find_pairings, lone_text, stem
from .parquet import classes_in, packed_in
from .pictures import channel_ends, images_of
from .survey import Folder, Survey, survey
from .writing import text_of

if TYPE_CHECKING:
    from ..report.panels import Panel
    from ..report.views import View

SHOWN = 6  # pairs in the picture
MAX_DECODED = DETAILED  # masks decoded as class indices, to measure objects
PIXELS = ("codes", "colours", "threshold")
WOULD_WORK = (
    "layouts that would work: images/7.jpg with masks/7.png (one code or colour a class), "
    "or a folder for each class (cat/7.jpg, dog/8.jpg)"
)


@dataclass(frozen=True)
class New:
    """What `new` wrote: the file, the picture, the definition, and why it is so."""

    path: Path  # the task.toml
    picture: Path | None  # pairs as they were understood; None if it would lie among the data
    name: str
    definition: dict[str, Any]
    evidence: dict[str, list[str]]  # lines by subject
    questions: list[Question] = field(default_factory=list)  # what was decided, and may be wrong
    waiting: int = 0  # images without a label

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "task": str(self.path),
            "picture": str(self.picture) if self.picture else None,
            "name": self.name,
            "definition": self.definition,
            "evidence": self.evidence,
            "waiting": self.waiting,
            "questions": [
                {**asdict(question), "option": OPTIONS[question.subject]}
                for question in self.questions
            ],
        }


@dataclass
class _Found:
    """A definition on its way: without the recipe, and the items that it finds."""

    definition: dict[str, Any]
    task: Task
    items: list[Item]
    advice: recipe.Advice = field(default_factory=recipe.Advice)
    grouping: Grouping | None = None
    waiting: int = 0  # images without a label


def new(
    folder: Path | str,
    *,
    name: str | None = None,
    force: bool = False,
    ask: Ask | None = None,
    **given: str | None,
) -> New:
    """Look into a folder of data and write its task.toml, and new_NAME.png in the current folder.

    `given` decides between readings, as the options of the command do: `kind` ("segment" or
    "classify"), `format` (of label files, or "masks"), `images` and `masks` (folders), `pixels`
    ("codes", "colours" or "threshold"), `ignore` (codes such as "11,255", or "none"),
    `label_column`, `group` (a pattern, "auto" for the one that is proposed, or "none"). `ask`
    answers questions whose readings are equally likely; without it they raise code "ambiguous".
    The data are only read. Raises `DataError` if there is a task.toml and not `force`, and for
    folders that nothing can be made of.
    """
    root = Path(folder)
    if root.name == TASK_FILE:
        root = root.parent
    notes = Notes(ask, _checked(given))
    target = root / TASK_FILE
    if target.exists() and not force:
        raise DataError(
            f"{target}: exists; edit it, use it (fastseg fit {reference_of(root)}), "
            "or replace it with --force",
            "task-file-exists",
        )
    found = _understood(survey(root), name, notes)
    picture = _picture(found, root, notes)
    text = text_of(found.definition, notes.evidence, found.advice.why, found.grouping)
    _write(target, text, found)
    evidence, questions = dict(notes.evidence), notes.open
    if found.waiting:
        are = "1 has" if found.waiting == 1 else f"{found.waiting} have"
        evidence["labels"] = [*evidence.get("labels", []), f"{are} no label yet"]
    name = found.task.name
    return New(target, picture, name, found.definition, evidence, questions, found.waiting)


class UnusableError(DataError):
    """Data that are understood, but have faults: `task` is what `new` would declare."""

    def __init__(self, message: str, code: str, task: Task):
        super().__init__(message, code)
        self.task = task


def undeclared(folder: Path | str) -> Task:
    """Return the task that `new` would declare for a folder, to check its data before that.

    Nothing is written, and faults of the data raise nothing. Raises `DataError` for folders that
    nothing can be made of, and where two readings are equally likely.
    """
    try:
        return _understood(survey(Path(folder)), None, Notes(None, {})).task
    except UnusableError as error:
        return error.task


def _checked(given: Mapping[str, str | None]) -> dict[str, str]:
    """Return the given options. Raises `DataError` for values that they cannot have."""
    unknown = set(given) - set(OPTIONS)
    if unknown:
        raise TypeError(f"new() got an unexpected keyword argument '{min(unknown)}'")
    options = {key: str(value) for key, value in given.items() if value is not None}
    if "kind" in options:
        choose("kind", options["kind"], FINDERS, DataError)
    if "pixels" in options:
        choose("kind of pixels", options["pixels"], PIXELS, DataError)
    if "format" in options and options["format"] != MASKS:
        from .. import formats

        choose("format", options["format"], [*formats.names(), MASKS], DataError)
    return options


def _understood(files: Survey, name: str | None, notes: Notes) -> _Found:
    """Return what a folder holds. Raises `DataError` if no reading fits."""
    kind = notes.given.get("kind")
    _require_images(files, notes)
    channels = _join_channels(files, notes)
    tried = [FINDERS[kind]] if kind else list(FINDERS.values())
    found = next((one for find in tried if (one := find(files, channels, name, notes))), None)
    if found is None:
        raise DataError(_not_understood(files, notes), "not-understood")
    _add_group(found, notes)
    found.definition = {**found.definition, "recipe": found.advice.values}
    return found


def _require_images(files: Survey, notes: Notes) -> None:
    """Raise `DataError` if a folder that was named, or the whole folder, has no images."""
    for key in ("images", "masks"):
        path = notes.given.get(key)
        if path is not None and not files.path(path).is_dir():
            raise DataError(
                f"{OPTIONS[key]} {path}: no such folder in {files.root}", "no-such-path"
            )
    others = (name for folder in files.folders.values() for name in folder.others)
    if not files.images and (missing := missing_reader(others, files.root)):
        raise missing
    if not files.images and not any(folder.path for folder in files.folders.values()):
        names = [name for folder in files.folders.values() for name in folder.others]
        if not any(name.lower().endswith((".parquet", ".arrow")) for name in names):
            raise DataError(
                f"{files.root}: has no image, only {listed(names)}; {WOULD_WORK}", "not-understood"
            )


def _join_channels(files: Survey, notes: Notes) -> tuple[str, ...]:
    """Return the ends of single channels' files; of these files, only the first ones stay listed
    as images.
    """
    found: tuple[str, ...] = ()
    for path, folder in list(files.folders.items()):
        ends = channel_ends(files, path) if folder.images else ()
        if not ends or (found and ends != found):
            continue
        found = ends
        others = [n for n in folder.images if stem(n).endswith(ends[1:])]
        kept = tuple(n for n in folder.images if n not in others)
        files.folders[path] = Folder(path, kept, (*folder.others, *others))
        notes.say(
            "channels",
            f"{path or '.'}/: {len(ends)} files for each image, one a channel: {', '.join(ends)}",
        )
    return found


def _segmentation(
    files: Survey, channels: tuple[str, ...], name: str | None, notes: Notes
) -> _Found | None:
    """Return a task with masks: of label files, or of mask images; None if there are none."""
    manifest = manifest_in(files, notes)
    if manifest is not None:
        layouts, masks = manifest
        meaning = meaning_of(read_values(masks), masks, class_files(files), layouts, notes)
        return _with_masks(files, channels, name, layouts, meaning, None, (), notes)
    tools = tool_labels(files) if notes.given.get("format") != MASKS else []
    drawn = {file.parent for tool in tools for file in tool.form.also(tool.files)}
    # pictures of ids, which a label file explains, are no masks
    pairings = [one for one in find_pairings(files, notes) if files.path(one.masks) not in drawn]
    tool = choose_format(tools, sum(p.count for p in pairings), notes)
    if tool is not None:
        layouts, meaning = tool_definition(files, tool, notes)
    elif pairings:
        layouts = layouts_of(files, pairings, notes)
        meaning = _of_masks(files, pairings, layouts, notes)
    elif (packed := packed_in(files, notes)) and packed.masks:
        layouts, masks = [packed.layout], packed.masks
        meaning = meaning_of(read_values(masks), masks, class_files(files), layouts, notes)
    else:
        return None
    return _with_masks(files, channels, name, layouts, meaning, tool, pairings, notes)


def _with_masks(
    files: Survey,
    channels: tuple[str, ...],
    name: str | None,
    layouts: list[dict[str, Any]],
    meaning: Meaning,
    tool: ToolLabels | None,
    pairings: Sequence[Pairing],
    notes: Notes,
) -> _Found:
    """Return the task of these layouts and this meaning of the masks' pixels."""
    definition: dict[str, Any] = {**_named(name, files.root), "kind": SegmentationTask.kind}
    definition |= meaning.definition()
    if tool is not None or any(layout.get("class_masks") for layout in layouts):
        definition.pop("masks")  # drawn as class indices
    if channels:
        definition |= {"channels": len(channels), "channel_files": list(channels)}
        for layout in layouts:
            if layout.get("image_end") == channels[0]:
                layout.pop("image_end")
    definition["layouts"] = layouts
    found = _checked_items(definition, files.root, tool, pairings)
    _describe_images(found, bool(channels), notes)
    decoded = _decoded(found, notes)
    background = found.task.background
    sizes = [mask.shape for mask in decoded]
    objects = measure(decoded, background)
    found.advice = recipe.segmentation(
        _sizes(found) or [(h, w) for h, w in sizes], objects, found.task.classes, len(found.items)
    )
    return found


def _named(name: str | None, root: Path) -> dict[str, str]:
    """Return the task's name: the given one, or the folder's as a slug."""
    slug = name or re.sub(r"[^\w.\-]+", "-", root.resolve().name, flags=re.ASCII).strip("-._")
    return {"name": slug or "task"}


def _of_masks(
    files: Survey, pairings: Sequence[Pairing], layouts: list[dict[str, Any]], notes: Notes
) -> Meaning:
    """Return the meaning of mask images."""
    classes = pairings[0].class_names
    if pairings[0].class_masks:
        return _of_class_masks(files, pairings, layouts, classes, notes)
    masks = _mask_files(files, pairings)
    values = read_values(masks)
    return meaning_of(values, masks, class_files(files), layouts, notes)


def _mask_files(files: Survey, pairings: Sequence[Pairing]) -> list[Path]:
    found = []
    for pairing in pairings:
        names = files.folders[pairing.masks].images
        plain = pairing.images == pairing.masks and not pairing.mask_end
        found += [
            files.path(pairing.masks, name)
            for name in names
            if (name.lower().endswith(".png") if plain else stem(name).endswith(pairing.mask_end))
        ]
    return found


def _of_class_masks(
    files: Survey,
    pairings: Sequence[Pairing],
    layouts: list[dict[str, Any]],
    classes: Sequence[str],
    notes: Notes,
) -> Meaning:
    """Return the meaning of one mask a class: the largest class lies below the others."""
    names = list(dict.fromkeys(name for p in pairings for name in p.class_names)) or list(classes)
    last = {name.rpartition("_")[2] for name in names}
    end = ""
    if pairings[0].class_masks == "names" and len(last) == 1 and all("_" in n for n in names):
        end = f"_{last.pop()}"  # 7_iris_mask.png
        names = [name.removesuffix(end) for name in names]
        for layout in layouts:
            layout["mask_end"] = end
    area: Counter[str] = Counter()
    for pairing in pairings:
        for name in names:
            for file in _class_files_of(files, pairing, name, end)[:20]:
                from ..data.images import read_image

                area[name] += int((read_image(file)[..., 0] > 127).sum())
    names.sort(key=lambda name: -area[name])
    notes.say("classes", f"one mask for each of {', '.join(names)}: later ones lie on top")
    from .classfiles import is_background

    background = next((name for name in names if is_background(name)), None)
    if background is None:
        background = "background"
        names.insert(0, background)
        notes.say("background", "background: pixels that no mask has")
    else:
        notes.say("background", f"{background}, by its name")
    return Meaning("codes", names, background, are_named=True)


def _class_files_of(files: Survey, pairing: Pairing, name: str, end: str) -> list[Path]:
    if pairing.class_masks == "folders":
        path = f"{pairing.masks}/{name}" if pairing.masks else name
        folder = files.folders.get(path)
        return [files.path(path, file) for file in folder.images] if folder else []
    folder = files.folders[pairing.masks]
    return [files.path(folder.path, n) for n in folder.images if stem(n).endswith(f"{name}{end}")]


def _checked_items(
    definition: dict[str, Any],
    root: Path,
    tool: ToolLabels | None = None,
    pairings: Sequence[Pairing] = (),
) -> _Found:
    """Return the task of a definition with its items. Raises `DataError` if they cannot be used."""
    task = task_from(definition, root)
    try:
        return _Found(definition, task, task.items(root))
    except FastsegError as error:
        from ..corrections.waiting import usable

        items, count = usable(task, root)
        if items and count:
            return _Found(definition, task, items, waiting=count)
        lone = "" if tool else lone_text(pairings)
        raise UnusableError(
            f"{error}; nothing is written"
            + (f" ({lone})" if lone and lone not in str(error) else ""),
            error.code,
            task,
        ) from None


def _describe_images(found: _Found, has_channel_files: bool, notes: Notes) -> None:
    """Add the fields channels and alpha, and evidence of sizes."""
    about = images_of([item.image for item in found.items], notes)
    if not has_channel_files and about.fields:
        found.definition |= about.fields
        found.task = task_from(found.definition, found.task.home)


def _sizes(found: _Found) -> list[tuple[int, int]]:
    quiet = Notes()
    return images_of([item.image for item in found.items], quiet).sizes


def _decoded(found: _Found, notes: Notes) -> list[np.ndarray]:
    """Return masks of class indices of a sample. Raises `DataError` if none can be used."""
    masks, errors = [], []
    by_image = {item.image: item for item in found.items}
    for image in spaced(list(by_image), MAX_DECODED):
        try:
            masks.append(np.asarray(found.task.label(by_image[image])))
        except FastsegError as error:
            errors.append(error)
    if not masks:
        raise UnusableError(f"{errors[0]}; nothing is written", errors[0].code, found.task)
    if errors:
        notes.say(
            "masks",
            f"{len(errors)} of {len(errors) + len(masks)} decoded masks cannot be used "
            f"(fastseg check lists all): {errors[0]}",
        )
    return masks


def _classification(
    files: Survey, channels: tuple[str, ...], name: str | None, notes: Notes
) -> _Found | None:
    """Return a task with a class for each image; None if nothing says the classes."""
    definition = categories.by_table(files, notes)
    if definition is None and "label_column" in notes.given:
        raise DataError(
            f"{files.root}: no table names images, so there is no column "
            f"{notes.given['label_column']}",
            "no-such-column",
        )
    definition = definition or categories.by_folders(files, notes)
    definition = definition or classes_in(files, notes)
    if definition is None:
        return None
    definition = {**_named(name, files.root), **definition}
    if channels:
        definition |= {"channels": len(channels), "channel_files": list(channels)}
    found = _checked_items(definition, files.root)
    _describe_images(found, bool(channels), notes)
    counts = Counter(found.task.class_name(item) for item in found.items)
    found.advice = recipe.classification(_sizes(found), counts, found.task.classes)
    return found


# What is looked for in a folder, in this order
FINDERS: dict[str, Callable[[Survey, tuple[str, ...], str | None, Notes], _Found | None]] = {
    SegmentationTask.kind: _segmentation,
    ClassificationTask.kind: _classification,
}


def _add_group(found: _Found, notes: Notes) -> None:
    """Propose a pattern for groups, and take it if it is confirmed or given."""
    # Slices of a volume are together in any case
    stems = list(dict.fromkeys(stem_of(real_file(item.image)) for item in found.items))
    proposed = grouping_of(stems)
    given = notes.given.get("group")
    if given == "none":
        return
    if given is not None and given != "auto":
        found.definition["group"] = given
        matched = sum(bool(_matched(given, text)) for text in stems)
        notes.say("group", f"given by --group: {matched} of {len(stems)} names match")
        return
    if proposed is None:
        if given == "auto":
            raise DataError(
                "--group auto: the images' names show no groups; give a pattern", "no-group"
            )
        return
    question = Question(
        "group",
        f"{proposed}",
        {"auto": f"they belong together: {proposed.pattern}", "none": "images are independent"},
        likelier="none",
    )
    chosen = given or (notes.ask(question) if notes.ask is not None else None)
    if chosen == "auto":
        found.definition["group"] = proposed.pattern
        notes.say("group", f"{proposed}: each group stays on one side of the split")
        return
    found.grouping = proposed
    if chosen is None:
        notes.open.append(question)


def _matched(pattern: str, text: str) -> bool:
    try:
        return bool(re.match(pattern, text))
    except re.error as error:
        raise DataError(
            f"--group {pattern}: is not a regular expression ({error}); correct it", "task-group"
        ) from None


def _not_understood(files: Survey, notes: Notes) -> str:
    """Return one line: what was tried, and what would work."""
    folders = [folder.path or "." for folder in files.with_images()]
    from .. import formats

    tried = [
        "label files of " + ", ".join(formats.get(name).title for name in formats.names()),
        "masks with equal names, or with ends such as _mask",
        "a table of images and labels",
        "a folder for each class",
    ]
    return (
        f"{files.root}: {counted(files.images, 'image')} in {counted(len(folders), 'folder')} "
        f"({listed(folders)}), but no labels found; tried {'; '.join(tried)}; "
        f"{_unread(files)}{WOULD_WORK}"
    )


def _unread(files: Survey) -> str:
    """Return what is wrong with the first file that could hold labels; "" if there is none."""
    for path in files.others(".json", ".xml", ".csv", ".tsv"):
        with files.path(path).open("rb") as opened:
            start = opened.read(2)
        encoded = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        reason = "is UTF-16 text: save it as UTF-8" if encoded else "has labels of none of these"
        return f"{path} {reason if start else 'is empty'}; "
    return ""


def _picture(found: _Found, root: Path, notes: Notes) -> Path | None:
    """Draw some pairs as they were understood into the current folder."""
    from ..evaluation.run import data_folders
    from ..report.panels import write_png
    from ..report.views import view_of
    from ..tasks.base import with_depth_of

    out = Path(f"new_{found.task.name}.png")
    here = Path.cwd().resolve()
    inside = here == root.resolve() or root.resolve() in here.parents
    deep = any(layout.get("deep") for layout in found.definition.get("layouts", ()))
    if here in data_folders(found.items) or (inside and deep):
        notes.say("picture", "none: the current folder holds the data; use fastseg show --out")
        return None
    by_image = {item.image: item for item in found.items}
    shown = [by_image[image] for image in spaced(list(by_image), SHOWN)]
    task = with_depth_of(found.task, (item.image for item in shown))
    view = view_of(task)
    examples = []
    for item in shown:
        try:
            examples.append(_panels(view, item))
        except FastsegError as error:
            notes.say("picture", f"left out: {error}")
    if not examples:
        return None
    title = f"{task.name}: {len(examples)} of {len(found.items)} labelled images, as understood"
    return write_png(view.grid(examples, title), out)


def _panels(view: View, item: Item) -> list[Panel]:
    """Return the panels of an image. Raises `DataError` if its mask is of another size."""
    size, own = np.shape(view.task.label(item)), view.task.image(item).shape[:2]
    if size and size != own:
        raise DataError(
            f"{item.shown_label}: is {size[1]}x{size[0]} px, but its image is {own[1]}x{own[0]}; "
            "export it at the image's size",
            "size-mismatch",
        )
    return view.labelled(item)


def _write(target: Path, text: str, found: _Found) -> None:
    """Write task.toml, and read it back: what is written works."""
    if not os.access(target.parent, os.W_OK):
        raise DataError(
            f"{target}: cannot be written; give a folder that you can write to", "not-writable"
        )
    before = target.read_bytes() if target.exists() else None
    with atomic_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    try:
        task = read_task(target)
        same = replace(task, home=None) == replace(task_from(found.definition, None), home=None)
        if not same:
            raise DataError(f"{target}: does not say what was found", "not-read-back")
        if not found.waiting:
            task.items(target.parent)
    except FastsegError:
        if before is None:
            target.unlink(missing_ok=True)
        else:
            target.write_bytes(before)
        raise
