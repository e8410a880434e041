"""Tests of damaged compressed streams: refused by their markers, or after a crash of the decoder's process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless

from medhybrid.errors import SeriesError
from medhybrid.scans.dicom import decoding
from medhybrid.scans.dicom.decoding import DecodingError, decode_frame
from medhybrid.scans.dicom.jpeg_stream import find_damage, find_damage_2000, find_damage_of, lossy_error
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan

PLANE = np.random.default_rng(0).integers(0, 4000, (12, 10)).astype(np.uint16)

STREAMS = {
    "JPEG-LS": bytes(imagecodecs.jpegls_encode(PLANE)),
    "JPEG lossless": bytes(imagecodecs.ljpeg_encode(PLANE)),
    "JPEG": bytes(imagecodecs.jpeg8_encode((PLANE // 16).astype(np.uint8))),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_complete_stream_is_not_damaged_also_with_padding(kind: str) -> None:
    assert find_damage(STREAMS[kind], 12, 10) == ""
    assert find_damage(STREAMS[kind] + b"\0", 12, 10) == ""


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda s: s[:-20], "without its end"),
        (lambda s: s[: len(s) // 2] + bytes(len(s) - len(s) // 2), "without its end"),
        (lambda s: b"\0" + s[1:], "without its start marker"),
        (lambda s: s[:2] + b"\0" + s[3:], "in place of a marker"),
        (lambda s: b"", "without its start marker"),
    ],
)
def test_a_cut_or_changed_stream_is_damaged(kind: str, damage, found: str) -> None:  # type: ignore[no-untyped-def]
    assert found in find_damage(damage(STREAMS[kind]), 12, 10)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_of_another_size_is_reported(kind: str) -> None:
    assert find_damage(STREAMS[kind], 40, 10) == "12 x 10 pixels"


def encode_2000(plane: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(plane, codecformat="j2k", level=0, reversible=True))


COLOURS = np.stack([np.tile(PLANE, (4, 4)).astype(np.uint8)] * 3, axis=-1)


@pytest.mark.parametrize(
    ("syntax", "encode", "plane", "found"),
    [
        (JPEG2000Lossless, encode_2000, np.tile(PLANE, (4, 4)), ""),
        (JPEG2000Lossless, encode_2000, np.tile(PLANE, (4, 4)).T, "40 x 48 pixels"),
        (HTJ2KLossless, imagecodecs.htj2k_encode, np.tile(PLANE, (4, 4)), ""),
        (HTJ2KLossless, imagecodecs.htj2k_encode, np.tile(PLANE, (4, 4)).T, "40 x 48 pixels"),
        (JPEG2000Lossless, encode_2000, COLOURS, "48 x 40 pixels of 3 colours"),
        (JPEGBaseline8Bit, imagecodecs.jpeg8_encode, COLOURS, "48 x 40 pixels of 3 colours"),
        (JPEGLSLossless, imagecodecs.jpegls_encode, COLOURS, "48 x 40 pixels of 3 colours"),
    ],
)
def test_a_stream_of_another_shape_or_of_colours_differs_from_its_header(
    syntax: str, encode: Callable[[np.ndarray], bytes], plane: np.ndarray, found: str
) -> None:
    assert find_damage_of(syntax, bytes(encode(np.ascontiguousarray(plane))), 48, 40, 16) == found


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEG2000Lossless, encode_2000),
        (JPEGLSLossless, imagecodecs.jpegls_encode),
        (JPEGLosslessSV1, imagecodecs.ljpeg_encode),
    ],
)
def test_a_stream_of_more_bits_than_allocated_differs_from_its_header(
    syntax: str, encode: Callable[[np.ndarray], bytes]
) -> None:
    stream = bytes(encode(np.tile(PLANE, (4, 4))))

    assert find_damage_of(syntax, stream, 48, 40, 16) == ""
    assert "bits, in BitsAllocated 8" in find_damage_of(syntax, stream, 48, 40, 8)


def test_a_transposed_slice_is_refused_also_if_it_has_as_many_values(tmp_path: Path) -> None:
    plane = np.tile(PLANE, (4, 4))
    paths = write_mr_series(
        tmp_path / "s",
        np.stack([plane.T] * 3, 2).astype(int),
        np.diag([1, 1, 2, 1.0]),
        description="T1",
        study="s",
        case="c",
    )
    for path in paths:
        d = pydicom.dcmread(path)
        d.PixelData = encapsulate([encode_2000(np.ascontiguousarray(plane.T))])
        d["PixelData"].VR = "OB"
        d.file_meta.TransferSyntaxUID = JPEG2000Lossless
        d.save_as(path)

    with pytest.raises(SeriesError, match=r"found 40 x 48 pixels"):
        read_scan(tmp_path / "s")


def test_a_jpeg_of_8_bits_is_read_also_under_16_allocated_bits(tmp_path: Path) -> None:
    plane = np.tile(PLANE // 16, (4, 4)).astype(np.uint8)
    paths = write_mr_series(
        tmp_path / "s",
        np.stack([plane.T] * 3, 2).astype(int),
        np.diag([1, 1, 2, 1.0]),
        description="T1",
        study="s",
        case="c",
    )
    stream = bytes(imagecodecs.jpeg8_encode(plane, level=100))
    for path in paths:
        d = pydicom.dcmread(path)
        d.PixelData = encapsulate([stream])
        d["PixelData"].VR = "OB"
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 8, 7, 0
        d.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        d.save_as(path)

    np.testing.assert_array_equal(read_scan(tmp_path / "s").array[0, :, :, 1].T, imagecodecs.jpeg8_decode(stream))


@settings(max_examples=200)
@given(st.sampled_from(sorted(STREAMS)), st.integers(0, 60), st.integers(0, 255))
def test_a_stream_with_changed_bytes_is_checked_without_errors(kind: str, at: int, value: int) -> None:
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


SYNTAX = {
    "JPEG lossless": JPEGLosslessSV1,
    "JPEG": JPEGBaseline8Bit,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
}
CONTENTS = STREAMS | {"JPEG 2000": bytes(imagecodecs.jpeg2k_encode(PLANE, level=0, codecformat="j2k"))}


@pytest.mark.parametrize("stream", [CONTENTS["JPEG 2000"], bytes(imagecodecs.htj2k_encode(PLANE))])
def test_a_jpeg_2000_stream_must_be_complete_up_to_its_end_marker(stream: bytes) -> None:
    middle = len(stream) // 2
    for whole in (stream, stream + b"\0"):
        assert find_damage_2000(whole) == ""
    for damaged in (stream[:-2], stream[:middle], stream[:middle] + bytes(len(stream) - middle), b"", b"\xff\xd9"):
        assert find_damage_2000(damaged)
    assert "part" in find_damage_2000(stream[: middle - 5] + stream[middle:])


def test_the_stream_decides_whether_compression_is_lossy() -> None:
    ls = {n: bytes(imagecodecs.jpegls_encode(PLANE, level=n)) for n in (0, 3)}
    lossy_2000 = bytes(imagecodecs.jpeg2k_encode(PLANE, level=40, reversible=False, codecformat="j2k"))
    ls_syntax, syntax_2000 = "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91"
    for was_lossy in (False, True):
        assert [lossy_error(ls[n], ls_syntax, was_lossy=was_lossy) for n in (0, 3)] == [0, 3]
        assert lossy_error(STREAMS["JPEG"], SYNTAX["JPEG"], was_lossy=was_lossy) is None
        assert lossy_error(STREAMS["JPEG lossless"], SYNTAX["JPEG lossless"], was_lossy=was_lossy) == 0
        assert lossy_error(CONTENTS["JPEG 2000"], SYNTAX["JPEG 2000"], was_lossy=was_lossy) == 0
        assert lossy_error(lossy_2000, syntax_2000, was_lossy=was_lossy) is None


def image_of(kind: str, stream: bytes) -> pydicom.Dataset:
    bits = 8 if kind == "JPEG" else 16
    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = SYNTAX[kind]
    image.Rows, image.Columns, image.SamplesPerPixel, image.NumberOfFrames = 12, 10, 1, 1
    image.BitsAllocated = image.BitsStored = bits
    image.HighBit, image.PixelRepresentation, image.PhotometricInterpretation = bits - 1, 0, "MONOCHROME2"
    image.PixelData = encapsulate([stream])
    image["PixelData"].VR = "OB"
    return image


@pytest.mark.parametrize("kind", CONTENTS)
def test_values_from_a_worker_process_agree_with_pydicom(kind: str) -> None:
    image = image_of(kind, CONTENTS[kind])
    expected, _ = get_decoder(SYNTAX[kind]).as_array(image, index=0, raw=True)

    np.testing.assert_array_equal(decode_frame(image, 0, SYNTAX[kind]), expected)


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_damaged_stream_crashes_only_the_worker_process(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode damaged streams: about one in 200 crashes a decoder, and some exceed the time limit."""
    monkeypatch.setattr(decoding, "MAX_SECONDS", 2.0)
    numbers = np.random.default_rng(5)
    n_refused = 0
    for _ in range(5):
        stream = np.frombuffer(CONTENTS[kind], np.uint8).copy()
        places = numbers.integers(2, len(stream) - 2, 5)
        stream[places] = numbers.integers(0, 256, 5)
        try:
            decode_frame(image_of(kind, stream.tobytes()), 0, SYNTAX[kind])
        except DecodingError:
            n_refused += 1
    assert n_refused


@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), 11)", "os._exit(3)"])
def test_a_crashed_decoder_is_reported_and_the_next_frame_is_read(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = image_of("JPEG-LS", CONTENTS["JPEG-LS"])
    dying = tmp_path / "worker.py"
    dying.write_text(f"import os, sys\nsys.stdin.buffer.readline()\n{ending}\n")
    decoding._end_all()
    with monkeypatch.context() as changed:
        changed.setattr(decoding, "WORKER", dying)
        with pytest.raises(DecodingError) as caught:
            decode_frame(image, 0, JPEGLSLossless)
    assert caught.value.kind == f"a stream that crashes the decoder ({'signal 11' if 'kill' in ending else 'status 3'})"

    np.testing.assert_array_equal(decode_frame(image, 0, JPEGLSLossless), PLANE)


def test_a_worker_that_ended_while_idle_is_replaced() -> None:
    image = image_of("JPEG-LS", CONTENTS["JPEG-LS"])
    decode_frame(image, 0, JPEGLSLossless)
    for worker in decoding._idle:
        worker._process.kill()
        worker._process.wait()

    np.testing.assert_array_equal(decode_frame(image, 0, JPEGLSLossless), PLANE)


def test_a_decoder_above_the_time_limit_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = tmp_path / "worker.py"
    waiting.write_text("import time\ntime.sleep(600)\n")
    decoding._end_all()
    monkeypatch.setattr(decoding, "WORKER", waiting)
    monkeypatch.setattr(decoding, "MAX_SECONDS", 0.2)

    with pytest.raises(DecodingError) as caught:
        decode_frame(image_of("JPEG-LS", CONTENTS["JPEG-LS"]), 0, JPEGLSLossless)
    assert "signal 9" in caught.value.kind
