"""A mask may be a folder with an image file for each label, matched by the names of the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medhybrid.config import DataConfig, ScansConfig
from medhybrid.data.layouts import Case, Files
from medhybrid.data.layouts.label_files import files_of_mask
from medhybrid.data.load import load_image, load_mask
from medhybrid.data.missing_segments import missing_segment_findings
from medhybrid.errors import DataError
from medhybrid.scans import Scan
from tests.synthetic import AFFINE, save_nifti

SHAPE = (10, 9, 8)
FLIP = AFFINE @ np.array([[-1, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a case with an image, and the masks of a liver and of a tumour in it."""
    save_nifti(tmp_path / "ct.nii.gz", np.random.default_rng(0).normal(size=SHAPE))
    liver, tumour = np.zeros((2, *SHAPE), np.uint8)
    liver[2:8, 2:7, 2:6], tumour[3:5, 3:5, 3:5] = 1, 255
    save_nifti(tmp_path / "masks" / "liver.nii.gz", liver)
    save_nifti(tmp_path / "masks" / "Tumor.nii.gz", tumour)
    return tmp_path


def loaded(folder: Path, **options: object) -> np.ndarray:
    """Return the label map of the case (X, Y, Z)."""
    values = {"root": str(folder), "channels": [{"name": "CT"}], "labels": {"liver": 3, "tumour": 7}, **options}
    data = DataConfig.model_validate(values)
    case = Case("a", "a", (Files((folder / "ct.nii.gz",)),), files_of_mask(folder / "masks"))
    image: Scan = load_image(case, data, ScansConfig())
    return load_mask(case, image, data, ScansConfig()).array[0]


def test_each_file_gives_the_value_of_its_label(folder: Path) -> None:
    found = loaded(folder, overlaps="last")

    expected = np.zeros(SHAPE, int)
    expected[2:8, 2:7, 2:6] = 3
    expected[3:5, 3:5, 3:5] = 7
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("annotated", [None, ("liver",)])
def test_a_label_without_a_file_is_named_unless_its_case_does_not_have_it(
    annotated: tuple[str, ...] | None, folder: Path
) -> None:
    (folder / "masks" / "Tumor.nii.gz").rename(folder / "elsewhere.nii.gz")
    save_nifti(folder / "masks" / "empty.nii.gz", np.zeros(SHAPE, np.uint8))
    values = {"root": str(folder), "channels": [{"name": "CT"}], "labels": {"liver": 3, "tumour": 7}}
    data = DataConfig.model_validate(values | {"other_segments": "ignore"})
    case = Case("a", "a", (Files((folder / "ct.nii.gz",)),), files_of_mask(folder / "masks"), annotated=annotated)

    found = missing_segment_findings([case], data)

    assert [f.found for f in found] == ([] if annotated else ["none for tumour"])


def test_overlapping_labels_are_refused_unless_their_order_counts(folder: Path) -> None:
    with pytest.raises(DataError, match="segments of liver and tumour overlap"):
        loaded(folder)


def test_masks_in_another_axis_order_are_turned(folder: Path) -> None:
    turned = np.zeros(SHAPE, np.uint8)
    turned[::-1][3:5, 3:5, 3:5] = 1
    save_nifti(folder / "masks" / "Tumor.nii.gz", turned, FLIP)

    assert (loaded(folder, overlaps="last") == 7).sum() == 8
    assert (loaded(folder, overlaps="last")[3:5, 3:5, 3:5] == 7).all()


def test_files_that_are_no_labels_are_refused_or_ignored(folder: Path) -> None:
    save_nifti(folder / "masks" / "spleen.nii.gz", np.zeros(SHAPE, np.uint8))

    with pytest.raises(DataError, match="some segments are not among the labels"):
        loaded(folder, overlaps="last")
    assert set(np.unique(loaded(folder, overlaps="last", other_segments="ignore"))) == {0, 3, 7}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m + (m > 0) * (np.arange(SHAPE[0]) > 5)[:, None, None], "is not the mask of one label"),
        (lambda m: m[1:], "different grids"),
    ],
)
def test_a_file_with_several_values_or_another_grid_is_named(change: object, message: str, folder: Path) -> None:
    assert callable(change)
    liver = np.zeros(SHAPE, np.uint8)
    liver[2:8, 2:7, 2:6] = 1
    save_nifti(folder / "masks" / "liver.nii.gz", np.asarray(change(liver), np.uint8))

    with pytest.raises(DataError, match=message):
        loaded(folder, overlaps="last")


def test_a_folder_with_one_file_is_the_file_itself_unless_it_has_the_name_of_a_label(folder: Path) -> None:
    (folder / "masks" / "Tumor.nii.gz").unlink()
    assert set(np.unique(loaded(folder))) == {0, 3}

    values = np.zeros(SHAPE, np.uint8)
    values[2:8], values[:2] = 3, 7
    (folder / "masks" / "liver.nii.gz").unlink()
    save_nifti(folder / "masks" / "masks.nii.gz", values)
    np.testing.assert_array_equal(loaded(folder), values)


def test_files_that_describe_the_masks_are_not_read(folder: Path) -> None:
    (folder / "masks" / "names.json").write_text("{}")
    (folder / "masks" / "._liver.nii.gz").write_bytes(b"")

    assert set(np.unique(loaded(folder, overlaps="last"))) == {0, 3, 7}
