"""Compressed NIfTI files have the content that nibabel writes."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.scans import write_nifti
from medhybrid.scans.nifti import _nifti_image
from medhybrid.scans.reader import read_scan
from tests.strategies import affines

TYPES = ("u1", "i2", "u2", "i4", "f4", "f8")


@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 9), st.integers(1, 70)),
    kind=st.sampled_from(TYPES),
    order=st.sampled_from("CF"),
    n_channels=st.sampled_from([0, 0, 2]),
    affine=affines(),
)
def test_a_compressed_file_has_the_bytes_of_nibabel(
    shape: tuple[int, int, int],
    kind: str,
    order: str,
    n_channels: int,
    affine: np.ndarray,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    shape = (n_channels, *shape) if n_channels else shape
    array = np.asarray(np.random.default_rng(0).normal(20, 30, shape), order=order).astype(kind, order=order)
    path = tmp_path_factory.mktemp("written") / "x.nii.gz"

    write_nifti(path, array, affine)

    expected = _nifti_image(np.moveaxis(array, 0, 3) if n_channels else array, affine, None).to_bytes()
    assert gzip.decompress(path.read_bytes()) == expected


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_a_mask_with_the_geometry_of_its_scan_has_the_bytes_of_nibabel(
    version: int, endianness: str, tmp_path: Path
) -> None:
    kind = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    header = kind.header_class(endianness=endianness)
    affine = np.array([[0, 0, 2.0, 5], [-1.5, 0, 0, 9], [0, 1, 0, 1], [0, 0, 0, 1]])
    nib.save(kind(np.zeros((40, 6, 50), np.int16), affine, header), tmp_path / "scan.nii")
    scan = read_scan(tmp_path / "scan.nii")
    mask = np.random.default_rng(0).integers(0, 9, (40, 6, 50)).astype(np.uint8)

    write_nifti(tmp_path / "x.nii.gz", mask, scan.affine, like=scan.source)
    write_nifti(tmp_path / "x.nii", mask, scan.affine, like=scan.source)

    assert gzip.decompress((tmp_path / "x.nii.gz").read_bytes()) == (tmp_path / "x.nii").read_bytes()


def test_the_same_values_make_the_same_file(tmp_path: Path) -> None:
    """Hashes of masks do not depend on the time or the name."""
    for name in ("a", "b"):
        write_nifti(tmp_path / f"{name}.nii.gz", np.ones((3, 4, 5), np.uint8), np.eye(4))

    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
