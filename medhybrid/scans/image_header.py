"""What NRRD and MetaImage headers have in common once they are interpreted."""

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

MASK_ELSEWHERE = "so that a mask of this image, which is NIfTI, lies elsewhere there than the image"

UNKNOWN_THICKNESS = "the thickness of the slice is unknown; 1 mm is assumed"


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """A header, interpreted.

    Attributes
    ----------
    affine : (4, 4) float64 ndarray
        Voxel index to RAS mm.
    stored : StoredValues
        How the values are stored.
    spatial_axes : tuple of int
        The stored axes that are X, Y and, if there is one, Z.
    notes : tuple of str
        What is doubtful.
    """

    affine: Affine
    stored: StoredValues
    spatial_axes: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def channel_axes(self) -> tuple[int, ...]:
        """Stored axes longer than 1 that are not spatial."""
        shape = self.stored.shape
        return tuple(a for a in range(len(shape)) if a not in self.spatial_axes and shape[a] != 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape `(X, Y, Z)`, or `(X, Y, Z, C)`."""
        shape = self.stored.shape
        spatial = tuple(shape[a] for a in self.spatial_axes)
        return *spatial, *(1,) * (3 - len(spatial)), *(shape[a] for a in self.channel_axes)


def affine_from_lps(lps: Affine) -> Affine:
    """Return an affine to RAS mm for one to LPS mm."""
    return LPS_FROM_RAS @ lps


def unit_notes(path: Path, unit: str) -> tuple[float, tuple[str, ...]]:
    """Return the millimetres in a unit of length, and a note if it is another; raises `ScanError` if it is unknown."""
    name = unit.strip().strip('"').strip().lower()
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
    return factor, (f"lengths in {name} were converted to mm; programs on ITK ignore the unit, {MASK_ELSEWHERE}",)
