"""NRRD and MetaImage files in (SimpleITK)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medhybrid.errors import GeometryError, ScanError
from medhybrid.geometry import LPS_FROM_RAS, Affine
from medhybrid.scans.claims import check_claim
from medhybrid.scans.scan import Scan, Source
from medhybrid.scans.text_headers import check_text_header

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")


def read_itk(path: Path) -> Scan:
    """Read a 3-D file; a vector image or a 4-D one gives channels.

    Raises
    ------
    ScanError
        If the file cannot be read, is no volume, or its affine is unusable.
    """
    import SimpleITK as sitk

    shape, affine = itk_header(path)
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ScanError(f"{path.name} is no volume", expected="3 axes and channels", found=f"shape {shape}")
    try:
        image = sitk.ReadImage(str(path))
        array: Any = sitk.GetArrayFromImage(image)  # (z, y, x[, C]) or (c, z, y, x)
    except RuntimeError as error:
        raise ScanError(f"{path.name} cannot be read", found=_last_line(error), remedy="export it again") from error
    is_vector = image.GetNumberOfComponentsPerPixel() > 1
    if image.GetDimension() == 4 and is_vector:
        raise ScanError(f"{path.name} has both a fourth axis and vectors", remedy="split it into volumes")
    if is_vector:
        array = array.transpose(3, 2, 1, 0)  # (z, y, x, C) -> (C, X, Y, Z)
    else:
        array = array.transpose(0, 3, 2, 1) if array.ndim == 4 else array.transpose(2, 1, 0)[None]
    array = array if array.dtype.kind in "iu" else array.astype(np.float32)
    try:
        return Scan(array, affine, Source("itk", (path,)), path.stem, ("",) * array.shape[0])
    except GeometryError as error:
        raise ScanError(f"{path.name} has an unusable affine", found=str(error), remedy="repair its header") from error


def itk_header(path: Path) -> tuple[tuple[int, ...], Affine]:
    """Shape `(X, Y, Z[, C])` and affine to RAS mm without reading the values; raises `ScanError`."""
    import SimpleITK as sitk

    values = check_text_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ScanError(f"{path.name} cannot be read", found=_last_line(error), remedy="export it again") from error
    dimension = reader.GetDimension()
    if dimension not in (3, 4):
        raise ScanError(f"{path.name} is no volume", expected="3 or 4 axes", found=f"{dimension} axes")
    direction = np.array(reader.GetDirection()).reshape(dimension, dimension)[:3, :3]
    lps = np.eye(4)
    lps[:3, :3] = direction * np.array(reader.GetSpacing()[:3])
    lps[:3, 3] = reader.GetOrigin()[:3]
    n_components = reader.GetNumberOfComponents()
    shape = (*reader.GetSize(), *([n_components] if n_components > 1 else []))
    value_bytes = sitk.Image([1, 1, 1], reader.GetPixelID(), n_components).GetSizeOfPixelComponent()
    check_claim(path, shape, value_bytes, data=values.path, is_compressed=values.is_compressed)
    return shape, LPS_FROM_RAS @ lps


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
