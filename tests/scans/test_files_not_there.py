"""Files that stand for others, and formats without reader, are named as what they are."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medhybrid.scans import discover
from medhybrid.scans.raster import read_raster_labels
from tests.synthetic import AFFINE, save_nifti


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """Return a folder with a readable scan."""
    save_nifti(tmp_path / "readable.nii.gz", np.ones((4, 4, 4)), AFFINE)
    return tmp_path


def test_a_link_without_its_file_is_named(beside: Path) -> None:
    (beside / "a.nii.gz").symlink_to(beside / ".git" / "annex" / "objects" / "x.nii.gz")

    problems = {e.name: e.problem for e in discover(beside).entries}

    assert "a link to a file that does not exist" in problems["a"]
    assert problems["readable"] == ""


@pytest.mark.parametrize(
    "content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"/annex/objects/MD5-s1\n"]
)
def test_a_pointer_to_a_large_file_is_named(content: bytes, beside: Path) -> None:
    (beside / "a.nii").write_bytes(content)

    problems = {e.name: e.problem for e in discover(beside).entries}

    assert "a pointer of Git LFS or git-annex" in problems["a"]
    assert problems["readable"] == ""


@pytest.mark.parametrize("name", ["a.PAR", "a.nrrd.gz", "a.npy", "a.vtk"])
def test_a_format_without_reader_is_named(name: str, beside: Path) -> None:
    (beside / name).write_bytes(b"content")

    reasons = [e.skip_reason for e in discover(beside).entries if e.skip_reason]

    assert len(reasons) == 1
    assert "is not read: convert it to NIfTI" in reasons[0]


@pytest.mark.parametrize("bits", [2, 4])
def test_labels_of_few_bits_are_the_stored_values(bits: int, tmp_path: Path) -> None:
    labels = np.arange(2**bits, dtype=np.uint8).reshape(2, -1)
    with (tmp_path / "mask.png").open("wb") as file:
        file.write(png_of(labels, bits))

    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "L"
    np.testing.assert_array_equal(read_raster_labels(tmp_path / "mask.png").array[0, :, :, 0].T, labels)


def png_of(values: np.ndarray, bits: int) -> bytes:
    """Return a grey PNG of few bits, which Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows, columns = values.shape
    bit_rows = ((values[..., None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(rows, -1)
    lines = b"".join(b"\0" + np.packbits(row).tobytes() for row in bit_rows)
    head = struct.pack(">IIBBBBB", columns, rows, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
