"""Prediction of folders: masks and measurements; failed scans are reported, finished ones are skipped."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

import medhybrid
from medhybrid.cli import main
from medhybrid.errors import ConfigError, DeviceError, ModelError
from medhybrid.inference import collect
from medhybrid.inference import folder as folder_job
from medhybrid.inference.worklist import make_worklist
from medhybrid.scans import discover
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.steps.inspect import inspect
from tests.synthetic import AFFINE, SHAPE, StudyFolder, blob_case, save_nifti


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    save_nifti(folder / "a.nii.gz", blob_case(20)[0])
    save_nifti(folder / "deep" / "b.nii", blob_case(21)[0])
    write_mr_series(folder / "pacs" / "1", blob_case(22)[0], AFFINE, description="T1", study="s", case="c")
    (folder / "broken.nii.gz").write_bytes(b"x")
    (folder / "readme.txt").write_text("no scan")
    return folder


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / "results.csv").open() as file:
        return {r["case"]: r for r in csv.DictReader(file)}


def test_predict_writes_masks_segmentations_measurements_and_a_record(
    trained: tuple[StudyFolder, Path], scans: Path, tmp_path: Path
) -> None:
    result = medhybrid.predict(scans, model=trained[1], out=tmp_path / "out")

    assert (result.n_done, result.n_failed) == (3, 1)
    out = tmp_path / "out"
    assert sorted(p.name for p in (out / "masks").iterdir()) == ["a.nii.gz", "deep__b.nii.gz", "pacs__1.nii.gz"]
    assert [p.name for p in (out / "seg").iterdir()] == ["pacs__1.dcm"]
    rows = rows_of(out)
    assert rows["broken"]["status"] == "failed"
    assert "cannot be read as NIfTI" in rows["broken"]["message"]
    mask = np.asarray(nib.load(out / "masks" / "a.nii.gz").dataobj)
    assert set(np.unique(mask)) <= {0, 1, 4}
    assert float(rows["a"]["left volume_ml"]) == pytest.approx((mask == 1).sum() * 6.75 / 1000, abs=1e-3)
    assert rows["a"]["verdict"] in ("confident", "needs review")
    assert 0 <= float(rows["a"]["score"]) <= 1
    record = json.loads((out / "run.json").read_text())
    assert (record["n_done"], record["n_failed"], record["n_other_files"]) == (3, 1, 1)


def test_the_masks_agree_with_the_references(trained: tuple[StudyFolder, Path], scans: Path, tmp_path: Path) -> None:
    medhybrid.predict(scans, model=trained[1], out=tmp_path / "out")

    mask = np.asarray(nib.load(tmp_path / "out" / "masks" / "a.nii.gz").dataobj)
    reference = blob_case(20)[1]
    assert 2 * ((mask > 0) & (reference > 0)).sum() / ((mask > 0).sum() + (reference > 0).sum()) > 0.6
    assert mask.shape == SHAPE


def test_reading_and_writing_in_threads_gives_the_same_masks(
    trained: tuple[StudyFolder, Path], scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "TABLES_EVERY_S", 1000.0)  # the table is complete nevertheless
    model, outs = medhybrid.load_model(trained[1]), [tmp_path / "plain", tmp_path / "at-once"]
    for at_once, out in enumerate(outs):
        work = make_worklist(discover(scans), [("T1", False)], {})
        folder_job.predict_worklist(model, work, out, with_probabilities=True, at_once=bool(at_once))

    plain, both = (rows_of(out) for out in outs)
    assert [{**row, "seconds": ""} for row in plain.values()] == [{**row, "seconds": ""} for row in both.values()]
    assert list(plain) == ["a", "broken", "deep__b", "pacs__1"]
    for path in (outs[0] / "masks").iterdir():
        ours, theirs = (np.asarray(nib.load(out / "masks" / path.name).dataobj) for out in outs)
        assert np.array_equal(ours, theirs)
    names = [sorted(str(p.relative_to(out)) for p in out.rglob("*.*")) for out in outs]
    assert names[0] == names[1]


def test_an_interrupted_call_writes_the_table_of_finished_scans(
    trained: tuple[StudyFolder, Path], scans: Path, tmp_path: Path
) -> None:
    def stop(n: int, *_: object) -> None:
        if n == 2:
            raise KeyboardInterrupt

    work = make_worklist(discover(scans), [("T1", False)], {})
    with pytest.raises(KeyboardInterrupt):
        folder_job.predict_worklist(medhybrid.load_model(trained[1]), work, tmp_path / "out", on_case=stop)

    assert list(rows_of(tmp_path / "out")) == ["a", "broken"]


def test_unchanged_scans_with_results_are_skipped(
    trained: tuple[StudyFolder, Path], scans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    medhybrid.predict(scans, model=trained[1], out=out)
    (out / "masks" / "deep__b.nii.gz").unlink()
    save_nifti(scans / "a.nii.gz", blob_case(33)[0])

    again = medhybrid.predict(scans, model=trained[1], out=out)

    assert again.n_skipped == 1, "only the DICOM series: one mask was deleted, one scan changed"
    assert again.n_done == 3


def test_another_model_predicts_all_masks_again(trained: tuple[StudyFolder, Path], scans: Path, tmp_path: Path) -> None:
    model = medhybrid.load_model(trained[1])
    medhybrid.predict(scans, model=model, out=tmp_path / "out")
    model.record = model.record.model_copy(
        update={"inference": model.record.inference.model_copy(update={"tta_mirroring": True})}
    )

    assert medhybrid.predict(scans, model=model, out=tmp_path / "out").n_skipped == 0


def test_mirroring_can_be_disabled_and_is_recorded(
    trained: tuple[StudyFolder, Path], scans: Path, tmp_path: Path
) -> None:
    call = ["predict", str(scans), "--model", str(trained[1]), "--out", str(tmp_path / "out"), "--quiet"]
    told = []
    for option in ("--mirror", "--no-mirror", "--no-mirror"):
        assert main([*call, option]) == 1, "one scan is damaged"
        record = json.loads((tmp_path / "out" / "run.json").read_text())
        told.append((record["mirror"], record["n_unchanged"]))

    assert told == [(True, 0), (False, 0), (False, 3)]


def test_a_repaired_scan_is_predicted_again(trained: tuple[StudyFolder, Path], scans: Path, tmp_path: Path) -> None:
    medhybrid.predict(scans, model=trained[1], out=tmp_path / "out")
    save_nifti(scans / "broken.nii.gz", blob_case(3)[0])

    assert medhybrid.predict(scans, model=trained[1], out=tmp_path / "out").n_failed == 0


def test_python_and_command_line_give_the_same_mask(
    trained: tuple[StudyFolder, Path], scans: Path, tmp_path: Path
) -> None:
    medhybrid.predict(scans, model=trained[1], out=tmp_path / "out")

    mask = medhybrid.load_model(trained[1]).predict(medhybrid.read_scan(scans / "a.nii.gz"))

    np.testing.assert_array_equal(mask, np.asarray(nib.load(tmp_path / "out" / "masks" / "a.nii.gz").dataobj))


def test_no_patient_data_leaves_the_headers(trained: tuple[StudyFolder, Path], tmp_path: Path) -> None:
    write_mr_series(tmp_path / "in" / "1", blob_case(1)[0], AFFINE, description="T1", study="s", case="DOE^JANE")

    medhybrid.predict(tmp_path / "in", model=trained[1], out=tmp_path / "out")

    for path in (tmp_path / "out").rglob("*"):
        assert "DOE" not in path.name
        if path.suffix in (".json", ".csv"):
            assert "DOE" not in path.read_text()


@pytest.mark.parametrize("change", ["weights", "record", "gone"])
def test_a_damaged_model_is_refused(trained: tuple[StudyFolder, Path], tmp_path: Path, change: str) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(trained[1] / "model", folder)
    if change == "weights":
        data = bytearray((folder / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (folder / "model.safetensors").write_bytes(bytes(data))
    elif change == "record":
        (folder / "model.json").write_text("{}")
    else:
        (folder / "model.json").unlink()

    with pytest.raises(ModelError):
        medhybrid.load_model(folder)


def test_an_absent_device_is_refused(trained: tuple[StudyFolder, Path]) -> None:
    with pytest.raises(DeviceError, match="unknown device 'tpu'"):
        medhybrid.load_model(trained[1], device="tpu")


def test_inspect_lists_scans_and_reasons(scans: Path) -> None:
    rows, n_other = inspect(scans)

    state = {r.entry.name: bool(r.problem) for r in rows}
    assert state == {"a": False, "broken": True, "deep__b": False, "pacs__1": False}
    assert n_other == 1


def test_probabilities_are_written_on_request_and_agree_with_the_mask(
    trained: tuple[StudyFolder, Path], scans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    medhybrid.predict(scans, model=trained[1], out=out)
    assert not (out / "probabilities").exists()

    again = medhybrid.predict(scans, model=trained[1], out=out, probabilities=True)

    assert again.n_skipped == 0, "the probabilities were missing"
    mask = np.asarray(nib.load(out / "masks" / "pacs__1.nii.gz").dataobj)
    probabilities = np.asarray(nib.load(out / "probabilities" / "pacs__1.nii.gz").dataobj)  # (X, Y, Z, label)
    values = list(medhybrid.load_model(trained[1]).plan.labels.values())
    assert probabilities.shape == (*mask.shape, len(values))
    everything = np.concatenate([1 - probabilities.sum(-1, keepdims=True), probabilities], axis=-1)
    np.testing.assert_array_equal(np.array([0, *values])[everything.argmax(-1)], mask)
    assert pydicom.dcmread(out / "probabilities" / "pacs__1.dcm").SegmentationType == "FRACTIONAL"
    assert pydicom.dcmread(out / "seg" / "pacs__1.dcm").SegmentationType == "BINARY"
    assert medhybrid.predict(scans, model=trained[1], out=out, probabilities=True).n_skipped == 3

    save_nifti(scans / "a.nii.gz", blob_case(33)[0])
    medhybrid.predict(scans, model=trained[1], out=out)
    assert not (out / "probabilities" / "a.nii.gz").exists(), "the probabilities are of another image"


def test_an_unknown_value_of_other_grids_is_refused(
    trained: tuple[StudyFolder, Path], scans: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"other_grids.*'same_frame', 'refuse', 'resample' or 'register'"):
        medhybrid.predict(scans, model=trained[1], out=tmp_path, options={"other_grids": "guess"})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_scan_with_nan_is_refused_and_not_called_empty(
    trained: tuple[StudyFolder, Path], tmp_path: Path, value: float
) -> None:
    image = blob_case(20)[0].astype(np.float32)
    image[0, 0, 0] = value
    save_nifti(tmp_path / "scans" / "a.nii.gz", image)

    result = medhybrid.predict(tmp_path / "scans", model=trained[1], out=tmp_path / "out")

    assert result.n_failed == 1
    assert "NaN or infinite values" in result.predictions[0].message


def test_masks_in_a_subfolder_of_the_scans_are_not_scans(trained: tuple[StudyFolder, Path], tmp_path: Path) -> None:
    save_nifti(tmp_path / "x.nii.gz", blob_case(20)[0])
    for _ in range(2):
        result = medhybrid.predict(tmp_path, model=trained[1], out=tmp_path / "out")

    assert [p.case for p in result.predictions] == ["x"]
    assert result.n_skipped == 1
