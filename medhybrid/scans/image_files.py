"""Image files by name: their kind, and the files that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from medhybrid.errors import ScanError
from medhybrid.files import check_file
from medhybrid.geometry import Affine
from medhybrid.scans import itk, nifti
from medhybrid.scans.nifti_header import SUFFIXES, VALUE_SUFFIXES, header_beside, is_pair_header, read_header

Kind = Literal["nifti", "itk", "values", ""]

GROUPS_OF_DICOM = (b"\x02\x00", b"\x08\x00")
"""Bytes at the start of DICOM files without a preamble."""


def kind_of(path: Path) -> Kind:
    """Return the reader of a file: `values` if it belongs to another file, nothing if it is no image file by its name."""
    name = path.name.lower()
    if name.endswith(itk.SUFFIXES):
        return "itk"
    if name.endswith((".hdr", ".hdr.gz")):
        return "nifti" if is_pair_header(path) else ""
    if name.endswith(SUFFIXES):
        return "nifti"
    if name.endswith(VALUE_SUFFIXES):
        if header_beside(path) is not None:
            return "values"
        return "" if _looks_like_dicom(path) else "nifti"
    return ""


def header_of(path: Path) -> Path:
    """Return the `.hdr` file of an `.img` file, and any other path as it is."""
    return (header_beside(path) or path) if path.name.lower().endswith(VALUE_SUFFIXES) else path


def read_geometry(path: Path) -> tuple[tuple[int, ...], Affine]:
    """Read shape `(X, Y, Z[, C])` and affine to RAS mm of an image file without its values; raises `ScanError`."""
    return nifti.nifti_header(path) if kind_of(path) == "nifti" else itk.itk_header(path)


def files_of(path: Path) -> tuple[Path, ...]:
    """Return an image file, and the one that holds its values where it is another; raises `ScanError`."""
    is_nifti = kind_of(path) == "nifti"
    values = read_header(path).values if is_nifti else itk.read_image_header(path).stored.path
    return (path,) if values == path else (path, values)


def is_header_with_values(paths: Sequence[Path]) -> bool:
    """Report whether two files are an image's header and its values."""
    if len(paths) != 2 or kind_of(paths[0]) not in ("nifti", "itk"):
        return False
    try:
        return files_of(paths[0]) == tuple(paths)
    except ScanError:
        return False


def _looks_like_dicom(path: Path) -> bool:
    try:
        check_file(path)
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return False
    return start[128:] == b"DICM" or start[:2] in GROUPS_OF_DICOM
