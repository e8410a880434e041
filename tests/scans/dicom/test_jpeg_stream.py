"""Damaged JPEG streams are refused before a decoder sees them, which could end the process."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLSLossless

from medhybrid.errors import SeriesError
from medhybrid.scans.dicom.jpeg_stream import find_damage
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan

PLANE = np.random.default_rng(0).integers(0, 4000, (12, 10)).astype(np.uint16)

STREAMS = {
    "JPEG-LS": bytes(imagecodecs.jpegls_encode(PLANE)),
    "JPEG lossless": bytes(imagecodecs.ljpeg_encode(PLANE)),
    "JPEG": bytes(imagecodecs.jpeg8_encode((PLANE // 16).astype(np.uint8))),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_whole_stream_has_no_damage_also_with_padding(kind: str) -> None:
    assert find_damage(STREAMS[kind], 12, 10) == ""
    assert find_damage(STREAMS[kind] + b"\0", 12, 10) == ""


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda s: s[:-20], "without its end"),
        (lambda s: s[: len(s) // 2] + bytes(len(s) - len(s) // 2), "without its end"),
        (lambda s: b"\0" + s[1:], "begin with its marker"),
        (lambda s: s[:2] + b"\0" + s[3:], "in place of a marker"),
        (lambda s: b"", "begin with its marker"),
    ],
)
def test_a_cut_or_changed_stream_is_damaged(kind: str, damage, found: str) -> None:  # type: ignore[no-untyped-def]
    assert found in find_damage(damage(STREAMS[kind]), 12, 10)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_of_another_size_is_named_with_it(kind: str) -> None:
    assert find_damage(STREAMS[kind], 40, 10) == "12 x 10 pixels"


@settings(max_examples=200)
@given(st.sampled_from(sorted(STREAMS)), st.integers(0, 60), st.integers(0, 255))
def test_any_changed_byte_is_damage_or_none(kind: str, at: int, value: int) -> None:
    stream = bytearray(STREAMS[kind])
    stream[at] = value
    assert isinstance(find_damage(bytes(stream), 12, 10), str)


def test_a_slice_with_fewer_rows_than_its_header_is_refused(tmp_path: Path) -> None:
    paths = write_mr_series(
        tmp_path / "s", np.stack([PLANE.T] * 3, 2), np.diag([1, 1, 2, 1.0]), description="T1", study="s", case="c"
    )
    for k, path in enumerate(paths):
        d = pydicom.dcmread(path)
        d.PixelData = encapsulate([bytes(imagecodecs.jpegls_encode(PLANE[: 8 if k == 1 else 12]))])
        d["PixelData"].VR = "OB"
        d.file_meta.TransferSyntaxUID = JPEGLSLossless
        d.save_as(path)

    with pytest.raises(SeriesError, match=r"found 8 x 10 pixels") as caught:
        read_scan(tmp_path / "s")
    assert caught.value.code == "truncated"
