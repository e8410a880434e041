"""Several scans and folders in one call: names stay apart, and one that cannot be read does not stop the others."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medhybrid.cli import main
from medhybrid.errors import ConfigError, ScanError
from medhybrid.inference.folder_record import read_folder_record
from medhybrid.inference.folder_scans import FolderScans
from medhybrid.inference.scan_places import ScanPlace, find_scans, group_places
from medhybrid.scans.dicom.deidentify import Deidentifier
from medhybrid.steps.predict import predict
from tests.test_names import AFFINE, SHAPE, model

CHANNELS = [("T1", False), ("FLAIR", False)]


def scan(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
    nib.save(nib.Nifti1Image(values, AFFINE), path)
    return path


def cases(scans: Any, out: Path, **options: Any) -> dict[str, str]:
    """Predict, and return the file of each case below the folder of the test."""
    result = predict(scans, model=model(), out=out, **options)
    return {p.case: "/".join(Path(p.stamps[0][0]).parts[-2:]) for p in result.predictions}


def test_scans_of_the_same_name_are_kept_apart_in_any_order_and_over_calls(tmp_path: Path) -> None:
    a, b, c = (scan(tmp_path / folder / "T1.nii.gz", n).parent for n, folder in enumerate("abc"))
    out = tmp_path / "out"
    expected = {"T1": "a/T1.nii.gz", "T1_2": "b/T1.nii.gz", "T1_3": "c/T1.nii.gz"}

    assert cases([a, b / "T1.nii.gz"], out) == {k: expected[k] for k in ("T1", "T1_2")}
    assert cases([c, b, a], out) == expected
    assert cases(b, out) == {"T1_2": "b/T1.nii.gz"}
    with (out / "results.csv").open() as file:
        rows = {r["case"]: r["message"] for r in csv.DictReader(file)}
    assert set(rows) == set(expected)
    masks = {p.name: np.asarray(nib.load(p).dataobj).tobytes() for p in (out / "masks").iterdir()}
    assert len(set(masks.values())) == 3


def test_a_scan_that_is_given_twice_is_predicted_once(tmp_path: Path) -> None:
    folder = scan(tmp_path / "a" / "deep" / "T1.nii.gz").parent.parent

    assert cases([folder / "deep", folder, folder / "deep" / "T1.nii.gz"], tmp_path / "out") == {"T1": "deep/T1.nii.gz"}


def test_names_replaced_by_a_key_are_apart_too(tmp_path: Path) -> None:
    places = [scan(tmp_path / folder / "T1.nii.gz", n).parent for n, folder in enumerate("ab")]
    key = tmp_path / "key"
    Deidentifier.from_file(key)

    found = cases(places, tmp_path / "out", deidentify=key)

    assert len(found) == 2
    assert read_folder_record(tmp_path / "out").scans == ""
    assert read_folder_record(tmp_path / "out").more_scans == []


def test_an_absent_place_is_reported_and_the_others_are_predicted(tmp_path: Path) -> None:
    place = scan(tmp_path / "a" / "x.nii.gz")

    result = predict([tmp_path / "nowhere", place], model=model(), out=tmp_path / "out")

    assert [p.case for p in result.predictions] == ["x"]
    ((name, reason),) = result.problems
    assert name.endswith("nowhere")
    assert "does not exist" in reason
    with pytest.raises(ScanError, match="nowhere does not exist"):
        predict([tmp_path / "nowhere", tmp_path / "neither"], model=model(), out=tmp_path / "out")
    with pytest.raises(ConfigError, match="no scans given"):
        predict([], model=model(), out=tmp_path / "out")


def test_the_exit_code_tells_of_an_absent_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = scan(tmp_path / "a" / "x.nii.gz"), scan(tmp_path / "b" / "y.nii.gz", 1)
    monkeypatch.setattr("medhybrid.steps.predict.load_for_folder", lambda **_: model())
    monkeypatch.chdir(tmp_path)  # a table would wrap a long path
    rest = ["--model", "m", "--out", str(tmp_path / "out")]

    assert main(["predict", str(first), str(second.parent), *rest]) == 0
    assert main(["predict", str(first), *rest, "nowhere"]) == 1
    assert "nowhere does not exist" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["scans"], record["more_scans"]) == (str(first), [])


def test_the_report_finds_the_scans_of_all_places(tmp_path: Path) -> None:
    a, b = (scan(tmp_path / folder / "T1.nii.gz", n).parent for n, folder in enumerate("ab"))
    out = tmp_path / "out"
    cases([a, b], out)

    items = FolderScans.find(out, read_folder_record(out)).items

    assert {case: item.files[0].parent.name for case, item in items.items()} == {"T1": "a", "T1_2": "b"}


def test_files_of_one_folder_are_channels_of_one_scan(tmp_path: Path) -> None:
    files = [scan(tmp_path / "a" / f"p{n}_000{k}.nii.gz", k) for n in (1, 2) for k in (0, 1)]
    other = scan(tmp_path / "a" / "p3_0000.nii.gz")

    places = group_places([*files, tmp_path / "b"])
    found = find_scans(group_places(files), CHANNELS, {})

    assert places == [ScanPlace(tmp_path / "a", tuple(files)), ScanPlace(tmp_path / "b")]
    assert {i.case: [e.name for e in i.entries if e] for i in found.work.items} == {
        "p1": ["p1_0000", "p1_0001"],
        "p2": ["p2_0000", "p2_0001"],
    }
    assert not any(other in i.files for i in found.work.items), "it was not given"
    assert not any(i.problem for i in found.work.items)


def test_a_file_inside_a_given_folder_is_no_place_of_its_own(tmp_path: Path) -> None:
    path = scan(tmp_path / "a" / "deep" / "x.nii.gz")

    assert group_places([tmp_path / "a", path]) == [ScanPlace(tmp_path / "a")]
    assert group_places([path]) == [ScanPlace(path)]


def test_a_place_that_cannot_be_searched_does_not_stop_the_others(tmp_path: Path) -> None:
    a, b = (scan(tmp_path / folder / "p_0000.nii.gz").parent for folder in "ab")
    for folder in (a, b):
        scan(folder / "p_0001.nii.gz", 1)
    (a / "channels.csv").write_text("no,columns\n")

    found = find_scans(group_places([a, b]), CHANNELS, {})

    assert [i.case for i in found.work.items] == ["p"]
    assert "channels.csv lacks columns" in found.problems[0][1]
