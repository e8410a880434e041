"""Recognition of image files by name, and of files that belong together (header and values)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from medhybrid.errors import ScanError
from medhybrid.files import check_file
from medhybrid.geometry import Affine
from medhybrid.scans import itk, nifti, raster
from medhybrid.scans.nifti_header import SUFFIXES, VALUE_SUFFIXES, header_beside, is_pair_header, read_header
from medhybrid.scans.raster_size import size_files_of
from medhybrid.scans.spm_matrix import matrix_file_of

Kind = Literal["nifti", "itk", "raster", "values", ""]

UNREAD_FORMATS = {
    ".mgz": "MGH (FreeSurfer)",
    ".mgh": "MGH (FreeSurfer)",
    ".mnc": "MINC",
    ".brik": "BRIK (AFNI)",
    ".brik.gz": "BRIK (AFNI)",
    ".mif": "MIF (MRtrix)",
    ".mif.gz": "MIF (MRtrix)",
    ".gipl": "GIPL",
    ".gipl.gz": "GIPL",
    ".nrrd.gz": "NRRD in gzip",
    ".mha.gz": "MetaImage in gzip",
    ".par": "PAR/REC (Philips)",
    ".npy": "NumPy",
    ".npz": "NumPy",
    ".vtk": "VTK",
    ".vti": "VTK",
    ".h5": "HDF5",
    ".hdf5": "HDF5",
}
"""Formats of volumes that have no reader, by suffix."""

UNREAD_PACKINGS = {
    ".nii.bz2": "NIfTI in bzip2",
    ".nii.zst": "NIfTI in Zstandard",
    ".nii.xz": "NIfTI in XZ",
    ".dcm.gz": "DICOM in gzip",
    ".dcm.bz2": "DICOM in bzip2",
    ".dcm.xz": "DICOM in XZ",
    ".dcm.zst": "DICOM in Zstandard",
    ".tar": "tar",
    ".tar.gz": "tar",
    ".tgz": "tar",
    ".tar.bz2": "tar",
    ".tar.xz": "tar",
    ".7z": "7z",
    ".rar": "RAR",
}
"""Archives and compressions that are not unpacked, by suffix."""

UNREAD_IMAGES = {
    ".webp": "WebP",
    ".jp2": "JPEG 2000",
}
"""Formats of two-dimensional images that have no reader, by suffix."""

TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF files."""

GROUPS_OF_DICOM = (b"\x02\x00", b"\x08\x00")
"""First bytes of DICOM files without a preamble."""


def kind_of(path: Path) -> Kind:
    """Return the kind of a file, which selects its reader.

    Returns
    -------
    kind : str
        ``nifti``, ``itk`` or ``raster``; ``values`` for the values of a separate header; empty if the name is not that of
        an image file, or the content is DICOM under such a name.
    """
    kind = _kind_by_name(path)
    return "" if kind and is_marked_as_dicom(path) else kind


def _kind_by_name(path: Path) -> Kind:
    name = path.name.lower()
    if name.endswith(itk.SUFFIXES):
        return "itk"
    if raster.is_raster(path):
        return "raster"
    if name.endswith((".hdr", ".hdr.gz")):
        return "nifti" if is_pair_header(path) else ""
    if name.endswith(SUFFIXES):
        return "nifti"
    if name.endswith(VALUE_SUFFIXES):
        if header_beside(path) is not None:
            return "values"
        return "" if _looks_like_dicom(path) else "nifti"
    return ""


def why_unread(path: Path) -> str:
    """Return the reason why a volume, compressed file or archive has no reader, and the remedy; empty for other files."""
    if is_marked_as_dicom(path):
        return ""
    if name := _by_suffix(path, UNREAD_FORMATS):
        return f"the format {name} is not read: convert it to NIfTI"
    name = _by_suffix(path, UNREAD_PACKINGS)
    return f"the format {name} is not unpacked: unpack it, or pack its content as zip" if name else ""


def why_unread_image(path: Path) -> str:
    """Return the reason why a two-dimensional image has no reader, and the remedy; empty for other files."""
    name = _by_suffix(path, UNREAD_IMAGES)
    return f"the format {name} is not read: convert it to PNG" if name else ""


def _by_suffix(path: Path, names: Mapping[str, str]) -> str:
    return next((n for suffix, n in names.items() if path.name.lower().endswith(suffix)), "")


def header_of(path: Path) -> Path:
    """Return the `.hdr` file of an `.img` file; return any other path unchanged."""
    return (header_beside(path) or path) if path.name.lower().endswith(VALUE_SUFFIXES) else path


def read_geometry(path: Path) -> tuple[tuple[int, ...], Affine]:
    """Read the shape `(X, Y, Z[, C])` and the affine to RAS mm from a header; raises `ScanError`."""
    kind = kind_of(path)
    if kind == "raster":
        return raster.raster_geometry(path)
    return nifti.nifti_header(path) if kind == "nifti" else itk.itk_header(path)


def files_of(path: Path) -> tuple[Path, ...]:
    """Return an image file, and the separate file of its values if it has one; raises `ScanError`."""
    kind = kind_of(path)
    if kind == "raster":
        return (path,)
    values = read_header(path).values if kind == "nifti" else itk.read_image_header(path).stored.path
    return (path,) if values == path else (path, values)


def files_beside(path: Path) -> tuple[Path, ...]:
    """Return the existing files beside an image that may decide its place: SPM's `.mat`, nnU-Net's `.json` of a TIFF."""
    name = path.name.lower()
    if name.endswith((".tif", ".tiff")):
        return tuple(p for p in size_files_of(path) if p.is_file())
    if not name.endswith(VALUE_SUFFIXES):
        return ()
    matrix = matrix_file_of(path)
    return (matrix,) if matrix.is_file() else ()


def is_header_with_values(paths: Sequence[Path]) -> bool:
    """Return True if two files are the header and the values of one image."""
    if len(paths) != 2 or kind_of(paths[0]) not in ("nifti", "itk"):
        return False
    try:
        return files_of(paths[0]) == tuple(paths)
    except ScanError:
        return False


def is_marked_as_dicom(path: Path) -> bool:
    """Return whether a file has the mark of DICOM after its preamble, and no TIFF in the preamble, under any name."""
    start = _start_of(path)
    return start[128:] == b"DICM" and start[:4] not in TIFF_MARKS


def _looks_like_dicom(path: Path) -> bool:
    start = _start_of(path)
    return start[128:] == b"DICM" or start[:2] in GROUPS_OF_DICOM


def _start_of(path: Path) -> bytes:
    try:
        check_file(path)
        with path.open("rb") as file:
            return file.read(132)
    except Exception:  # the reader of the file reports the reason
        return b""
