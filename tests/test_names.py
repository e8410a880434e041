"""For any name of scans and cases, commands write only into their output folder and change no file of the user."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import medhybrid
from medhybrid.config import DataConfig
from medhybrid.data.layouts import list_cases
from medhybrid.errors import DataError, MedHybridError
from medhybrid.geometry import Grid, turn_to_ras
from medhybrid.inference.model import Model
from medhybrid.inference.records import Records
from medhybrid.names import MAX_NAME_BYTES, check_case_name, escape_name, make_unique, name_from_path
from medhybrid.review.marks import Mark, write_mark
from medhybrid.steps.predict import predict
from tests.synthetic import make_test_plan
from tests.test_masks_on_grid import level_of, thresholding_model, with_box

SHAPE = (8, 7, 6)
AFFINE = np.diag([1.5, 1.5, 3.0, 1.0])

AWKWARD = [
    "",
    " ",
    ".",
    "..",
    "../up",
    "/abs",
    "a/b",
    "a\\b",
    "C:evil",
    ".hidden",
    "x" * 250,
    "ü" * 120,
    "CON",
    "nul.txt",
    "a\nb",
    "a\x1b[31m",
    "\u202egnp",
    "case_0000",
    "Case",
    "case",
    "a b",
    "a#b+c&(d),'e'",
    "-rf",
    "~",
    "$HOME",
    "*",
    "%2E%2E",
    "x.nii.gz",
    "x_uncertainty",
]

texts = st.one_of(st.sampled_from(AWKWARD), st.text(max_size=30), st.text(alphabet="./\\:aA\udcff\0", max_size=8))

file_names = st.one_of(
    st.sampled_from([n for n in AWKWARD if n not in ("", ".", "..") and "/" not in n and len(n.encode()) < 200]),
    st.text(max_size=20).filter(lambda n: "/" not in n and "\0" not in n),
    st.binary(min_size=1, max_size=20).map(os.fsdecode).filter(lambda n: "/" not in n and "\0" not in n),
)


def scan_bytes() -> bytes:
    return bytes(nib.Nifti1Image(with_box(SHAPE)[0], AFFINE).to_bytes())


def model() -> Model:
    array, grid = with_box(SHAPE)[0], Grid(SHAPE, AFFINE)
    x, y, z = turn_to_ras(AFFINE).grid(grid).spacing_mm
    plan = make_test_plan(spacing_mm=(x, y, z))
    return thresholding_model(plan, level_of(array, grid, plan))


def tree(folder: Path) -> dict[bytes, bytes]:
    """Return the content of every file below a folder, by path."""
    found = {}
    for base, _, names in os.walk(os.fsencode(folder)):
        for name in names:
            path = os.path.join(base, name)
            found[os.path.relpath(path, os.fsencode(folder))] = Path(os.fsdecode(path)).read_bytes()
    return found


@given(texts)
def test_a_name_is_accepted_unchanged_or_refused(text: str) -> None:
    try:
        name = check_case_name(text, source="a table")
    except DataError:
        return
    assert name == text
    assert Path(name).name == name
    assert name not in (".", "..", "")
    assert len(name.encode()) <= MAX_NAME_BYTES


@given(texts)
def test_escaped_text_is_a_valid_name(text: str) -> None:
    assert check_case_name(escape_name(text), source="x") == escape_name(text)


@given(st.lists(file_names, min_size=1, max_size=5))
def test_any_path_gives_a_valid_name(parts: list[str]) -> None:
    assume(all(p not in ("", ".", "..") for p in parts))
    assert check_case_name(name_from_path(Path(*parts)), source="x")


@given(st.lists(st.sampled_from(["a", "A", "b", "é", "e\u0301"]), max_size=8))
def test_unique_names_differ_on_every_file_system(names: list[str]) -> None:
    unique = make_unique(names, ["nii"] * len(names), [str(i) for i in range(len(names))])
    folded = {n.casefold() for n in unique}
    assert len(folded) == len(names)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(texts, min_size=1, max_size=4))
@example(["../../user/p0", "/etc", "a/b", ""])
@example(["Case", "case"])
def test_preprocess_changes_only_its_own_folder(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        data, user = root / "data", root / "user"
        for i in range(len(names)):
            (user / f"p{i}").mkdir(parents=True)
            (user / f"p{i}" / "notes.txt").write_text("the user's own")
        data.mkdir()
        (data / "t.csv").write_bytes(table_of(names))
        for i in range(len(names)):
            (data / f"s{i}.nii").write_bytes(scan_bytes())
        before = tree(root)

        values = {"root": str(data), "channels": [{"name": "T1"}], "labels": {"lesion": 1}}
        cases = list_cases(DataConfig.model_validate(values))

        assert all(check_case_name(c.name, source="x") for c in cases)
        assert len({c.name.casefold() for c in cases}) == len(cases)
        for case in cases:
            is_as_written = case.name in [n.strip() for n in names] or not names_are_ascii(names)
            assert case.problem is not None or is_as_written
        assert tree(root) == before


def names_are_ascii(names: list[str]) -> bool:
    """Return whether a table of names is the same in every encoding."""
    return all(n.isascii() for n in names)


def table_of(names: list[str]) -> bytes:
    """Write a table of cases as a spreadsheet does, with quoted names."""
    lines = ["case,T1,mask"]
    for i, name in enumerate(names):
        quoted = '"' + name.replace('"', '""') + '"'
        lines.append(f"{quoted},s{i}.nii,s{i}.nii")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape")


def write_scans(folder: Path, names: list[str]) -> int:
    """Write a scan under each name that the file system allows, and return the number of scans."""
    written = set()
    for name in names:
        if not name or name in (".", "..") or len(os.fsencode(name)) > 240:
            continue
        path = folder / f"{name}.nii"
        path.write_bytes(scan_bytes())
        written.add(path)
    return len([p for p in written if not p.name.startswith(".")])


@settings(max_examples=12, deadline=None)
@given(st.lists(file_names, min_size=1, max_size=4, unique=True))
@example(["M\udcfcller", "good"])
@example(["Case", "case", "x", "x_uncertainty"])
@example(["a\nb", "\x1b[31m", "x" * 200])
def test_predict_and_convert_write_one_output_for_every_file(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "scans").mkdir()
        n = write_scans(root / "scans", names)
        assume(n > 0)
        before = tree(root / "scans")

        result = predict(root / "scans", model=model(), out=root / "out", probabilities=True)
        rows = medhybrid.convert(root / "scans", out=root / "nifti")

        assert tree(root / "scans") == before
        assert sorted(p.name for p in root.iterdir()) == ["nifti", "out", "scans"]
        assert result.n_done == n
        assert len(list((root / "out" / "masks").iterdir())) == n
        assert len(list((root / "out" / "probabilities").iterdir())) == 2 * n
        assert [r.state for r in rows] == ["written"] * n
        assert len(list((root / "nifti").glob("*.nii.gz"))) == n
        assert all((root / "nifti" / f"{r.name}.nii.gz").is_file() for r in rows)


@settings(max_examples=3, deadline=None)
@given(st.lists(file_names, min_size=1, max_size=3, unique=True))
@example(["<script>", "a'b", "a&b=c", "=1+1"])
@example(["M\udcfcller", "../x".replace("/", "\u2215"), "a\nb"])
def test_report_and_evaluate_accept_every_name(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "scans").mkdir()
        n = write_scans(root / "scans", names)
        assume(n > 0)
        predict(root / "scans", model=model(), out=root / "out")
        shutil.copytree(root / "out" / "masks", root / "references")
        before = tree(root / "references"), tree(root / "scans")

        medhybrid.report(root / "out", references=root / "references")
        scores = medhybrid.evaluate(root / "references", root / "out", labels={"lesion": 255}, out=root / "scores")

        assert scores.problems == {}
        assert scores.summary["n_cases"] == n
        assert (tree(root / "references"), tree(root / "scans")) == before
        assert sorted(p.name for p in root.iterdir()) == ["out", "references", "scans", "scores"]


def test_outputs_are_never_read_as_scans(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "a.nii").write_bytes(scan_bytes())
    for out in (scans, scans / "inner", tmp_path):
        for _ in range(2):
            result = predict(scans, model=model(), out=out)
            assert [p.case for p in result.predictions] == ["a"]
    assert [p.case for p in predict(tmp_path, model=model(), out=tmp_path / "all").predictions] == ["scans__a"]
    for _ in range(2):
        rows = medhybrid.convert(scans, out=scans)
        assert [(r.name, r.state) for r in rows] == [("a", "written")]
    assert (scans / "a.nii").read_bytes() == scan_bytes()
    predictions = predict(scans, model=model(), out=tmp_path / "more").predictions
    assert [p.case for p in predictions] == [
        "a_nii",
        "a_niigz",
    ]  # files written by `convert` are scans for other commands


def test_outputs_of_versions_without_markers_are_not_read_as_scans(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(scan_bytes())
    predict(tmp_path, model=model(), out=tmp_path / "out")
    (tmp_path / "out" / ".medhybrid.json").unlink()

    assert [e.name for e in medhybrid.scans.discover(tmp_path).entries] == ["a"]


def test_convert_never_overwrites_a_file_of_the_user(tmp_path: Path) -> None:
    original = nib.Nifti1Image(np.linspace(0, 1, 216).reshape(6, 6, 6), np.eye(4))
    original.set_data_dtype(np.int16)
    nib.save(original, tmp_path / "scan.nii.gz")
    content = (tmp_path / "scan.nii.gz").read_bytes()

    for _ in range(2):
        (row,) = medhybrid.convert(tmp_path, out=tmp_path)

        assert (tmp_path / "scan.nii.gz").read_bytes() == content
        assert row.name == "scan_2"
        assert "medhybrid did not write" in row.reason
    assert len(list(tmp_path.glob("*.nii.gz"))) == 2


def test_predict_overwrites_only_masks_that_it_wrote(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(scan_bytes())
    out = tmp_path / "out"
    (out / "masks").mkdir(parents=True)
    (out / "masks" / "a.nii.gz").write_text("the user's own")

    with pytest.raises(MedHybridError, match="did not write"):
        predict(tmp_path, model=model(), out=out)
    assert (out / "masks" / "a.nii.gz").read_text() == "the user's own"

    shutil.rmtree(out / "masks")
    predict(tmp_path / "a.nii", model=model(), out=out)
    (tmp_path / "b.nii").write_bytes(scan_bytes())
    (out / "masks" / "b.nii.gz").write_text("put there later")
    for _ in range(2):
        result = predict(tmp_path, model=model(), out=out)
        assert {p.case: p.status for p in result.predictions} == {"a": "done", "b": "failed"}
    assert (out / "masks" / "b.nii.gz").read_text() == "put there later"


def test_a_mask_corrected_in_place_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(scan_bytes())
    predict(tmp_path, model=model(), out=tmp_path / "out")
    mask = tmp_path / "out" / "masks" / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE), mask)
    edited = mask.read_bytes()
    (tmp_path / "a.nii").write_bytes(bytes(nib.Nifti1Image(with_box(SHAPE)[0] + 1, AFFINE).to_bytes()))

    result = predict(tmp_path, model=model(), out=tmp_path / "out")

    assert "was changed after medhybrid wrote it" in result.predictions[0].message
    assert mask.read_bytes() == edited


def test_an_edited_output_is_kept_and_predicted_again_once_it_is_moved(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(scan_bytes())
    out = tmp_path / "out"
    predict(tmp_path / "a.nii", model=model(), out=out, probabilities=True)
    doubt = out / "probabilities" / "a_uncertainty.nii.gz"
    doubt.write_bytes(b"annotated")

    for _ in range(2):
        (tmp_path / "a.nii").write_bytes(bytes(nib.Nifti1Image(with_box(SHAPE)[0] + 1, AFFINE).to_bytes()))
        (failed,) = predict(tmp_path / "a.nii", model=model(), out=out, probabilities=True).predictions
        assert "a_uncertainty" in failed.message
        assert doubt.read_bytes() == b"annotated"

    doubt.rename(tmp_path / "kept")
    (done,) = predict(tmp_path / "a.nii", model=model(), out=out, probabilities=True).predictions
    assert done.status == "done"


def test_a_manual_mask_of_a_failed_scan_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(scan_bytes())
    (tmp_path / "b.nii").write_bytes(b"damaged")
    out = tmp_path / "out"
    predict(tmp_path, model=model(), out=out)
    (out / "masks" / "b.nii.gz").write_text("made by hand")
    (tmp_path / "b.nii").write_bytes(scan_bytes())

    result = predict(tmp_path, model=model(), out=out)

    assert {p.case: p.status for p in result.predictions} == {"a": "done", "b": "failed"}
    assert (out / "masks" / "b.nii.gz").read_text() == "made by hand"


@pytest.mark.parametrize("place", ["mask", "other"])
def test_files_of_an_interrupted_attempt_are_replaced_but_not_files_of_the_user(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.nii").write_bytes(scan_bytes())
    out = tmp_path / "out"
    with monkeypatch.context() as changed:
        changed.setattr(Records, "end", interrupt)
        changed.setattr(Records, "release", lambda *_: None)  # state after a killed process
        with pytest.raises(KeyboardInterrupt):
            predict(tmp_path / "a.nii", model=model(), out=out)
    mask = out / "masks" / "a.nii.gz"
    assert mask.is_file()
    if place == "other":
        mask.write_text("made by hand")

    (result,) = predict(tmp_path / "a.nii", model=model(), out=out).predictions

    assert result.status == ("done" if place == "mask" else "failed")
    assert (mask.read_bytes() == b"made by hand") == (place == "other")


def test_removed_outputs_are_written_again_and_changed_ones_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(scan_bytes())
    out = tmp_path / "out"
    predict(tmp_path / "a.nii", model=model(), out=out, probabilities=True)
    doubt, mask = out / "probabilities" / "a_uncertainty.nii.gz", out / "masks" / "a.nii.gz"
    doubt.unlink()

    (again,) = predict(tmp_path / "a.nii", model=model(), out=out, probabilities=True).predictions
    assert doubt.is_file()
    assert "changed" not in again.message

    mask.write_bytes(b"")
    result = predict(tmp_path / "a.nii", model=model(), out=out, probabilities=True)
    assert result.predictions[0].message.endswith("changed since it was written: masks/a.nii.gz")
    assert "changed since it was written" in (out / "results.csv").read_text()


def test_a_damaged_record_is_reported_and_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(scan_bytes())
    out = tmp_path / "out"
    predict(tmp_path / "a.nii", model=model(), out=out)
    (out / "done" / "a.json").write_text("{")

    (failed,) = predict(tmp_path / "a.nii", model=model(), out=out).predictions

    assert "its record is damaged" in failed.message
    assert "done/a.json" in failed.message
    assert (out / "masks" / "a.nii.gz").is_file()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_marks_of_other_masks_are_kept_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "x.json").write_text("the user's own")
    crafted = {"key": "/../../x", "marks": {"a": {"decision": "accepted"}}}
    (tmp_path / "out" / "review.json").write_text(json.dumps(crafted))

    write_mark(tmp_path / "out", "new", "b", Mark(decision="accepted"))

    assert (tmp_path / "x.json").read_text() == "the user's own"
    assert len(list((tmp_path / "out").glob("review-*.json"))) == 1
