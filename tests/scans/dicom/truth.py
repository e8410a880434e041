"""Independent check of converted volumes against each frame's header, without code of the reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from medhybrid.scans import Scan

TOLERANCE_VOXEL = 0.02


def is_right(files: Sequence[Path], scans: Sequence[Scan]) -> bool:
    """Return True if every rescaled pixel of every frame is at its position in a scan, and no other voxels exist."""
    n_pixels = 0
    for path in files:
        for pixels, orientation, position, spacing in frames_of(pydicom.dcmread(path, force=True)):
            n_pixels += pixels.size
            rows, columns = np.indices(pixels.shape)
            turn, (row_mm, column_mm) = np.array(orientation, float), np.array(spacing, float)
            lps = (
                np.array(position, float)
                + columns[..., None] * column_mm * turn[:3]
                + rows[..., None] * row_mm * turn[3:]
            )
            if not any(_stands_in(scan, lps * (-1, -1, 1), pixels) for scan in scans):
                return False
    return n_pixels == sum(scan.array[0].size for scan in scans) and n_pixels > 0


def frames_of(d: pydicom.Dataset) -> list[tuple[np.ndarray, Any, Any, Any]]:
    pixels = d.pixel_array.astype(float)
    if "PerFrameFunctionalGroupsSequence" not in d:
        if d.PhotometricInterpretation == "MONOCHROME1":
            pixels = 2**d.BitsStored - 1 - pixels
        pixels = pixels * float(d.get("RescaleSlope", 1)) + float(d.get("RescaleIntercept", 0))
        return [(pixels, d.ImageOrientationPatient, d.ImagePositionPatient, d.PixelSpacing)]
    shared = d.SharedFunctionalGroupsSequence[0]
    out = []
    for i, f in enumerate(d.PerFrameFunctionalGroupsSequence):

        def get(name: str, f: Any = f) -> Any:
            return (f.get(name) or shared.get(name) or [None])[0]

        scale = get("PixelValueTransformationSequence")
        values = pixels[i] if scale is None else pixels[i] * float(scale.RescaleSlope) + float(scale.RescaleIntercept)
        out.append(
            (
                values,
                get("PlaneOrientationSequence").ImageOrientationPatient,
                get("PlanePositionSequence").ImagePositionPatient,
                get("PixelMeasuresSequence").PixelSpacing,
            )
        )
    return out


def _stands_in(scan: Scan, ras: np.ndarray, values: np.ndarray) -> bool:
    to_voxel = np.linalg.inv(scan.affine)
    voxels = ras @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    index = np.rint(voxels).astype(int)
    inside = (index >= 0).all() and (index < scan.array.shape[1:]).all()
    if not inside or np.abs(voxels - index).max() > TOLERANCE_VOXEL:
        return False
    found = scan.array[0][tuple(np.moveaxis(index, -1, 0))]
    return bool(np.allclose(found, values, rtol=1e-4, atol=1e-3))
