"""`Task`: where the data are, what labels mean, how data are split; `get` and `names` find tasks.

Kinds of tasks. A `SegmentationTask` has masks: one class for each pixel. A `ClassificationTask` has
one class for each image. What differs between the two kinds is an attribute or a method of these
two classes. `kind` is only the text that a card stores; no code compares it with a text.

Work that needs modules which a task may not import (`metrics`, `inference`, `evaluation`, `report`)
is done by one pair of classes for each purpose, with one table from `kind` to class:

    inference.prediction.PREDICTIONS   what is read from the network's logits
    inference.outputs.OUTPUTS          what `predict` writes
    evaluation.scores.SCORES           how predictions are compared with labels
    report.views.VIEWS                 how images, labels and predictions are shown

To add a kind, add a subclass of `Task`, one entry in each of these tables, and its text to
those that `exports.card` accepts.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pkgutil
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..data.issues import Fault, refuse
from ..data.reading import FEWEST, MOST, Reading
from ..data.slices import missing_reader
from ..data.split import drawn_fold, drawn_split
from ..errors import DataError, TaskError, choose
from ..formats.recognise import advice
from ..types import Colour, Drawing, Item, Recipe
from ..utils.io import has_files, read_json
from ..utils.shell import typed

if TYPE_CHECKING:
    import numpy as np
    from fastai.data.block import DataBlock, TransformBlock

    from ..data.decoding import Decoded

    ImageSource = Item | Path | str | np.ndarray  # an array is uint8 (H, W, C)

MADE = "masks.json"  # says how a tool made the masks in the same folder
SMALLEST_SAMPLE = 4  # images: two groups to train on and two to validate on
NOT_TASKS = (
    "base",
    "segmentation",
    "classification",
    "declared",
    "layouts",
    "converted",
    "corrected",
)  # modules of the package without a task
RENAMED_FIELDS = ("code_counts", "unlabelled")  # of earlier versions' tasks


ALPHAS = ("drop", "white", "black")


@dataclass(frozen=True, kw_only=True)
class Task:
    """The common base of all tasks. Use `SegmentationTask` or `ClassificationTask`."""

    name: str
    classes: tuple[str, ...]
    recipe: Recipe
    # Draws one synthetic example: draw(rng), for classification draw(rng, class index).
    draw: Callable[..., Drawing] | None = None
    sample_splits: Mapping[str | None, float] = field(default_factory=lambda: {None: 1.0})
    sample_name: str = "image_{:03d}"
    # Bits that the values of 16-bit images have; None: each image is scaled by its own range.
    depth: int | None = None

    channels: int = 3  # of the images as the model sees them, 2 to 16
    # Where each channel is a file of its own: the ends of their stems, the first one names the item
    channel_files: tuple[str, ...] = ()
    shown_channels: tuple[int, ...] = ()  # the three that pictures show; (): the first ones
    alpha: str = (
        "drop"  # transparent images: "drop" the alpha channel, or lay them on "white"/"black"
    )
    window: tuple[float, float] | None = None  # centre and width, of DICOM and NIfTI values

    # Whether the task comes from a task.toml, or from a card: it has no code of its own.
    declared: bool = False
    home: Path | None = None  # the folder with its task.toml and its data

    # Only segmentation tasks set these two.
    background: int | None = field(default=None, init=False, repr=False)
    palette: tuple[Colour, ...] | None = field(default=None, init=False, repr=False)

    kind = "abstract"  # what cards store
    purpose = "does nothing"  # follows the task's name in messages
    has_masks = False  # labels and predictions are masks; decoders, windows and overlays need them
    unit = "images"  # what has a class, and what the figures count
    main_figure = ""  # name of the figure that decides which of two exports is better
    imbalance_limit = math.inf  # factor by which the most common class may exceed the rarest one

    def __post_init__(self) -> None:
        self._check_images()

    def _check_images(self) -> None:
        """Check what the task declares about its images. Raises `TaskError`."""

        def refuse_unless(is_right: bool, what: str, code: str) -> None:
            if not is_right:
                raise TaskError(f"task {self.name}: {what}", code)

        count, ends = self.channels, self.channel_files
        refuse_unless(
            type(count) is int and FEWEST <= count <= MOST,
            f"channels is {count!r}; give a number from {FEWEST} to {MOST}",
            "task-channels",
        )
        refuse_unless(
            not ends
            or (
                isinstance(ends, tuple)
                and all(isinstance(end, str) and end for end in ends)
                and len({*ends}) == len(ends) == count
            ),
            f"channel_files is {ends!r}; give the ends of {count} file names, one a channel, "
            "or none",
            "task-channels",
        )
        shown = self.shown_channels
        refuse_unless(
            not shown
            or (
                isinstance(shown, tuple)
                and len(shown) == 3
                and all(type(index) is int and 0 <= index < count for index in shown)
            ),
            f"shown_channels is {shown!r}; give three channels from 0 to {count - 1}, for red, "
            "green and blue",
            "task-channels",
        )
        refuse_unless(
            self.alpha in ALPHAS,
            f"alpha is {self.alpha!r}; it is {', '.join(ALPHAS[:-1])} or {ALPHAS[-1]}",
            "task-alpha",
        )
        refuse_unless(
            self.alpha == "drop" or self.reading.is_plain,
            f"alpha is {self.alpha!r}, but images of {count} channels have no alpha channel; leave "
            "it out",
            "task-alpha",
        )
        window = self.window
        refuse_unless(
            window is None
            or (
                isinstance(window, tuple)
                and len(window) == 2
                and all(type(v) in (int, float) and math.isfinite(v) for v in window)
                and window[1] > 0
            ),
            f"window is {window!r}; give the centre and the width, which is above 0, such as "
            "[40, 400]",
            "task-window",
        )
        refuse_unless(
            self.depth is None or (type(self.depth) is int and 1 <= self.depth <= 16),
            f"depth is {self.depth!r}; give the bits of the values of 16-bit images, 1 to 16",
            "task-depth",
        )

    @property
    def reading(self) -> Reading:
        """How its image files become arrays."""
        return Reading(self.depth, self.channels, self.channel_files, self.alpha, self.window)

    @property
    def grouped(self) -> bool:
        """Whether no group may be in both training and validation."""
        return False

    @property
    def reference(self) -> str:
        """What names the task in a command: its name, or the folder with its task.toml."""
        if self.home is None:
            return self.name
        folder = os.path.relpath(self.home)
        return reference_of(self.home if folder.startswith(os.pardir) else folder)

    @property
    def default_data(self) -> Path:
        """The folder of the data where none is named."""
        return self.home or Path("data") / self.name

    def __reduce__(self) -> tuple[Any, ...]:
        if self.declared:
            from .declared import definition_of, task_from

            return task_from, (definition_of(self),)
        # Pickled by name: exports contain no code, and load where the task's file exists.
        return (get, (self.name,)) if self.depth is None else (with_depth, (self.name, self.depth))

    def definition(self) -> str:
        """Return a digest of the task's fields and of its source files.

        Results stored for one definition are not valid for another. Functions of other modules that
        the task's code calls are not part of it.
        """
        own = set() if self.declared else {f"{__package__}.{self.name}"}
        modules = {*own, *(cls.__module__ for cls in type(self).__mro__)}
        modules |= {
            value.__module__
            for value in (getattr(self, entry.name) for entry in fields(self))
            if callable(value) and hasattr(value, "__module__")
        }
        here = replace(self, home=None)  # data that were moved are the same data
        digest = hashlib.sha256(json.dumps(_as_json(here)).encode(errors="surrogateescape"))
        for module in sorted(modules):
            file = getattr(sys.modules.get(module), "__file__", None)
            if file and Path(file).is_file():
                digest.update(Path(file).read_bytes())
        return digest.hexdigest()

    def items(self, data: Path | str) -> list[Item]:
        """Return every labelled image below `data`, in a stable order.

        Raises `DataError` that names the faulty file.
        """
        items, faults = self.listed(data)
        if not items and (missing := missing_reader(Path(data).rglob("*"), data)):
            raise missing
        command = self.check_command(data)
        app = command.replace("fastseg check", "fastseg app", 1)
        refuse([fault for fault in faults if fault.stops], command, labelled_by=app)
        if not items:
            foreign = advice(Path(data))
            raise DataError(
                f"{data}: no {self.name} data found; expected {self.expected()}"
                + (f"; {foreign}" if foreign else ""),
                "no-data",
            )
        return items

    def check_command(self, data: Path | str) -> str:
        """Return the command that lists all faults of these data."""
        is_default = Path(data).resolve() == self.default_data.resolve()
        where = "" if self.home and is_default else f" --data {typed(data)}"
        return f"fastseg check {typed(self.reference)}{where}"

    def listed(self, data: Path | str) -> tuple[list[Item], list[Fault]]:
        """Return the usable labelled images below `data`, and faults in file names and tables.

        The order is stable.
        """
        raise NotImplementedError

    def binary_faults(
        self, data: Path | str, values: Iterable[tuple[str, Collection[int]]]
    ) -> dict[str, Fault]:
        """Return the faults of the codes of all masks together, by source.

        `values` has each mask's source and codes.
        """
        return {}

    def adapted(self, data: Path | str) -> Task:
        """Return the task adapted to these data.

        That is the bit depth of all labelled 16-bit images, which is logged, and the shift by which
        masks may be mirrored, which masks.json has where a tool made them.
        """
        note = Path(data) / MADE
        shift = read_json(note).get("flip_shift") if note.is_file() else None
        task = self
        if shift is not None:
            task = replace(self, recipe=replace(self.recipe, flip_shift=int(shift)))
        return with_depth_of(task, (item.image for item in self.items(data)))

    def label(self, item: Item) -> np.ndarray | int:
        """Return the item's label: codes, uint8 (H, W) with 255 unlabelled, or a class index."""
        raise NotImplementedError

    def class_name(self, item: Item) -> str:
        """Return the name of an item's class; for tasks without masks."""
        return self.classes[int(self.label(item))]

    def examine_label(self, item: Item) -> Decoded | None:
        """Return the item's mask with its faults; None for a class index, which can have none.

        Raises `DataError` if the mask cannot be read.
        """
        return None

    def label_block(self) -> TransformBlock:
        """Return fastai's block of the labels."""
        raise NotImplementedError

    def main_value(self, figures: Mapping[str, Any]) -> Any:
        """Return the main figure from a tree of figures, of intervals or of bootstrap samples."""
        raise NotImplementedError

    def image(self, item: ImageSource) -> np.ndarray:
        """Return an item's, file's or array's pixels, uint8 (H, W, C), C being `channels`.

        16-bit values are scaled by the range of `depth` bits. Raises `DataError` for files and
        arrays that are no image, or have other channels.
        """
        from ..data.channels import read

        if isinstance(item, (Item, Path, str)):
            return read(_file_of(item), self.reading)
        if (
            str(item.dtype) != "uint8"
            or len(item.shape) != 3
            or item.shape[2] != self.channels
            or 0 in item.shape
        ):
            raise DataError(
                f"an image as an array is uint8 (height, width, {self.channels}), "
                f"not {item.dtype} {tuple(item.shape)}",
                "image-array",
            )
        return item

    def shown(self, image: np.ndarray) -> np.ndarray:
        """Return the three channels of an image, uint8 (H, W, C), that pictures show: (H, W, 3)."""
        from ..data.channels import shown

        return shown(image, self.shown_channels)

    def image_near(
        self, item: ImageSource, size: tuple[int, int]
    ) -> tuple[np.ndarray, tuple[int, int]]:
        """Return an image as the model sees it, uint8 (h, w, C) at `size`, and its own (height,
        width).
        """
        from ..data.channels import read_near
        from ..data.images import resized

        reads_files = self.recipe.resize == "squish" and type(self).image is Task.image
        if reads_files and isinstance(item, (Item, Path, str)):
            pixels, own = read_near(_file_of(item), size, self.reading)
        else:
            pixels = self.image(item)
            own = pixels.shape[0], pixels.shape[1]
        return resized(pixels, size, self.recipe.resize), own

    def folder(self, data: Path | str) -> Path:
        """Return `data` as a path.

        Raises `DataError` if it is no folder, or contains only a README.md.
        """
        root = Path(data)
        if root.is_file():
            raise DataError(
                f"{root}: is a file; "
                f"give the folder that holds the {self.name} data ({self.expected()})",
                "no-data",
            )
        if not has_files(root):
            state = "does not exist"
            if root.exists():
                state = "is empty" if root.is_dir() else "is not a folder"
            raise DataError(
                f"{root}: {state}; put the {self.name} data there ({self.expected()}) "
                f"or make a synthetic set: fastseg sample {self.reference} {root}",
                "no-data",
            )
        return root

    def expected(self) -> str:
        """Return a short text with the expected files and folders of the task's data."""
        raise NotImplementedError

    def split(
        self, items: Sequence[Item], seed: int = 42, valid_share: float = 0.2
    ) -> tuple[list[int], list[int]]:
        """Return the indices of the training and the validation items; groups stay on one side.

        Items whose folder is for training or validation stay there; the others (all of them, if no
        folder is for validation) are drawn by `seed`. Copies of one picture stay on one side, too.
        Raises `DataError` if either side would be empty.
        """
        from ..data.copies import copies  # here: listing tasks and files needs no numpy

        same = copies(items, self.reading)
        return drawn_split(items, seed, valid_share, self.grouped, same)

    def fold(
        self, items: Sequence[Item], number: int, folds: int, seed: int = 42
    ) -> tuple[list[int], list[int]]:
        """Return the indices of the training and the validation items of one of `folds` parts.

        Groups stay on one side. Every item but those of a test folder is validated in one fold.
        Raises `DataError` if there are too few groups.
        """
        from ..data.copies import copies

        return drawn_fold(items, number, folds, seed, copies(items, self.reading))

    def datablock(
        self, size: int | tuple[int, int] | None = None, seed: int = 42, augment: bool = True
    ) -> DataBlock:
        """Return a fastai `DataBlock`: `task.datablock().dataloaders("data/eye", bs=8)`.

        For 16-bit images, use `task.adapted("data/eye").datablock()`, which scales all of them by
        one range. `size` is one side or (height, width), in px.
        """
        from ..data.loaders import datablock

        height, width = (size, size) if isinstance(size, int) else size or self.recipe.size
        return datablock(self, (height, width), seed, augment)

    def sample(self, folder: Path | str, n: int = 40, seed: int = 0) -> Path:
        """Write `n` synthetic examples below `folder` in the task's layout and return `folder`.

        The same seed gives the same files. Raises `DataError` if the folder holds files already,
        `TaskError` if `n` is too small to split.
        """
        folder = Path(folder)
        if has_files(folder) or folder.is_file():
            raise DataError(
                f"{folder}: is not empty; a sample is never mixed into other files: "
                "name another folder",
                "not-empty",
            )
        if n < SMALLEST_SAMPLE:
            raise TaskError(
                f"a sample of {n} is too small; make at least {SMALLEST_SAMPLE}", "sample-size"
            )
        total, start, reached = sum(self.sample_splits.values()), 0, 0.0
        for split, share in self.sample_splits.items():
            reached += share
            end = round(reached / total * n)
            self._write_sample(folder, split, range(start, end), seed)
            start = end
        return folder

    def _write_sample(self, folder: Path, split: str | None, numbers: range, seed: int) -> None:
        raise NotImplementedError


TaskT = TypeVar("TaskT", bound=Task)


def names() -> list[str]:
    """Return the names of all tasks: the files of this package, and of the folders in
    FASTSEG_TASKS.
    """
    modules = {module.name for module in pkgutil.iter_modules(import_module(__package__).__path__)}
    return sorted(name for name in modules - {*NOT_TASKS} if not name.startswith("_"))


def get(name: str | Path | Task) -> Task:
    """Return the task called `name`, or the one of a folder with a task.toml.

    A `Task` is returned as it is. The name of a task comes before a folder of the same name;
    "./eye" is the folder. Raises `TaskError` for an unknown name, with the valid ones, for a faulty
    file, and if two files define a task of this name.
    """
    if isinstance(name, Task):
        return name
    if _is_path(name):
        from .declared import read_task

        return read_task(name)
    name = str(name)
    try:
        known = choose("task", name, names(), TaskError)
    except TaskError as error:
        error.args = (f"{error}{_missing_folders()}",)
        raise
    files = _files_of(known)
    if len(files) > 1:
        raise TaskError(
            f"{files[1]}: {files[0]} defines a task of the same name; "
            "rename the file and the name of its task",
            "task-name-taken",
        )
    try:
        module = import_module(f"{__package__}.{known}")
    except TaskError:
        raise
    except Exception as error:  # a task's file is user code and can raise anything
        is_renamed = any(old in str(error) for old in RENAMED_FIELDS)
        raise TaskError(
            f"the file of task '{name}' cannot be imported "
            f"({type(error).__name__}: {' '.join(str(error).split())}); "
            + (
                "codes and ignore replace these fields, see .github/docs/your-data.md"
                if is_renamed
                else "correct it"
            ),
            "task-file",
        ) from error
    task = getattr(module, "task", None)
    if not isinstance(task, Task) or task.name != name:
        raise TaskError(
            f"{module.__file__}: must define task = SegmentationTask(name='{name}', ...) "
            "or ClassificationTask(...)",
            "task-file",
        )
    return task


def reference_of(folder: Path | str) -> str:
    """Return what names a folder with a task.toml in a command: "./eye" where a task is eye."""
    return f"./{folder}" if str(folder) in names() else typed(folder)


def _is_path(name: str | Path) -> bool:
    """Return whether `name` is a path, and not the name of a task."""
    text = str(name)
    separators = {os.sep, os.altsep or os.sep}
    if isinstance(name, Path) or text in (os.curdir, os.pardir) or separators & {*text}:
        return True
    return text not in names() and (text.endswith(".toml") or Path(text).is_dir())


def _folders() -> list[Path]:
    """Return this package's folder and those in FASTSEG_TASKS, each once."""
    return list(dict.fromkeys(Path(p).resolve() for p in import_module(__package__).__path__))


def _files_of(name: str) -> list[Path]:
    """Return the files that define a task of this name, the one that is imported first."""
    return [file for folder in _folders() if (file := folder / f"{name}.py").is_file()]


def _missing_folders() -> str:
    """Return a hint for a message if FASTSEG_TASKS lists folders that do not exist, else ""."""
    missing = [str(folder) for folder in _folders() if not folder.is_dir()]
    return f"; FASTSEG_TASKS: no such folder: {', '.join(missing)}" if missing else ""


def with_depth(name: str, depth: int) -> Task:
    """Return the task called `name` for 16-bit images of `depth` bits; pickles of it call this."""
    return replace(get(name), depth=depth)


def with_depth_of(task: TaskT, files: Iterable[Path]) -> TaskT:
    """Return `task` with the bit depth that `choose_depth` gives for these image files."""
    from ..data.depth import choose_depth, largest_values

    depth = choose_depth(task.depth, largest_values(files, task.reading))
    return task if depth == task.depth else replace(task, depth=depth)


def no_sample(task: Task, remedy: str) -> TaskError:
    """Return the error for a task of which no synthetic sample can be drawn."""
    return TaskError(f"task {task.name} has no synthetic sample: {remedy}", "no-sample")


def _file_of(item: Item | Path | str) -> Path | str:
    return item.image if isinstance(item, Item) else item


def _as_json(value: object) -> object:
    """Return a field's value as lists and strings that are equal in every process.

    They contain no memory addresses and do not depend on the order of sets.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return [(entry.name, _as_json(getattr(value, entry.name))) for entry in fields(value)]
    if isinstance(value, Mapping):
        return sorted([repr(key), _as_json(entry)] for key, entry in value.items())
    if isinstance(value, (tuple, list)):
        return [_as_json(entry) for entry in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', '')}"
    return repr(value)
