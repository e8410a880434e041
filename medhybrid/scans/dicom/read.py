"""A volume of a DICOM series to a `Scan`: right, or refused with a code, the numbers and a remedy.

pydicom decodes, with decoders of permissive licence; `frames`, `volumes` and `stack` say from the headers where every
frame belongs. Tests hold the result against highdicom, SimpleITK and each frame's own header.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.config import ScansConfig
from medhybrid.errors import SeriesError
from medhybrid.scans.dicom.frames import Frame, integer, text
from medhybrid.scans.dicom.headers import describe, load_dataset, without_copies
from medhybrid.scans.dicom.irregular import RegularGrid
from medhybrid.scans.dicom.volumes import Volume, split_volumes
from medhybrid.scans.scan import Scan, Source

MAX_VALUES = 4_000_000_000
"""A series that claims more values than this is refused before memory is asked for."""

DECODING_THREADS = min(4, os.cpu_count() or 1)


def read_series(paths: Sequence[Path], *, case: str, part: str = "", options: ScansConfig | None = None) -> Scan:
    """Read one volume of a series.

    Parameters
    ----------
    paths : sequence of Path
        The files of one series, in any order.
    case : str
        Name of the scan.
    part : str
        Which volume, where the series holds several.
    options : ScansConfig, optional
        What is done with tilted and unevenly spaced series; refused by default.

    Raises
    ------
    SeriesError
        If it is not one volume of grey values whose every frame can be placed.
    """
    datasets = {path: _load(path) for path in paths}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # header oddities that do not bear on geometry, which is checked
        headers = [describe(d, path) for path, d in datasets.items()]
        _refuse(headers, case)
        volume = _choose(split_volumes(without_copies(headers), series=case), part, case)
        return _assemble(volume, datasets, case, options or ScansConfig())


def _load(path: Path) -> Any:
    dataset = load_dataset(path)
    if dataset is None:
        raise SeriesError(f"{path.name} is no DICOM file", code="no_dicom", path=path, remedy="leave the file out")
    return dataset


def _refuse(headers: Sequence[Any], case: str) -> None:
    if not headers:
        raise SeriesError(f"{case}: no DICOM file", code="no_dicom", series=case, remedy="check the folder")
    for h in headers:
        if h.problem:
            raise h.problem
        if h.left_aside:
            code = "localizer" if h.left_aside == "localizer" else "not_image"
            raise SeriesError(f"{h.path.name}: {h.left_aside}", code=code, path=h.path, remedy="leave the file out")
    if len({h.series_uid for h in headers}) > 1:
        raise SeriesError(
            f"{case}: files of {len({h.series_uid for h in headers})} series",
            code="multi_volume",
            series=case,
            expected="one series",
            remedy="give the whole folder, so that they are told apart",
        )


def _choose(volumes: Sequence[Volume], part: str, case: str) -> Volume:
    if len(volumes) == 1:
        return volumes[0]
    for volume in volumes:
        if volume.name == part:
            return volume
    raise SeriesError(
        f"{case}: a series of {len(volumes)} volumes",
        code="multi_volume",
        series=case,
        expected="one volume" if not part else f"one named {part}",
        found=", ".join(v.name for v in volumes[:8]),
        remedy="convert it first, one file a volume: medhybrid convert",
    )


def _assemble(volume: Volume, datasets: dict[Path, Any], case: str, options: ScansConfig) -> Scan:
    stack, frames = volume.stack, volume.stack.frames
    fault, notes = stack.fault, []
    may_keep = fault is not None and fault.code == "gantry_tilt" and options.keep_sheared
    if fault is not None and not may_keep and not options.resample_irregular:
        raise fault
    values = _values(frames, datasets)  # (Z, Y, X)
    array: NDArray[np.float32] = values.transpose(2, 1, 0)
    affine, regular = stack.affine, None
    if fault is not None:
        notes.append(f"{fault.code.replace('_', ' ')}: {fault.found}")
        if not may_keep:
            regular = RegularGrid.of(stack)
            array, affine = regular.from_slices(array), regular.grid.affine
            notes.append(f"resampled to {regular.grid.spacing_mm[2]:.3f} mm")
    if not frames[0].frame_of_reference:
        notes.append("FrameOfReferenceUID is absent")
    ordered = list(dict.fromkeys(f.path for f in frames))
    headers = [datasets[path] for path in ordered]
    _supply_frame_of_reference(headers)
    return Scan(
        array=array[None],
        affine=affine,
        source=Source("dicom", tuple(ordered), tuple(headers), tuple(f.index for f in frames), regular),
        case=case,
        channels=(str(text(headers[0], "SeriesDescription")),),
        notes=tuple(notes),
    )


def _values(frames: Sequence[Frame], datasets: dict[Path, Any]) -> NDArray[np.float32]:
    """Rescaled values (Z, Y, X); pixel data is dropped from the data sets on the way."""
    shape = (len(frames), frames[0].rows, frames[0].columns)
    if int(np.prod(shape, dtype=object)) > MAX_VALUES:
        raise SeriesError(f"{frames[0].name}: too many values", code="truncated", found=str(shape))
    for path in {f.path for f in frames}:
        _refuse_short(datasets[path], path)
    try:
        out = np.empty(shape, np.float32)
    except MemoryError as error:
        raise SeriesError(f"{frames[0].name}: not enough memory for {shape} values", code="truncated") from error

    def fill(k: int) -> None:
        frame = frames[k]
        stored = _decode(datasets[frame.path], frame)
        np.multiply(stored, np.float32(frame.slope), out=out[k], casting="unsafe")
        out[k] += np.float32(frame.intercept)

    with ThreadPoolExecutor(DECODING_THREADS) as pool:
        list(pool.map(fill, range(len(frames))))
    for path in {f.path for f in frames}:
        if "PerFrameFunctionalGroupsSequence" not in datasets[path]:
            datasets[path].PixelData = b""
    return out


def _refuse_short(dataset: Any, path: Path) -> None:
    """Pixel data that is absent, cut off, or of a transfer syntax that nothing here decodes."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    syntax = UID(text(getattr(dataset, "file_meta", {}), "TransferSyntaxUID") or "1.2.840.10008.1.2")
    pixels = dataset.get("PixelData") if "PixelData" in dataset else None
    if not isinstance(pixels, (bytes, bytearray)) or not pixels:
        raise _truncated(path, "pixel data", "none")
    try:
        is_known = syntax.is_transfer_syntax and not syntax.is_private
        decoder = get_decoder(syntax) if is_known else None
    except (NotImplementedError, ValueError):
        decoder = None
    if decoder is None or not decoder.is_available:
        raise SeriesError(
            f"{path.name}: nothing here decodes its transfer syntax",
            code="unsupported_codec",
            path=path,
            found=str(syntax.name),
            remedy="export it uncompressed, or as JPEG 2000, JPEG-LS or RLE",
        )
    n = integer(dataset, "NumberOfFrames") or 1
    bits = integer(dataset, "BitsAllocated") or 0
    if bits not in (8, 16, 32) or integer(dataset, "PixelRepresentation") not in (0, 1):
        raise SeriesError(
            f"{path.name}: its pixels cannot be read",
            code="not_image",
            path=path,
            expected="8, 16 or 32 bits a pixel, signed or unsigned",
            found=f"{bits} bits",
            remedy="export the series again",
        )
    if not syntax.is_encapsulated:
        expected = n * (integer(dataset, "Rows") or 0) * (integer(dataset, "Columns") or 0) * bits // 8
        if len(pixels) < expected or len(pixels) > expected + 1:
            raise _truncated(path, f"{expected} bytes of pixels", str(len(pixels)))


def _truncated(path: Path, expected: str, found: str) -> SeriesError:
    return SeriesError(
        f"{path.name} is cut off or damaged",
        code="truncated",
        path=path,
        expected=expected,
        found=found,
        remedy="export or copy the series again",
    )


def _decode(dataset: Any, frame: Frame) -> NDArray[np.generic]:
    """Stored values (Y, X) of a frame, MONOCHROME1 inverted."""
    from pydicom.pixels import pixel_array

    try:
        stored = pixel_array(dataset, index=frame.index, raw=True)
    except Exception as error:  # each decoder raises its own kinds
        raise _truncated(frame.path, "pixels that can be decoded", f"{type(error).__name__}") from error
    if stored.shape != (frame.rows, frame.columns):
        raise _truncated(frame.path, f"{frame.rows} x {frame.columns} pixels", str(stored.shape))
    if text(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        is_signed = integer(dataset, "PixelRepresentation") == 1
        top = -1 if is_signed else 2 ** (integer(dataset, "BitsStored") or 16) - 1
        return np.asarray(top - stored.astype(np.int64))
    return np.asarray(stored)


def _supply_frame_of_reference(headers: Sequence[Any]) -> None:
    """In memory only: one series with one geometry is one frame of reference, also where the UID was stripped."""
    from pydicom.uid import generate_uid

    for header in headers:
        if not text(header, "FrameOfReferenceUID"):
            header.FrameOfReferenceUID = generate_uid(entropy_srcs=[text(header, "SeriesInstanceUID")])
