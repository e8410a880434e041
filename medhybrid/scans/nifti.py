"""NIfTI files in and out (nibabel)."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import GeometryError, OutputError, ScanError
from medhybrid.geometry import Affine, corner_distance_mm, is_sheared
from medhybrid.geometry.affine import Grid
from medhybrid.scans.claims import check_claim
from medhybrid.scans.scan import Scan, Source

SUFFIXES = (".nii.gz", ".nii")

MAX_FORM_DIFFERENCE_MM = 0.1
"""Where sform and qform place a corner further apart than this, the scan carries a note."""


def strip_suffix(path: Path) -> str:
    """File name without `.nii` or `.nii.gz`."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def read_nifti(path: Path) -> Scan:
    """Read a 3-D NIfTI file, or a 4-D one with channels last.

    Raises
    ------
    ScanError
        If the file is cut off, is no image of numbers, has another number of axes, or its affine is unusable.
    """
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        image: Any = nib.load(path)
        shape = tuple(int(n) for n in image.shape)
        shape = shape[:3] if len(shape) == 4 and shape[3] == 1 else shape
        stored = image.header.get_data_dtype()
        _check_shape(path, shape, stored)
        check_claim(path, shape, stored.itemsize, data=path, is_compressed=path.name.lower().endswith(".gz"))
        affine = np.asarray(image.affine, np.float64)
        array = _values(image).reshape(shape)
    except ScanError:
        raise
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        OverflowError,
        zlib.error,
        HeaderDataError,
        ImageFileError,
    ) as error:
        raise ScanError(f"{path.name} cannot be read as NIfTI", found=str(error), remedy="export it again") from error
    array = array[None] if array.ndim == 3 else np.moveaxis(array, 3, 0)  # (X, Y, Z[, C]) -> (C, X, Y, Z)
    try:
        return Scan(
            array=array,
            affine=affine,
            source=Source("nifti", (path,), image.header.copy()),
            case=strip_suffix(path),
            channels=("",) * array.shape[0],
            notes=_notes(image, (array.shape[1], array.shape[2], array.shape[3])),
        )
    except GeometryError as error:
        raise ScanError(f"{path.name} has an unusable affine", found=str(error), remedy="repair its header") from error


def nifti_header(path: Path) -> tuple[tuple[int, ...], Affine]:
    """Shape and affine without reading the values; raises `ScanError`."""
    import nibabel as nib

    try:
        image: Any = nib.load(path)
        return tuple(int(n) for n in image.shape), np.asarray(image.affine, np.float64)
    except Exception as error:
        raise ScanError(f"{path.name} cannot be read as NIfTI", found=str(error)) from error


def write_nifti(path: str | Path, array: NDArray[np.generic], affine: Affine, *, like: Source | None = None) -> None:
    """Write `array` (X, Y, Z), or (C, X, Y, Z) with channels last in the file, atomically.

    Parameters
    ----------
    path : str or Path
        Ends in `.nii` or `.nii.gz`.
    array : ndarray
        Truth values and long whole numbers are stored in the shortest type that holds them, half precision as float32.
    like : Source, optional
        A NIfTI source whose codes and units are kept.

    Raises
    ------
    GeometryError
        If the array has other dimensions, or the affine is none.
    OutputError
        If the name is of another kind of file, or a number too long.
    """
    import nibabel as nib

    path, array = Path(path), np.asarray(array)
    if not path.name.lower().endswith(SUFFIXES):
        raise OutputError(f"{path.name} cannot be written as NIfTI", expected=f"a name with {' or '.join(SUFFIXES)}")
    if array.ndim not in (3, 4):
        raise GeometryError(f"an array of shape {array.shape} is no volume", expected="(X, Y, Z) or (C, X, Y, Z)")
    if np.shape(affine) != (4, 4) or not np.isfinite(affine).all():
        raise GeometryError("the affine places no voxel", expected="4 x 4 finite numbers", found=str(affine))
    header = like.header if like is not None and like.kind == "nifti" else None
    array = _storable(array)
    image = _nifti_image(array if array.ndim == 3 else np.moveaxis(array, 0, 3), affine, header)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        nib.save(image, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def nifti_bytes(array: NDArray[np.generic], affine: Affine, *, slope: float = 1.0, intercept: float = 0.0) -> bytes:
    """The content of a `.nii.gz` file of `array` (X, Y, Z), whose values are `slope * array + intercept`."""
    image = _nifti_image(array, affine, None)
    image.header.set_slope_inter(slope, intercept)
    return gzip.compress(image.to_bytes(), 6, mtime=0)


def _storable(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """In a type that every reader of NIfTI knows."""
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype == bool or array.dtype in (np.int64, np.uint64):
        least, largest = (int(array.min()), int(array.max())) if array.size else (0, 0)
        for kind in (np.uint8, np.int16, np.uint16, np.int32, np.uint32):
            if np.iinfo(kind).min <= least and largest <= np.iinfo(kind).max:
                return array.astype(kind)
        if max(-least, largest) > 2**53:  # beyond which float64 rounds
            raise OutputError(f"{array.dtype} values up to {largest} cannot be written as NIfTI", expected="up to 2^53")
        return array.astype(np.float64)
    return array


def _nifti_image(data: NDArray[np.generic], affine: Affine, header: Any) -> Any:
    import nibabel as nib

    image = nib.Nifti1Image(data, affine)
    code = int(header["sform_code"]) or int(header["qform_code"]) if header is not None else 1
    image.set_sform(affine, code=code or 1)
    if is_sheared(affine):
        image.set_qform(None, code=0)  # a quaternion cannot hold shear; readers that know only qform then refuse
    else:
        image.set_qform(affine, code=code or 1)
    image.header.set_xyzt_units("mm")
    return image


def _check_shape(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ScanError(
            f"{path.name} is no volume",
            expected="3 axes, or 4 with channels last",
            found=f"shape {shape}",
            remedy="split time series into volumes",
        )
    if dtype.fields is not None or dtype.kind == "c":
        raise ScanError(f"{path.name} holds no plain numbers", expected="integers or floats", found=str(dtype))


def _values(image: Any) -> NDArray[np.generic]:
    """Integers as they are where the file has no scaling, else float32."""
    proxy = image.dataobj  # the header's own slope is reset by nibabel on loading
    stored = image.header.get_data_dtype()
    if stored.kind in "iu" and proxy.slope == 1 and proxy.inter == 0:
        integers: NDArray[np.generic] = np.asarray(proxy.get_unscaled()).astype(stored.newbyteorder("="))
        return integers
    floats: NDArray[np.generic] = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
    return floats


def _notes(image: Any, shape: tuple[int, int, int]) -> tuple[str, ...]:
    header = image.header
    if "sform_code" not in header:
        return ()
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if not sform and not qform:
        return ("the header says nothing of position and orientation (sform and qform codes are 0)",)
    if sform and qform:
        try:
            gap = corner_distance_mm(Grid(shape, image.get_sform()), Grid(shape, image.get_qform()))
        except (GeometryError, ValueError):
            return ("qform cannot be read; sform is used",)
        if gap > MAX_FORM_DIFFERENCE_MM:
            return (f"sform and qform differ by up to {gap:.1f} mm; sform is used",)
    return ()
