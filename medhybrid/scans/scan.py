"""Scan in memory: values, affine, and the source that outputs refer to."""

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
    """Origin of a scan.

    Attributes
    ----------
    kind : str
        ``nifti``, ``itk``, ``raster`` or ``dicom``.
    paths : tuple of Path
        The files; for a DICOM series, in slice order.
    header : Any
        Header for writing masks: a NIfTI header, the `RasterHeader`, or the DICOM data sets without pixels.
    files, frames : tuple of int
        For DICOM, the index in `paths` of each slice's file, and its frame number in the file (from 0), in slice order.
    regular : RegularGrid, optional
        For DICOM slices that were resampled to a regular grid: the mapping back to the slices.
    acquisition : dict
        For DICOM, acquisition parameters of the first slice that differ from slice to slice.
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
    """Image of one or several channels on a grid.

    Attributes
    ----------
    array : (C, X, Y, Z) ndarray
        float32, or the file's integer type.
    affine : (4, 4) float64 ndarray
        Voxel index to RAS mm.
    case : str
        Pseudonymous name.
    channels : (C,) tuple of str
        Channel names; empty strings if the file does not give them.
    notes : tuple of str
        Remarks for the user, for example on two affines of a header that differ.
    searched : Path, optional
        The folder that was searched for scans. Metadata tables (`context.csv`) are read up to this folder.
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
        _ = self.grid  # raises for an invalid affine

    @property
    def grid(self) -> Grid:
        """Return the grid: shape `(X, Y, Z)` and affine."""
        x, y, z = self.array.shape[1:]
        return Grid((x, y, z), self.affine)

    def named(self, case: str, channels: tuple[str, ...] | None = None) -> Scan:
        """Return the same scan with another case name, and optionally other channel names."""
        return replace(self, case=case, channels=channels or self.channels)
