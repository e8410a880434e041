"""Common interpretation of NRRD and MetaImage headers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medhybrid.errors import ScanError
from medhybrid.geometry import LPS_FROM_RAS, Affine
from medhybrid.scans.stored_values import StoredValues

MM_PER_UNIT = {
    **dict.fromkeys(("", "mm", "millimeter", "millimeters", "millimetre", "millimetres", "unknown", "?", "???"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers", "micrometre"), 0.001),
    "micrometres": 0.001,
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1e-6),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
}

MASK_ELSEWHERE = "so they show the NIfTI mask of this image at another position than the image"

UNKNOWN_THICKNESS = "the thickness of the slice is unknown; 1 mm is assumed"


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Interpreted NRRD or MetaImage header.

    Attributes
    ----------
    affine : (4, 4) float64 ndarray
        Voxel index to RAS mm.
    stored : StoredValues
        Storage of the values.
    spatial_axes : tuple of int
        The stored axes X and Y, and Z if it exists.
    notes : tuple of str
        Remarks on doubtful or assumed values.
    """

    affine: Affine
    stored: StoredValues
    spatial_axes: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def channel_axes(self) -> tuple[int, ...]:
        """Return the stored non-spatial axes that are longer than 1."""
        shape = self.stored.shape
        return tuple(a for a in range(len(shape)) if a not in self.spatial_axes and shape[a] != 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape `(X, Y, Z)`, or `(X, Y, Z, C)` with channels."""
        shape = self.stored.shape
        spatial = tuple(shape[a] for a in self.spatial_axes)
        return *spatial, *(1,) * (3 - len(spatial)), *(shape[a] for a in self.channel_axes)


def affine_from_lps(lps: Affine) -> Affine:
    """Convert an affine to LPS mm into one to RAS mm."""
    return LPS_FROM_RAS @ lps


def unit_notes(path: Path, unit: str) -> tuple[float, tuple[str, ...]]:
    """Return the factor from a unit of length to mm, and a note unless it is 1; raises `ScanError` if it is unknown."""
    name = unit.strip().strip('"').strip().lower()
    if name in ("pixel", "pixels"):
        return 1.0, ("its unit of length is a pixel: 1 mm is assumed for each unit",)
    if name not in MM_PER_UNIT:
        raise ScanError(
            f"{path.name} has an unknown unit of length",
            expected="mm, cm, m or microns",
            found=unit[:40],
            remedy="correct the unit in its header",
        )
    factor = MM_PER_UNIT[name]
    if factor == 1:
        return factor, ()
    return factor, (f"lengths in {name} were converted to mm; ITK-based programs ignore the unit, {MASK_ELSEWHERE}",)
