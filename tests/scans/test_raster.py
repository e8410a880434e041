"""PNG, JPEG, TIFF and BMP files are read as scans and as masks; each test compares with the array that Pillow stored."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from medhybrid.data.mask_files import mask_on_grid, stated_grid
from medhybrid.data.segments import SegmentRules
from medhybrid.errors import ScanError
from medhybrid.geometry import Grid, spacing_mm
from medhybrid.scans import discover, write_label_image, write_nifti
from medhybrid.scans.image_files import read_geometry
from medhybrid.scans.raster import COLOURS, fit_colours, has_known_size
from medhybrid.scans.reader import read_label_scan, read_scan
from tests.synthetic import save_nifti

ROWS, COLUMNS = 6, 9
GREY = np.arange(ROWS * COLUMNS, dtype=np.uint8).reshape(ROWS, COLUMNS)  # (Y, X)
RGB = np.stack([GREY, 2 * GREY, 255 - GREY], axis=-1)  # (Y, X, 3)
MASK = (GREY % 3).astype(np.uint8)


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    """Write an array as an image file."""
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def in_rows(scan_array: np.ndarray) -> np.ndarray:
    """Return a scan (C, X, Y, Z) as pages of rows and columns (Z, Y, X[, C])."""
    pages = scan_array.transpose(3, 2, 1, 0)
    return pages[..., 0] if pages.shape[-1] == 1 else pages


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("array", [GREY, RGB], ids=["grey", "colour"])
def test_columns_are_x_and_colours_are_channels(tmp_path: Path, suffix: str, array: np.ndarray) -> None:
    path = save(tmp_path / f"a{suffix}", array)

    scan = read_scan(path)

    np.testing.assert_array_equal(in_rows(scan.array)[0], array)
    assert scan.array.dtype == np.uint8
    assert scan.channels == (COLOURS if array.ndim == 3 else ("",))
    shape, affine = read_geometry(path)
    assert shape == (COLUMNS, ROWS, 1, *array.shape[2:])
    np.testing.assert_array_equal(affine, scan.affine)
    assert [e.shape for e in discover(path).entries] == [shape]


def test_a_slice_lies_as_itk_places_it(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", GREY)

    scan = read_scan(path)

    itk = sitk.ReadImage(str(path))
    lps = np.array(itk.TransformIndexToPhysicalPoint((3, 2)))
    np.testing.assert_allclose((scan.affine @ (3, 2, 0, 1))[:2], -lps)  # RAS
    assert scan.array[0, 3, 2, 0] == itk[3, 2]


@pytest.mark.parametrize(
    "array",
    [
        (GREY.astype(np.uint16) * 1_000),
        (GREY.astype(np.int32) * 100_000),
        (GREY.astype(np.float32) / 7),
    ],
    ids=["16 bits", "32 bits", "float"],
)
def test_grey_values_of_a_tiff_are_kept(tmp_path: Path, array: np.ndarray) -> None:
    scan = read_scan(save(tmp_path / "a.tif", array))

    np.testing.assert_array_equal(in_rows(scan.array)[0], array)
    assert scan.array.dtype == array.dtype


def test_sixteen_bits_of_a_png_are_kept(tmp_path: Path) -> None:
    grey, colour = GREY.astype(np.uint16) * 1_000, RGB.astype(np.uint16) * 256 + 7
    sitk.WriteImage(sitk.GetImageFromArray(colour, isVector=True), str(tmp_path / "c.png"))

    np.testing.assert_array_equal(in_rows(read_scan(save(tmp_path / "g.png", grey)).array)[0], grey)
    np.testing.assert_array_equal(in_rows(read_scan(tmp_path / "c.png").array)[0], colour)


@pytest.mark.parametrize("read", [read_scan, read_label_scan])
def test_grey_values_of_16_bits_with_transparency_are_refused_as_such(
    tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 4, 0, 0, 0)
    row = b"\0" + struct.pack(">HHHH", 1000, 65535, 1001, 65535)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)

    with pytest.raises(ScanError, match="16 bits and transparency"):
        read(tmp_path / "x.png")


def test_transparency_is_dropped_and_noted(tmp_path: Path) -> None:
    alpha = np.dstack([RGB, np.full_like(GREY, 128)])

    scan = read_scan(save(tmp_path / "a.png", alpha))

    np.testing.assert_array_equal(in_rows(scan.array)[0], RGB)
    assert "its transparency is not used" in scan.notes


def test_pages_of_a_tiff_are_slices(tmp_path: Path) -> None:
    pages = [GREY, GREY + 1, GREY + 2]
    Image.fromarray(pages[0]).save(
        tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(p) for p in pages[1:]]
    )

    scan = read_scan(tmp_path / "a.tif")

    np.testing.assert_array_equal(in_rows(scan.array), pages)


@pytest.mark.parametrize(
    "description",
    [
        "",
        '{"shape": [3, 6, 9]}',
        '{"shape": [1, 3, 6, 9], "axes": "CZYX"}',
        '{"shape": [6, 9]}',
        '{"shape": 1}',
        "{text",
    ],
)
def test_pages_are_slices_unless_other_axes_are_stated(tmp_path: Path, description: str) -> None:
    pages_of(3, description)(tmp_path / "a.tif")

    assert read_scan(tmp_path / "a.tif").array.shape == (1, COLUMNS, ROWS, 3)


def test_pages_of_different_sizes_are_refused(tmp_path: Path) -> None:
    other = Image.fromarray(GREY[:3])
    Image.fromarray(GREY).save(tmp_path / "a.tif", save_all=True, append_images=[other])

    with pytest.raises(ScanError, match="its pages differ"):
        read_scan(tmp_path / "a.tif")


def imagej(**values: object) -> str:
    return "ImageJ=1.54\n" + "".join(f"{k}={v}\n" for k, v in values.items())


OME = '<?xml version="1.0"?><OME><Image><Pixels SizeC="1" SizeT="1" PhysicalSizeX="0.65" PhysicalSizeY="0.65"/></Image></OME>'


def ome(unit: str) -> str:
    return OME.replace("/></Image>", f' PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}"/></Image>')


SIZES: dict[str, tuple[str, dict[str, Any], tuple[float, float, float] | None]] = {
    "screen": (".png", {"dpi": (96, 96)}, None),
    "printer": (".tif", {"dpi": (300, 300)}, None),
    "exact": (".png", {"dpi": (25.4 / 0.143, 25.4 / 0.143)}, (0.143, 0.143, 1.0)),
    "centimetres": (".tif", {"resolution_unit": 3, "x_resolution": 50.0, "y_resolution": 40.0}, (0.2, 0.25, 1.0)),
    "ImageJ": (
        ".tif",
        {
            "description": imagej(unit="micron", spacing=2),
            "x_resolution": 4.0,
            "y_resolution": 4.0,
            "resolution_unit": 1,
        },
        (0.00025, 0.00025, 0.002),
    ),
    "ImageJ without unit": (
        ".tif",
        {"description": imagej(unit="pixel"), "x_resolution": 4.0, "y_resolution": 4.0},
        None,
    ),
    "OME": (".tif", {"description": OME}, (0.00065, 0.00065, 1.0)),
    "OME in µm": (".tif", {"description": ome("µm").encode()}, (0.00065, 0.00065, 1.0)),
    "OME in escaped µm": (".tif", {"description": ome("&#181;m")}, (0.00065, 0.00065, 1.0)),
    "ImageJ in µm": (
        ".tif",
        {"description": imagej(unit="µm", spacing=2).encode(), "x_resolution": 4.0, "y_resolution": 4.0},
        (0.00025, 0.00025, 0.002),
    ),
    "ImageJ in several units": (
        ".tif",
        {
            "description": imagej(unit="mm", yunit="cm", zunit="micron", spacing=500),
            "x_resolution": 4.0,
            "y_resolution": 40.0,
        },
        (0.25, 0.25, 0.5),
    ),
    "OME in single quotes": (".tif", {"description": OME.replace('"', "'")}, (0.00065, 0.00065, 1.0)),
    "camera": (".jpg", {"dpi": (177, 177)}, None),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_pixel_size_counts_only_where_it_is_stated_reliably(tmp_path: Path, name: str) -> None:
    suffix, options, expected = SIZES[name]

    scan = read_scan(save(tmp_path / f"a{suffix}", GREY, **options))

    assert has_known_size(scan) == (expected is not None)
    np.testing.assert_allclose(spacing_mm(scan.affine), expected or (1.0, 1.0, 1.0), rtol=1e-3)


@pytest.mark.parametrize("name", ["case_0000.tif", "case.tif"])
def test_the_voxel_size_of_a_tiff_of_nnunet_is_that_of_the_file_beside_it(tmp_path: Path, name: str) -> None:
    pages_of(3, "")(tmp_path / name)
    (tmp_path / "case.json").write_text('{"spacing": [3.0, 0.5, 0.7]}')  # pages, rows, columns

    scan = read_scan(tmp_path / name)

    np.testing.assert_allclose(spacing_mm(scan.affine), (0.7, 0.5, 3.0))
    assert has_known_size(scan)


@pytest.mark.parametrize("text", ["[]", '{"spacing": "1 mm"}', '{"spacing": [1, 1]}', '{"spacing": [0, 1, 1]}', "{"])
def test_a_file_beside_a_tiff_without_a_usable_spacing_is_not_used(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)

    assert not has_known_size(read_scan(save(tmp_path / "a.tif", GREY)))


def several_channels(path: Path) -> None:
    pages = [Image.fromarray(GREY)] * 4
    pages[0].save(path, save_all=True, append_images=pages[1:], description=imagej(images=4, channels=2, slices=2))


def several_images(path: Path) -> None:
    images = OME[OME.index("<Image>") : OME.index("</OME>")]
    text = OME.replace("</OME>", f"{images}</OME>")
    Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(GREY)], description=text)


def pages_of(n: int, description: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        pages = [Image.fromarray(GREY)] * n
        pages[0].save(path, save_all=True, append_images=pages[1:], description=description)

    return write


def tifffile(shape: Sequence[int], axes: str = "") -> str:
    """Return the description that tifffile writes for an array of a shape."""
    return json.dumps({"shape": [*shape, ROWS, COLUMNS], **({"axes": axes} if axes else {})})


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 3
    Image.fromarray(GREY).save(path, exif=exif)


def half_a_file(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (50, 40), np.uint8)
    path.write_bytes(save(path, noise).read_bytes()[:1_000])


REFUSED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "channels": ("a.tif", several_channels, "not the slices of one volume"),
    "images": ("a.tif", several_images, "found 2 images"),
    "time points of tifffile": ("a.tif", pages_of(6, tifffile([2, 3])), "found 2 x 3 images"),
    "channels of tifffile": ("a.tif", pages_of(3, tifffile([3], "CYX")), "found 3 channels"),
    "pages that are not listed": ("a.tif", pages_of(1, tifffile([5])), "found 5 images"),
    "turned photograph": ("a.jpg", turned, "has an orientation tag"),
    "ink colours": ("a.tif", lambda p: save(p, RGB, "CMYK"), "kind of colours is not supported"),
    "no image": ("a.png", lambda p: p.write_bytes(b"text"), "cannot be read as an image"),
    "half a file": ("a.png", half_a_file, "cannot be read as an image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_image_that_programs_read_differently_or_not_at_all_is_refused(tmp_path: Path, name: str) -> None:
    file, make, message = REFUSED[name]
    make(tmp_path / file)

    with pytest.raises(ScanError, match=message):
        read_scan(tmp_path / file)


def test_a_palette_gives_colours_of_an_image_and_indices_of_a_mask(tmp_path: Path) -> None:
    image = Image.new("P", (COLUMNS, ROWS))
    image.putdata(MASK.ravel().tolist())
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "m.png")

    colours = in_rows(read_scan(tmp_path / "m.png").array)[0]
    labels = in_rows(read_label_scan(tmp_path / "m.png").array)[0]

    np.testing.assert_array_equal(labels, MASK)
    assert {tuple(c) for c in colours.reshape(-1, 3).tolist()} == {(0, 0, 0), (255, 0, 0), (0, 255, 0)}


@pytest.mark.parametrize(
    "make",
    [
        lambda p: save(p, MASK),
        lambda p: save(p, np.dstack([MASK] * 3)),
        lambda p: save(p, np.dstack([*[MASK] * 3, np.full_like(MASK, 255)])),
        lambda p: save(p, MASK.astype(np.uint16)),
    ],
    ids=["grey", "grey as colours", "grey with transparency", "16 bits"],
)
def test_grey_masks_give_their_values(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    np.testing.assert_array_equal(in_rows(read_label_scan(make(tmp_path / "m.png")).array)[0], MASK)


def test_a_mask_of_one_bit_has_the_label_1(tmp_path: Path) -> None:
    labels = read_label_scan(save(tmp_path / "m.png", MASK > 0)).array

    np.testing.assert_array_equal(in_rows(labels)[0], MASK > 0)
    assert labels.dtype == np.uint8


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("m.jpg", MASK, "lossy compression"),
        ("m.png", RGB, "labels are colours.*#0000ff"),
        ("m.png", np.dstack([np.full_like(RGB, 7), 255 * MASK]), "drawn by transparency"),
    ],
    ids=["JPEG", "colours", "transparency"],
)
def test_masks_without_clear_values_are_refused(tmp_path: Path, name: str, array: np.ndarray, message: str) -> None:
    with pytest.raises(ScanError, match=message):
        read_label_scan(save(tmp_path / name, array))


def test_grey_and_colour_files_of_one_dataset_get_the_same_channels(tmp_path: Path) -> None:
    grey = read_scan(save(tmp_path / "g.png", GREY))
    grey_as_colours = read_scan(save(tmp_path / "c.png", np.dstack([GREY] * 3)))
    colour = read_scan(save(tmp_path / "rgb.png", RGB))

    np.testing.assert_array_equal(fit_colours(grey_as_colours, 1).array, grey.array)
    np.testing.assert_array_equal(fit_colours(grey, 3).array, grey_as_colours.array)
    assert fit_colours(colour, 1) is colour, "no colour is lost"


def test_beside_scans_images_are_previews(tmp_path: Path) -> None:
    save_nifti(tmp_path / "scan.nii.gz", np.zeros((4, 4, 4), np.int16))
    save(tmp_path / "preview.png", RGB)

    found = discover(tmp_path)

    assert [e.name for e in found.entries] == ["scan"]
    assert found.n_skipped == 1
    assert "count as previews and are not read: preview.png" in found.left_out


def test_an_image_that_is_named_beside_a_scan_is_no_preview(tmp_path: Path) -> None:
    scan = save_nifti(tmp_path / "scan.nii.gz", np.zeros((4, 4, 4), np.int16))
    image = save(tmp_path / "image.png", RGB)

    found = discover(tmp_path, only=[scan, image])

    assert [e.name for e in found.entries] == ["image", "scan"]
    assert (found.n_skipped, found.left_out) == (0, "")


def test_an_image_in_a_format_without_a_reader_is_named_unless_it_is_a_preview(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.webp")

    (entry,) = discover(tmp_path).entries
    assert entry.skip_reason == "the format WebP is not read: convert it to PNG"

    save_nifti(tmp_path / "scan.nii.gz", np.zeros((4, 4, 4), np.int16))
    assert [e.name for e in discover(tmp_path).entries] == ["scan"]


@pytest.mark.parametrize(("suffix", "n_pages"), [(".png", 1), (".tif", 1), (".tif", 3)])
def test_a_label_image_has_the_pixels_of_its_source(tmp_path: Path, suffix: str, n_pages: int) -> None:
    pages = [Image.fromarray(GREY)] * n_pages
    more = {"save_all": True, "append_images": pages[1:]} if suffix == ".tif" else {}
    pages[0].save(tmp_path / f"a{suffix}", dpi=(177.0, 177.0), **more)
    source = read_scan(tmp_path / f"a{suffix}")
    mask = np.stack([(MASK + n).T for n in range(n_pages)], axis=-1)  # (X, Y, Z)

    write_label_image(tmp_path / f"m{suffix}", mask, source.source)

    again = read_label_scan(tmp_path / f"m{suffix}")
    np.testing.assert_array_equal(again.array[0], mask)
    np.testing.assert_allclose(again.affine, source.affine, rtol=1e-3)
    with Image.open(tmp_path / f"m{suffix}") as image:
        np.testing.assert_array_equal(np.asarray(image), MASK)  # rows and columns as they were


def test_a_mask_as_image_lies_on_any_grid_of_its_shape(tmp_path: Path) -> None:
    grid = Grid((COLUMNS, ROWS, 1), np.diag([-0.2, -0.2, 1.0, 1.0]))
    path, rules = save(tmp_path / "m.png", MASK), SegmentRules({"a": 1, "b": 2})

    found = mask_on_grid(path, grid, rules)

    assert found is not None
    np.testing.assert_array_equal(found[..., 0].T, MASK)
    assert mask_on_grid(path, Grid((ROWS, COLUMNS, 1), grid.affine), rules) is None


def test_the_grid_of_a_prediction_gives_the_pixel_size_of_a_reference_that_lacks_it(tmp_path: Path) -> None:
    affine = np.diag([-0.2, -0.2, 1.0, 1.0])
    write_nifti(tmp_path / "p.nii.gz", MASK.T[..., None], affine)
    write_nifti(tmp_path / "other.nii.gz", MASK.T[..., None], np.diag([0.2, 0.2, 1.0, 1.0]))
    reference = read_label_scan(save(tmp_path / "m.png", MASK)).grid

    assert stated_grid(tmp_path / "p.nii.gz", reference).spacing_mm == pytest.approx((0.2, 0.2, 1.0))
    assert stated_grid(tmp_path / "other.nii.gz", reference) is reference, "its axes run in other directions"


def test_a_small_file_of_a_large_blank_page_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    blank = Image.new("1", (60_000, 2_900))
    blank.save(tmp_path / "a.tif", compression="group4", tiffinfo={278: 2_900})  # one strip

    with pytest.raises(ScanError, match="more values than the file can hold"):
        read_scan(tmp_path / "a.tif")


@pytest.mark.parametrize("values", [[0, 255], [0, 1, 2, 3], [0, 85, 170, 255], list(range(256))])
def test_a_gif_has_the_grey_values_that_were_saved(tmp_path: Path, values: list[int]) -> None:
    grey = np.random.default_rng(0).choice(np.array(values, np.uint8), (24, 32))
    Image.fromarray(grey).save(tmp_path / "a.gif")

    np.testing.assert_array_equal(read_scan(tmp_path / "a.gif").array[0, :, :, 0], grey.T)
    np.testing.assert_array_equal(read_label_scan(tmp_path / "a.gif").array[0, :, :, 0], grey.T)


def write_pnm(path: Path, kind: str, largest: int, values: np.ndarray) -> Path:
    """Write a PGM or PPM file with a comment in its header; values (Y, X[, C])."""
    rows, columns = values.shape[:2]
    header = f"{kind}\n# made by a test 7 7 7\n{columns} {rows}\n{largest}\n".encode()
    if kind in ("P2", "P3"):
        body = "\n".join(" ".join(str(v) for v in row.ravel()) for row in values).encode()
    else:
        body = values.astype(">u2" if largest > 255 else "u1").tobytes()
    path.write_bytes(header + body)
    return path


@pytest.mark.parametrize(("kind", "largest"), [("P2", 255), ("P5", 255), ("P5", 65535), ("P3", 255), ("P6", 255)])
def test_pgm_and_ppm_have_the_stored_values(kind: str, largest: int, tmp_path: Path) -> None:
    shape = (6, 9, 3) if kind in ("P3", "P6") else (6, 9)
    values = np.random.default_rng(0).integers(0, largest, shape)
    path = write_pnm(tmp_path / ("a.ppm" if len(shape) == 3 else "a.pgm"), kind, largest, values)

    array = read_scan(path).array[..., 0]

    np.testing.assert_array_equal(array, values.transpose(2, 1, 0) if len(shape) == 3 else values.T[None])


@pytest.mark.parametrize(("kind", "largest"), [("P5", 1), ("P5", 4095), ("P2", 4095), ("P6", 65535), ("P6", 100)])
def test_pgm_and_ppm_that_pillow_would_stretch_are_refused(kind: str, largest: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, largest, (6, 9, 3) if kind == "P6" else (6, 9))
    path = write_pnm(tmp_path / "a.ppm", kind, largest, values)

    with pytest.raises(ScanError, match=f"found the largest value {largest}"):
        read_scan(path)


def test_a_gif_of_several_frames_or_a_coloured_mask_is_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8), v, np.uint8)) for v in (10, 200)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.random.default_rng(0).choice(np.array([0, 200], np.uint8), (8, 8, 3))).save(
        tmp_path / "mask.gif"
    )

    with pytest.raises(ScanError, match="is an animation"):
        read_scan(tmp_path / "film.gif")
    with pytest.raises(ScanError, match="whose labels are colours"):
        read_label_scan(tmp_path / "mask.gif")


OME_PREFIXED = (
    '<?xml version="1.0"?><ns0:OME xmlns:ns0="x"><ns0:Image><ns0:Pixels SizeC="{c}" SizeZ="{z}" SizeT="1" '
    'PhysicalSizeX="0.5" PhysicalSizeY="0.5" PhysicalSizeXUnit="mm" PhysicalSizeYUnit="mm"/></ns0:Image></ns0:OME>'
)


def write_pages(path: Path, n: int, description: str) -> Path:
    pages = [Image.fromarray(np.full((6, 10), 10 * k, np.uint8)) for k in range(n)]
    pages[0].save(path, save_all=True, append_images=pages[1:], tiffinfo={270: description})
    return path


def test_ome_metadata_with_a_prefix_counts(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="3 C"):
        read_scan(write_pages(tmp_path / "a.tif", 3, OME_PREFIXED.format(c=3, z=1)))

    volume = read_scan(write_pages(tmp_path / "b.tif", 3, OME_PREFIXED.format(c=1, z=3)))

    assert volume.array.shape == (1, 10, 6, 3)
    np.testing.assert_allclose(spacing_mm(volume.affine)[:2], 0.5)


@pytest.mark.parametrize("n_pages", [1, 3])
@pytest.mark.parametrize(
    "description",
    [OME_PREFIXED.format(c=1, z=5), imagej(images=5, slices=5), json.dumps({"shape": [5, 6, 10]})],
)
def test_a_tiff_with_fewer_pages_than_its_metadata_state_is_refused(
    tmp_path: Path, description: str, n_pages: int
) -> None:
    with pytest.raises(ScanError, match=r"not the slices of one volume.*5 (slices|images)"):
        read_scan(write_pages(tmp_path / "a.tif", n_pages, description))


def test_a_mask_in_a_jpeg_of_several_pictures_is_refused(tmp_path: Path) -> None:
    mask = Image.fromarray(np.repeat(np.array([0, 200], np.uint8), 32)[:, None].repeat(40, axis=1))
    mask.save(tmp_path / "m.jpg", format="MPO", save_all=True, append_images=[mask])

    with pytest.raises(ScanError, match="lossy compression"):
        read_label_scan(tmp_path / "m.jpg")
