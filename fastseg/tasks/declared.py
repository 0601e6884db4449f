"""Tasks without code: read from a folder's task.toml, or from the definition in an export's card.

A definition is the content of task.toml as a dict. `task_from` makes a task from it,
`definition_of` is the inverse. It holds data only, and each value is checked: cards may be
malicious.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ..data.colours import from_hexadecimal, hexadecimal
from ..data.reading import FEWEST, MOST
from ..errors import FastsegError, TaskError, brief, choose
from ..types import Colour, Recipe
from ..utils.choices import DECODERS, OPTIMIZERS, check_size, loss_parts
from ..utils.shell import typed
from .base import Task, get, names
from .classification import IMAGE_AS, LABEL_AS, LABELS, MANIFEST, ClassificationTask
from .layouts import Layout, MaskValue
from .segmentation import SegmentationTask

TASK_FILE = "task.toml"
MAX_BYTES = 2**20  # of a task.toml; a convention
SAMPLE_SHARES = {"train": 0.6, "valid": 0.25, "test": 0.15}  # of a synthetic sample
UNSPLIT = "all"  # the key of folders whose images are split by seed
HUE_STEP = 0.618034  # golden ratio: the hues of consecutive classes are far from each other
# Brightness and saturation, 0 to 1, by which colours of near hues differ: of the combinations
# tried, the one with the largest distances between 9, 21, 40, 80 and 150 colours.
LIGHTS, STRENGTHS = (1.0, 0.8, 0.62, 0.45), (0.9, 0.6, 0.35)
NO_COLOUR = (64, 64, 64)  # of the background in generated palettes

Where = tuple["str | int", ...]  # keys and positions that lead to a value: ("layouts", 1, "split")
Parse = Callable[[Any], Any]  # returns the value for a task; raises ValueError
Kind = type[SegmentationTask] | type[ClassificationTask]


class _Wrong(Exception):
    """A value that a definition cannot have: where it is, what is wrong, and the error's code."""

    def __init__(self, where: Where, detail: str, code: str = "task-toml"):
        super().__init__(detail)
        self.where, self.code = where, code


def find_file(path: Path) -> Path | None:
    """Return the task.toml that a path names: the file itself, or the one in the folder."""
    if path.is_dir():
        return path / TASK_FILE if (path / TASK_FILE).is_file() else None
    return path if path.suffix == ".toml" and path.is_file() else None


def read_task(path: Path | str) -> Task:
    """Return the task that a task.toml, or the one in a folder, declares.

    Raises `TaskError` that names the file, and the line and key of a value that is wrong.
    """
    import tomlkit
    from tomlkit.exceptions import ParseError, TOMLKitError

    file = find_file(Path(path))
    if file is None:
        raise _no_file(Path(path))
    try:
        if file.stat().st_size > MAX_BYTES:
            raise TaskError(f"{file}: is larger than 1 MB; a task.toml is text", "task-toml")
        text = file.read_text(encoding="utf-8-sig")
        definition = tomlkit.parse(text).unwrap()
    except ParseError as error:
        detail = brief(re.sub(r" at line \d+ col \d+$", "", str(error)))
        raise TaskError(f"{file} (line {error.line}): {detail}; correct it", "task-toml") from None
    except (OSError, UnicodeDecodeError, TOMLKitError, RecursionError) as error:
        raise TaskError(
            f"{file}: cannot be read ({brief(error)}); correct it", "task-toml"
        ) from None
    return task_from(definition, file.parent, partial(_place_in, file, text))


def task_from(
    definition: Mapping[str, Any],
    folder: Path | None = None,
    place: Callable[[Where], str] | None = None,
) -> Task:
    """Return the task of a definition. `folder` is where its data are, if they are here.

    `place` returns the beginning of a message about the value that keys lead to. Raises
    `TaskError` for values that a definition cannot have.
    """
    try:
        return _task_from(dict(definition), folder)
    except _Wrong as error:
        where = f" ({_dotted(error.where)})" if error.where else ""
        begin = place(error.where) if place else f"definition of a task{where}"
        raise TaskError(f"{begin}: {error}", error.code) from None
    except TaskError as error:  # fields that contradict each other
        begin = place(_named_in(error, definition)) if place else "definition of a task"
        raise TaskError(f"{begin}: {error}", error.code) from None
    except RecursionError:
        raise TaskError("definition of a task: is nested too deeply", "task-toml") from None


def _named_in(error: TaskError, definition: Mapping[str, Any]) -> Where:
    """Return the keys of the value that a task's own error begins with; () if it names none."""
    words = re.sub(r"^task \S+: ", "", str(error)).split()
    if words[:2] == ["unknown", "format"] and isinstance(definition.get("layouts"), list):
        for index, layout in enumerate(definition["layouts"]):
            if f"'{layout.get('format')}'" == words[2].rstrip(";"):
                return ("layouts", index, "format")
    return (words[0],) if words and words[0] in definition else ()


def definition_of(task: Task) -> dict[str, Any] | None:
    """Return a task's definition, JSON values only; None if it has code of its own.

    Everything is in it except how synthetic samples are drawn and where the data are.
    """
    if type(task) not in (SegmentationTask, ClassificationTask):
        return None
    found: dict[str, Any] = {"name": task.name, "kind": task.kind, "classes": list(task.classes)}
    names = task.classes
    if isinstance(task, SegmentationTask):
        found["palette"] = [hexadecimal(colour) for colour in task.palette]
        found["background"] = False if task.background is None else names[task.background]
        found.update(_codes_of(task.codes, task.ignore, names))
        found["layouts"] = [_layout_of(layout, names) for layout in task.layouts]
    elif isinstance(task, ClassificationTask):
        found["folders"] = {
            split or UNSPLIT: [folder or "." for folder in folders]
            for split, folders in task.folders.items()
        }
    for key in _KEYS[task.kind].keys() & _plain_fields(task):
        value = getattr(task, key)
        if value != _default_of(type(task), key):
            found[key] = list(value) if isinstance(value, tuple) else value
    found["recipe"] = {
        entry.name: _plain(getattr(task.recipe, entry.name)) for entry in fields(Recipe)
    }
    return found


def _plain_fields(task: Task) -> set[str]:
    special = {"name", "kind", "classes", "palette", "background", "codes", "ignore"}
    special |= {"layouts", "folders", "recipe", "include"}
    return {entry.name for entry in fields(task)} - special


def _default_of(kind: type, key: str) -> Any:
    entry = next(entry for entry in fields(kind) if entry.name == key)
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def _plain(value: Any) -> Any:
    """Return tuples as lists, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (tuple, list)) else value


def _fixed(value: Any) -> Any:
    """Return lists as tuples, as tasks have them; the inverse of `_plain`."""
    if isinstance(value, Mapping):
        return {str(key): _fixed(entry) for key, entry in value.items()}
    return tuple(_fixed(entry) for entry in value) if isinstance(value, (tuple, list)) else value


def _codes_of(
    codes: Mapping[MaskValue, int] | None, ignore: Sequence[MaskValue] | None, names: Sequence[str]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if codes is not None:
        found["codes"] = {
            hexadecimal(value) if isinstance(value, tuple) else str(value): names[index]
            for value, index in codes.items()
        }
    if ignore is not None:
        found["ignore"] = [
            hexadecimal(value) if isinstance(value, tuple) else value for value in ignore
        ]
    return found


def _layout_of(layout: Layout, names: Sequence[str]) -> dict[str, Any]:
    found = {
        entry.name: getattr(layout, entry.name)
        for entry in fields(Layout)
        if entry.name not in ("codes", "ignore") and getattr(layout, entry.name) != entry.default
    }
    found.update({key: "." for key in ("images", "masks") if found[key] == ""})
    return {**found, **_codes_of(layout.codes, layout.ignore, names)}


def generated_palette(count: int, background: int | None) -> tuple[Colour, ...]:
    """Return `count` distinct colours; the background's is a dark grey."""
    found: list[Colour] = []
    for number in range(count):
        if number == background:
            found.append(NO_COLOUR)
            continue
        light = LIGHTS[number // 5 % len(LIGHTS)]
        strong = STRENGTHS[number // 21 % len(STRENGTHS)]
        red, green, blue = colorsys.hsv_to_rgb(number * HUE_STEP % 1, strong, light)
        found.append((round(red * 255), round(green * 255), round(blue * 255)))
    return tuple(found)


# Parsers of single values. Each returns the value as the task has it, or raises ValueError whose
# text says what it must be.


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > 1000 or not value.isprintable():
        raise ValueError("must be a text in quotation marks")
    return value


def _slug(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][\w.\-]{0,99}", value):
        raise ValueError(
            "must be a name of letters, digits, _ and -: the export's folder has it, too"
        )
    return value


def _path(value: Any) -> str:
    """A path below the data folder, with slashes; "." is the folder itself."""
    text = _text(value).replace("\\", "/")
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", text):
        raise ValueError(f"is {brief(text)}: give a path below the folder of task.toml, without ..")
    return "" if text == "." else text.rstrip("/")


def _label_path(value: Any) -> str:
    """A label file, or the folder with label files: "." is the folder itself."""
    return _path(value) or "."


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _whole(low: int, high: int, value: Any) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"must be a whole number from {low} to {high}")
    return value


def _number(low: float, high: float, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"must be a number from {low:g} to {high:g}")
    return value


def _one_of(choices: Sequence[str], value: Any) -> str:
    if value not in choices:
        raise ValueError(f"must be {', '.join(choices[:-1])} or {choices[-1]}")
    return str(value)


def _list_of(parse: Parse, low: int, high: int, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or not low <= len(value) <= high:
        many = f"{low} values" if low == high else f"{low} to {high} values"
        raise ValueError(f"must be a list of {many} in square brackets")
    found = []
    for number, entry in enumerate(value):
        try:
            found.append(parse(entry))
        except ValueError as error:
            raise ValueError(f"entry {number + 1} {error}") from None
    return tuple(found)


def _colour(value: Any) -> Colour:
    stated = from_hexadecimal(value)
    if stated is not None:
        return stated
    if isinstance(value, (list, tuple)) and len(value) == 3:
        red, green, blue = (_whole(0, 255, level) for level in value)
        return red, green, blue
    raise ValueError('must be a colour such as "#cc3c3c" or [204, 60, 60]')


def _named(check: Callable[[str], object], value: Any) -> str:
    try:
        check(_text(value))
    except FastsegError as error:
        raise ValueError(f"is wrong: {error}") from None
    return str(value)


def _size(value: Any) -> tuple[int, int]:
    sides = (value, value) if type(value) is int else value
    height, width = _list_of(partial(_whole, 1, 100_000), 2, 2, sides)
    try:
        check_size((height, width))
    except FastsegError as error:
        raise ValueError(f"is wrong: {error}") from None
    return height, width


def _options(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("must be a table, such as {encoder_depth = 4}")
    return dict(_fixed(value))


def _folders(value: Any) -> dict[str | None, tuple[str, ...]]:
    splits = ("train", "valid", "test", UNSPLIT)
    if not isinstance(value, Mapping) or not value or set(value) - {*splits}:
        raise ValueError(f'must be a table of {", ".join(splits)}, such as train = "train"')
    return {
        None if split == UNSPLIT else split: _list_of(
            _path, 1, 100, [folders] if isinstance(folders, str) else folders
        )
        for split, folders in value.items()
    }


def _mask_value(value: Any) -> MaskValue:
    """Return a code, a colour, or a label of another tool, from a value or from a table's key."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if type(value) is int:
        return _whole(0, 65535, value)
    if isinstance(value, str) and not value.startswith("#"):
        return _text(value)
    return _colour(value)


_SHARE = partial(_number, 0, 1)
_LARGE = partial(_number, 0, 1e6)
_COUNT = partial(_whole, 0, 1_000_000)
_RECIPE: dict[str, Parse] = {
    "size": _size,
    "arch": _text,
    "decoder": partial(_named, lambda name: choose("decoder", name, DECODERS)),
    "decoder_options": _options,
    "epochs": _COUNT,
    "freeze_epochs": _COUNT,
    "lr": partial(_number, 1e-12, 1e6),
    "bs": partial(_whole, 1, 1_000_000),
    "loss": partial(_named, loss_parts),
    "opt": partial(_named, lambda name: choose("optimizer", name, OPTIMIZERS)),
    "ema": partial(_number, 0, 0.9999),
    "windows": _SHARE,
    "progressive": _SHARE,
    "mixup": partial(_number, 0, 10),
    "resize": partial(_one_of, ("squish", "crop")),
    "flip": _flag,
    "flip_shift": partial(_whole, -31, 31),
    "rotate": partial(_number, 0, 180),
    "zoom": _SHARE,
    "light": _SHARE,
    "colour": _SHARE,
    "cutout": _SHARE,
    "blur_share": _SHARE,
    "blur_sigma": partial(_list_of, _LARGE, 2, 2),
    "blur_class": partial(_whole, 0, 254),
    "tta": _flag,
}
_LAYOUT: dict[str, Parse] = {
    "images": _path,
    "masks": _path,
    "split": partial(_one_of, ("train", "valid", "test")),
    "source": _text,
    "image_end": _text,
    "mask_end": _text,
    "deep": _flag,
    "list_file": _path,
    "manifest": _path,
    "class_masks": partial(_one_of, ("names", "folders")),
    "format": _text,
    "labels": _label_path,
}
_COMMON: dict[str, Parse] = {
    "name": _slug,
    "depth": partial(_whole, 1, 16),
    "channels": partial(_whole, FEWEST, MOST),
    "channel_files": partial(_list_of, _text, FEWEST, MOST),
    "shown_channels": partial(_list_of, partial(_whole, 0, MOST - 1), 3, 3),
    "alpha": partial(_one_of, ("drop", "white", "black")),
    "window": partial(_list_of, partial(_number, -1e9, 1e9), 2, 2),
}
_KEYS: dict[str, dict[str, Parse]] = {
    SegmentationTask.kind: {
        **_COMMON,
        "masks": partial(_one_of, ("codes", "colours", "threshold")),
        "group": _text,
        "output": partial(_one_of, ("codes", "colours", "overlay")),
    },
    ClassificationTask.kind: {
        **_COMMON,
        "labels": partial(_one_of, LABELS),
        "table": _text,
        "columns": partial(_list_of, _text, 2, 2),
        "folders": _folders,
        "group": _text,
        "image_as": partial(_one_of, IMAGE_AS[1:]),
        "label_as": partial(_one_of, LABEL_AS[1:]),
    },
}
# These depend on others: the classes must be known first.
_DEPENDENT = {
    SegmentationTask.kind: {"palette", "background", "codes", "ignore", "layouts"},
    ClassificationTask.kind: set[str](),
}
_ALWAYS = {"kind", "include", "classes", "recipe"}
_CLASS_OF_KIND: dict[str, Kind] = {
    SegmentationTask.kind: SegmentationTask,
    ClassificationTask.kind: ClassificationTask,
}


def _parse(parse: Parse, value: Any, where: Where) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise _Wrong(where, f"{where[-1]} {error}") from None


def _table(value: Any, keys: Mapping[str, Parse], where: Where, more: set[str]) -> dict[str, Any]:
    """Return the parsed values of the known keys of a table; the keys of `more` are left out."""
    if not isinstance(value, Mapping):
        raise _Wrong(where, f"{_dotted(where)} must be a table of keys and values")
    for key in value:
        if key not in keys and key not in more:
            try:
                choose("key", str(key), [*keys, *more], TaskError, listed=0)
            except TaskError as error:
                raise _Wrong((*where, key), str(error), error.code) from None
    return {
        key: _parse(keys[key], entry, (*where, key)) for key, entry in value.items() if key in keys
    }


def _task_from(definition: dict[str, Any], folder: Path | None) -> Task:
    base = None
    if "include" in definition:
        base = _included(definition["include"])
    kind = definition.get("kind", base.kind if base else SegmentationTask.kind)
    if not isinstance(kind, str) or kind not in _KEYS:
        raise _Wrong(("kind",), f"kind must be {' or '.join(_KEYS)}")
    if base and base.kind != kind:
        raise _Wrong(("kind",), f"kind is {kind}, but the included task {base.name} is {base.kind}")
    found = _table(definition, _KEYS[kind], (), _DEPENDENT[kind] | _ALWAYS)
    found.setdefault("name", _name_of(folder) if folder else base.name if base else "task")
    classes = _classes(definition, base)
    same_classes = base is not None and classes == base.classes
    found["classes"] = classes
    found["recipe"] = _recipe(definition.get("recipe"), base)
    if kind == SegmentationTask.kind:
        found.update(_segmentation_fields(definition, classes, base if same_classes else None))
    elif base is None:
        found.setdefault("folders", {None: ("",)})
        if found.get("labels") == "manifest":
            found = {**MANIFEST, **found}
    found.update(declared=True, home=folder)
    if base is not None:
        if not same_classes:
            found["draw"] = None
        return replace(base, **found)
    return _CLASS_OF_KIND[kind](**found)


def _included(name: Any) -> Task:
    try:
        return get(_parse(_slug, name, ("include",)))
    except TaskError as error:
        raise _Wrong(("include",), str(error), error.code) from None


def _name_of(folder: Path) -> str:
    """Return the task's name for a folder: its own name, with - for what names cannot have."""
    return re.sub(r"[^\w.\-]+", "-", folder.resolve().name).strip("-._") or "task"


def _classes(definition: Mapping[str, Any], base: Task | None) -> tuple[str, ...]:
    if "classes" not in definition:
        if base is None:
            raise _Wrong((), 'classes is missing; write classes = ["background", "roof"]')
        return base.classes
    names = _parse(partial(_list_of, _text, 1, 254), definition["classes"], ("classes",))
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _Wrong(("classes",), f"classes has {brief(twice)} twice; keep one")
    return tuple(names)


def _recipe(value: Any, base: Task | None) -> Recipe:
    if value is None:
        return base.recipe if base else Recipe(size=(256, 256))
    given = _table(value, _RECIPE, ("recipe",), set())
    if base:
        return replace(base.recipe, **given)
    return Recipe(**{"size": (256, 256), **given})


def _segmentation_fields(
    definition: Mapping[str, Any], classes: tuple[str, ...], base: Task | None
) -> dict[str, Any]:
    """Return the fields that depend on the classes; those of `base` hold where none are given."""
    found: dict[str, Any] = {}
    background: int | None = base.background if base else 0
    if "background" in definition:
        named = definition["background"]
        background = None if named is False else _class_index(named, classes, ("background",))
    found["background"] = background
    if "palette" in definition:
        found["palette"] = _parse(
            partial(_list_of, _colour, len(classes), len(classes)),
            definition["palette"],
            ("palette",),
        )
    elif base is None:
        found["palette"] = generated_palette(len(classes), background)
    if base is None:
        found.update(codes={}, ignore=())
    found.update(_codes(definition, classes, ()))
    if "layouts" in definition:
        found["layouts"] = _layouts(definition["layouts"], classes)
    elif base is None:
        found["layouts"] = (Layout("images", "masks"),)
    if "layouts" in found:
        splits = {layout.split for layout in found["layouts"]}
        shares = {split: share for split, share in SAMPLE_SHARES.items() if split in splits}
        found["sample_splits"] = {None: 1.0} if None in splits else shares
    return found


def _class_index(value: Any, classes: Sequence[str], where: Where) -> int:
    if type(value) is int and 0 <= value < len(classes):
        return value
    try:
        return classes.index(choose("class", value, classes, TaskError))
    except TaskError as error:
        raise _Wrong(where, f"{where[-1]}: {error}", error.code) from None


def _codes(definition: Mapping[str, Any], classes: Sequence[str], where: Where) -> dict[str, Any]:
    """Return the given ones of codes and ignore."""
    found: dict[str, Any] = {}
    if "codes" in definition:
        table = definition["codes"]
        if not isinstance(table, Mapping):
            raise _Wrong((*where, "codes"), 'codes must be a table, such as 7 = "iris"')
        found["codes"] = {
            _parse(_mask_value, key, (*where, "codes", key)): _class_index(
                name, classes, (*where, "codes", key)
            )
            for key, name in table.items()
        }
    if "ignore" in definition:
        found["ignore"] = _parse(
            partial(_list_of, _mask_value, 0, 65536), definition["ignore"], (*where, "ignore")
        )
    return found


def _layouts(value: Any, classes: Sequence[str]) -> tuple[Layout, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise _Wrong(("layouts",), "layouts must be tables under [[layouts]]")
    found = []
    for number, entry in enumerate(value):
        where: Where = ("layouts", number)
        given = _table(entry, _LAYOUT, where, {"codes", "ignore"})
        given.update(_codes(entry, classes, where))
        given.setdefault("images", "")
        given.setdefault("masks", "" if "format" in given else given["images"])
        found.append(Layout(**given))
    return tuple(found)


def _dotted(where: Where) -> str:
    """Return keys as in TOML: layouts[1].split."""
    text = ""
    for key in where:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def _place_in(file: Path, text: str, where: Where) -> str:
    """Return "FILE (line 7, layouts[0].split)" for the value that keys lead to."""
    lines = _lines_of(text)
    line = next((lines[where[:end]] for end in range(len(where), 0, -1) if where[:end] in lines), 0)
    parts = [*([f"line {line}"] if line else []), *([_dotted(where)] if where else [])]
    return f"{file} ({', '.join(parts)})" if parts else str(file)


def _lines_of(text: str) -> dict[Where, int]:
    """Return the line of each table and key of a TOML text that was parsed without an error."""
    found: dict[Where, int] = {}
    table: Where = ()
    numbers: dict[str, int] = {}
    for line, content in enumerate(text.splitlines(), 1):
        stripped = content.strip()
        if array := re.match(r"\[\[\s*([^\[\]]+?)\s*\]\]", stripped):
            name = array[1].strip("\"'")
            numbers[name] = numbers.get(name, -1) + 1
            table = (name, numbers[name])
            found.setdefault((name,), line)
            found[table] = line
        elif header := re.match(r"\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$", stripped):
            parts = [part.strip().strip("\"'") for part in header[1].split(".")]
            start: Where = (parts[0], numbers[parts[0]]) if parts[0] in numbers else (parts[0],)
            table = (*start, *parts[1:])
            found[table] = line
        elif key := re.match(r"(\"[^\"]*\"|'[^']*'|[\w\-]+)\s*=", stripped):
            found.setdefault((*table, key[1].strip("\"'")), line)
    return found


def has_no_task(name: str | Path) -> bool:
    """Return whether this names a folder that is neither a task nor an export."""
    path = Path(name)
    is_task = str(name) in names() or find_file(path) is not None
    return path.is_dir() and not is_task and not (path / "card.json").is_file()


def _no_file(path: Path) -> TaskError:
    if path.is_dir():
        if (path / "card.json").is_file():
            return TaskError(
                f"{path}: is an export, not a folder of data; "
                "predict, evaluate, interpret and segment take exports",
                "not-data",
            )
        if (path / "parity.json").is_file():
            return TaskError(
                f"{path}: is an export in the format of another runtime; give the export that it "
                "was converted from (for onnx-int8, with --runtime onnx-int8)",
                "not-data",
            )
        return TaskError(
            f"{path}: has no {TASK_FILE}; write one with: fastseg new {typed(path)}", "no-task-file"
        )
    what = "is not a task.toml" if path.exists() else "no such folder"
    return TaskError(f"{path}: {what}; name a task, or a folder with a task.toml", "no-task-file")
