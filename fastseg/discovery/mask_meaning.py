"""What mask pixels mean: codes, colours or 0/255; their classes, void codes and background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data.colours import hexadecimal
from ..data.decoding import ranges
from ..errors import DataError
from ..types import IGNORE, Colour
from ..utils.text import counted
from . import known_classes
from .classfiles import ClassFile, is_background, is_void
from .evidence import Notes, Question, listed
from .mask_values import Values, centres, is_border, pack, unpack

MAX_CLASSES = 254
# Greys of masks that are spread over the range, such as 0, 128, 255: each is a class, 255 too
SPREAD_GREY = 32
MANY_CODES = 8  # with at least this many codes, 255 is void, as the convention has it
SOFT_SHARE = 0.1  # of pixels between black and white, at soft edges: a convention
UNNAMED_MAJORITY = 0.25  # the same, where classes have no names
MAJORITY = 0.5  # share of pixels from which the largest of several named classes is background


@dataclass
class Meaning:
    """The fields of a definition that say what mask pixels are."""

    masks: str
    classes: list[str]
    background: str | None
    codes: dict[str, str] = field(default_factory=dict)  # as in task.toml
    ignore: list[int | str] = field(default_factory=list)
    palette: list[Colour] = field(default_factory=list)  # [] : generated
    are_named: bool = False  # whether names come from a file or a known data set

    def definition(self) -> dict[str, object]:
        """Return these fields as task.toml has them."""
        found: dict[str, object] = {"classes": self.classes, "masks": self.masks}
        found["background"] = False if self.background is None else self.background
        if self.palette:
            found["palette"] = [hexadecimal(colour) for colour in self.palette]
        if self.ignore:
            found["ignore"] = self.ignore
        if self.codes:
            found["codes"] = self.codes
        return found


def meaning_of(
    values: Values,
    files: Sequence[Path],
    declared: Sequence[ClassFile],
    layouts: Sequence[Mapping[str, object]],
    notes: Notes,
) -> Meaning:
    """Return what the pixels of sampled masks mean. Raises `DataError` where nothing fits."""
    _note_sample(values, notes)
    if not values.pixels:
        raise DataError(
            f"no mask can be read; the first error: {values.unreadable[0]}", "unreadable-image"
        )
    _refuse_single(values)
    how = _kind(values, declared, notes)
    if how == "threshold":
        return _threshold(values, declared, notes)
    if how == "colours":
        return _colours(values, declared, layouts, notes)
    return _codes(values, files, declared, layouts, notes)


def _note_sample(values: Values, notes: Notes) -> None:
    part = "all" if values.total == values.files else f"{values.files:,} evenly spaced of"
    notes.say("masks", f"read {part} {counted(values.total, 'mask')}")
    if values.unreadable:
        notes.say(
            "masks",
            f"{counted(len(values.unreadable), 'mask')} cannot be read: {values.unreadable[0]}",
        )


def _refuse_single(values: Values) -> None:
    if len(values.pixels) == 1:
        value = next(iter(values.pixels))
        shown = unpack(value) if values.is_colour else value
        raise DataError(
            f"all {counted(values.files, 'mask')} hold the value {shown} only; "
            "masks need two values or more: one for each class",
            "one-class",
        )


def _kind(values: Values, declared: Sequence[ClassFile], notes: Notes) -> str:
    """Return "codes", "colours" or "threshold"."""
    given = notes.given.get("pixels")
    if given in ("codes", "colours", "threshold"):
        notes.say("masks", f"{given}, as --pixels says")
        if given == "colours" and not values.is_colour:
            _to_colours(values)
        return given
    if values.is_colour:
        if values.is_lossy and _is_grey(values):
            _to_greys(values)
        else:
            notes.say("masks", "pixels are colours: their channels differ")
            return "colours"
    low, high, between = _ends(values)
    if _repaints(values):
        notes.say("masks", "palettes differ between masks: their colours count, not the codes")
        _to_colours(values)
        return "colours"
    if low + high and between <= SOFT_SHARE and _has_soft_middle(values) and high:
        return _two_or_codes(values, declared, notes, between)
    if values.is_lossy or _is_smooth(values):
        notes.say("masks", "greys with soft edges or JPEG noise: each goes to the nearest level")
        _to_colours(values)
        return "colours"
    return "codes"


def _ends(values: Values) -> tuple[float, float, float]:
    """Return the shares of pixels that are black, white, and between."""
    top = 65535 if max(values.pixels) > 255 else 255
    noise = top // 12 if values.is_lossy else 0
    total = sum(values.pixels.values())
    low = sum(count for value, count in values.pixels.items() if value <= noise)
    high = sum(count for value, count in values.pixels.items() if value >= top - noise)
    return low / total, high / total, 1 - (low + high) / total


def _has_soft_middle(values: Values) -> bool:
    """Return whether what lies between black and white has no areas of its own."""
    top = max(values.pixels)
    if top < 255 and not values.is_lossy:
        return False
    noise = 255 // 12 if values.is_lossy else 0
    middle = [v for v in values.codes() if noise < v < top - noise]
    if not middle:
        return True
    if len(middle) < 3 and not values.is_lossy:
        return False
    inner = sum(values.inner[v] for v in middle)
    return inner <= 0.02 * sum(values.inner.values()) and not (
        not values.is_lossy and max(values.inner[v] for v in middle) > 50
    )


def _two_or_codes(
    values: Values, declared: Sequence[ClassFile], notes: Notes, between: float
) -> str:
    """Return "threshold" for masks of black and white, unless class files name more classes."""
    named = next((file for file in declared if len(_plain_names(file)) > 2), None)
    soft = f", {between:.1%} between them at soft edges" if between else ""
    line = f"pixels are black and white (0/{max(values.pixels)}){soft}: two classes"
    question = Question(
        "pixels",
        f"masks hold 0 and {max(values.pixels)} only",
        {
            "threshold": f"{max(values.pixels)} is a second class",
            "codes": f"{max(values.pixels)} is unlabelled and 0 is one of several classes",
        },
        likelier="threshold",
    )
    if named is not None:
        question = Question(
            "pixels",
            f"{named.path} names {len(_plain_names(named))} classes, but masks hold 0 and "
            f"{max(values.pixels)} only",
            question.readings,
        )
    chosen = notes.decide(question)
    notes.say("masks", line if chosen == "threshold" else "pixels are codes, as --pixels says")
    return chosen


def _plain_names(file: ClassFile) -> list[str]:
    return [name for name in file.names if not is_void(name)]


def _is_grey(values: Values) -> bool:
    """Return whether colours are greys, but for JPEG noise."""
    total = sum(values.pixels.values())
    off = sum(
        count
        for value, count in values.pixels.items()
        if max(unpack(value)) - min(unpack(value)) > 24
    )
    return off <= 0.02 * total


def _to_greys(values: Values) -> None:
    values.is_colour = False
    for counter in (values.pixels, values.inner):
        grey = {value: count for value, count in counter.items()}
        counter.clear()
        for value, count in grey.items():
            counter[round(sum(unpack(value)) / 3)] += count
    values.largest = {value: 1.0 for value in values.pixels}
    values.is_lossy = True


def _to_colours(values: Values) -> None:
    """Make codes the colours that they are shown in: of palettes, or greys."""
    if values.is_colour:
        return

    def colour(code: int) -> int:
        shown = values.palettes.get(code)
        level = min(255, code if code < 256 else code >> 8)
        return pack(next(iter(shown))) if shown else level * 0x010101

    values.is_colour = True
    for counter in (values.pixels, values.inner, values.files_with):
        codes = dict(counter)
        counter.clear()
        for code, count in codes.items():
            for shown in values.palettes.get(code) or ():
                counter[pack(shown)] += count
            if not values.palettes.get(code):
                counter[colour(code)] += count
    values.largest = {value: 1.0 for value in values.pixels}


def _repaints(values: Values) -> bool:
    """Return whether masks with palettes show one code in different colours."""
    return any(
        len(colours) > 1 for code, colours in values.palettes.items() if code in values.pixels
    )


def _is_smooth(values: Values) -> bool:
    """Return whether masks hold many greys without areas: smoothed codes."""
    codes = values.codes()
    soft = [code for code in codes if values.inner[code] < 0.001 * values.pixels[code] + 1]
    return len(codes) > 16 and len(soft) > 0.6 * len(codes)


def _threshold(values: Values, declared: Sequence[ClassFile], notes: Notes) -> Meaning:
    low, high, _ = _ends(values)
    classes, named = ["background", "class 1"], False
    for file in declared:
        names = _plain_names(file)
        if len(names) == 2:
            if is_background(names[1]) and not is_background(names[0]):
                names.reverse()
            classes, named = names, True
        elif len(names) == 1 and not is_background(names[0]):
            classes, named = ["background", names[0]], True
        if named:
            notes.say("classes", f"{file.path} names {', '.join(file.names)}")
            break
    notes.say("masks", f"black {low:.1%} and white {high:.1%} of the pixels")
    if not named:
        notes.say("classes", "no file names them: class 1 is white; rename it")
    notes.say("background", f"{classes[0]}: black")
    return Meaning("threshold", classes, classes[0], are_named=named)


def _colours(
    values: Values,
    declared: Sequence[ClassFile],
    layouts: Sequence[Mapping[str, object]],
    notes: Notes,
) -> Meaning:
    file = _colour_file(values, declared)
    names: dict[Colour, str] = dict(file.colours) if file else {}
    found, blended = centres(values, list(names))
    if file is None and _is_voc(layouts) and _all_voc(found):
        codes = {
            known_classes.voc_colour(code): name
            for code, name in enumerate(known_classes.VOC_NAMES)
        }
        names = {**codes, known_classes.VOC_BORDER: "void"}
        notes.say("classes", "the colours and names of Pascal VOC")
    if len(found) > MAX_CLASSES or not 2 <= len(found):
        raise DataError(
            f"masks hold {len(values.pixels):,} colours, of which {len(found)} have areas of one "
            "colour: these are no masks; name the folder of masks with --masks",
            "not-masks",
        )
    notes.say("masks", _colour_line(values, found, blended))
    if file:
        notes.say("classes", f"{file.path} names {listed(list(names.values()), 6)} by colour")
    void = [colour for colour, name in names.items() if is_void(name)]
    for colour in void:
        notes.say("ignore", f"{hexadecimal(colour)} is {names[colour]}: unlabelled")
    kept = [colour for colour in names if colour not in void]
    extra = [colour for colour in found if colour not in names]
    if file and extra:
        shown = ", ".join(map(hexadecimal, extra[:4]))
        notes.say("classes", f"{file.path} does not name {shown}: they have names of their own")
    colours = [*kept, *(sorted(extra) if not names else extra)]
    classes = [names[colour] for colour in kept]
    background = _background_colour(values, colours, names, found)
    number = 0
    for colour in colours[len(kept) :]:
        number += colour != background
        classes.append("background" if colour == background else f"class {number}")
    classes = _distinct(classes)
    chosen = classes[colours.index(background)] if background is not None else None
    _note_background(chosen, bool(names), values, pack(background) if background else None, notes)
    if not names:
        notes.say("classes", "no file names the colours: class 1 and so on; rename them")
    return Meaning(
        "colours",
        classes,
        chosen,
        ignore=[hexadecimal(colour) for colour in void],
        palette=colours,
        are_named=bool(names),
    )


def _colour_line(values: Values, found: Sequence[Colour], blended: int) -> str:
    shown = ", ".join(hexadecimal(colour) for colour in found[:6])
    more = f" and {len(found) - 6} more" if len(found) > 6 else ""
    if not blended:
        return f"{len(found)} colours: {shown}{more}"
    why = "JPEG noise" if values.is_lossy else "blended edges"
    return f"{len(found)} colours: {shown}{more}; {blended:,} others are {why}: the nearest counts"


def _colour_file(values: Values, declared: Sequence[ClassFile]) -> ClassFile | None:
    """Return the class file of which most colours occur, if any."""
    near = {pack(colour) for file in declared for colour in file.colours} & values.pixels.keys()
    fitting = [
        (sum(pack(c) in near for c in file.colours), file)
        for file in declared
        if len(file.colours) >= 2
    ]
    if not fitting:
        return None
    best, file = max(fitting, key=lambda pair: pair[0])
    return file if best or values.is_lossy else None


def _all_voc(colours: Sequence[Colour]) -> bool:
    voc = {known_classes.voc_colour(code) for code in range(len(known_classes.VOC_NAMES))}
    return all(colour in voc or colour == known_classes.VOC_BORDER for colour in colours)


def _background_colour(
    values: Values,
    colours: Sequence[Colour],
    names: Mapping[Colour, str],
    found: Sequence[Colour],
) -> Colour | None:
    named = next((colour for colour in colours if is_background(names.get(colour, ""))), None)
    if named is not None:
        return named
    usable = [colour for colour in found if colour in colours]
    largest = max(usable, key=lambda colour: values.pixels[pack(colour)], default=None)
    if largest is None:
        return None
    if not names:
        return largest if values.share(pack(largest)) >= UNNAMED_MAJORITY else None
    if largest not in names:
        return largest
    return largest if values.share(pack(largest)) >= MAJORITY else None


def _note_background(
    name: str | None, named: bool, values: Values, value: int | None, notes: Notes
) -> None:
    if name is None:
        notes.say("background", "none: no class is named so, or has half of the pixels")
    elif value is None:
        notes.say("background", f"{name}, by its name")
    elif is_background(name) and named:
        notes.say("background", f"{name}, by its name ({values.share(value):.0%} of the pixels)")
    else:
        notes.say("background", f"{name}: most pixels ({values.share(value):.0%})")


def _distinct(names: Sequence[str]) -> list[str]:
    """Return names, each once: repeated ones get a number."""
    found: list[str] = []
    for name in names:
        name, number = " ".join(name.split()) or "unnamed", 2
        if name.strip("_") == "background":  # LabelMe's own spelling
            name = "background"
        base = name
        while name in found:
            name, number = f"{base} {number}", number + 1
        found.append(name)
    return found


def _is_voc(layouts: Sequence[Mapping[str, object]]) -> bool:
    return any("SegmentationClass" in str(layout.get("masks")) for layout in layouts)


def _is_camvid(layouts: Sequence[Mapping[str, object]]) -> bool:
    return any(str(layout.get("masks")).endswith("annot") for layout in layouts)


def _codes(
    values: Values,
    files: Sequence[Path],
    declared: Sequence[ClassFile],
    layouts: Sequence[Mapping[str, object]],
    notes: Notes,
) -> Meaning:
    found = values.codes()
    stray = sorted(set(values.pixels) - set(found))
    if len(found) > MAX_CLASSES + 1 or max(found) > 65535:
        raise DataError(
            f"masks hold {len(found)} codes, {ranges(found[:40])} ...: these number objects or are "
            "depths, not classes; name the folder of class masks with --masks",
            "not-masks",
        )
    notes.say("masks", f"pixels are codes: {_with_shares(values, found)}")
    if stray:
        notes.say(
            "masks",
            f"stray codes, a few pixels each: {ranges(stray)} (as in {values.example[stray[0]]}); "
            "they count as unlabelled",
        )
    special = _cityscapes(found, layouts, notes) or _named_sets(
        values, found, declared, layouts, notes
    )
    if special:
        return special
    names = _names_of(values, found, declared, files, notes)
    ignored = _void_codes(values, files, found, names, notes)
    kept = [code for code in sorted({*found, *names}) if code not in ignored]
    background = _background_code(values, kept, names, ignored)
    number, classes = 0, []
    for code in kept:
        number += code not in names and code != background
        classes.append(names.get(code, "background" if code == background else f"class {number}"))
    classes = _distinct(classes)
    if not names:
        notes.say("classes", "no file names them: class 1 and so on; rename them")
    chosen = classes[kept.index(background)] if background is not None else None
    _note_background(chosen, bool(names), values, background, notes)
    return _made(values, kept, classes, chosen, ignored, bool(names))


def _made(
    values: Values,
    kept: Sequence[int],
    classes: list[str],
    background: str | None,
    ignored: Sequence[int],
    named: bool,
    palette: list[Colour] | None = None,
) -> Meaning:
    if len(kept) < 2:
        raise DataError(
            f"masks hold one class only: code {ranges(list(kept))}; "
            "masks need a code for each of two classes or more",
            "one-class",
        )
    plain = list(kept) == list(range(len(kept)))
    shown = [next(iter(values.palettes.get(code) or [None])) for code in kept]
    if palette is None and None not in shown and len(set(shown)) == len(shown):
        palette = shown  # type: ignore[assignment]
    is_declared = IGNORE in kept
    return Meaning(
        "codes",
        classes,
        background,
        codes={} if plain else {str(code): name for code, name in zip(kept, classes)},
        # code 255 is unlabelled without being declared, unless it is a class
        ignore=[code for code in ignored if code != IGNORE or is_declared],
        palette=palette or [],
        are_named=named,
    )


def _with_shares(values: Values, codes: Sequence[int]) -> str:
    shown = ", ".join(f"{code} ({values.share(code):.1%})" for code in codes[:8])
    return shown + (f" and {len(codes) - 8} more up to {codes[-1]}" if len(codes) > 8 else "")


def _cityscapes(
    found: Sequence[int], layouts: Sequence[Mapping[str, object]], notes: Notes
) -> Meaning | None:
    """Return Cityscapes' meaning, where files are named so and hold its codes."""
    ends = {str(layout.get("mask_end", "")) for layout in layouts}
    names = [name for name, _, _ in known_classes.CITYSCAPES]
    palette = [colour for _, _, colour in known_classes.CITYSCAPES]
    if all(end.endswith("labelTrainIds") for end in ends):
        if max(code for code in found if code != IGNORE) >= len(names):
            return None
        notes.say("classes", "the 19 classes of Cityscapes (labelTrainIds)")
        notes.say("background", "none: Cityscapes has no such class")
        return Meaning("codes", names, None, palette=palette, are_named=True)
    of_classes = {code: name for name, code, _ in known_classes.CITYSCAPES}
    if not all(end.endswith("labelIds") for end in ends):
        return None
    if (
        len(set(found) & set(of_classes)) < 2
        or max(set(found) - {IGNORE}) >= known_classes.CITYSCAPES_CODES
    ):
        return None
    others = [code for code in range(known_classes.CITYSCAPES_CODES) if code not in of_classes]
    notes.say("classes", "the 19 classes of Cityscapes (labelIds)")
    notes.say("ignore", f"{ranges(others)}: labels that Cityscapes does not evaluate")
    notes.say("background", "none: Cityscapes has no such class")
    return Meaning(
        "codes",
        names,
        None,
        codes={str(code): name for code, name in of_classes.items()},
        ignore=list(others),
        palette=palette,
        are_named=True,
    )


def _named_sets(
    values: Values,
    found: Sequence[int],
    declared: Sequence[ClassFile],
    layouts: Sequence[Mapping[str, object]],
    notes: Notes,
) -> Meaning | None:
    """Return the meaning of Pascal VOC or CamVid, where folders are named so and no file names
    classes.
    """
    codes = [code for code in found if code != IGNORE]
    if declared:
        return None
    if _is_voc(layouts) and codes[-1] < len(known_classes.VOC_NAMES):
        painted = [
            code for code in codes if values.palettes.get(code) == {known_classes.voc_colour(code)}
        ]
        if painted != codes and values.palettes:
            return None
        names = list(known_classes.VOC_NAMES)
        notes.say("classes", "the 20 names of Pascal VOC: folder SegmentationClass, its palette")
        if IGNORE in found:
            notes.say("ignore", f"255 ({values.share(IGNORE):.1%}): VOC's borders")
        notes.say("background", "background, by its name")
        palette = [known_classes.voc_colour(code) for code in range(len(names))]
        return Meaning("codes", names, names[0], palette=palette, are_named=True)
    if _is_camvid(layouts) and len(codes) > 8 and codes[-1] <= known_classes.CAMVID_VOID:
        names = [name for name, _ in known_classes.CAMVID]
        notes.say("classes", "the 11 names of CamVid: folders named trainannot and so on")
        notes.say("ignore", "11: CamVid's void")
        notes.say("background", "none: CamVid has no such class")
        palette = [colour for _, colour in known_classes.CAMVID]
        return Meaning("codes", names, None, ignore=[11], palette=palette, are_named=True)
    return None


def _names_of(
    values: Values,
    found: Sequence[int],
    declared: Sequence[ClassFile],
    files: Sequence[Path],
    notes: Notes,
) -> dict[int, str]:
    """Return {code: name} of the class file that fits the codes; {} if none does."""
    codes = [code for code in found if code != IGNORE]
    for file in declared:
        names = _names_in(file, values, codes, files, notes)
        if names:
            outside = [code for code in codes if code not in names]
            notes.say("classes", f"{file.path} names {listed([*names.values()], 6)}")
            if outside:
                notes.say("classes", f"{file.path} does not name codes {ranges(outside)}")
            return {code: _first_word(name, names) for code, name in names.items()}
    return {}


def _first_word(name: str, names: Mapping[int, str]) -> str:
    """Return a name without its synonyms (wall;partition) if that is no other class's name."""
    first = name.split(";")[0].strip()
    others = [other.split(";")[0].strip() for other in names.values()]
    return first if others.count(first) == 1 else name


def _names_in(
    file: ClassFile, values: Values, codes: Sequence[int], files: Sequence[Path], notes: Notes
) -> dict[int, str]:
    if file.codes:
        known_codes = [code for code in codes if code in file.codes]
        return dict(file.codes) if 2 * len(known_codes) >= len(codes) else {}
    if file.colours and values.palettes:
        shown = {code: next(iter(values.palettes.get(code) or [(-1, -1, -1)])) for code in codes}
        by_colour = {code: file.colours[c] for code, c in shown.items() if c in file.colours}
        if 2 * len(by_colour) >= len(codes):
            return by_colour
    in_order = dict(enumerate(file.names))
    if max(codes) < len(file.names):
        return in_order
    if max(codes) > len(file.names) or any(is_background(name) for name in file.names):
        return {}
    # One code more than names: either the first one is background, or the last one is void.
    after = {0: "background", **{code + 1: name for code, name in in_order.items()}}
    last = max(codes)
    if is_border(files, last):
        return in_order
    largest = max(codes, key=lambda code: values.pixels[code])
    question = Question(
        "ignore",
        f"{file.path} names {len(file.names)} classes, and masks hold {len(codes)} codes, "
        f"0 to {last}",
        {
            "none": "0 is background, and the names begin at 1",
            str(last): f"the names begin at 0, and {last} is void",
        },
        likelier="none" if largest == 0 and values.share(0) >= 1 / 3 else None,
    )
    return after if notes.decide(question) == "none" else in_order


def _void_codes(
    values: Values,
    files: Sequence[Path],
    found: Sequence[int],
    names: dict[int, str],
    notes: Notes,
) -> list[int]:
    """Return the codes of unlabelled pixels; their names are removed from `names`."""
    given = notes.given.get("ignore")
    named = [code for code, name in names.items() if is_void(name)]
    for code in named:
        notes.say("ignore", f"{code} is {names.pop(code)} in the class file")
    if given is not None and given != "none":
        chosen = _given_codes(given)
        notes.say("ignore", f"{ranges(chosen)}, as --ignore says")
        for code in chosen:
            names.pop(code, None)
        return sorted({*named, *chosen})
    ignored = set(named)
    if given is None:
        ignored |= _seen_void(values, files, found, names, notes)
    if IGNORE in found and IGNORE not in names and given != "none":
        others = [code for code in found if code != IGNORE]
        if not _is_spread(others) or is_border(files, IGNORE):
            notes.say("ignore", f"255 ({values.share(IGNORE):.1%}): unlabelled by convention")
            ignored.add(IGNORE)
        elif _decides_void(values, others, notes):
            ignored.add(IGNORE)
    return sorted(ignored)


def _given_codes(text: str) -> list[int]:
    parts = text.replace(",", " ").split()
    if not parts or not all(part.isdecimal() and int(part) <= 65535 for part in parts):
        raise DataError(
            f"--ignore {text}: give codes from 0 to 65535, such as 11 or 11,255, or none",
            "ignore-codes",
        )
    return [int(part) for part in parts]


def _is_spread(others: Sequence[int]) -> bool:
    """Return whether codes are few greys over the whole range, such as 0, 128 (and 255)."""
    return len(others) < MANY_CODES and max(others) >= SPREAD_GREY


def _decides_void(values: Values, others: Sequence[int], notes: Notes) -> bool:
    """Return whether 255 is void beside greys that are spread over the range."""
    steps = sorted([*others, IGNORE])
    gaps = [b - a for a, b in zip(steps, steps[1:])]
    even = max(gaps) - min(gaps) <= 3
    question = Question(
        "ignore",
        f"masks hold the codes {ranges(steps)}",
        {"none": "255 is a class", "255": "255 is unlabelled"},
        likelier="none" if even else None,
    )
    return notes.decide(question) == "255"


def _seen_void(
    values: Values,
    files: Sequence[Path],
    found: Sequence[int],
    names: Mapping[int, str],
    notes: Notes,
) -> set[int]:
    """Return codes without a name: the highest one if it is only at the borders between others,
    and those that a class file leaves out, but for a background of code 0.
    """
    codes = [code for code in found if code != IGNORE]
    last = codes[-1]
    if len(codes) > 2 and last not in names and is_border(files, last):
        notes.say("ignore", f"{last}: only at the borders between other codes, in thin lines")
        codes.remove(last)
        void = {last}
    else:
        void = set()
    outside = {code for code in codes if code not in names} if names else set()
    if 0 in outside and max(codes, key=lambda code: values.pixels[code]) == 0:
        outside.remove(0)  # background
    if outside:
        notes.say("ignore", f"{ranges(sorted(outside))}: no name in the class file: unlabelled")
    return void | outside


def _background_code(
    values: Values, kept: Sequence[int], names: Mapping[int, str], ignored: Sequence[int]
) -> int | None:
    named = next((code for code in kept if is_background(names.get(code, ""))), None)
    if named is not None:
        return named
    if not kept:
        return None
    largest = max(kept, key=lambda code: values.pixels[code])
    if not names:
        return largest if values.share(largest) >= UNNAMED_MAJORITY else None
    total = sum(values.pixels[code] for code in kept) or 1
    return largest if values.pixels[largest] >= MAJORITY * total else None
