"""Reading of PNG, JPEG, TIFF, BMP, GIF, PGM and PPM files as scans, and as reference masks, with Pillow.

An image is a scan of one slice: columns along X, rows along Y. The pages of a TIFF are slices along Z. Colours are the channels
red, green and blue. Such a file does not say how the patient lies. Columns count as running to the patient's left and rows to
posterior, as ITK places them, so that a slice is displayed as it is stored.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import ScanError
from medhybrid.geometry import Affine
from medhybrid.scans.claims import check_claim
from medhybrid.scans.itk_path import plain_link
from medhybrid.scans.raster_size import Size, pixel_size, size_beside
from medhybrid.scans.scan import Scan, Source
from medhybrid.scans.tiff_series import refuse_other_series
from medhybrid.scans.tiff_values import (
    CALIBRATED,
    PLAIN,
    as_shown,
    as_stored,
    calibrated,
    has_deep_colours,
    has_split_colours,
    in_native_order,
    line_of,
    value_notes,
)

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm", ".pnm")

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM")

COLOURS = ("red", "green", "blue")
"""Names of the channels of a colour image."""

GREY = {"1": 1, "L": 1, "LA": 2, "I;16": 2, "I;16L": 2, "I;16B": 2, "I": 4, "F": 4}
"""Pillow's modes of grey images, with their bytes per pixel."""

COLOUR = {"RGB": 3, "RGBA": 4, "RGBX": 4}

PALETTE = ("P", "PA")

SCALED = {"L;2": 85, "L;4": 17}
"""Factor by which Pillow multiplies grey values of 2 and 4 bits."""

LOSSY = ("jpeg", "tiff_jpeg", "webp", "jpeg2000")
"""Compressions of a TIFF that change values."""

UNKNOWN_SIZE = "its file states no pixel size; 1 mm is assumed, so that lengths in mm count pixels"

UNKNOWN_DISTANCE = "its file states the size of a pixel, but no distance of pages; 1 mm is assumed"

SHOWN_COLOURS = 6

ORIENTATION, SUBFILE_TYPE = 274, 254
REDUCED, TRANSPARENCY = 1, 4
"""Bits of the subfile type: a smaller copy of another page, and a mask of transparency."""

"""Tags of EXIF and TIFF."""

WHOLE_RANGES = (255, 65_535)
"""Largest values that a PGM or PPM file may state. Pillow stretches the values of files with others."""

PNM_HEADER = re.compile(rb"P[1-6](?:\s|#[^\r\n]*[\r\n])+\d+(?:\s|#[^\r\n]*[\r\n])+\d+(?:\s|#[^\r\n]*[\r\n])+(\d+)")
"""Start of a PGM or PPM file: format, columns, rows and largest value, with comments between."""

MAX_RATIO = 100_000
"""Largest number of bytes of values per byte of a file: blank pages of a TIFF. Pillow limits a page to 179 megapixels."""


@dataclass(frozen=True, slots=True)
class RasterHeader:
    """Header of an image file.

    Attributes
    ----------
    file_format : str
        Pillow's name of the format by the content of the file, such as ``PNG`` or ``TIFF``.
    pages : tuple of int
        Pages of a TIFF that are slices.
    is_deep : bool
        Whether its colours have 16 bits.
    size : Size, optional
        Size of a voxel in mm; None if the file does not state it.
    line : (2,) tuple
        Offset and factor of grey values.
    """

    file_format: str
    mode: str
    shape: tuple[int, int, int]
    n_channels: int
    pages: tuple[int, ...]
    is_lossy: bool
    is_deep: bool
    size: Size | None
    notes: tuple[str, ...]
    line: tuple[float, float] = PLAIN

    @property
    def affine(self) -> Affine:
        """Return the affine (4, 4) to RAS mm."""
        x, y, z = self.size or (1.0, 1.0, 1.0)
        return np.diag([-x, -y, z, 1.0])


def is_raster(path: Path) -> bool:
    """Return whether the name of a file is that of a PNG, JPEG, TIFF, BMP, GIF, PGM or PPM."""
    return path.name.lower().endswith(SUFFIXES)


def read_raster(path: Path) -> Scan:
    """Read an image as a scan; a palette is replaced by its colours, and transparency is dropped.

    Raises
    ------
    ScanError
        If the file is damaged, has another kind of colours, or its pages differ.
    """
    header = read_raster_header(path)
    with _opened(path) as image:
        if header.is_deep:
            values = _deep_colours(path)
        else:
            pages = [_colours(_page(image, n), header.n_channels, header.line) for n in header.pages]
            values = np.stack(pages, axis=-1)
    return _scan(path, header, values, header.notes)


def read_raster_labels(path: Path) -> Scan:
    """Read an image as a label map: grey values, or the indices of a palette other than that of a GIF.

    Raises
    ------
    ScanError
        If the labels are colours, or a lossy compression (JPEG) has changed them.
    """
    header = read_raster_header(path)
    if header.is_lossy:
        raise ScanError(
            f"{path.name} is a mask with lossy compression, which changes label values",
            expected="PNG, TIFF or BMP without lossy compression",
            found=header.file_format,
            remedy="export the mask as PNG again; thresholds do not restore its borders",
        )
    with _opened(path) as image:
        pages = [_labels(path, _page(image, n), header) for n in header.pages]
    return _scan(path, header, np.stack(pages, axis=-1), header.notes)


def read_raster_header(path: Path) -> RasterHeader:
    """Read a header; raises `ScanError`, also for an image that cannot be used."""
    with _opened(path) as image:
        if image.format == "PPM":
            _refuse_stretched(path, image)
        pages, notes = _pages(path, image)
        mode, n_channels = image.mode, _n_channels(path, image)
        compression = str(image.info.get("compression", ""))
        is_lossy = image.format in ("JPEG", "MPO") or (image.format == "TIFF" and compression in LOSSY)
        is_deep = _is_deep(image)
        notes += value_notes(path, image)
        line = line_of(image)
        notes += (CALIBRATED,) if line != PLAIN else ()
        if is_deep and (len(pages) > 1 or mode not in COLOUR or has_split_colours(image)):
            layout = " in separate planes or tiles" if has_split_colours(image) else ""
            raise ScanError(
                f"{path.name}: its kind of colours is not supported",
                expected="grey values, or one page of red, green and blue",
                found=f"{len(pages)} pages of 16 bits and mode {mode}{layout}",
                remedy="save each channel as a grey TIFF",
            )
        if is_deep and _raw_mode(image).startswith("LA"):  # Pillow keeps 8 bits, and ITK does not read it
            raise ScanError(
                f"{path.name}: its pixels have grey values of 16 bits and transparency",
                expected="grey values without transparency",
                remedy="save it without transparency, as a grey PNG of 16 bits",
            )
        if mode.endswith("A"):
            notes = (*notes, "its transparency is not used")
        size = (size_beside(path) if image.format == "TIFF" else None) or pixel_size(image)
        x, y = image.size
        file_format = str(image.format)
    shape = (x, y, len(pages))
    check_claim(path, (*shape, n_channels), 2 if is_deep else 1, data=path, max_ratio=MAX_RATIO)
    notes = notes if size is not None else (*notes, UNKNOWN_SIZE)
    if size is not None and size[2] == 0:
        size = (size[0], size[1], 1.0)
        notes = (*notes, UNKNOWN_DISTANCE) if len(pages) > 1 else notes
    return RasterHeader(file_format, mode, shape, n_channels, pages, is_lossy, is_deep, size, notes, line)


def raster_geometry(path: Path) -> tuple[tuple[int, ...], Affine]:
    """Read the shape `(X, Y, Z[, C])` and the affine to RAS mm, without the values; raises `ScanError`."""
    header = read_raster_header(path)
    return (*header.shape, *([header.n_channels] if header.n_channels > 1 else [])), header.affine


def has_known_size(scan: Scan) -> bool:
    """Return whether the voxel size of a scan is known; files of images may not state it."""
    return scan.source.kind != "raster" or UNKNOWN_SIZE not in scan.notes


def is_pixel_grid(scan: Scan) -> bool:
    """Return whether the pixels of an image file correspond to those of a scan by column, row and page alone.

    This holds for other image files and for single DICOM frames, but not for NIfTI, whose axes have no order on a screen.
    """
    return scan.source.kind == "raster" or (scan.source.kind == "dicom" and scan.array.shape[-1] == 1)


def fit_colours(scan: Scan, n_channels: int) -> Scan:
    """Return an image file with the number of channels that is asked for, if no value is lost; otherwise unchanged.

    Grey images are often stored as colours, and a colour dataset may have grey images.
    """
    array = scan.array
    if scan.source.kind != "raster" or {len(array), n_channels} != {1, len(COLOURS)}:
        return scan
    if n_channels == 1:
        if not all(np.array_equal(array[0], other) for other in array[1:]):
            return scan
        return Scan(array[:1], scan.affine, scan.source, scan.case, ("",), scan.notes, scan.searched)
    note = "a grey image: its values are used for red, green and blue"
    return Scan(np.repeat(array, 3, axis=0), scan.affine, scan.source, scan.case, COLOURS, (*scan.notes, note))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an image with Pillow; convert its exceptions to `ScanError`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images, and of tags that are not used
            with Image.open(path, formats=FORMATS) as image:
                yield image
    except ScanError:
        raise
    except UnidentifiedImageError as error:
        raise _unknown_kind(path) from error
    except Image.DecompressionBombError as error:
        raise ScanError(
            f"{path.name} is too large", found=str(error).split(",")[0], remedy="cut it into tiles"
        ) from error
    except Exception as error:  # damaged files raise many kinds of exceptions
        raise ScanError(
            f"{path.name} cannot be read as an image: it is damaged or incomplete",
            found=f"{type(error).__name__}: {error}".splitlines()[0][:200],
            remedy="copy or export it again",
        ) from error


JPEG_START = b"\xff\xd8\xff"
"""First bytes of a JPEG stream."""


def _unknown_kind(path: Path) -> ScanError:
    """Return the error for a file that Pillow does not recognise."""
    with path.open("rb") as file:
        start = file.read(4)
    if start[:3] == JPEG_START:
        return ScanError(
            f"{path.name}: its kind of JPEG is not supported",
            expected="a JPEG of 8 bits",
            found="another JPEG, such as of 12 bits, or lossless",
            remedy="save it as PNG or TIFF with 16 bits",
        )
    if start not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return ScanError(
            f"{path.name} cannot be read as an image",
            expected="a PNG, JPEG, TIFF, BMP, GIF, PGM or PPM file",
            found="other content",
            remedy="rename it if its suffix is wrong, or export it again",
        )
    return ScanError(
        f"{path.name}: its kind of TIFF is not supported",
        expected="grey values of 8 or 16 bits, signed integers or floats of 32 bits, or colours",
        found="a BigTIFF of big-endian byte order"
        if start == b"MM\0+"
        else "other values, such as floats of 64 bits or four channels, or another compression",
        remedy="save it in little-endian byte order, with 16 bits or 32-bit floats, one file for each channel",
    )


def _pages(path: Path, image: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the pages that are slices, and notes; raise `ScanError` if they differ or are not slices."""
    n = int(getattr(image, "n_frames", 1))
    if image.format != "TIFF":
        if n > 1 and image.format in ("PNG", "GIF"):
            raise ScanError(f"{path.name} is an animation", expected="one image", found=f"{n} frames")
        _refuse_turned(path, image)
        return (0,), ()
    n_samples = 3 if image.mode in COLOUR else 1
    kept, kinds, reduced = [], set(), 0
    for page in range(n):
        image.seek(page)
        _refuse_turned(path, image)
        if int(image.tag_v2.get(SUBFILE_TYPE, 0)) & (REDUCED | TRANSPARENCY) and n > 1:
            reduced += 1
            continue
        kept.append(page)
        kinds.add((image.size, image.mode))
    image.seek(0)
    if not kept:  # all are called copies
        kept, kinds, reduced = list(range(n)), set(), 0
    refuse_other_series(path, image, len(kept), n_samples=n_samples)
    if len(kinds) > 1:
        shown = ", ".join(f"{x} x {y} {mode}" for (x, y), mode in sorted(kinds, key=str)[:4])
        raise ScanError(
            f"{path.name}: its pages differ",
            expected="pages of one size, as the slices of a volume",
            found=shown,
            remedy="save the page of the image as a separate file",
        )
    return tuple(kept), (
        (f"{reduced} reduced copies or masks of transparency in the file are not used",) if reduced else ()
    )


def _refuse_turned(path: Path, image: Any) -> None:
    """Refuse an image with an orientation tag: some programs turn it, others do not, and masks may be drawn on either."""
    if image.format == "PNG" and "exif" not in image.info:
        return  # otherwise Pillow would decode the image to look for it
    turned = int(image.getexif().get(ORIENTATION, 1) or 1)
    if turned not in (0, 1):
        raise ScanError(
            f"{path.name} has an orientation tag, which programs treat differently",
            expected="an upright image (orientation 1)",
            found=f"orientation {turned}",
            remedy="save it upright, for example with Pillow's ImageOps.exif_transpose, and compare it with its mask",
        )


def _refuse_stretched(path: Path, image: Any) -> None:
    """Refuse a PGM or PPM file whose values Pillow would change."""
    with path.open("rb") as file:
        found = PNM_HEADER.match(file.read(4096))
    largest = int(found[1]) if found else 0
    if largest not in WHOLE_RANGES or (image.mode == "RGB" and largest != WHOLE_RANGES[0]):
        raise ScanError(
            f"{path.name}: its kind of PGM or PPM is not supported",
            expected="grey values with the largest value 255 or 65535, or colours with 255",
            found=f"the largest value {largest}" if found else "no largest value",
            remedy="save it as PNG",
        )


def _n_channels(path: Path, image: Any) -> int:
    if image.mode in GREY:
        return 1
    if image.mode in COLOUR:
        return 3
    if image.mode in PALETTE:
        colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
        return 1 if (colours == colours[:, :1]).all() else 3
    raise ScanError(
        f"{path.name}: its kind of colours is not supported",
        expected="grey values, red-green-blue or a palette",
        found=image.mode,
        remedy="save it as an RGB or grey PNG",
    )


def _is_deep(image: Any) -> bool:
    """Return whether an image has 16 bits for each colour, of which Pillow keeps 8."""
    if image.format == "TIFF":
        return has_deep_colours(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return False
    return ";16" in _raw_mode(image)


def _raw_mode(image: Any) -> str:
    """Return Pillow's name of the stored values, such as ``RGB;16B``; empty if it has none."""
    args = image.tile[0][3] if image.tile else ""
    return str(args if isinstance(args, str) else args[0] if isinstance(args, tuple) and args else "")


def _page(image: Any, number: int) -> Any:
    if number or getattr(image, "n_frames", 1) > 1:
        image.seek(number)
    in_native_order(image)
    return image


def _colours(image: Any, n_channels: int, line: tuple[float, float]) -> NDArray[np.generic]:
    """Return the values (C, X, Y) of a page."""
    if image.mode in PALETTE or image.mode in COLOUR:
        values = np.asarray(image.convert("RGB" if n_channels == 3 else "L"))
    else:
        values = calibrated(as_shown(image, _grey(image)), line)
    return values.T[None] if values.ndim == 2 else values.transpose(2, 1, 0)  # (Y, X[, C]) -> (C, X, Y)


def _grey(image: Any) -> NDArray[np.generic]:
    """Return the stored values (Y, X) of a grey page, without transparency."""
    values = np.asarray(image.getchannel(0) if image.mode == "LA" else image)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    return as_stored(image, values.astype(values.dtype.newbyteorder("="), copy=False))


def _deep_colours(path: Path) -> NDArray[np.generic]:
    """Return the values (C, X, Y, 1) of an image with 16 bits for each colour."""
    import SimpleITK as sitk

    with plain_link(path) as link:
        values: NDArray[np.generic] = sitk.GetArrayFromImage(sitk.ReadImage(link))  # (Y, X, C)
    if values.ndim != 3 or values.shape[2] not in (3, 4) or values.dtype != np.uint16:
        raise ScanError(
            f"{path.name}: its colours cannot be read with 16 bits",
            found=f"shape {values.shape}, {values.dtype}",
            remedy="save each channel as a grey TIFF",
        )
    return values[..., :3].transpose(2, 1, 0)[..., None]


def _labels(path: Path, image: Any, header: RasterHeader) -> NDArray[np.generic]:
    """Return the labels (1, X, Y) of a page."""
    if image.format == "GIF" and image.mode in PALETTE:
        image = image.convert("RGB")  # programs number the colours of a GIF in their own order
    if image.mode in PALETTE:
        return np.asarray(image.getchannel(0) if image.mode == "PA" else image).T[None]
    if image.mode in GREY:
        if image.mode == "LA":
            _refuse_transparent(path, np.asarray(image))
        factor = SCALED.get(_raw_mode(image), 1)  # before the values are loaded: Pillow forgets the mode then
        values = _grey(image)
        return (values // factor if factor > 1 else values).T[None]
    values = np.asarray(image)  # (Y, X, 3 or 4)
    if image.mode == "RGBA":
        _refuse_transparent(path, values)
    if header.is_deep or any(not np.array_equal(values[..., 0], values[..., i]) for i in (1, 2)):
        colours = np.unique(values[..., :3].reshape(-1, 3), axis=0)
        shown = ", ".join("#" + bytes(c.astype(np.uint8)).hex() for c in colours[:SHOWN_COLOURS])
        raise ScanError(
            f"{path.name} is a mask whose labels are colours",
            expected="a grey or palette image with one value for each label",
            found=shown + (f" and {len(colours) - SHOWN_COLOURS} more" if len(colours) > SHOWN_COLOURS else ""),
            remedy="replace each colour by the number of its label, and save the mask as a grey PNG",
        )
    return values[..., 0].T[None]


def label_colours(path: Path) -> dict[int, str]:
    """Return the colour of each value in a mask with a palette, as `#rrggbb`; empty for other images.

    Raises
    ------
    ScanError
        If it cannot be read.
    """
    with _opened(path) as image:
        if image.mode not in PALETTE or image.format == "GIF":
            return {}
        values = np.unique(np.asarray(image.getchannel(0) if image.mode == "PA" else image)).tolist()
        colours = image.getpalette("RGB")
        return {v: "#" + bytes(colours[3 * v : 3 * v + 3]).hex() for v in values if 3 * v + 3 <= len(colours)}


def _refuse_transparent(path: Path, values: NDArray[np.generic]) -> None:
    """Refuse a mask of one colour that is drawn by transparency."""
    colours, alpha = values[..., :-1], values[..., -1]
    if alpha.min() != alpha.max() and (colours == colours[:1, :1]).all():
        raise ScanError(
            f"{path.name} is a mask that is drawn by transparency",
            expected="a grey or palette image with one value for each label",
            found="one colour with several degrees of transparency",
            remedy="save the transparency channel as a grey PNG",
        )


def _scan(path: Path, header: RasterHeader, values: NDArray[np.generic], notes: tuple[str, ...]) -> Scan:
    names = COLOURS if len(values) == 3 else ("",)
    return Scan(values, header.affine, Source("raster", (path,), header), path.stem, names, notes)
