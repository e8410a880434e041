"""Headers of NIfTI-1, NIfTI-2 and Analyze 7.5 files: the file of the values, the shape and the affine.

The sform is preferred to the qform, as in nibabel. Lengths in micrometres or metres are converted to millimetres, as in ITK.
"""

from __future__ import annotations

import gzip
import logging
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medhybrid.errors import GeometryError, ScanError
from medhybrid.geometry import Affine, Grid, corner_distance_mm, spacing_mm
from medhybrid.geometry.affine import is_singular
from medhybrid.number_text import format_vectors_apart
from medhybrid.scans.claims import MAX_DEFLATE_RATIO, check_claim
from medhybrid.scans.image_header import UNKNOWN_THICKNESS
from medhybrid.scans.streams import is_gzip, open_plain_or_gzip, report_damage

SUFFIXES = (".nii.gz", ".nii", ".hdr.gz", ".hdr")

VALUE_SUFFIXES = (".img.gz", ".img")
"""Suffixes of the file of values that belongs to a `.hdr` file."""

MAX_FORM_DIFFERENCE_MM = 0.1
"""Largest distance between a corner placed by sform and by qform without a note."""

MAX_SIZE_DIFFERENCE = 1e-3
"""Largest relative difference between the voxel sizes of sform and pixdim without a note."""

QUATERNION_LENGTHS = (1 + 1.7e-7, 1.0005)
"""Lengths of quaternions that rounding made too long. nibabel refuses them."""

PLAUSIBLE_MM = (0.01, 100.0)
"""Voxel sizes outside this range get a note: the unit is probably wrong."""

MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Factors to mm by the code of the header's spatial unit. Without a unit, millimetres are assumed."""

UNIT_NAMES = {0: "no unit", 1: "metres", 2: "millimetres", 3: "micrometres"}

GEOMETRY_FIELDS = (
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
    "xyzt_units",
)
"""Fields that determine the affine in any reader, besides `pixdim[0:4]`."""

BYTES_OF_VERSION_1 = 348

BYTES_OF_VERSION_2 = 540

_SILENT = logging.Logger("nibabel headers", level=logging.CRITICAL + 1)


ANALYZE_IN_ITK = "ITK-based programs place the first voxel of this image at the origin, but not that of its NIfTI mask"


@dataclass(frozen=True, slots=True)
class NiftiHeader:
    """Header of a NIfTI or Analyze file.

    Attributes
    ----------
    stored : nibabel header
        The header as stored in the file.
    checked : nibabel header
        The header after nibabel's repairs.
    values : Path
        The file that holds the values.
    is_analyze : bool
        True for Analyze 7.5, which stores no orientation.
    """

    stored: Any
    checked: Any
    values: Path
    is_analyze: bool

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Return the shape as stored in the file."""
        return tuple(int(n) for n in self.checked.get_data_shape())

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape `(X, Y, Z)`, or `(X, Y, Z, C)` if an axis after the third is longer than 1."""
        stored = self.stored_shape
        return *stored[:3], *(1,) * (3 - len(stored)), *(n for n in stored[3:] if n != 1)

    @property
    def mm_per_unit(self) -> float:
        """Return the factor from the header's unit of length to mm."""
        return MM_PER_UNIT.get(self.unit, 1.0)

    @property
    def unit(self) -> int:
        """Return the code of the header's unit of length (0 for Analyze)."""
        return 0 if self.is_analyze else unit_of(self.stored)


def read_header(path: Path) -> NiftiHeader:
    """Read a header, and find the file of its values.

    Raises
    ------
    ScanError
        If the header is not valid, the values are missing, or they are not real numbers.
    """
    if path.name.lower().endswith(VALUE_SUFFIXES):
        raise ScanError(
            f"{path.name} holds values without a header",
            expected=f"{_stem(path)}.hdr in the same folder",
            remedy="copy both files of the pair",
        )
    try:
        content = _read_start(path)
        stored = parse_header(path, content)
        checked = repair(stored)
        header = NiftiHeader(stored, checked, _find_values(path), "magic" not in stored)
        _check(path, header)
    except ScanError:
        raise
    except Exception as error:  # damaged headers raise many kinds of exceptions
        raise _unreadable(path, str(error) or type(error).__name__) from error
    return header


def _read_start(path: Path) -> bytes:
    """Read the bytes of a header of either version; raises `ScanError` if they are damaged, or `OSError`."""
    try:
        with open_plain_or_gzip(path) as stream:
            content = stream.read(BYTES_OF_VERSION_1)
            if content[4:7] in (b"n+2", b"ni2"):
                content += stream.read(BYTES_OF_VERSION_2 - BYTES_OF_VERSION_1)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise report_damage(path, error) from error
    return content


def is_pair_header(path: Path) -> bool:
    """Return True if a `.hdr` file is the header of a NIfTI or Analyze pair. Other formats also use this suffix."""
    try:
        with open_plain_or_gzip(path) as stream:
            start = stream.read(4)
    except (OSError, EOFError, zlib.error):
        start = b""
    is_header = any(
        int.from_bytes(start, order) in (BYTES_OF_VERSION_1, BYTES_OF_VERSION_2) for order in ("little", "big")
    )
    return is_header or _beside(path, VALUE_SUFFIXES) is not None


def header_beside(path: Path) -> Path | None:
    """Return the `.hdr` file of an `.img` file, or None if it does not exist."""
    return _beside(path, (".hdr", ".hdr.gz"))


def parse_header(path: Path, content: bytes) -> Any:
    """Parse a header with nibabel, without repairs; raises `ScanError` if its format is unknown."""
    from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
    from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
    from nibabel.spm2analyze import Spm2AnalyzeHeader

    is_pair = path.name.lower().endswith((".hdr", ".hdr.gz"))
    magic = content[344:347] if content[344:347] in (b"ni1", b"n+1") else content[4:7]
    if magic in (b"ni1", b"ni2") and not is_pair:
        raise _unreadable(path, "the header of a .hdr and .img pair", "rename it to .hdr, in the folder of its .img")
    kinds = {b"n+1": Nifti1Header, b"ni1": Nifti1PairHeader, b"n+2": Nifti2Header, b"ni2": Nifti2PairHeader}
    if magic in kinds:
        kind = kinds[magic]
    elif is_pair and any(int.from_bytes(content[:4], order) == BYTES_OF_VERSION_1 for order in ("little", "big")):
        kind = Spm2AnalyzeHeader
    else:
        raise _unreadable(path, "not a NIfTI header" if content else "an empty file")
    size = kind.template_dtype.itemsize
    if len(content) < size:
        raise _unreadable(path, f"{len(content)} bytes, but a header has {size}")
    return kind(content[:size], check=False)


def unit_of(stored: Any) -> int:
    """Return the code of a NIfTI header's unit of length."""
    return int(stored["xyzt_units"]) & 7


def repair(stored: Any) -> Any:
    """Return a copy of a header with nibabel's repairs.

    nibabel's log lines are suppressed: relevant faults become notes of the scan.

    Raises
    ------
    nibabel.spatialimages.HeaderDataError
        If the header cannot be repaired.
    """
    checked = stored.copy()
    checked.check_fix(logger=_SILENT)
    return checked


def affine_of(header: NiftiHeader, shape: tuple[int, ...]) -> tuple[Affine, tuple[str, ...]]:
    """Compute the affine to RAS mm for voxels of `shape` (X, Y, Z).

    Returns
    -------
    affine : (4, 4) ndarray
        Voxel index to RAS mm. The caller checks that it is valid.
    notes : tuple of str
        Remarks on missing, repaired or contradictory fields.
    """
    affine, notes = _affine_in_units(header, (shape[0], shape[1], shape[2]))
    scaled = affine.copy()
    if header.mm_per_unit != 1:
        scaled[:3] *= header.mm_per_unit
    return scaled, notes + _unit_notes(header, scaled)


def _affine_in_units(header: NiftiHeader, shape: tuple[int, int, int]) -> tuple[Affine, tuple[str, ...]]:
    checked = header.checked.copy()
    notes = _fill_sizes(header, checked, shape)
    if header.is_analyze:
        base = np.asarray(checked.get_best_affine(), np.float64)
        return base, (
            *notes,
            f"Analyze 7.5 headers store no orientation: left and right may be swapped; {ANALYZE_IN_ITK}",
        )
    sform = int(checked["sform_code"])
    qform = int(checked["qform_code"])
    qform_notes = _repair_quaternion(header, checked) if qform else ()
    if not sform and not qform:
        codes = [int(header.stored[name]) for name in ("sform_code", "qform_code")]
        why = "are 0" if not any(codes) else f"{codes[0]} and {codes[1]} are not valid"
        notes += (f"the header does not give position and orientation (sform and qform codes {why})",)
        return np.asarray(checked.get_base_affine(), np.float64), notes
    by_sform = np.asarray(checked.get_sform(), np.float64)
    if sform and np.isfinite(by_sform).all() and not is_singular(by_sform):
        return by_sform, _form_notes(header, checked, by_sform, shape)
    if not qform:
        completed = _complete(by_sform, shape, float(checked["pixdim"][3]))
        return completed, ("the sform has no third axis for this slice; an orthogonal one is assumed",)
    by_qform = np.asarray(checked.get_qform(), np.float64)
    notes += qform_notes
    return by_qform, (*notes, "sform is invalid; qform is used") if sform else notes


def _repair_quaternion(header: NiftiHeader, checked: Any) -> tuple[str, ...]:
    """Normalise a quaternion that rounding made longer than 1, as ITK does.

    Returns notes on the quaternion, and on a pixdim[0] (sign of the third axis) other than 1 and -1.
    """
    notes: tuple[str, ...] = ()
    parts = [np.float64(checked[f"quatern_{name}"]) for name in "bcd"]
    length = float(np.linalg.norm(parts))
    if QUATERNION_LENGTHS[0] < length <= QUATERNION_LENGTHS[1]:
        for name, part in zip("bcd", parts, strict=True):
            checked[f"quatern_{name}"] = (
                part / length * (1 + 1e-7)
            )  # slightly above 1, so that nibabel sets the fourth component to 0
        notes += (f"the quaternion of the qform has length {length:.7f}; it is normalised to 1",)
    sign = float(header.stored["pixdim"][0])
    if sign not in (-1.0, 0.0, 1.0):
        used = int(checked["pixdim"][0])
        notes += (f"pixdim[0] is {sign:g}, neither 1 nor -1; {used} is assumed",)
    return notes


def _fill_sizes(header: NiftiHeader, checked: Any, shape: tuple[int, int, int]) -> tuple[str, ...]:
    """Set an unknown slice thickness to 1, and return notes on this and on nibabel's repairs of pixdim."""
    notes: tuple[str, ...] = ()
    for axis, n in enumerate(shape, start=1):
        size = float(header.stored["pixdim"][axis])
        if n == 1 and not size > 0:
            checked["pixdim"][axis] = 1
            notes += (UNKNOWN_THICKNESS,)
        elif size == 0:
            notes += (f"pixdim[{axis}] is 0; 1 is assumed",)
        elif size < 0:
            notes += (f"pixdim[{axis}] is negative; its absolute value is used",)
    return tuple(dict.fromkeys(notes))


def _complete(sform: Affine, shape: tuple[int, int, int], thickness: float) -> Affine:
    """Add an orthogonal third axis to the sform of a single slice without one."""
    completed = sform.copy()
    if shape[2] == 1 and not sform[:3, 2].any():
        normal = np.cross(sform[:3, 0], sform[:3, 1])
        length = float(np.linalg.norm(normal))
        if length > 0:
            completed[:3, 2] = normal / length * thickness
    return completed


def _form_notes(header: NiftiHeader, checked: Any, sform: Affine, shape: tuple[int, int, int]) -> tuple[str, ...]:
    """Return notes if the sform, which is used, contradicts the qform or pixdim."""
    notes: tuple[str, ...] = ()
    if int(checked["qform_code"]):
        scale = np.diag([header.mm_per_unit] * 3 + [1.0])
        try:
            gap = corner_distance_mm(Grid(shape, scale @ sform), Grid(shape, scale @ checked.get_qform()))
            if gap > MAX_FORM_DIFFERENCE_MM * min(1.0, *(s * header.mm_per_unit for s in spacing_mm(sform))):
                notes += (f"sform and qform differ by up to {gap:.3g} mm; sform is used",)
        except (GeometryError, ValueError):
            notes += ("qform cannot be read; sform is used",)
    sizes = np.array(checked["pixdim"][1:4], np.float64)
    used = np.array(spacing_mm(sform))
    if (np.abs(used - sizes) > MAX_SIZE_DIFFERENCE * used).any():
        vectors = [(v * header.mm_per_unit).tolist() for v in (used, sizes)]
        by_sform, by_pixdim = format_vectors_apart(vectors, decimals=2, joint=" x ")
        notes += (f"voxels measure {by_sform} mm by the sform, {by_pixdim} mm by pixdim; sform is used",)
    return notes


def _unit_notes(header: NiftiHeader, affine: Affine) -> tuple[str, ...]:
    """Return a note if the unit's code is unknown, or the voxel size is implausible."""
    if header.unit not in MM_PER_UNIT:
        return (f"the header's unit of length has an unknown code ({header.unit}); millimetres are assumed",)
    sizes = spacing_mm(affine)
    if min(sizes) < PLAUSIBLE_MM[0] or max(sizes) > PLAUSIBLE_MM[1]:
        size = " x ".join(f"{s:.4g}" for s in sizes)
        return (f"voxels of {size} mm are implausible; the header's unit is {UNIT_NAMES[header.unit]}",)
    return ()


def _check(path: Path, header: NiftiHeader) -> None:
    """Raise `ScanError` unless the header describes a volume of real numbers that fits in its file."""
    shape = header.shape
    if len(header.stored_shape) < 2 or len(shape) > 4 or min(shape) < 1:
        raise ScanError(
            f"{path.name} is not a volume",
            expected="2 or 3 axes of voxels, and 1 of channels",
            found=f"shape {header.stored_shape}",
            remedy="split time series into volumes",
        )
    dtype = header.checked.get_data_dtype()
    if dtype.fields is not None:
        raise ScanError(
            f"{path.name} holds colours",
            expected="one number for each voxel",
            found=str(dtype),
            remedy="convert it to greyscale",
        )
    if dtype.kind not in "iuf":
        raise ScanError(
            f"{path.name} does not hold real numbers",
            expected="integers or floats",
            found=str(dtype),
            remedy="save only magnitude or phase" if dtype.kind == "c" else "export it again",
        )
    max_ratio = MAX_DEFLATE_RATIO if is_gzip(header.values) else 1
    check_claim(path, shape, dtype.itemsize, data=header.values, max_ratio=max_ratio)


def _find_values(path: Path) -> Path:
    """Return the file of a header's values; raises `ScanError` if it is missing."""
    if not path.name.lower().endswith((".hdr", ".hdr.gz")):
        return path
    values = _beside(path, VALUE_SUFFIXES)
    if values is None:
        raise ScanError(
            f"{path.name} is a header without its values",
            expected=f"{_stem(path)}.img in the same folder",
            remedy="copy both files of the pair",
        )
    return values


def _beside(path: Path, suffixes: tuple[str, ...]) -> Path | None:
    """Return the file with the same stem and one of `suffixes`, in upper or lower case, or None."""
    stem = _stem(path)
    for suffix in suffixes:
        for other in (path.with_name(stem + suffix), path.with_name(stem + suffix.upper())):
            if other.is_file():
                return other
    return None


def _stem(path: Path) -> str:
    for suffix in (*SUFFIXES, *VALUE_SUFFIXES):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def _unreadable(path: Path, found: str, remedy: str = "export it again") -> ScanError:
    return ScanError(f"{path.name} cannot be read as NIfTI", found=found, remedy=remedy)
