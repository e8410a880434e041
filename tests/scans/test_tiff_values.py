"""Values of TIFF pages that Pillow changes, compared with the stored values or with ITK."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from medhybrid.errors import ScanError
from medhybrid.scans.reader import read_label_scan, read_scan
from medhybrid.scans.tiff_values import PHOTOMETRIC, PLANES, WHITE_IS_ZERO

GREY = np.arange(54, dtype=np.uint8).reshape(6, 9)  # (Y, X)


def save(path: Path, array: np.ndarray, **tags: int) -> Path:
    """Write a TIFF, and change SHORT values of its tags, given as `tag_262=0`."""
    Image.fromarray(array).save(path)
    content = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", content, 4)
    (n,) = struct.unpack_from("<H", content, start)
    for at in range(start + 2, start + 2 + 12 * n, 12):
        (tag,) = struct.unpack_from("<H", content, at)
        if (name := f"tag_{tag}") in tags:
            struct.pack_into("<H", content, at + 8, tags.pop(name))
    assert not tags
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("array", [GREY, GREY.astype(np.uint16) * 900], ids=["8 bits", "16 bits"])
def test_where_white_is_zero_labels_are_the_stored_values_and_bright_is_bright(
    tmp_path: Path, array: np.ndarray
) -> None:
    path = save(tmp_path / "a.tif", array, **{f"tag_{PHOTOMETRIC}": 0})

    mask, image = read_label_scan(path), read_scan(path)

    np.testing.assert_array_equal(mask.array[0, ..., 0].T, array)
    np.testing.assert_array_equal(image.array[0, ..., 0].T, np.iinfo(array.dtype).max - array)
    assert WHITE_IS_ZERO in image.notes


def write_tiff(
    path: Path, pages: list[np.ndarray], *, order: str, compression: int = 1, bits: int = 0, **tags: int
) -> Path:
    """Write grey pages (Y, X) byte by byte: `order` is `<` or `>`, `compression` 1 (none) or 8 (deflate)."""
    content = bytearray(struct.pack(f"{order}2sHI", b"MM" if order == ">" else b"II", 42, 8))
    for n, page in enumerate(pages):
        values = (
            page.astype(page.dtype.newbyteorder(order)).tobytes() if not bits else np.packbits(page, axis=1).tobytes()
        )
        data = zlib.compress(values) if compression == 8 else values
        number_format = {"u": 1, "i": 2, "f": 3}.get(page.dtype.kind, 1)
        rows, columns = page.shape
        entries = {
            256: columns,
            257: rows,
            258: bits or 8 * page.dtype.itemsize,
            259: compression,
            262: 1,
            273: 0,
            277: 1,
            278: rows,
            279: len(data),
            339: number_format,
        } | {int(k.removeprefix("tag_")): v for k, v in tags.items()}
        n_directory = 2 + 12 * len(entries) + 4
        at = len(content)
        entries[273] = at + n_directory
        content += struct.pack(f"{order}H", len(entries))
        for tag, value in sorted(entries.items()):
            content += struct.pack(f"{order}HHII", tag, 4, 1, value)
        after = at + n_directory + len(data) + len(data) % 2
        content += struct.pack(f"{order}I", after if n < len(pages) - 1 else 0)
        content += data + b"\0" * (len(data) % 2)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("n_pages", [1, 3])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.float32])
def test_values_do_not_depend_on_byte_order_and_compression(
    kind: type, order: str, compression: int, n_pages: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    pages = [
        (rng.integers(0, 120, (6, 9)) - (40 if np.issubdtype(kind, np.signedinteger) else 0)).astype(kind)
    ] * n_pages
    path = write_tiff(tmp_path / "a.tif", pages, order=order, compression=compression)

    for found in (read_scan(path), read_label_scan(path)):
        assert found.array.shape == (1, 9, 6, n_pages)
        for k, page in enumerate(pages):
            np.testing.assert_array_equal(found.array[0, ..., k].T, page)


@pytest.mark.parametrize("photometric", [0, 1])
def test_single_bits_of_a_mask_are_the_stored_ones(photometric: int, tmp_path: Path) -> None:
    """Some programs store truth values with white as 0."""
    page = (GREY % 5 == 0).astype(np.uint8)
    tags = {f"tag_{PHOTOMETRIC}": photometric}
    path = write_tiff(tmp_path / "a.tif", [page], order="<", bits=1, **tags)

    np.testing.assert_array_equal(read_label_scan(path).array[0, ..., 0].T, page)
    np.testing.assert_array_equal(read_scan(path).array[0, ..., 0].T, page if photometric else 1 - page)


@pytest.mark.parametrize("compression", ["group4", "group3", "tiff_deflate", "packbits"])
def test_single_bits_that_pillow_writes_are_read_as_it_shows_them(compression: str, tmp_path: Path) -> None:
    page = GREY % 5 == 0
    Image.fromarray(page).save(tmp_path / "a.tif", compression=compression)

    np.testing.assert_array_equal(read_label_scan(tmp_path / "a.tif").array[0, ..., 0].T, page)


@pytest.mark.parametrize(("first", "second"), [(1, 0), (0, 4), (0, 1)])
def test_reduced_copies_and_masks_of_transparency_are_no_slices(first: int, second: int, tmp_path: Path) -> None:
    small = write_tiff(tmp_path / "small.tif", [GREY[::2, ::2].copy()], order="<")
    pages = [Image.open(small), Image.fromarray(GREY)] if first else [Image.fromarray(GREY), Image.open(small)]
    path = tmp_path / "a.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:], tiffinfo={})
    content = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", content, 4)
    for kind in (first, second):  # NewSubfileType in place of a tag that is not needed
        (n,) = struct.unpack_from("<H", content, start)
        entries = [bytes(content[at : at + 12]) for at in range(start + 2, start + 2 + 12 * n, 12)]
        kept = [e for e in entries if struct.unpack_from("<H", e)[0] not in (254, 284)][: n - 1]
        entries = sorted([struct.pack("<HHII", 254, 4, 1, kind), *kept])
        assert len(entries) == n
        content[start + 2 : start + 2 + 12 * n] = b"".join(
            sorted(entries, key=lambda e: struct.unpack_from("<H", e)[0])
        )
        (start,) = struct.unpack_from("<I", content, start + 2 + 12 * n)
    path.write_bytes(content)

    scan = read_scan(path)

    np.testing.assert_array_equal(scan.array[0, ..., 0].T, GREY)
    assert any("not used" in note for note in scan.notes)


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.uint32, np.float32])
def test_values_have_the_sign_that_the_file_states(tmp_path: Path, kind: type) -> None:
    values = GREY.astype(kind)
    values[0, 0] = 4_000_000_000 if kind == np.uint32 else -3
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "a.tif"))

    np.testing.assert_array_equal(read_scan(tmp_path / "a.tif").array[0, ..., 0].T, values)


def test_colours_of_16_bits_are_read_from_a_path_that_is_not_utf_8(tmp_path: Path) -> None:
    colours = np.stack([GREY, GREY * 2, GREY * 3], axis=-1).astype(np.uint16) * 300
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / "a.png"))
    (tmp_path / "a.png").rename(path)

    np.testing.assert_array_equal(read_scan(path).array[..., 0].transpose(2, 1, 0), colours)


def test_colours_of_16_bits_in_separate_planes_are_refused(tmp_path: Path) -> None:
    colours = np.stack([GREY] * 3, axis=-1).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / "a.tif"))
    content = (tmp_path / "a.tif").read_bytes()
    joined, separate = (struct.pack("<HHII", PLANES, 3, 1, n) for n in (1, 2))
    assert content.count(joined) == 1
    (tmp_path / "a.tif").write_bytes(content.replace(joined, separate))

    with pytest.raises(ScanError, match="16 bits and mode RGB in separate planes"):
        read_scan(tmp_path / "a.tif")


def test_two_values_for_each_pixel_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.stack([GREY, GREY], axis=-1), "LA").save(path)
    content = path.read_bytes()
    alpha, unknown = (struct.pack("<HHII", 338, 3, 1, n) for n in (2, 0))
    assert content.count(alpha) == 1
    path.write_bytes(content.replace(alpha, unknown))

    with pytest.raises(ScanError, match="pixels have two values"):
        read_scan(path)


def test_floats_of_64_bits_are_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", GREY.astype(np.float32), tag_258=64)

    with pytest.raises(ScanError, match="32-bit floats"):
        read_scan(tmp_path / "a.tif")
