"""Slices of volumes as paths: `scan.nii.gz/scan_012.nii` is slice 12 of the file scan.nii.gz.

Such a path is no file, but it names the slice everywhere: in items, messages, tables and cards, and
its stem names the slice's results. A slice is cut along the last axis of the volume, from 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from ..errors import DataError

INSTALL = "pip install pydicom nibabel"
NIFTI, DICOM = (".nii", ".nii.gz"), (".dcm", ".dicom")


def is_nifti(path: Path | str) -> bool:
    """Return whether a path is named as a NIfTI file, or as a slice of one."""
    return str(path).lower().endswith(NIFTI)


def is_dicom(path: Path | str) -> bool:
    """Return whether a path is named as a DICOM file."""
    return str(path).lower().endswith(DICOM)


def is_medical(path: Path | str) -> bool:
    """Return whether a path is named as a DICOM or NIfTI file, or as a slice of one."""
    return str(path).lower().endswith((*DICOM, *NIFTI))


def missing_reader(names: Iterable[Path | str], place: Path | str) -> DataError | None:
    """Return the error if any of these names is that of a file whose reader is not installed.

    `place`, the file or the folder that has them, begins the message.
    """
    for name in names:
        package = "pydicom" if is_dicom(name) else "nibabel" if is_nifti(name) else ""
        if package and find_spec(package) is None:
            kind = "DICOM" if is_dicom(name) else "NIfTI"
            return DataError(
                f"{place}: {kind} files need {package}; install the extra medical: {INSTALL}",
                "no-medical",
            )
    return None


def stem_of(path: Path) -> str:
    """Return a file's name without its suffix; .nii.gz counts as one."""
    end = ".nii.gz"
    return path.name[: -len(end)] if path.name.lower().endswith(end) else path.stem


def slice_of(volume: Path, number: int) -> Path:
    """Return the path of a slice, from 0."""
    return volume / f"{stem_of(volume)}_{number:03d}.nii"


def split_slice(path: Path | str) -> tuple[Path, int] | None:
    """Return the volume's file and the number of a slice; None for other paths."""
    path = Path(path)
    number = path.stem.rpartition("_")[2]
    if not (path.suffix == ".nii" and is_nifti(path.parent.name) and number.isdecimal()):
        return None
    return None if path.parent.is_dir() else (path.parent, int(number))


def real_file(path: Path) -> Path:
    """Return the file that a path reads: a slice's volume, or the path itself."""
    found = split_slice(path) if is_nifti(path) else None
    return found[0] if found else path
