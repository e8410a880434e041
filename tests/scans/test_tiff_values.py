"""Values of TIFF pages that Pillow changes, compared with the stored values or with ITK."""

from __future__ import annotations

import os
import struct
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
