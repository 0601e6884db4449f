"""Which folder's files are the masks of which folder's images, and by which ends of their names."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ..data.pairing import SEPARATOR, pairs
from ..data.slices import stem_of
from ..utils.text import counted
from .evidence import Notes, Question, listed
from .mask_detection import mask_share
from .survey import (
    DERIVED_WORDS,
    IMAGE_WORDS,
    MASK_WORDS,
    Folder,
    Survey,
    join,
    role,
    split_of,
    without_roles,
    words,
)

MIN_SHARE = 0.5  # of the files of one side that must have a partner: a convention
MAX_COMPARED = 60  # folders that are compared with each other where names do not tell
# Ends of Cityscapes, the best one first: they are masks of codes
PREFERRED_ENDS = ("labelTrainIds", "labelIds")
MOST_LISTED = 4


@dataclass(frozen=True)
class Pairing:
    """A folder of images with a folder of masks, and the ends of their stems."""

    images: str
    masks: str
    image_end: str = ""
    mask_end: str = ""
    count: int = 0  # pairs
    class_masks: str = ""  # "names" or "folders": one mask a class
    class_names: tuple[str, ...] = ()
    example: tuple[str, str] = ("", "")  # file names
    lone: tuple[str, ...] = ()  # images without a mask

    @property
    def split(self) -> str | None:
        return split_of(self.images) or split_of(self.masks)


def stem(name: str) -> str:
    return stem_of(Path(name))


def ends_of(text: str) -> list[str]:
    """Return "" and the ends of a stem, from a separator on, that have no digits."""
    found = [""]
    for match in reversed(list(SEPARATOR.finditer(text))):
        end = text[match.start() :]
        known = end[1:].lower() in IMAGE_WORDS | MASK_WORDS  # such as leftImg8bit
        if (any(c.isdigit() for c in end) and not known) or match.start() == 0:
            break
        found.append(end)
    if text.lower() in IMAGE_WORDS | MASK_WORDS:  # image.png and mask.png in a folder of their own
        found.append(text)
    return found


def find_pairings(survey: Survey, notes: Notes) -> list[Pairing]:
    """Return the folders of images with their folders of masks; none if there are no masks."""
    given = {key: _clean(notes.given[key]) for key in ("images", "masks") if key in notes.given}
    folders = survey.with_images()
    found: list[Pairing] = []
    for images in folders:
        if "images" in given and not _within(images.path, given["images"]):
            continue
        if "images" not in given and _are_only_masks(survey, images):
            continue
        partners = _partners(survey, images, folders, given.get("masks"))
        best = _best_of(survey, images, partners, notes)
        found += [best] if best else []
    return _without_doubles(survey, found)


def _clean(path: str) -> str:
    return "" if path in (".", "./") else path.strip("/").removeprefix("./")


def _within(path: str, folder: str) -> bool:
    return not folder or path == folder or path.startswith(f"{folder}/")


def _partners(
    survey: Survey, images: Folder, folders: Sequence[Folder], given: str | None
) -> list[Pairing]:
    """Return all pairings of a folder of images, by names first."""
    if given is not None:
        return [
            pairing
            for folder in folders
            if _within(folder.path, given)
            for pairing in _matches(survey, images, folder)
        ]
    norm = without_roles(images.path)
    same = [f for f in folders if f.path != images.path and without_roles(f.path) == norm]
    near = [f for f in folders if f not in same and _are_near(images.path, f.path)]
    for group in (same, [images], near[:MAX_COMPARED]):
        found = [
            pairing
            for folder in group
            if folder.path == images.path or _is_masks(survey, folder)
            for pairing in _matches(survey, images, folder)
        ]
        if found:
            return found
    return []


def _are_near(one: str, other: str) -> bool:
    """Return whether two folders have a parent or grandparent in common."""
    parents = [{str(p) for p in list(PurePosixPath(path).parents)[:2]} for path in (one, other)]
    return one != other and bool(parents[0] & parents[1])


def _is_masks(survey: Survey, folder: Folder) -> bool:
    """Return whether a folder's files are masks, by its words, else by what they look like."""
    said = role(folder.path)
    if said == "derived":
        return _has_preferred_end(folder)
    if said == "image":
        return False
    share = mask_share([survey.path(folder.path, name) for name in folder.images])
    if said == "mask":
        return share > 0
    return share > 0.5


def _has_preferred_end(folder: Folder) -> bool:
    return any(stem(name).endswith(PREFERRED_ENDS) for name in folder.images[:50])


def _are_only_masks(survey: Survey, folder: Folder) -> bool:
    """Return whether a folder holds masks, and no images beside them."""
    return _is_masks(survey, folder) and not _side_by_side(survey, folder)


def _matches(survey: Survey, images: Folder, masks: Folder) -> list[Pairing]:
    """Return the pairings of two folders, one for each end of the masks' stems."""
    if images.path == masks.path:
        return _side_by_side(survey, images)
    of_images = [stem(name) for name in images.images]
    counts: Counter[tuple[str, str]] = Counter()
    commons = _common_ends(of_images)
    cores = {end: {text.removesuffix(end) for text in of_images} for end in commons}
    examples: dict[tuple[str, str], str] = {}
    for name in masks.images:
        text = stem(name)
        for mask_end in ends_of(text):
            core = text.removesuffix(mask_end)
            image_end = next((end for end in commons if core in cores[end]), None)
            if image_end is not None:
                counts[image_end, mask_end] += 1
                examples.setdefault((image_end, mask_end), name)
                break  # the shortest end: a longer core is more like the image's
    return [
        _pairing(images, masks, image_end, mask_end, examples[image_end, mask_end])
        for (image_end, mask_end), count in counts.items()
        if count >= max(1, 0.02 * len(masks.images))
    ] or _by_affixes(survey, images, masks)


def _common_ends(stems: Sequence[str]) -> list[str]:
    """Return the ends that all stems have, "" first."""
    found = [""]
    for end in ends_of(stems[0])[1:]:
        if all(text.endswith(end) and text != end for text in stems):
            found.append(end)
    return found


def _pairing(images: Folder, masks: Folder, image_end: str, mask_end: str, example: str) -> Pairing:
    by_core = {
        stem(name).removesuffix(image_end): name
        for name in images.images
        if stem(name).endswith(image_end)
    }
    with_mask = {
        stem(name).removesuffix(mask_end) for name in masks.images if stem(name).endswith(mask_end)
    }
    core = stem(example).removesuffix(mask_end)
    return Pairing(
        images.path,
        masks.path,
        image_end,
        mask_end,
        count=len(by_core.keys() & with_mask),
        example=(by_core[core], example),
        lone=tuple(name for core, name in by_core.items() if core not in with_mask),
    )


def _by_affixes(survey: Survey, images: Folder, masks: Folder) -> list[Pairing]:
    """Return the pairing by beginnings of names, such as img_7.jpg and gt_7.png."""
    found = pairs(survey.path(images.path), survey.path(masks.path), [])
    if len(found) < MIN_SHARE * min(len(images.images), len(masks.images)):
        return []
    lone = {*images.images} - {image.name for image, _ in found}
    return [
        Pairing(
            images.path,
            masks.path,
            count=len(found),
            example=(found[0][0].name, found[0][1].name),
            lone=tuple(sorted(lone)),
        )
    ]


def _side_by_side(survey: Survey, folder: Folder) -> list[Pairing]:
    """Return the pairings of images and masks in one folder, by suffix or by ends."""
    png = {stem(name): name for name in folder.images if name.lower().endswith(".png")}
    rest = {stem(name): name for name in folder.images if not name.lower().endswith(".png")}
    both = png.keys() & rest.keys()
    if both and len(both) >= MIN_SHARE * max(len(png), len(rest)):
        core = min(both)
        lone = tuple(name for text, name in rest.items() if text not in both)
        example = rest[core], png[core]
        if mask_share([survey.path(folder.path, png[core]) for core in sorted(both)]) > 0.5:
            return [Pairing(folder.path, folder.path, count=len(both), example=example, lone=lone)]
    by_core: dict[str, dict[str, str]] = defaultdict(dict)
    for name in folder.images:
        for end in ends_of(stem(name)):
            by_core[stem(name).removesuffix(end)].setdefault(end, name)
    together: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], tuple[str, str]] = {}
    for ends in by_core.values():
        for one in ends:
            for other in ends:
                if one != other and other != "":
                    together[one, other] += 1
                    examples.setdefault((one, other), (ends[one], ends[other]))
    return [
        _pairing(folder, folder, one, other, examples[one, other][1])
        for (one, other) in _image_end_first(survey, folder, together, by_core.values())
    ]


def _image_end_first(
    survey: Survey,
    folder: Folder,
    together: Counter[tuple[str, str]],
    cores: Collection[Mapping[str, str]],
) -> list[tuple[str, str]]:
    """Return (end of images, end of masks) where the second one is that of masks."""
    total = len(folder.images)
    found = []
    for (one, other), count in together.items():
        if count < 2 and total > 3:
            continue
        if not _end_is_image(one) or set(words(other)) & (DERIVED_WORDS | IMAGE_WORDS):
            continue
        named = bool(set(words(other)) & MASK_WORDS) or other.endswith(PREFERRED_ENDS)
        files = [
            survey.path(folder.path, name) for name in folder.images if stem(name).endswith(other)
        ]
        plain = [  # only the partners: other files that end so may be masks of other classes
            survey.path(folder.path, ends[one]) for ends in cores if one in ends and other in ends
        ]
        if (named and mask_share(files) > 0) or (
            mask_share(files) > 0.5 and mask_share(plain) < 0.5
        ):
            found.append((one, other))
    shared = {one for one, _ in found}
    if len(shared) > 1:  # "" and _image: the longest that covers the same files
        best = max(shared, key=lambda end: (sum(together[p] for p in found if p[0] == end), end))
        found = [pair for pair in found if pair[0] == best]
    return found


def _end_is_image(end: str) -> bool:
    found = set(words(end))
    return not found & (MASK_WORDS | DERIVED_WORDS) and not end.endswith(PREFERRED_ENDS)


def _best_of(
    survey: Survey, images: Folder, found: Sequence[Pairing], notes: Notes
) -> Pairing | None:
    """Return the pairing to use of several ones for a folder of images.

    It is one mask a class where the masks are of two values each. Asks where two are equally
    likely.
    """
    found = [p for p in found if not _is_derived(p)]
    for end in PREFERRED_ENDS:
        preferred = [p for p in found if p.mask_end.endswith(end)]
        if preferred:
            return preferred[0]
    if not found:
        return None
    if len(found) == 1:
        return found[0]
    classes = _one_mask_a_class(survey, found)
    if classes:
        return classes
    most = max(p.count for p in found)
    full = [p for p in found if p.count >= MIN_SHARE * most]
    named = [p for p in full if role(join(p.masks, p.mask_end)) == "mask"]
    full = named or full
    folders = list(dict.fromkeys(p.masks for p in full))
    if len(folders) == 1:
        return max(full, key=lambda p: (p.count, -len(p.mask_end)))
    question = Question(
        "masks",
        f"the images in {images.path or '.'} have masks in {counted(len(folders), 'folder')}",
        {
            p.masks: f"the masks are {p.masks}/{p.example[1]} and {p.count - 1} more"
            for p in full[:MOST_LISTED]
        },
    )
    chosen = notes.decide(question)
    return next(p for p in full if p.masks == chosen)


def _is_derived(pairing: Pairing) -> bool:
    said = set(words(pairing.mask_end)) | set(words(PurePosixPath(pairing.masks).name))
    return bool(said & DERIVED_WORDS) and not pairing.mask_end.endswith(PREFERRED_ENDS)


def _one_mask_a_class(survey: Survey, found: Sequence[Pairing]) -> Pairing | None:
    """Return the pairing if each class has masks of its own, by names or by folders."""
    folders = sorted({p.masks for p in found})
    ends = sorted({p.mask_end for p in found})
    first = found[0]
    if len(folders) == 1 and len(ends) > 1:
        if not all(_are_binary(survey, p) for p in found):
            return None
        names = tuple(end.lstrip("_-. ") for end in ends)
        if role("/".join(names)) == "mask" and len(names) < 3:  # 7_mask and 7_label
            return None
        total = max(p.count for p in found)
        lone = set.intersection(*(set(p.lone) for p in found))
        return replace(
            first,
            mask_end="",
            count=total,
            class_masks="names",
            class_names=names,
            lone=tuple(sorted(lone)),
        )
    parents = {str(PurePosixPath(folder).parent) for folder in folders}
    if len(folders) > 1 and len(parents) == 1 and len(ends) == 1:
        parent = parents.pop()
        named = [PurePosixPath(folder).name for folder in folders]
        # masks_anna and masks_bert are two versions; iris and pupil are two classes
        versions = role(parent) != "mask" and any(role(name) == "mask" for name in named)
        if versions or not all(_are_binary(survey, p) for p in found):
            return None
        lone = set.intersection(*(set(p.lone) for p in found))
        return replace(
            first,
            masks="" if parent == "." else parent,
            count=max(p.count for p in found),
            class_masks="folders",
            class_names=tuple(named),
            lone=tuple(sorted(lone)),
        )
    return None


def _are_binary(survey: Survey, pairing: Pairing) -> bool:
    """Return whether the masks of a pairing hold two values only, black and white."""
    from ..data.decoding import is_lossy
    from ..data.images import read_raw
    from .mask_detection import SAMPLE, spaced

    names = [n for n in survey.folders[pairing.masks].images if stem(n).endswith(pairing.mask_end)]
    for file in spaced([survey.path(pairing.masks, name) for name in names], SAMPLE):
        values = read_raw(file)
        grey = values if values.ndim == 2 else values[..., 0]
        low, high = int(grey.min()), int(grey.max())
        between = ((grey > 64) & (grey < 192)).mean()
        if high not in (0, 1) and (high < 192 or low > 64 or between > 0.1):
            return False
        if high <= 1 and not is_lossy(file) and low == high == 1:
            return False
    return True


def _without_doubles(survey: Survey, found: Sequence[Pairing]) -> list[Pairing]:
    """Return pairings without those of folders whose files are masks of another pairing."""
    masks = {p.masks for p in found if p.masks != p.images}
    kept = [p for p in found if p.images not in masks or p.images == p.masks]
    return [p for p in kept if p.count >= MIN_SHARE * _fewer(survey, p)]


def _fewer(survey: Survey, pairing: Pairing) -> int:
    """Return how many files the side with fewer ones has."""
    masks = survey.folders.get(pairing.masks)
    if masks is None or pairing.class_masks or pairing.images == pairing.masks:
        return pairing.count
    ending = sum(stem(name).endswith(pairing.mask_end) for name in masks.images)
    return min(len(survey.folders[pairing.images].images), ending)


def lone_text(found: Iterable[Pairing]) -> str:
    """Return a text about the images without a mask, or ""."""
    lone = [join(p.images, name) for p in found for name in p.lone]
    return f"{counted(len(lone), 'image')} without a mask: {listed(lone)}" if lone else ""
