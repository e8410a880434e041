"""Names in an output folder: a scan keeps its name in all calls, and no scan gets the results of another."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medhybrid
from medhybrid.inference.folder_record import read_folder_record
from medhybrid.inference.folder_scans import FolderScans
from medhybrid.progress import Silent
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.steps.predict import predict
from medhybrid.steps.report import report
from tests.test_names import AFFINE, SHAPE, model


def scan(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
    nib.save(nib.Nifti1Image(values, AFFINE), path)
    return path


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {r["case"]: r for r in csv.DictReader(file)}


def made(folder: Path, out: Path) -> list[str]:
    return [p.case for p in predict(folder, model=model(), out=out).predictions]


def masks(out: Path) -> dict[str, bytes]:
    return {p.name: np.asarray(nib.load(p).dataobj).tobytes() for p in (out / "masks").iterdir()}


def test_scans_of_two_patients_with_one_name_keep_their_own_results(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for n in (1, 2, 3):
        scan(tmp_path / f"p{n}" / "T1.nii.gz", n)
        predict(tmp_path / f"p{n}", model=model(), out=tmp_path / f"alone{n}")
    alone = [masks(tmp_path / f"alone{n}")["T1.nii.gz"] for n in (1, 2, 3)]

    for n, name in ((1, "T1"), (2, "T1_2"), (3, "T1_3"), (2, "T1_2"), (1, "T1")):
        assert made(tmp_path / f"p{n}", out) == [name]

    assert list(rows_of(out / "results.csv")) == ["T1", "T1_2", "T1_3"]
    assert list(rows_of(out / "work.csv")) == ["T1", "T1_2", "T1_3"]
    assert [masks(out)[f"{n}.nii.gz"] for n in ("T1", "T1_2", "T1_3")] == alone
    assert "another scan named T1" in rows_of(out / "results.csv")["T1_2"]["message"]
    assert list(FolderScans.find(out, read_folder_record(out)).items) == ["T1"]  # of the last call


@pytest.mark.parametrize(
    ("names", "expected"), [(("x_uncertainty", "x"), ["x_uncertainty", "x_2"]), (("x", "X_uncertainty"), None)]
)
def test_an_uncertainty_map_does_not_get_the_name_of_another_scan(
    tmp_path: Path, names: tuple[str, str], expected: list[str] | None
) -> None:
    for n, name in enumerate(names):
        scan(tmp_path / f"p{n}" / f"{name}.nii.gz", n)
        result = predict(tmp_path / f"p{n}", model=model(), out=tmp_path / "out", probabilities=True)
        assert [p.status for p in result.predictions] == ["done"]

    assert sorted(rows_of(tmp_path / "out" / "results.csv")) == sorted(expected or ["x", "X_uncertainty_2"])
    assert len(list((tmp_path / "out" / "probabilities").iterdir())) == 4


def test_a_damaged_scan_of_another_folder_leaves_the_mask_of_its_name(tmp_path: Path) -> None:
    out, good = tmp_path / "out", scan(tmp_path / "p1" / "T1.nii.gz", 1)
    bad = scan(tmp_path / "p2" / "T1.nii.gz", 2)
    whole = bad.read_bytes()
    made(good.parent, out)
    before = masks(out)
    for content in (whole[:200], b"x"):
        bad.write_bytes(content)
        assert made(bad.parent, out) == ["T1_2"]
        assert masks(out) == before
    assert [r["status"] for r in rows_of(out / "results.csv").values()] == ["done", "failed"]
    assert made(good.parent, out) == ["T1"]
    assert [r["status"] for r in rows_of(out / "results.csv").values()] == ["done", "failed"]
    bad.write_bytes(whole)

    assert made(bad.parent, out) == ["T1_2"]
    assert [r["status"] for r in rows_of(out / "results.csv").values()] == ["done", "done"]


def test_a_changed_scan_is_predicted_again_in_place_and_a_moved_one_keeps_its_name(tmp_path: Path) -> None:
    out, path = tmp_path / "out", scan(tmp_path / "p1" / "T1.nii.gz", 1)
    made(path.parent, out)
    first = masks(out)
    scan(path, 2)
    assert made(path.parent, out) == ["T1"]
    assert masks(out).keys() == first.keys()
    assert masks(out) != first
    shutil.move(tmp_path / "p1", tmp_path / "q")

    result = predict(tmp_path / "q", model=model(), out=out)

    assert ([p.case for p in result.predictions], result.n_skipped) == (["T1"], 1)


def test_equal_relative_paths_from_two_folders_are_different_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in (1, 2):
        monkeypatch.chdir(scan(tmp_path / f"p{n}" / "T1.nii.gz", n).parent)
        made(Path(), tmp_path / "out")

    assert sorted(masks(tmp_path / "out")) == ["T1.nii.gz", "T1_2.nii.gz"]


def test_a_row_stays_in_the_tables_as_long_as_its_mask(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in "abc":
        scan(tmp_path / "s" / f"{name}.nii.gz", ord(name))
    (tmp_path / "s" / "d.nii.gz").write_bytes(b"x")
    made(tmp_path / "s", out)
    for name in "bcd":
        (tmp_path / "s" / f"{name}.nii.gz").unlink()
    (out / "masks" / "c.nii.gz").unlink()

    assert made(tmp_path / "s", out) == ["a"]
    assert list(rows_of(out / "results.csv")) == list(rows_of(out / "work.csv")) == ["a", "b"]
    assert (read_folder_record(out).n_done, read_folder_record(out).n_waiting) == (2, 0)


def test_a_record_of_an_earlier_version_keeps_its_scan(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for n in (1, 2):
        scan(tmp_path / f"p{n}" / "T1.nii.gz", n)
    made(tmp_path / "p1", out)
    record = out / "done" / "T1.json"
    values = json.loads(record.read_text())
    del values["places"]
    record.write_text(json.dumps(values))

    assert made(tmp_path / "p2", out) == ["T1_2"]
    scan(tmp_path / "p1" / "T1.nii.gz", 3)
    assert made(tmp_path / "p1", out) == ["T1"]


def test_replaced_names_differ_for_two_scans_of_one_file_name(tmp_path: Path) -> None:
    out, key = tmp_path / "out", tmp_path / "key"
    cases = []
    for n in (1, 2, 1, 2):
        path = tmp_path / f"anna{n}" / "T1.nii.gz"
        result = predict(path if path.exists() else scan(path, n), model=model(), out=out, deidentify=key)
        cases.append(result.predictions[0].case)

    assert cases[:2] == cases[2:]
    assert cases[0] != cases[1]
    assert "anna" not in "".join(p.read_text() for p in out.rglob("*") if p.suffix in (".json", ".csv"))


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_convert_keeps_the_images_of_two_patients_with_one_name(tmp_path: Path, kind: str) -> None:
    def place(n: int) -> Path:
        return tmp_path / f"p{n}" / "x"

    for n in (1, 2):
        if kind == "nifti":
            scan(place(n) / "T1.nii.gz", n)
        else:
            values = np.full((6, 5, 4), n, np.int16)
            write_mr_series(place(n), values, np.eye(4), description="T1", study=f"s{n}", case=f"c{n}")
    out, first = tmp_path / "out", "T1" if kind == "nifti" else "series"

    names = [medhybrid.convert(place(n), out=out)[0].name for n in (1, 2, 1, 2)]
    shutil.move(place(2), tmp_path / "moved")
    names.append(medhybrid.convert(tmp_path / "moved", out=out)[0].name)

    assert names == [first, f"{first}_2", first, f"{first}_2", f"{first}_2"]
    with (out / "table.csv").open() as file:
        assert [r["volume"] for r in csv.DictReader(file)] == [first, f"{first}_2"]


def test_a_report_lists_masks_whose_scans_are_from_another_call(tmp_path: Path) -> None:
    class Told(Silent):
        def message(self, text: str) -> None:
            told.append(text)

    told: list[str] = []
    for n in (1, 2):
        made(scan(tmp_path / f"p{n}" / "T1.nii.gz", n).parent, tmp_path / "out")

    report(tmp_path / "out", reporter=Told())

    assert [t for t in told if "scans were not found" in t] == ["no images, since their scans were not found: T1"]


def test_a_damaged_scan_leaves_the_row_of_the_volume_of_its_name(tmp_path: Path) -> None:
    for n in (1, 2):
        scan(tmp_path / f"p{n}" / "T1.nii.gz", n)
    (tmp_path / "p2" / "T1.nii.gz").write_bytes(b"x")

    for n in (1, 2):
        medhybrid.convert(tmp_path / f"p{n}", out=tmp_path / "out")

    with (tmp_path / "out" / "table.csv").open() as file:
        assert [(r["volume"], r["state"]) for r in csv.DictReader(file)] == [("T1", "refused"), ("T1", "written")]
    assert (tmp_path / "out" / "T1.nii.gz").is_file()
