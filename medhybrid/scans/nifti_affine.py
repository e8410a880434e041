"""Affine of a NIfTI or Analyze header, with remarks on missing, repaired or contradictory fields.

The sform is preferred to the qform, as in nibabel. Lengths in micrometres or metres are converted to millimetres, as in ITK.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medhybrid.errors import GeometryError
from medhybrid.geometry import Affine, Grid, corner_distance_mm, spacing_mm
from medhybrid.geometry.affine import is_singular
from medhybrid.number_text import format_vectors_apart
from medhybrid.scans.image_header import UNKNOWN_THICKNESS
from medhybrid.scans.nifti_header import MM_PER_UNIT, NiftiHeader
from medhybrid.scans.spm_matrix import spm_affine

MAX_FORM_DIFFERENCE_MM = 0.1
"""Largest distance between a corner placed by sform and by qform without a note."""

MAX_SIZE_DIFFERENCE = 1e-3
"""Largest relative difference between the voxel sizes of sform and pixdim without a note."""

QUATERNION_LENGTHS = (1 + 1.7e-7, 1.0005)
"""Lengths of quaternions that rounding made too long. nibabel refuses them."""

PLAUSIBLE_MM = (0.01, 100.0)
"""Voxel sizes outside this range get a note: the unit is probably wrong."""

UNIT_NAMES = {0: "no unit", 1: "metres", 2: "millimetres", 3: "micrometres"}

OF_SPM = (
    "position and orientation are those of the .mat file of SPM; programs that do not read it place the image elsewhere"
)

FORM_CODES = ("sform_code", "qform_code")

NEGATIVE = "is negative"

TURNED_IN_ITK = "the sform is used, and ITK-based programs turn this axis of the image and of its mask"

ANALYZE_IN_ITK = "ITK-based programs place the first voxel of this image at the origin, but not that of its NIfTI mask"


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
    notes = sizes = _fill_sizes(header, checked, shape)
    if header.is_analyze:
        by_spm = spm_affine(header.values)
        if by_spm is not None:
            return by_spm, (*notes, OF_SPM)
        base = np.asarray(checked.get_best_affine(), np.float64)
        return base, (
            *notes,
            f"Analyze 7.5 headers store no orientation: left and right may be swapped; {ANALYZE_IN_ITK}",
        )
    notes = (*sizes, *_code_notes(header))
    sform = int(checked["sform_code"])
    qform = int(checked["qform_code"])
    qform_notes = _repair_quaternion(header, checked) if qform else ()
    if not sform and not qform:
        codes = [int(header.stored[name]) for name in FORM_CODES]
        why = "are 0" if not any(codes) else f"{codes[0]} and {codes[1]} are not valid"
        notes = (
            *sizes,
            f"the header does not give position and orientation (sform and qform codes {why})",
        )
        return np.asarray(checked.get_base_affine(), np.float64), notes
    by_sform = np.asarray(checked.get_sform(), np.float64)
    if sform and np.isfinite(by_sform).all() and not is_singular(by_sform):
        turned = tuple(f"{n.partition(';')[0]}; {TURNED_IN_ITK}" for n in sizes if NEGATIVE in n)
        return by_sform, (*turned, *_code_notes(header), *_form_notes(header, checked, by_sform, shape))
    if not qform:
        completed = _complete(by_sform, shape, float(checked["pixdim"][3]))
        return completed, ("the sform has no third axis for this slice; an orthogonal one is assumed",)
    by_qform = np.asarray(checked.get_qform(), np.float64)
    notes += qform_notes
    return by_qform, (*notes, "sform is invalid; qform is used") if sform else notes


def _code_notes(header: NiftiHeader) -> tuple[str, ...]:
    """Return notes on form codes that are not valid, and that nibabel takes for 0."""
    codes = {name: int(header.stored[name]) for name in FORM_CODES}
    return tuple(
        f"{name} is {code}, which is not valid; 0 is used" for name, code in codes.items() if not 0 <= code <= 5
    )


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
            notes += (f"pixdim[{axis}] {NEGATIVE}; its absolute value is used",)
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
