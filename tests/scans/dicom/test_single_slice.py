"""A series of one slice is a two-dimensional scan, and a slice of a larger series is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image

from medhybrid.config import DataConfig, ScansConfig
from medhybrid.data.layouts import Case, Files
from medhybrid.data.load import load_image, load_mask
from medhybrid.errors import SeriesError
from medhybrid.scans import discover
from medhybrid.scans.dicom.references import read_masks
from medhybrid.scans.dicom.seg import SegInfo, write_seg
from medhybrid.scans.dicom.single_slice import NO_THICKNESS, NOTE
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan

TURNED = np.array([[0, 0, 2.5, -10], [0.7, 0, 0, 5], [0, -0.8, 0, 30], [0, 0, 0, 1.0]])
"""A sagittal slice of 0.7 x 0.8 x 2.5 mm, to RAS mm."""

LABELS = (np.arange(40).reshape(8, 5, 1) % 3).astype(np.uint8)


def write_slices(folder: Path, n: int, *, study: str = "study") -> list[Path]:
    values = np.arange(40 * n, dtype=np.uint16).reshape(8, 5, n)
    return write_mr_series(folder, values, TURNED, description=folder.name, study=study, case="c")


def test_a_series_of_one_slice_lies_where_itk_places_it(tmp_path: Path) -> None:
    path = write_slices(tmp_path / "s", 1)[0]

    scan = read_scan(tmp_path / "s")

    image = sitk.ReadImage(str(path))
    corner = np.array(image.TransformIndexToPhysicalPoint((7, 4, 0))) * (-1, -1, 1)
    np.testing.assert_allclose((scan.affine @ (7, 4, 0, 1))[:3], corner, atol=1e-4)
    np.testing.assert_array_equal(scan.array[0, :, :, 0].T, sitk.GetArrayFromImage(image)[0])
    np.testing.assert_allclose(scan.grid.spacing_mm, (0.7, 0.8, 2.5), atol=1e-4)
    assert NOTE in scan.notes
    assert [e.problem for e in discover(tmp_path).entries] == [""]


def test_a_missing_thickness_is_noted(tmp_path: Path) -> None:
    path = write_slices(tmp_path / "s", 1)[0]
    header = pydicom.dcmread(path)
    header.SliceThickness = None
    header.save_as(path)

    scan = read_scan(path)

    assert scan.grid.spacing_mm[2] == 1
    assert NO_THICKNESS in scan.notes


def test_its_masks_are_a_seg_or_an_image_file(tmp_path: Path) -> None:
    path = write_slices(tmp_path / "s", 1)[0]
    Image.fromarray(LABELS[..., 0].T).save(tmp_path / "m.png")
    data = DataConfig.model_validate({"channels": [{"name": "T1"}], "labels": {"a": 1, "b": 2}})
    case = Case("c", "c", (Files((path,)),), Files((tmp_path / "m.png",)))

    scan = load_image(case, data, ScansConfig())
    write_seg(tmp_path / "seg.dcm", LABELS, scan, SegInfo({"a": 1, "b": 2}, "0"))

    found = read_masks(tmp_path / "seg.dcm", scan, ["a", "b"])
    np.testing.assert_array_equal(found["a"] + 2 * found["b"], LABELS)
    np.testing.assert_array_equal(load_mask(case, scan, data, ScansConfig()).array[0], LABELS)


def test_one_slice_of_a_series_is_refused_with_the_name_of_another(tmp_path: Path) -> None:
    paths = write_slices(tmp_path / "s", 3)

    with pytest.raises(SeriesError, match=f"{paths[0].name} of the same series") as caught:
        read_scan(paths[1])

    assert caught.value.code == "single_slice"
    assert [e.code for e in discover(paths[1]).entries] == ["single_slice"]


def test_a_copy_of_a_slice_is_not_another_slice(tmp_path: Path) -> None:
    path = write_slices(tmp_path / "s", 1)[0]
    shutil.copy(path, tmp_path / "s" / "copy.dcm")

    assert NOTE in read_scan(path).notes


def test_a_slice_beside_a_volume_of_its_study_is_refused(tmp_path: Path) -> None:
    write_slices(tmp_path / "volume", 3)
    write_slices(tmp_path / "scout", 1)
    write_slices(tmp_path / "other", 1, study="another")
    damaged = write_slices(tmp_path / "damaged", 2, study="damaged")[0]
    write_slices(tmp_path / "rest", 1, study="damaged")
    header = pydicom.dcmread(damaged)
    del header.ImagePositionPatient
    header.save_as(damaged)

    found = {e.name: e.code for e in discover(tmp_path).entries}

    assert found["volume"] == found["other"] == ""
    assert found["scout"] == found["rest"] == "single_slice"


def test_single_slices_of_one_folder_have_the_names_of_their_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.move(write_slices(tmp_path / name, 1, study=name)[0], tmp_path / f"{name}.dcm")

    assert [e.name for e in discover(tmp_path).entries] == ["a", "b"]
