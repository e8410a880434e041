"""Tests of stored bits in every encoding: unused bits are ignored, and MONOCHROME1 does not invert values with a unit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medhybrid.errors import SeriesError
from medhybrid.scans import Scan
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan

SHAPE = (9, 7, 2)  # columns, rows, slices
JUNK = np.uint16(0x9000)  # overlays in bits 12 and 15


def stored_bits(*, is_signed: bool) -> np.ndarray:
    """Return 12-bit values (Z, Y, X)."""
    low, high = (-2048, 2048) if is_signed else (0, 4096)
    return np.random.default_rng(3).integers(low, high, SHAPE[::-1])


def with_junk(values: np.ndarray) -> np.ndarray:
    """Return these values as uint16, some with bits set above the twelve stored ones."""
    bits = (values & 0x0FFF).astype(np.uint16)
    bits[:, 1:4, 2:6] |= JUNK
    return bits


def rle(plane: np.ndarray) -> bytes:
    from pydicom.pixels.encoders.native import _encode_frame

    class Runner:
        """Pixel layout for the encoder."""

        rows, columns, samples_per_pixel, bits_allocated, planar_configuration = *plane.shape, 1, 16, 0

        def get_option(self, name: str, default: object = None) -> object:
            return getattr(self, name, default)

    return bytes(_encode_frame(plane.tobytes(), Runner()))  # type: ignore[arg-type]


def jpeg_2000(plane: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(plane, level=0, reversible=True, codecformat="j2k"))


LOSSY: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "jpeg_2000_rated": (JPEG2000, jpeg_2000),
    "near": (JPEGLSNearLossless, lambda a: bytes(imagecodecs.jpegls_encode(a, level=2))),
    "near_by_5": (JPEGLSNearLossless, lambda a: bytes(imagecodecs.jpegls_encode(a, level=5))),
}
ENCODERS: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "jpeg_ls": (JPEGLSLossless, lambda a: bytes(imagecodecs.jpegls_encode(a))),
    "jpeg_2000": (JPEG2000Lossless, jpeg_2000),
    "htj2k": (HTJ2KLossless, lambda a: bytes(imagecodecs.htj2k_encode(a, reversible=True))),
    "jpeg_lossless": (JPEGLosslessSV1, lambda a: bytes(imagecodecs.ljpeg_encode(a, bitspersample=16))),
    "rle": (RLELossless, rle),
    "encapsulated": ("1.2.840.10008.1.2.1.98", lambda a: a.tobytes()),
}
PLAIN = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big_endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}


def write(folder: Path, bits: np.ndarray, encoding: str, **header: object) -> list[Path]:
    """Write a series of 16-bit words (Z, Y, X) in an encoding."""
    paths = write_mr_series(folder, np.zeros(SHAPE), np.eye(4), description="T1", study="s", case="c")
    for path, plane in zip(paths, bits, strict=True):
        d = pydicom.dcmread(path)
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 12, 11, 0
        for name, value in header.items():
            setattr(d, name, value)
        save(d, path, plane, encoding)
    return paths


def save(d: Dataset, path: Path, plane: np.ndarray, encoding: str) -> None:
    if encoding in ENCODERS | LOSSY:
        syntax, encode = (ENCODERS | LOSSY)[encoding]
        d.PixelData = encapsulate([encode(plane)])
        d["PixelData"].VR, d["PixelData"].is_undefined_length = "OB", True
        d.file_meta.TransferSyntaxUID = syntax
        d.save_as(path)
        return
    syntax = PLAIN[encoding]
    is_big = syntax == ExplicitVRBigEndian
    d.PixelData = plane.astype(">u2" if is_big else "<u2").tobytes()
    d.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(
        path, d, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=not is_big, force_encoding=True
    )


def values_of(scan: Scan) -> np.ndarray:
    """Return the values (Z, Y, X) of a scan."""
    return np.asarray(scan.array[0].transpose(2, 1, 0))


@pytest.mark.parametrize("is_signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("encoding", [*PLAIN, *ENCODERS])
def test_bits_above_bits_stored_are_ignored(encoding: str, is_signed: bool, tmp_path: Path) -> None:
    values = stored_bits(is_signed=is_signed)
    paths = write(
        tmp_path,
        with_junk(values),
        encoding,
        PixelRepresentation=int(is_signed),
        RescaleSlope="2",
        RescaleIntercept="-1024",
    )

    scan = read_scan(paths)

    np.testing.assert_array_equal(values_of(scan), values * 2 - 1024)
    assert scan.array.dtype == np.int16
    if encoding != "jpeg_lossless":  # its decoder removes unused bits, so they cannot be noted
        assert any("bits above BitsStored" in note for note in scan.notes)


@pytest.mark.parametrize("encoding", [*PLAIN, *ENCODERS])
def test_signed_values_with_extended_sign_have_no_note(encoding: str, tmp_path: Path) -> None:
    values = stored_bits(is_signed=True)

    scan = read_scan(write(tmp_path, values.astype(np.int16).view(np.uint16), encoding, PixelRepresentation=1))

    np.testing.assert_array_equal(values_of(scan), values)
    assert scan.notes == ()


@pytest.mark.parametrize("encoding", ["explicit", "jpeg_ls", "rle"])
def test_a_wrong_high_bit_is_refused_only_if_pixels_may_be_shifted(encoding: str, tmp_path: Path) -> None:
    values = stored_bits(is_signed=False)

    with pytest.raises(SeriesError, match="HighBit 11, found HighBit 15"):
        read_scan(write(tmp_path / "above", (values << 4).astype(np.uint16), encoding, HighBit=15))
    with pytest.raises(SeriesError, match="HighBit 11, found HighBit 12"):
        read_scan(write(tmp_path / "one", ((values & 0x07FF) << 1).astype(np.uint16), encoding, HighBit=12))

    careless = read_scan(write(tmp_path / "careless", values.astype(np.uint16), encoding, HighBit=15))
    np.testing.assert_array_equal(values_of(careless), values)


def test_more_bits_stored_than_allocated_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SeriesError, match="BitsStored of 1 to 16, found 20"):
        read_scan(write(tmp_path / "stored", stored_bits(is_signed=False).astype(np.uint16), "jpeg_ls", BitsStored=20))
    with pytest.raises(SeriesError, match="HighBit of 0 to 15, found 60000"):
        read_scan(write(tmp_path / "high", stored_bits(is_signed=False).astype(np.uint16), "jpeg_ls", HighBit=60000))


@pytest.mark.parametrize("name", ["PixelRepresentation", "BitsAllocated"])
def test_a_missing_pixel_attribute_is_named(name: str, tmp_path: Path) -> None:
    paths = write(tmp_path, stored_bits(is_signed=False).astype(np.uint16), "explicit")
    for path in paths:
        d = pydicom.dcmread(path)
        delattr(d, name)
        d.save_as(path)

    with pytest.raises(SeriesError, match=f"{name} is absent"):
        read_scan(paths)


def test_a_signed_stream_under_an_unsigned_header_is_refused_where_the_two_differ(tmp_path: Path) -> None:
    values = stored_bits(is_signed=True).astype(np.int16)

    with pytest.raises(SeriesError, match="PixelRepresentation 1, found PixelRepresentation 0"):
        read_scan(write(tmp_path / "negative", values, "jpeg_2000"))

    same = read_scan(write(tmp_path / "positive", np.abs(values) // 2, "jpeg_2000"))
    np.testing.assert_array_equal(values_of(same), np.abs(values) // 2)


def test_an_unsigned_stream_under_a_signed_header_holds_twos_complement(tmp_path: Path) -> None:
    values = stored_bits(is_signed=True)

    scan = read_scan(write(tmp_path, (values & 0x0FFF).astype(np.uint16), "jpeg_2000", PixelRepresentation=1))

    np.testing.assert_array_equal(values_of(scan), values)


def test_small_overshoot_of_lossy_compression_is_clipped(tmp_path: Path) -> None:
    values = stored_bits(is_signed=False).astype(np.uint16)
    values[0, 0, 0] = 4100  # slightly above 12 bits

    scan = read_scan(write(tmp_path / "near", values, "jpeg_2000_rated", LossyImageCompression="01"))

    np.testing.assert_array_equal(values_of(scan), np.minimum(values, 4095))
    values[0, 0, 0] = 9000
    with pytest.raises(SeriesError, match=r"0 to 4095 .*found .* to 9000"):
        read_scan(write(tmp_path / "far", values, "jpeg_2000_rated", LossyImageCompression="01"))


@pytest.mark.parametrize("encoding", ["jpeg_ls", "jpeg_2000", "jpeg_lossless", "rle", "htj2k"])
def test_a_lossless_stream_counts_as_lossless_after_earlier_lossy_compression(encoding: str, tmp_path: Path) -> None:
    values = stored_bits(is_signed=True)
    bits = with_junk(values)

    scan = read_scan(write(tmp_path, bits, encoding, PixelRepresentation=1, LossyImageCompression="01"))

    np.testing.assert_array_equal(values_of(scan), values)


@pytest.mark.parametrize("is_signed", [False, True], ids=["unsigned", "signed"])
def test_the_error_of_a_near_lossless_stream_is_read_from_the_stream(is_signed: bool, tmp_path: Path) -> None:
    values = stored_bits(is_signed=is_signed)
    low, high = (-2048, 2047) if is_signed else (0, 4095)
    values = np.clip(values, low + 5, high - 5) if is_signed else values
    values[:, 2:5] = values[:, 2:5] if is_signed else high

    scan = read_scan(write(tmp_path / "a", (values & 0x0FFF).astype(np.uint16), "near", PixelRepresentation=is_signed))

    assert np.abs(values_of(scan) - values).max() <= 2
    if is_signed:
        values[0, :, ::2], values[0, :, 1::2] = high, low  # 2047 and 2048 in the stream
        with pytest.raises(SeriesError, match="changed the sign"):
            read_scan(write(tmp_path / "b", (values & 0x0FFF).astype(np.uint16), "near", PixelRepresentation=1))


@pytest.mark.parametrize(("encoding", "n_bits"), [("near_by_5", 12), ("near_by_5", 16), ("jpeg_2000_rated", 12)])
def test_padding_with_the_lowest_value_does_not_change_sign_by_lossy_compression(
    encoding: str, n_bits: int, tmp_path: Path
) -> None:
    values = np.abs(stored_bits(is_signed=True)) // 2
    bits = {"PixelRepresentation": 1, "BitsStored": n_bits, "HighBit": n_bits - 1, "LossyImageCompression": "01"}
    words = values.astype(np.uint16)

    plain = read_scan(write(tmp_path / "a", words, encoding, **bits))

    assert np.abs(values_of(plain) - values).max() <= 5
    words[:, :3] = 2 ** (n_bits - 1)  # the lowest value: 2047 or 32767 after compression
    with pytest.raises(SeriesError, match="changed the sign"):
        read_scan(write(tmp_path / "b", words, encoding, **bits))


@pytest.mark.parametrize(
    "header",
    [
        {"Modality": "CT"},
        {"Modality": "PT"},
        {"Modality": "NM"},
        {"Modality": "OT", "RescaleType": "HU"},
        {"Modality": "OT", "Units": "BQML"},
    ],
    ids=["ct", "pet", "nm", "hu", "bqml"],
)
def test_values_with_a_unit_are_not_inverted_by_monochrome1(header: dict[str, str], tmp_path: Path) -> None:
    values = stored_bits(is_signed=False)
    scale = {"RescaleSlope": "2", "RescaleIntercept": "-1024", "PhotometricInterpretation": "MONOCHROME1"}

    scan = read_scan(write(tmp_path, values.astype(np.uint16), "explicit", **scale, **header))

    np.testing.assert_array_equal(values_of(scan), values * 2 - 1024)


@pytest.mark.parametrize(
    "header", [{"RescaleType": "HU"}, {"Units": "BQML"}, {"BitsStored": 10, "HighBit": 9}, {"PixelRepresentation": 1}]
)
def test_slices_that_monochrome1_inverts_in_different_ways_are_refused(
    header: dict[str, object], tmp_path: Path
) -> None:
    values = (stored_bits(is_signed=False) // 8).astype(np.uint16)
    scale = {"RescaleSlope": "1", "RescaleIntercept": "0"}
    paths = write(tmp_path, values, "explicit", **scale, PhotometricInterpretation="MONOCHROME1")
    d = pydicom.dcmread(paths[1])
    for name, value in header.items():
        setattr(d, name, value)
    d.save_as(paths[1])

    with pytest.raises(SeriesError, match=r"MONOCHROME1 inverts .* in different ways"):
        read_scan(paths)
    for path in paths:
        d = pydicom.dcmread(path)
        d.PhotometricInterpretation = "MONOCHROME2"
        d.save_as(path)
    np.testing.assert_array_equal(values_of(read_scan(paths)), values)


@pytest.mark.parametrize("encoding", ["explicit", "jpeg_ls"])
def test_values_without_a_unit_are_inverted_within_their_stored_bits_before_they_are_rescaled(
    encoding: str, tmp_path: Path
) -> None:
    values = stored_bits(is_signed=False)
    scale = {"RescaleSlope": "2", "RescaleIntercept": "-1024", "PhotometricInterpretation": "MONOCHROME1"}

    scan = read_scan(write(tmp_path, with_junk(values), encoding, **scale))

    np.testing.assert_array_equal(values_of(scan), (4095 - values) * 2 - 1024)


@pytest.mark.parametrize("encoding", ["implicit", "explicit", "big_endian"])
@pytest.mark.parametrize("has_preamble", [False, True], ids=["bare", "preamble"])
def test_a_file_without_transfer_syntax_is_read_by_its_encoding(
    encoding: str, has_preamble: bool, tmp_path: Path
) -> None:
    values = stored_bits(is_signed=False)
    paths = write(tmp_path, values.astype(np.uint16), encoding)
    for path in paths:
        content = path.read_bytes()
        group_8 = b"\x00\x08\x00" if encoding == "big_endian" else b"\x08\x00\x05"
        start = content.index(b"\x00\x08\x00\x08" if encoding == "big_endian" else b"\x08\x00\x08\x00")
        assert content[start : start + 2] == group_8[:2]
        path.write_bytes((bytes(128) + b"DICM" if has_preamble else b"") + content[start:])

    np.testing.assert_array_equal(values_of(read_scan(paths)), values)


def test_planar_configuration_of_a_greyscale_image_is_ignored(tmp_path: Path) -> None:
    values = stored_bits(is_signed=False)

    for encoding in ("explicit", "big_endian", "jpeg_ls"):
        paths = write(tmp_path / encoding, values.astype(np.uint16), encoding, PlanarConfiguration=1)
        np.testing.assert_array_equal(values_of(read_scan(paths)), values)


# --- length ---------------------------------------------------------------------------------------------------------


def append(paths: list[Path], content: bytes) -> None:
    for path in paths:
        d = pydicom.dcmread(path)
        d.PixelData += content
        d.save_as(path)


@pytest.mark.parametrize("padding", [bytes(2), bytes(512), b"\x07" * 10], ids=["two", "a_block", "other_bytes"])
def test_bytes_after_the_pixels_are_padding(padding: bytes, tmp_path: Path) -> None:
    values = stored_bits(is_signed=False)
    paths = write(tmp_path, values.astype(np.uint16), "explicit")
    append(paths, padding)

    scan = read_scan(paths)

    np.testing.assert_array_equal(values_of(scan), values)
    assert f"{len(padding)} bytes after the pixels are padding" in scan.notes


@pytest.mark.parametrize("name", ["Rows", "Columns"])
def test_surplus_pixels_are_not_padding(name: str, tmp_path: Path) -> None:
    values = stored_bits(is_signed=False)
    fewer = {"Rows": SHAPE[1] - 1, "Columns": SHAPE[0] - 1}[name]

    with pytest.raises(SeriesError, match="bytes of pixels") as caught:
        read_scan(write(tmp_path, values.astype(np.uint16), "explicit", **{name: fewer}))

    assert caught.value.code == "truncated"


def test_compressed_frames_under_an_uncompressed_syntax_are_refused(tmp_path: Path) -> None:
    paths = write(tmp_path, stored_bits(is_signed=False).astype(np.uint16), "encapsulated")
    for path in paths:
        d = pydicom.dcmread(path)
        d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d.save_as(path)

    with pytest.raises(SeriesError, match="found compressed frames"):
        read_scan(paths)


@pytest.mark.parametrize("name", ["Rows", "Columns"])
@pytest.mark.parametrize("encoding", ["rle", "encapsulated"])
def test_surplus_compressed_pixels_are_refused(encoding: str, name: str, tmp_path: Path) -> None:
    values = stored_bits(is_signed=False).astype(np.uint16)
    fewer = {"Rows": SHAPE[1] - 1, "Columns": SHAPE[0] - 1}[name]

    with pytest.raises(SeriesError, match="holds more pixel data than its header states") as caught:
        read_scan(write(tmp_path, values, encoding, **{name: fewer}))

    assert caught.value.code == "truncated"


def test_padding_after_an_rle_stream_is_ignored(tmp_path: Path) -> None:
    values = stored_bits(is_signed=False).astype(np.uint16)
    paths = write(tmp_path, values, "rle")
    for path, plane in zip(paths, values, strict=True):
        d = pydicom.dcmread(path)
        d.PixelData = encapsulate([rle(plane) + bytes(2)])
        d.save_as(path)

    np.testing.assert_array_equal(values_of(read_scan(paths)), values)


@pytest.mark.parametrize("has_table", [True, False])
@pytest.mark.parametrize("encoding", ["jpeg_ls", "rle"])
def test_a_second_stream_in_a_file_of_one_frame_is_refused(encoding: str, has_table: bool, tmp_path: Path) -> None:
    values = stored_bits(is_signed=False).astype(np.uint16)
    paths = write(tmp_path, values, encoding)
    d = pydicom.dcmread(paths[0])
    d.PixelData = encapsulate([ENCODERS[encoding][1](plane) for plane in values[:2]], has_bot=has_table)
    d.save_as(paths[0])

    with pytest.raises(SeriesError, match="holds more pixel data than its header states") as caught:
        read_scan(paths)

    assert caught.value.code == "truncated"


# --- floats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
def test_float_pixels_are_read_unchanged(name: str, kind: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0, 1e5, SHAPE[::-1]).astype(np.float32)
    values[0, 0, :2] = np.nan, np.inf
    paths = write(tmp_path, np.zeros(SHAPE[::-1], np.uint16), "explicit")
    for path, plane in zip(paths, values, strict=True):
        d = pydicom.dcmread(path)
        del d.PixelData, d.BitsStored, d.HighBit, d.PixelRepresentation
        d.BitsAllocated = int(kind[-1]) * 8
        setattr(d, name, plane.astype(kind).tobytes())
        d.save_as(path)

    scan = read_scan(paths)

    assert scan.array.dtype == np.float32
    np.testing.assert_array_equal(values_of(scan), values)
