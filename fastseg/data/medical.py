"""DICOM images and slices of NIfTI volumes as uint8 arrays, by a window of their values.

Needs the extra `medical`: pydicom and nibabel.
"""

from __future__ import annotations

import gzip
import logging
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ..errors import DataError, brief
from ..types import Item
from .issues import Fault
from .slices import is_dicom, is_nifti, missing_reader, real_file, slice_of, split_slice

log = logging.getLogger(__name__)

MOST_PIXELS = 2**27  # of a DICOM file, all frames together: a header can claim any size
MOST_BYTES = 2**31  # of a volume: twice that of a CT of 512 x 512 x 2048 voxels of 16 bits
MOST_DEFLATED = 2**21  # bytes of a DICOM file that is compressed as a whole: up to a thousandfold
KEPT_BYTES = 2**30  # of volumes that stay decoded: slices are read one after the other
INVERTED = "MONOCHROME1"  # the lowest value is white
# Without a window, this share of a volume's values at either end is clipped: single bright voxels
# would make all others dark. A convention.
CLIPPED = 0.005
SAMPLED = 1_000_000  # values of a volume that the clipping is estimated from

Window = tuple[float, float]  # centre and width


def read(path: Path | str, window: Window | None = None) -> np.ndarray:
    """Read a DICOM file or a slice as uint8, (H, W) or, for colours, (H, W, 3).

    Values, in Hounsfield units for CT, become grey levels by `window`, else by the file's own
    window, else by their range: of a volume without its highest and lowest 0.5 %. Of several
    frames the first one is read, and a warning says so. Raises `DataError` for files that cannot be
    read.
    """
    with _reading(path):
        if is_dicom(path):
            return _dicom(Path(path), window)
        volume, number = _place(path)
        found = _volume(volume)
        return _upright(_grey(found.slice(number), *found.range(window)))


def codes(path: Path | str) -> np.ndarray:
    """Read the values of a mask, whole numbers, as int32 (H, W), upright as `read` returns images.

    Raises `DataError` for files that cannot be read, and for values that are no class codes.
    """
    with _reading(path):
        if is_dicom(path):
            values = _pixels(_dataset(Path(path)), Path(path))
        else:
            volume, number = _place(path)
            values = _upright(_volume(volume).slice(number))
        whole = np.rint(values)
        # scaled values are whole numbers but for rounding
        if not np.allclose(whole, values, atol=1e-3) or whole.min() < 0 or whole.max() > 65535:
            raise ValueError("its values are no class codes, whole numbers from 0 to 65535")
        return whole.astype(np.int32)


def slices_of(path: Path) -> list[Path]:
    """Return the paths of a NIfTI file's slices; the file itself if it is one image, or no NIfTI.

    Raises `DataError` for files that cannot be read.
    """
    if not is_nifti(path):
        return [path]
    with _reading(path):
        count = _header(path)[2]
        return [path] if count == 1 else [slice_of(path, number) for number in range(count)]


def as_slices(items: Sequence[Item], faults: list[Fault]) -> list[Item]:
    """Return items of volumes as one item for each slice; slices of a volume are one group.

    Volumes that cannot be read, and masks of another shape, are added to `faults`.
    """
    found: list[Item] = []
    for item in items:
        label = item.label
        if isinstance(label, int) or not (is_nifti(item.image) or is_nifti(label)):
            found.append(item)
            continue
        try:
            images, masks = slices_of(item.image), slices_of(label)
            shapes = [_header(f) if is_nifti(f) else (0, 0, 1) for f in (item.image, label)]
        except DataError as error:
            detail, _, remedy = str(error).rpartition("; ")
            faulty = item.image if detail.startswith(f"{item.image}: ") else label
            faults.append(
                Fault("unreadable", str(faulty), detail.removeprefix(f"{faulty}: "), remedy)
            )
            continue
        if len(images) != len(masks) or (is_nifti(label) and shapes[0] != shapes[1]):
            sizes = [" x ".join(map(str, shape)) for shape in shapes]
            faults.append(
                Fault(
                    "size mismatch",
                    item.shown_label,
                    f"is {sizes[1]}, but its volume {item.image.name} is {sizes[0]}"
                    if is_nifti(label)
                    else f"is one mask, but its volume {item.image.name} has {len(images)} slices",
                    "save the mask as a NIfTI volume of the same shape",
                )
            )
            continue
        found += [replace(item, image=i, label=m) for i, m in zip(images, masks)]
    return found


def spacing_of(path: Path | str) -> tuple[float, float] | None:
    """Return the distance of neighbouring pixels in mm, (down, across); None if the file has none.

    Raises `DataError` for files that cannot be read.
    """
    with _reading(path):
        if is_dicom(path):
            data = _dataset(Path(path), pixels=False)
            found = data.get("PixelSpacing") or data.get("ImagerPixelSpacing") or ()
            sides = tuple(float(side) for side in found)
        else:
            sides = _spacing_of_volume(_place(path)[0])
    return _pair(sides) if len(sides) == 2 and min(sides) > 0 else None


def size_of(path: Path) -> tuple[int, int]:
    """Return the (height, width) of a DICOM image in px, from its header.

    Raises `DataError` for files that cannot be read.
    """
    with _reading(path):
        data = _dataset(path, pixels=False)
        return int(data.Rows), int(data.Columns)


def common_spacing(paths: Iterable[Path]) -> tuple[float, float] | None:
    """Return the spacing of images if it is the same for all of them, to a thousandth, else None.

    Logs what it found. Images that are not DICOM or NIfTI have none.
    """
    found = {spacing_of(path) for path in paths}
    if len(found) == 1:
        (spacing,) = found
        if spacing:
            log.info("pixel spacing: %g x %g mm", *spacing)
        return spacing
    known = sorted(spacing for spacing in found if spacing)
    if known:
        log.info(
            "pixel spacing: from %g x %g to %g x %g mm%s; the card has none",
            *known[0],
            *known[-1],
            ", and none in some files" if None in found else "",
        )
    return None


def label_volume(source: Path, masks: Sequence[np.ndarray]) -> bytes:
    """Return a NIfTI file of the codes of all slices, each uint8 (H, W) as `codes` reads them.

    It has the shape, place, orientation and spacing of the volume `source`, and is compressed if
    that is.
    """
    import nibabel

    image: Any = nibabel.load(source)
    values = np.stack([plane[::-1].T for plane in masks], axis=2)
    header = image.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    made = type(image)(values.reshape(image.shape), image.affine, header)
    content: bytes = made.to_bytes()
    return gzip.compress(content) if source.suffix.lower() == ".gz" else content


@contextmanager
def _reading(path: Path | str) -> Iterator[None]:
    """Convert any error of the readers to a `DataError` that names the file; no warnings."""
    if error := missing_reader([path], path):
        raise error
    file = real_file(Path(path))
    if not file.is_file():
        raise DataError(f"{path}: no such image; check the path", "no-such-image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # the readers raise many kinds of errors on damaged files
        reason = brief(error) or type(error).__name__
        raise DataError(
            f"{path}: cannot be read as an image ({reason}); replace or remove it",
            "unreadable-image",
        ) from None


def _grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return values as uint8: 0 up to `low`, 255 from `high`."""
    values = np.nan_to_num(values.astype(np.float32), nan=low, posinf=high, neginf=low)
    return ((values - low) / max(high - low, 1e-6) * 255).clip(0, 255).round().astype(np.uint8)


def _limits(window: Window) -> tuple[float, float]:
    centre, width = window
    return centre - width / 2, centre + width / 2


def _pair(values: Sequence[float]) -> tuple[float, float]:
    return round(float(values[0]), 3), round(float(values[1]), 3)


# DICOM


def _dataset(path: Path, pixels: bool = True) -> Any:
    import pydicom
    from pydicom.filereader import read_file_meta_info

    if path.stat().st_size > MOST_DEFLATED:
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") == pydicom.uid.DeflatedExplicitVRLittleEndian:
            raise ValueError("it is compressed as a whole, and too large: save it without")
    return pydicom.dcmread(path, stop_before_pixels=not pixels)


def _dicom(path: Path, window: Window | None) -> np.ndarray:
    data = _dataset(path)
    values = _pixels(data, path)
    if values.ndim == 3:
        return values if values.dtype == np.uint8 else _grey(values, 0, float(values.max()))
    values = values * float(data.get("RescaleSlope") or 1) + float(
        data.get("RescaleIntercept") or 0
    )
    own = _own_window(data)
    if window is not None:
        low, high = _limits(window)
    elif own is not None:  # by the standard, part 3, C.11.2.1.2.1
        low, high = own[0] - 0.5 - (own[1] - 1) / 2, own[0] - 0.5 + (own[1] - 1) / 2
    else:
        low, high = float(values.min()), float(values.max())
    grey = _grey(values, low, high)
    return 255 - grey if data.get("PhotometricInterpretation") == INVERTED else grey


def _own_window(data: Any) -> Window | None:
    """Return the first window of a DICOM file."""
    found = []
    for key in ("WindowCenter", "WindowWidth"):
        value = data.get(key)
        first = value[0] if isinstance(value, (list, tuple)) or hasattr(value, "append") else value
        if first in (None, ""):
            return None
        found.append(float(first))
    return (found[0], found[1]) if found[1] >= 1 else None


def _pixels(data: Any, path: Path) -> np.ndarray:
    """Return the stored values of the first frame: (H, W), or colours (H, W, 3)."""
    frames, samples = int(data.get("NumberOfFrames") or 1), int(data.get("SamplesPerPixel") or 1)
    if data.get("Rows") is None or "PixelData" not in data:
        raise ValueError("it holds no pixels")
    if int(data.Rows) * int(data.Columns) * frames * samples > MOST_PIXELS:
        raise ValueError(f"it claims {data.Columns}x{data.Rows} px in {frames} frames: too large")
    colours = str(data.get("PhotometricInterpretation", ""))
    if colours.startswith("PALETTE"):
        raise ValueError("its colours are in a palette: save it as grey or RGB")
    values = np.asarray(data.pixel_array)
    if frames > 1:
        _warn_of_frames(str(path), frames)
        values = values[0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3):
        raise ValueError(f"its pixels have the shape {values.shape}")
    return values  # pydicom converts YCbCr to RGB


@cache
def _warn_of_frames(path: str, count: int) -> None:
    """Warn, once for each file, that only its first frame is read."""
    log.warning(
        "%s: holds %d frames, of which the first one is used; save the others as files of their "
        "own, or all as a NIfTI volume",
        path,
        count,
    )


# NIfTI


class _Volume:
    """A volume in memory as it is stored, (i, j, slices), with the scale of its values."""

    def __init__(self, path: Path):
        import nibabel

        image: Any = nibabel.load(path)
        self.stored = np.asarray(image.dataobj.get_unscaled()).reshape(*_header(path))
        self.slope, self.offset = float(image.dataobj.slope), float(image.dataobj.inter)
        header = image.header
        low, high = float(header["cal_min"]), float(header["cal_max"])
        self.own = (low, high) if np.isfinite([low, high]).all() and high > low else None
        self._range: tuple[float, float] | None = None

    def slice(self, number: int) -> np.ndarray:
        if number >= self.stored.shape[2]:
            raise ValueError(f"it has {self.stored.shape[2]} slices")
        return self.stored[:, :, number] * self.slope + self.offset

    def range(self, window: Window | None) -> tuple[float, float]:
        """Return the values that become black and white."""
        if window is not None:
            return _limits(window)
        if self.own is not None:
            return self.own
        if self._range is None:
            step = max(1, self.stored.size // SAMPLED)
            values = self.stored.reshape(-1)[::step] * self.slope + self.offset
            low, high = np.quantile(values[np.isfinite(values)], (CLIPPED, 1 - CLIPPED))
            self._range = float(low), float(high)
        return self._range


_kept: OrderedDict[tuple[str, int, int], _Volume] = OrderedDict()  # the latest last
_lock = Lock()


def _place(path: Path | str) -> tuple[Path, int]:
    """Return the volume's file and the slice's number of a path; a file of one slice is that."""
    found = split_slice(path)
    if found:
        return found
    count = _header(Path(path))[2]
    if count != 1:
        raise ValueError(f"it is a volume of {count} slices, where one image is expected")
    return Path(path), 0


def _header(path: Path) -> tuple[int, int, int]:
    """Return the shape of a volume, (i, j, slices), from its header."""
    import nibabel

    image: Any = nibabel.load(path)
    shape = tuple(int(side) for side in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(
            f"it has the shape {' x '.join(map(str, shape))}, where two axes and slices are "
            "expected: save each channel or time as a file of its own"
        )
    first, second, count = (*shape, 1)[:3]
    if first * second * count * image.get_data_dtype().itemsize > MOST_BYTES:
        raise ValueError(f"it claims {' x '.join(map(str, shape))} voxels: too large")
    return first, second, count


def _spacing_of_volume(path: Path) -> tuple[float, ...]:
    import nibabel

    image: Any = nibabel.load(path)
    across, down = (float(side) for side in image.header.get_zooms()[:2])
    return down, across


def _volume(path: Path) -> _Volume:
    """Return a volume, from memory if it was read before and is unchanged."""
    facts = path.stat()
    key = str(path.resolve()), facts.st_mtime_ns, facts.st_size
    with _lock:  # threads that need the same volume wait for the first one
        if key in _kept:
            _kept.move_to_end(key)
        else:
            _kept[key] = _Volume(path)
            while len(_kept) > 1 and sum(v.stored.nbytes for v in _kept.values()) > KEPT_BYTES:
                _kept.popitem(last=False)
        return _kept[key]


def _upright(values: np.ndarray) -> np.ndarray:
    """Return a slice (i, j) as an image (H, W): the second axis goes up, the first to the right.

    In volumes stored in the usual orientations, the front of the body is then at the top.
    """
    return np.ascontiguousarray(values.T[::-1])
