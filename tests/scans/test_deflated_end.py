"""Deflated DICOM files end with padding, which must not stop the check of their size."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file

from medhybrid.scans import discover
from medhybrid.scans.dicom.deflated import inflates_beyond
from tests.synthetic import save_nifti


@settings(deadline=None)
@example(n=131_073, padding=b"", block=1 << 10, beyond=True)  # the last byte waits when all input is read
@given(
    n=st.integers(0, 300_000),
    padding=st.binary(max_size=3),
    block=st.sampled_from([1 << 10, 1 << 16]),
    beyond=st.booleans(),
)
def test_the_size_of_a_padded_stream_is_found(n: int, padding: bytes, block: int, beyond: bool) -> None:
    packer = zlib.compressobj(wbits=-15)
    stream = packer.compress(bytes(n)) + packer.flush() + padding
    chunks = [stream[i : i + block] for i in range(0, len(stream), block)]

    assert inflates_beyond(iter(chunks), n - 1 if beyond and n else n) is (beyond and n > 0)


@pytest.mark.parametrize("name", ["image_dfl.dcm"])
def test_a_deflated_file_beside_a_scan_does_not_stop_the_search(name: str, tmp_path: Path) -> None:
    import numpy as np

    shutil.copy(get_testdata_file(name), tmp_path / "a.dcm")
    save_nifti(tmp_path / "b.nii.gz", np.zeros((4, 5, 6), np.int16))

    assert "b" in {e.name for e in discover(tmp_path).entries}
