"""Compressed values that ISA-L decompresses are those of zlib, also where they are damaged."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.scans import streams
from medhybrid.scans.streams import DAMAGE, inflate, read_plain_or_gzip

VALUES = np.random.default_rng(0).normal(100, 9, 6000).astype("<i2").tobytes()


def read_all(path: Path) -> bytes | str:
    try:
        return read_plain_or_gzip(path, lambda stream: stream.read())
    except DAMAGE as error:
        return type(error).__name__


def by_python(content: bytes) -> bytes | str:
    try:
        return gzip.decompress(content) if content[:2] == streams.GZIP_MAGIC else content
    except DAMAGE as error:
        return type(error).__name__


@given(
    level=st.integers(0, 9),
    place=st.floats(0, 1, exclude_max=True),
    byte=st.integers(0, 255),
    cut=st.sampled_from([None, None, None, -1, -4, -8, -300]),
    more=st.sampled_from([b"", b"", b"\0" * 20, b"junk", b"much more junk here", gzip.compress(b"second")]),
)
def test_gzip_with_a_wrong_byte_is_read_as_by_python(
    level: int, place: float, byte: int, cut: int | None, more: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(gzip.compress(VALUES, level))
    content[int(place * len(content))] = byte
    content = content[:cut] + more
    path = tmp_path_factory.mktemp("damage") / "x.gz"
    path.write_bytes(content)

    assert read_all(path) == by_python(bytes(content))


@pytest.mark.parametrize("place", [-1, -3, -5, -8], ids=["length", "length", "checksum", "checksum"])
def test_checksum_and_length_are_compared_by_the_fast_reader_itself(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(gzip.compress(VALUES))
    content[place] ^= 1
    (tmp_path / "x.gz").write_bytes(content)
    monkeypatch.setattr(streams, "open_plain_or_gzip", lambda _path: io.BytesIO(b"read by Python"))

    assert read_plain_or_gzip(tmp_path / "x.gz", lambda stream: stream.read()) == b"read by Python"


def test_whole_files_are_read_by_the_fast_reader_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(VALUES))
    monkeypatch.setattr(gzip, "open", None)

    assert read_plain_or_gzip(tmp_path / "x.gz", lambda stream: stream.read()) == VALUES


@given(
    is_gzip=st.booleans(),
    place=st.floats(0, 1, exclude_max=True),
    byte=st.integers(0, 255),
    n_bytes=st.sampled_from([len(VALUES), len(VALUES) - 10, len(VALUES) + 10]),
)
def test_zlib_streams_with_a_wrong_byte_are_read_as_by_zlib(
    is_gzip: bool, place: float, byte: int, n_bytes: int
) -> None:
    packed = bytearray((gzip.compress if is_gzip else zlib.compress)(VALUES))
    packed[int(place * len(packed))] = byte
    try:
        expected = bytearray(zlib.decompress(packed, 47))
        expected_surplus = len(expected) - n_bytes
    except zlib.error:
        expected_surplus = -1

    try:
        content, n_surplus = inflate_after_head(bytes(packed), n_bytes)
    except (zlib.error, EOFError):
        assert expected_surplus < 0
    else:
        assert (content, n_surplus) == (expected[:n_bytes], expected_surplus)


def inflate_after_head(packed: bytes, n_bytes: int) -> tuple[bytearray, int]:
    file = io.BytesIO(b"head" + packed)
    file.seek(4)
    return inflate(file, n_bytes)
