"""Volumes of small voxels, as in microscopy, keep their digits in tables and reports, and are not called an empty mask."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.geometry import Grid, turn_to_ras
from medhybrid.inference.model import Model
from medhybrid.number_text import rounded
from medhybrid.review.report import CaseView
from medhybrid.review.report.views import Size
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan
from medhybrid.steps.predict import predict
from medhybrid.steps.report import report
from tests.synthetic import make_test_plan, save_nifti
from tests.test_masks_on_grid import level_of, thresholding_model, with_box

SHAPE = (8, 7, 6)

# --- rounding ---------------------------------------------------------------------------------------------------------


@given(value=st.floats(0.01, 1e9), sign=st.sampled_from([-1, 1]))
def test_large_values_are_rounded_to_the_decimals(value: float, sign: int) -> None:
    assert rounded(sign * value, 4) == round(sign * value, 4)


@given(value=st.floats(1e-300, 0.01, exclude_max=True), sign=st.sampled_from([-1, 1]))
def test_small_values_keep_three_digits_and_are_never_zero(value: float, sign: int) -> None:
    found = rounded(sign * value, 4)

    assert found != 0
    assert math.isclose(found, sign * value, rel_tol=0.005)
    assert len(f"{found:e}".split("e")[0].rstrip("0").lstrip("-").replace(".", "")) <= 3


@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=2), decimals=st.integers(2, 4))
def test_rounding_keeps_the_order(values: list[float], decimals: int) -> None:
    low, high = sorted(values)

    assert rounded(low, decimals) <= rounded(high, decimals)


def test_zero_stays_zero() -> None:
    assert rounded(0.0, 4) == 0
    assert rounded(0.01, 4) == 0.01
    assert rounded(0.0000123456, 4) == 0.0000123


# --- outputs ----------------------------------------------------------------------------------------------------------


def model_for(affine: np.ndarray, box_shape: tuple[int, int, int] = SHAPE) -> Model:
    array, grid = with_box(box_shape)[0], Grid(box_shape, affine)
    x, y, z = turn_to_ras(affine).grid(grid).spacing_mm
    plan = make_test_plan(spacing_mm=(x, y, z))
    return thresholding_model(plan, level_of(array, grid, plan))


def truth_ml(path: Path) -> float:
    mask = nib.load(path)
    return float((np.asarray(mask.dataobj) > 0).sum() * abs(np.linalg.det(mask.affine[:3, :3])) / 1000)


@pytest.mark.parametrize("spacing_mm", [0.002, 0.02, 0.1])
def test_small_volumes_have_digits_in_the_table_and_the_report(tmp_path: Path, spacing_mm: float) -> None:
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1])
    save_nifti(tmp_path / "scans" / "a.nii.gz", with_box(SHAPE)[0], affine)
    out = tmp_path / "out"

    predict(tmp_path / "scans", model=model_for(affine), out=out)

    truth = truth_ml(out / "masks" / "a.nii.gz")
    with (out / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert 0 < truth < 0.01
    for name in ("volume_ml", "largest_ml"):
        assert float(row[f"lesion {name}"]) == pytest.approx(truth, rel=0.005)
    assert float(row["lesion largest_mm"]) > 0
    page = report(out).read_text()
    assert 'data-state="found"' in page
    assert 'data-state="empty"' not in page


@pytest.mark.filterwarnings("ignore")
def test_small_volumes_have_digits_in_the_structured_report(tmp_path: Path) -> None:
    affine = np.diag([-0.02, -0.02, 0.02, 1])
    write_mr_series(tmp_path / "scans", with_box(SHAPE)[0], affine, description="T1", study="s", case="c")
    predict(tmp_path / "scans", model=model_for(read_scan(tmp_path / "scans").affine), out=tmp_path / "out")
    (mask,) = (tmp_path / "out" / "masks").iterdir()
    (path,) = (tmp_path / "out" / "sr").iterdir()

    values = {}
    for item in _items(pydicom.dcmread(path)):
        if item.get("ValueType") == "NUM":
            measured = item.MeasuredValueSequence[0]
            unit = measured.MeasurementUnitsCodeSequence[0].CodeValue
            values.setdefault(unit, []).append(float(measured.NumericValue))

    assert values["mL"] == pytest.approx([truth_ml(mask)] * 2, rel=0.005)
    assert min(values["mm"]) > 0


def _items(dataset: pydicom.Dataset) -> list[pydicom.Dataset]:
    found = []
    for item in dataset.get("ContentSequence", []):
        found += [item, *_items(item)]
    return found


@pytest.mark.parametrize(
    ("volume_ml", "n_lesions", "state"), [(0.0, 0, "empty"), (0.0, 2, "found"), (1e-9, 1, "found")]
)
def test_a_mask_with_components_is_not_called_empty(volume_ml: float, n_lesions: int, state: str) -> None:
    view = CaseView(
        "a", "done", sizes={"lesion": Size(volume_ml, n_lesions, 0.0)}
    )  # earlier records have rounded volumes

    assert view.state == state
