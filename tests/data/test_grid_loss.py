"""Labels that vanish or shrink on the network's grid are reported, with a spacing that keeps them."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medhybrid
from medhybrid.data.checks import Finding
from medhybrid.data.dataset_checks import removed_label_findings
from medhybrid.data.fingerprint import CaseFingerprint
from tests.synthetic import blob_case, make_test_plan, save_nifti, small_config, write_study

pytestmark = pytest.mark.usefixtures("in_this_process")

FINE = np.diag([0.25, 0.25, 0.25, 1.0])


def test_a_lesion_smaller_than_the_grid_is_reported_and_kept_by_the_suggested_spacing(tmp_path: Path) -> None:
    write_study(tmp_path / "data", 4)
    (tmp_path / "data" / "splits.json").unlink()
    for i in (1, 3):  # half of the scans are finer, with lesions of a few voxels
        image, _ = blob_case(i)
        mask = np.zeros(image.shape, np.uint8)
        mask[8:10, 9:11, 10:13] = 1
        save_nifti(tmp_path / "data" / "imagesTr" / f"case_0{i}.nii.gz", image, FINE)
        save_nifti(tmp_path / "data" / "labelsTr" / f"case_0{i}.nii.gz", mask, FINE)

    def findings(*overrides: str) -> list[Finding]:
        found = medhybrid.preprocess(small_config(tmp_path, *overrides)).findings
        return [f for f in found if f.code == "label_vanishes"]

    first = findings("prepare.spacing_mm=[2,2,3]")
    assert [f.where for f in first] == ["case_01", "case_03"]
    assert first == findings("prepare.spacing_mm=[2,2,3]"), "an unchanged preparation reports them again"
    spacing = re.search(r"prepare\.spacing_mm=\[[\d.,]+\]", first[0].remedy)
    assert spacing is not None
    assert spacing[0] == "prepare.spacing_mm=[0.25,0.25,0.375]"
    assert findings(spacing[0], "prepare.patch_size=[24,24,16]") == []


def test_a_scan_of_an_impossible_spacing_is_skipped_before_memory_is_allocated(tmp_path: Path) -> None:
    write_study(tmp_path / "data", 3)
    (tmp_path / "data" / "splits.json").unlink()
    for part in ("imagesTr", "labelsTr"):
        path = tmp_path / "data" / part / "case_01.nii.gz"
        array = blob_case(1)[part == "labelsTr"]
        save_nifti(path, array, np.diag([900.0, 900.0, 900.0, 1.0]))

    result = medhybrid.preprocess(small_config(tmp_path))

    assert result.left_out == ("case_01",)
    assert "too large on the network's grid" in result.findings[-1].message


def test_a_label_whose_components_would_all_be_removed_is_reported(tmp_path: Path) -> None:
    write_study(tmp_path / "data", n_cases=4)
    for path in (tmp_path / "data" / "labelsTr").iterdir():  # one voxel of 6.75 mm3 each; one label stays unchanged
        image = nib.load(path)
        mask = np.asarray(image.dataobj)
        few = np.where(mask == 4, 4, 0).astype(np.uint8)
        few[0, 0, 0] = few[5, 0, 0] = few[10, 0, 0] = 1
        nib.save(nib.Nifti1Image(few, image.affine), path)

    found = medhybrid.preprocess(small_config(tmp_path, "prepare.min_component_ml=0.01")).findings

    (finding,) = [f for f in found if f.code == "label_removed"]
    assert (finding.where, finding.severity) == ("left", "warning")
    assert finding.found.startswith("0.00675 ml")


def test_a_label_that_no_case_has_is_reported(tmp_path: Path) -> None:
    def case(**ml: float) -> CaseFingerprint:
        return CaseFingerprint(shape=(4, 4, 4), spacing_mm=(1, 1, 1), foreground_ml=ml, samples={})

    plan = make_test_plan(labels={"left": 1, "right": 2})

    found = removed_label_findings(tmp_path, {"a": case(left=2.0, right=0.0), "b": case(left=0.0, right=0.0)}, plan)

    assert [(f.code, f.where, f.severity) for f in found] == [("label_absent", "right", "warning")]
