"""Reconstructed tomograms of nuclear medicine are read as volumes, whichever way their slices are stacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from medhybrid.scans import discover
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan
from tests.synthetic import AFFINE

VALUES = np.random.default_rng(0).integers(0, 2000, (7, 6, 5)).astype(np.uint16)


def write_tomogram(path: Path, **changes: Any) -> Path:
    """Write a tomogram of nuclear medicine with the slices of `VALUES`."""
    slices = write_mr_series(path.parent / "slices", VALUES, AFFINE, description="NM", study="s", case="c")
    first = pydicom.dcmread(slices[0])
    d = pydicom.dcmread(slices[0])
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "EchoTime", "SliceThickness"):
        delattr(d, name)
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.20"
    d.Modality, d.ImageType = "NM", ["DERIVED", "PRIMARY", "RECON TOMO", "EMISSION"]
    detector = Dataset()
    detector.ImagePositionPatient, detector.ImageOrientationPatient = (
        first.ImagePositionPatient,
        first.ImageOrientationPatient,
    )
    d.DetectorInformationSequence = Items([detector])
    d.NumberOfFrames, d.SliceVector = VALUES.shape[2], list(range(1, VALUES.shape[2] + 1))
    d.SpacingBetweenSlices = float(np.linalg.norm(AFFINE[:3, 2]))
    d.PixelData = np.stack([np.ascontiguousarray(VALUES[:, :, k].T) for k in range(VALUES.shape[2])]).tobytes()
    for name, value in changes.items():
        setattr(d, name, value)
    for p in slices:
        p.unlink()
    slices[0].parent.rmdir()
    d.save_as(path)
    return path


def by_position(array: np.ndarray, affine: np.ndarray) -> dict[tuple[float, ...], float]:
    """Return the value at each position, rounded to micrometres."""
    index = np.stack(np.meshgrid(*map(np.arange, array.shape), indexing="ij"), -1).reshape(-1, 3)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    return {tuple(np.round(p, 3) + 0.0): float(v) for p, v in zip(places, array.reshape(-1), strict=True)}


def test_slices_lie_where_itk_reads_them(tmp_path: Path) -> None:
    path = write_tomogram(tmp_path / "a.dcm")
    truth = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(truth.GetDirection()).reshape(3, 3) * truth.GetSpacing()
    affine[:3, 3] = truth.GetOrigin()
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    scan = read_scan(path)

    found = by_position(scan.array[0].astype(float), scan.affine)
    assert found == by_position(sitk.GetArrayFromImage(truth).T.astype(float), affine)


def test_a_negative_distance_stacks_the_slices_the_other_way(tmp_path: Path) -> None:
    forward = read_scan(write_tomogram(tmp_path / "a.dcm"))
    step = float(np.linalg.norm(AFFINE[:3, 2]))

    backward = read_scan(write_tomogram(tmp_path / "b.dcm", SpacingBetweenSlices=-step))

    plain, turned = (by_position(s.array[0].astype(float), s.affine) for s in (forward, backward))
    normal = AFFINE[:3, 2] / step
    first = AFFINE[:3, 3]
    mirrored = {}
    for place, value in plain.items():
        height = float((np.array(place) - first) @ normal)
        mirrored[tuple(np.round(np.array(place) - 2 * height * normal, 3) + 0.0)] = value
    assert turned == mirrored


def test_frames_are_ordered_by_their_slice_number_and_divided_by_energy(tmp_path: Path) -> None:
    order = [3, 1, 5, 2, 4]
    plain = read_scan(write_tomogram(tmp_path / "a.dcm"))
    shuffled = np.stack([np.ascontiguousarray(VALUES[:, :, k - 1].T) for k in order])

    scan = read_scan(write_tomogram(tmp_path / "b.dcm", SliceVector=order, PixelData=shuffled.tobytes()))

    assert by_position(scan.array[0], scan.affine) == by_position(plain.array[0], plain.affine)
    (tmp_path / "c").mkdir()
    twice = np.concatenate([shuffled, shuffled + 1])
    write_tomogram(
        tmp_path / "c" / "c.dcm",
        NumberOfFrames=10,
        SliceVector=order * 2,
        EnergyWindowVector=[1] * 5 + [2] * 5,
        PixelData=twice.tobytes(),
    )
    entries = discover(tmp_path / "c").entries
    assert [e.problem for e in entries] == ["", ""]


@pytest.mark.parametrize(
    "changes", [{"ImageType": ["ORIGINAL", "PRIMARY", "TOMO", "EMISSION"]}, {"SpacingBetweenSlices": None}]
)
def test_projections_and_slices_without_distance_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_tomogram(tmp_path / "a.dcm", **changes)

    (entry,) = discover(tmp_path).entries

    assert entry.code == "no_geometry"
