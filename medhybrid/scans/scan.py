"""A scan in memory: values, their place in the world, and enough to write back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import GeometryError
from medhybrid.geometry import Affine, Grid


@dataclass(frozen=True, slots=True)
class Source:
    """Where a scan came from.

    Attributes
    ----------
    kind : str
        ``nifti``, ``itk`` or ``dicom``.
    paths : tuple of Path
        The files, for a DICOM series in slice order.
    header : Any
        What writing back needs: a NIfTI header, or the DICOM data sets without pixels.
    files, frames : tuple of int
        For DICOM, the place in `paths` of each slice's file, and its frame number there (from 0), in slice order.
    regular : RegularGrid, optional
        For DICOM slices that were resampled to a regular grid: the way back to the slices.
    acquisition : dict
        For DICOM, what the first slice says of itself beside the header of its file.
    """

    kind: str
    paths: tuple[Path, ...]
    header: Any = field(default=None, repr=False, compare=False)
    files: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    regular: Any = field(default=None, repr=False, compare=False)
    acquisition: dict[str, str | float] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Scan:
    """Values on a grid.

    Attributes
    ----------
    array : (C, X, Y, Z) ndarray
        float32, or the file's integer type.
    affine : (4, 4) float64 ndarray
        Voxel index to RAS mm.
    case : str
        Pseudonymous name.
    channels : (C,) tuple of str
        Channel names; empty strings where the file does not tell.
    notes : tuple of str
        What a reader should know, for example that two affines in the header differ.
    searched : Path, optional
        The folder in which the scan was found: tables that say something of it may stand as far up as this.
    """

    array: NDArray[np.generic]
    affine: Affine
    source: Source
    case: str
    channels: tuple[str, ...]
    notes: tuple[str, ...] = ()
    searched: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or len(self.channels) != self.array.shape[0]:
            raise GeometryError(
                f"case {self.case}: scan has the wrong shape",
                expected=f"(channels, X, Y, Z) with {len(self.channels)} channels",
                found=str(self.array.shape),
            )
        _ = self.grid  # checks the affine

    @property
    def grid(self) -> Grid:
        """Shape and affine."""
        x, y, z = self.array.shape[1:]
        return Grid((x, y, z), self.affine)

    def named(self, case: str, channels: tuple[str, ...] | None = None) -> Scan:
        """The same scan under another case name."""
        return replace(self, case=case, channels=channels or self.channels)
