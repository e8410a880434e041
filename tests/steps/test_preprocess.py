"""Preparation excludes and lists invalid cases, keeps the valid ones, and processes only changed cases."""

from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

import medhybrid
from medhybrid.config import StudyConfig
from medhybrid.data.dataset import PreparedDataset
from medhybrid.errors import ConfigError, DataError
from medhybrid.runs.prepared import prepared_folder
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan
from medhybrid.steps import preprocess as steps_preprocess
from tests.synthetic import AFFINE, blob_case, save_nifti, small_config, write_csv, write_study

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    write_study(tmp_path / "data", n_cases=8)
    return small_config(tmp_path)


def data_of(config: StudyConfig) -> Path:
    return Path(str(config.data.root))


def test_every_kind_of_invalid_case_is_listed_and_the_valid_ones_are_kept(config: StudyConfig) -> None:
    data = data_of(config)
    image, mask = blob_case(0)
    save_nifti(data / "imagesTr" / "case_01.nii.gz", np.where(image > 500, np.nan, image.astype(np.float32)))
    save_nifti(data / "labelsTr" / "case_02.nii.gz", mask[:-1])
    (data / "imagesTr" / "case_03.nii.gz").write_bytes(b"no image")
    save_nifti(data / "labelsTr" / "case_04.nii.gz", np.where(mask == 4, 9, mask).astype(np.uint8))
    (data / "labelsTr" / "case_05.nii.gz").unlink()
    save_nifti(data / "labelsTr" / "case_06.nii.gz", 0 * mask)

    preparation = medhybrid.preprocess(config)

    found = {f.where: (f.code, f.severity) for f in preparation.findings}
    assert found == {
        "case_01": ("not_finite", "error"),
        "case_02": ("shape", "error"),
        "case_03": ("unreadable", "error"),
        "case_04": ("unknown_label", "error"),
        "case_05": ("unreadable", "error"),
        "case_06": ("empty_mask", "warning"),
    }
    assert preparation.left_out == ("case_01", "case_02", "case_03", "case_04", "case_05")
    assert PreparedDataset(preparation.folder).names() == ["case_00", "case_06", "case_07"]
    with (preparation.folder / "problems.csv").open() as file:
        assert {r["where"] for r in csv.DictReader(file)} == set(found)


@pytest.mark.parametrize("inside", ["", "cases"])
def test_cases_are_not_prepared_into_the_folder_of_the_dataset(
    config: StudyConfig, tmp_path: Path, inside: str
) -> None:
    place = data_of(config) if not inside else tmp_path / "data" / config.name
    if inside:
        data_of(config).rename(tmp_path / "moved")
        place.mkdir(parents=True)
        (tmp_path / "moved").rename(place / inside)
    changes = {"prepare": config.prepare.model_copy(update={"folder": str(place.parent)}), "name": place.name}
    data = config.data.model_copy(update={"root": str(place / inside)})
    before = sorted(p.name for p in place.iterdir())

    with pytest.raises(ConfigError, match="into the folder of the dataset"):
        medhybrid.preprocess(config.model_copy(update={**changes, "data": data}))

    assert sorted(p.name for p in place.iterdir()) == before


def test_a_second_call_processes_only_changed_cases(config: StudyConfig) -> None:
    first = medhybrid.preprocess(config)
    second = medhybrid.preprocess(config)
    save_nifti(data_of(config) / "imagesTr" / "case_02.nii.gz", blob_case(99)[0])

    third = medhybrid.preprocess(config)

    assert (first.n_prepared, first.n_unchanged) == (8, 0)
    assert (second.n_prepared, second.n_unchanged) == (0, 8)
    assert (third.n_prepared, third.n_unchanged) == (1, 7)


def test_a_repaired_case_is_included_and_a_damaged_one_is_excluded(config: StudyConfig) -> None:
    path = data_of(config) / "imagesTr" / "case_02.nii.gz"
    good = path.read_bytes()
    path.write_bytes(b"x")
    assert medhybrid.preprocess(config).left_out == ("case_02",)

    path.write_bytes(good)
    repaired = medhybrid.preprocess(config)
    path.write_bytes(b"x")
    broken = medhybrid.preprocess(config)

    assert repaired.left_out == ()
    assert broken.left_out == ("case_02",)
    assert "case_02" not in PreparedDataset(broken.folder).names()


def test_label_values_are_mapped_and_the_reference_keeps_its_grid(config: StudyConfig) -> None:
    preparation = medhybrid.preprocess(config)

    (case,) = PreparedDataset(preparation.folder).open(["case_00"])

    reference = np.asarray(nib.load(data_of(config) / "labelsTr" / "case_00.nii.gz").dataobj)
    assert set(np.unique(case.labels())) == {0, 1, 2}
    np.testing.assert_array_equal(case.source_mask() == 2, reference == 4)
    assert case.record.reference_ml["left"] == pytest.approx((reference == 1).sum() * 1.5 * 1.5 * 3 / 1000)


def test_a_dataset_without_usable_cases_is_refused_with_the_first_reason(config: StudyConfig) -> None:
    for path in (data_of(config) / "imagesTr").iterdir():
        path.write_bytes(b"x")

    with pytest.raises(DataError, match=r"the dataset has no usable case.*cannot be read as NIfTI"):
        medhybrid.preprocess(config)


def test_masks_may_be_dicom_seg_and_images_dicom_series(tmp_path: Path) -> None:
    """Three subjects as DICOM with SEG references give the same prepared labels as with NIfTI masks."""
    from medhybrid.scans.dicom.seg import SegInfo, write_seg

    rows = []
    for i in range(3):
        image, mask = blob_case(i)
        folder = tmp_path / "data" / f"s{i}" / "T1"
        write_mr_series(folder, image, AFFINE, description="T1", study=f"s{i}", case=f"s{i}")
        scan = read_scan(folder)
        to_scan = np.linalg.inv(scan.affine) @ AFFINE
        where = np.rint(np.argwhere(mask) @ to_scan[:3, :3].T + to_scan[:3, 3]).astype(int)
        on_scan = np.zeros(scan.array.shape[1:], np.uint8)
        on_scan[tuple(where.T)] = mask[tuple(np.argwhere(mask).T)]
        seg = tmp_path / "data" / f"s{i}" / "seg.dcm"
        write_seg(seg, on_scan, scan, SegInfo({"left": 1, "right": 4}, "0"))
        rows.append({"case": f"s{i}", "T1": f"s{i}/T1", "mask": f"s{i}/seg.dcm"})
    write_csv(tmp_path / "data", rows)
    config = small_config(tmp_path)

    preparation = medhybrid.preprocess(config)

    assert preparation.left_out == ()
    (case,) = PreparedDataset(preparation.folder).open(["s1"])
    _, mask = blob_case(1)
    assert case.record.reference_ml["right"] == pytest.approx((mask == 4).sum() * 1.5 * 1.5 * 3 / 1000)


def test_a_mask_with_another_axis_direction_is_reoriented(config: StudyConfig) -> None:
    _, mask = blob_case(0)
    turned = nib.as_closest_canonical(nib.Nifti1Image(mask, AFFINE))
    assert turned.affine[0, 0] > 0 > AFFINE[0, 0]
    nib.save(turned, data_of(config) / "labelsTr" / "case_00.nii.gz")

    preparation = medhybrid.preprocess(config)

    assert preparation.left_out == ()
    (case,) = PreparedDataset(preparation.folder).open(["case_00"])
    np.testing.assert_array_equal(case.source_mask() == 2, mask == 4)


def test_the_plan_is_written_with_reasons_and_the_folds_beside_it(config: StudyConfig) -> None:
    preparation = medhybrid.preprocess(config)

    plan = json.loads((preparation.folder / "plan.json").read_text())
    assert plan["labels"] == {"left": 1, "right": 4}
    assert plan["reasons"]["spacing_mm"]
    folds = json.loads((preparation.folder / "folds.json").read_text())
    assert folds[0]["validation"] == ["case_05", "case_06", "case_07"]


def test_tilted_series_with_rtstruct_are_resampled_and_prepared(tmp_path: Path) -> None:
    """Layout, matching of structures, and `scans.resample_irregular` apply to the prepared case."""
    from tests.scans.dicom.test_awkward import tilted
    from tests.scans.dicom.test_references import ellipse, write_rtstruct

    for i in range(3):
        image, _ = blob_case(i)
        study = tmp_path / "data" / f"s{i}"
        paths = write_mr_series(study / "T1", image, AFFINE, description="T1", study=f"s{i}", case=f"s{i}")
        tilted(paths)
        headers = [pydicom.dcmread(p) for p in paths[8:12]]
        contours = {"GTV left": [ellipse(h, (12, 20), (4.2, 6.3)) for h in headers], "BODY": []}
        write_rtstruct(study / "rt" / "rt.dcm", contours)
    config = small_config(
        tmp_path,
        "data.layout=studies",
        "data.channel_map={T1: '*T1*'}",
        "data.segments={left: 'GTV left'}",
        "data.other_segments=ignore",
    )

    with pytest.raises(DataError, match="gantry tilt"):
        medhybrid.preprocess(config)

    preparation = medhybrid.preprocess(
        config.model_copy(update={"scans": config.scans.model_copy(update={"resample_irregular": True})})
    )

    assert preparation.left_out == ()
    (case,) = PreparedDataset(preparation.folder).open(["s1"])
    area_mm2 = np.pi * 4.2 * 6.3 * 1.5 * 1.5
    assert case.record.reference_ml["left"] == pytest.approx(area_mm2 * 4 * 3 / 1000, rel=0.05)
    assert case.record.reference_ml["right"] == 0


def test_an_interrupted_preparation_with_other_settings_is_not_a_dataset(
    config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    medhybrid.preprocess(config)
    finer = config.model_copy(update={"prepare": config.prepare.model_copy(update={"spacing_mm": (3.0, 3.0, 3.0)})})

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(steps_preprocess, "_prepare_all", stop)
        with pytest.raises(KeyboardInterrupt):
            medhybrid.preprocess(finer)
    with pytest.raises(DataError, match="not a prepared dataset"):
        PreparedDataset(prepared_folder(config))

    medhybrid.preprocess(config)
    (case, *_) = PreparedDataset(prepared_folder(config)).names()
    record = prepared_folder(config) / "cases" / case / "case.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"preparation_hash": "another", "checksums": {}}))
    with pytest.raises(DataError, match="1 cases were prepared with another plan"):
        PreparedDataset(prepared_folder(config)).open([case])


def test_a_changed_subject_prepares_its_cases_again(config: StudyConfig) -> None:
    medhybrid.preprocess(config)
    together = {"subject_pattern": r"case_(0[0-4]|0)", "splits": None, "n_folds": 2}
    medhybrid.preprocess(config.model_copy(update={"data": config.data.model_copy(update=together)}))

    subjects = {
        c.record.case: c.record.subject for c in PreparedDataset(prepared_folder(config)).open(["case_05", "case_06"])
    }
    assert len(set(subjects.values())) == 1


def test_training_with_settings_other_than_the_prepared_ones_is_refused(config: StudyConfig) -> None:
    medhybrid.preprocess(config)
    data = config.data.model_copy(update={"labels": {"left": 1, "other": 4}})
    dataset = PreparedDataset(prepared_folder(config))

    with pytest.raises(DataError, match=r"(?s)prepared with other settings.*prepared +config.*labels +.*other"):
        dataset.plan_for(config.model_copy(update={"data": data}))
    with pytest.raises(DataError, match=r"(?s)the plan in .* has other settings.*batch_size +2 +7.*keeps cases"):
        dataset.plan_for(config.model_copy(update={"prepare": config.prepare.model_copy(update={"batch_size": 7})}))


def test_a_second_process_waits_for_the_first(config: StudyConfig) -> None:
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(medhybrid.preprocess, [config, config]))

    assert sorted(d.n_prepared for d in done)[0] == 0
    assert all(d.n_prepared + d.n_unchanged == 8 for d in done)
