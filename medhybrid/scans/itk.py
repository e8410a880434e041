"""Reading of NRRD and MetaImage files.

The values are not read by SimpleITK: its readers do not compare the checksums of compressed values, and do not report a
stream that ends early.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import GeometryError, ScanError
from medhybrid.geometry import Affine, is_sheared
from medhybrid.scans.claims import check_claim, refuse_overflow, report_affine
from medhybrid.scans.image_header import ImageHeader
from medhybrid.scans.metaimage import read_meta_header
from medhybrid.scans.nrrd import read_nrrd_header
from medhybrid.scans.scan import Scan, Source
from medhybrid.scans.stored_values import read_values
from medhybrid.scans.streams import check_surplus
from medhybrid.scans.text_headers import is_meta, read_text_header

SHEARED_NOTE = "its axes are not at right angles; ITK-based programs open the image, but refuse its NIfTI mask"

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")


def read_itk(path: Path) -> Scan:
    """Read a 3-D file. The components of a vector image, or the fourth axis of a 4-D image, become channels.

    Raises
    ------
    ScanError
        If the file is damaged or cannot be read, is not a volume, or has an invalid affine.
    """
    header = read_image_header(path)
    values, n_surplus = read_values(path.name, header.stored)
    array = _channels_first(values, header)
    if array.dtype.kind not in "iu":
        with np.errstate(over="ignore"):
            narrow = array.astype(np.float32, copy=False)
        if array.dtype.itemsize > 4:
            refuse_overflow(path, narrow, array)
        array = narrow
    x, y = header.shape[:2]
    notes = header.notes + check_surplus(path, n_surplus, header.stored.n_bytes, array.size // (x * y))
    try:
        scan = Scan(array, header.affine, Source("itk", (path,)), path.stem, ("",) * array.shape[0], notes)
    except GeometryError as error:
        raise report_affine(path, error) from error
    return replace(scan, notes=(*notes, SHEARED_NOTE)) if is_sheared(scan.affine) else scan


def itk_header(path: Path) -> tuple[tuple[int, ...], Affine]:
    """Read the shape `(X, Y, Z[, C])` and the affine to RAS mm, without the values; raises `ScanError`."""
    header = read_image_header(path)
    return header.shape, header.affine


def read_image_header(path: Path) -> ImageHeader:
    """Read and interpret a header; raises `ScanError`, also if the file is too small for its header."""
    text = read_text_header(path)
    try:
        header = read_meta_header(text) if is_meta(path) else read_nrrd_header(text)
    except ScanError:
        raise
    except Exception as error:  # damaged headers raise many kinds of exceptions
        raise ScanError(f"{path.name} has an unusable header", found=str(error), remedy="export it again") from error
    stored = header.stored
    if len(header.shape) > 4 or min(header.shape) < 1:
        raise ScanError(
            f"{path.name} is not a volume",
            expected="3 axes, or 4 with channels",
            found=f"shape {header.shape}",
            remedy="split it into volumes",
        )
    check_claim(path, header.shape, stored.dtype.itemsize, data=stored.path, max_ratio=stored.max_ratio)
    return header


def _channels_first(values: NDArray[np.generic], header: ImageHeader) -> NDArray[np.generic]:
    """Reorder values from their stored axes to `(C, X, Y, Z)`."""
    kept = (*header.channel_axes, *header.spatial_axes)
    dropped = tuple(a for a in range(values.ndim) if a not in kept)
    moved = values.transpose(*kept, *dropped)
    n_channels = values.shape[header.channel_axes[0]] if header.channel_axes else 1
    spatial = tuple(values.shape[a] for a in header.spatial_axes)
    return moved.reshape(n_channels, *spatial, *(1,) * (3 - len(spatial)))
