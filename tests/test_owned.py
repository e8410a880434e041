"""Output folders have a marker; files that medhybrid did not write are never removed."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medhybrid
from medhybrid.errors import MedHybridError, OutputError
from medhybrid.inference.engines.slurm import write_array_script
from medhybrid.inference.folder_record import OUTPUT
from medhybrid.owned import FolderKind, claim_folder, kinds_of, remove_made, remove_tree
from tests.synthetic import blob_case, save_nifti, small_config, write_csv

KIND = FolderKind("test", {"data": ("*.bin",), "record.json": ()}, lambda f: (f / "record.json").is_file())


def test_a_new_folder_is_marked(tmp_path: Path) -> None:
    assert kinds_of(claim_folder(tmp_path / "new", KIND)) == ("test",)
    claim_folder(tmp_path / "new", KIND)


def test_a_folder_with_files_of_other_names_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("mine")
    claim_folder(tmp_path, KIND)


def test_a_folder_of_an_earlier_version_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.bin").touch()
    (tmp_path / "record.json").touch()
    assert kinds_of(claim_folder(tmp_path, KIND)) == ("test",)


@pytest.mark.parametrize("foreign", ["data/notes.txt", "data"])
def test_a_folder_with_other_files_is_refused(tmp_path: Path, foreign: str) -> None:
    (tmp_path / foreign).parent.mkdir(exist_ok=True)
    (tmp_path / foreign).write_text("mine")
    (tmp_path / "record.json").touch()
    with pytest.raises(OutputError, match="did not write"):
        claim_folder(tmp_path, KIND)
    assert kinds_of(tmp_path) == ()


@pytest.mark.parametrize("name", ["data", "record.json", ".medhybrid.json"])
def test_a_link_in_a_marked_folder_leads_no_command_elsewhere(name: str, tmp_path: Path) -> None:
    out = claim_folder(tmp_path / "out", KIND)
    (tmp_path / "mine").mkdir()
    (out / name).unlink(missing_ok=True)
    (out / name).symlink_to(tmp_path / "mine")

    with pytest.raises(OutputError, match="links"):
        claim_folder(out, KIND)

    (out / name).unlink()
    (out / "notes").symlink_to(tmp_path / "mine")
    claim_folder(out, KIND)


def test_several_commands_may_write_into_one_folder(tmp_path: Path) -> None:
    claim_folder(tmp_path, FolderKind("other", {"scores.csv": ()}))
    assert kinds_of(claim_folder(tmp_path, KIND)) == ("other", "test")


def test_folders_are_removed_only_below_marked_folders(tmp_path: Path) -> None:
    user, owned = tmp_path / "user", claim_folder(tmp_path / "owned", KIND)
    (user / "inner").mkdir(parents=True)
    (owned / "data").mkdir()
    (owned / "link").symlink_to(user)
    with pytest.raises(OutputError):
        remove_tree(user, owner=user)
    for outside in (user, owned / ".." / "user", owned, owned / "link" / "inner"):
        with pytest.raises(OutputError):
            remove_tree(outside, owner=owned)
    remove_tree(owned / "link", owner=owned)
    remove_tree(owned / "data", owner=owned)
    assert (user / "inner").is_dir()
    assert not (owned / "data").exists()
    assert not (owned / "link").exists()


def test_a_folder_with_a_file_of_the_user_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "a.bin").touch()
    (tmp_path / "case" / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"notes\.txt"):
        remove_made(tmp_path / "case", ("*.bin",))
    assert (tmp_path / "case" / "a.bin").exists()


def write_table(folder: Path, names: list[str]) -> None:
    for i in range(len(names)):
        image, mask = blob_case(i)
        save_nifti(folder / "data" / f"s{i}.nii.gz", image)
        save_nifti(folder / "data" / f"m{i}.nii.gz", mask)
    rows = [{"case": n, "T1": f"s{i}.nii.gz", "mask": f"m{i}.nii.gz"} for i, n in enumerate(names)]
    write_csv(folder / "data", rows)


@pytest.mark.usefixtures("in_this_process")
def test_preprocess_removes_no_folder_named_in_a_table(tmp_path: Path) -> None:
    patients = [tmp_path / f"p{i}" for i in range(2)]
    for patient in patients:
        patient.mkdir()
        (patient / "notes.txt").write_text("mine")
    write_table(tmp_path, [str(patients[0]), f"../../../{patients[1].name}", "good", "also"])
    config = small_config(tmp_path)

    result = medhybrid.preprocess(config)

    assert result.n_prepared == 2
    assert len(result.left_out) == 2
    assert all((p / "notes.txt").read_text() == "mine" and len(list(p.iterdir())) == 1 for p in patients)
    problems = (tmp_path / "prepared" / "blobs" / "problems.csv").read_text()
    assert problems.count("it is a path") == 2


@pytest.mark.usefixtures("in_this_process")
def test_preprocess_keeps_files_of_the_user_in_its_folder(tmp_path: Path) -> None:
    write_table(tmp_path, ["a", "b"])
    config = small_config(tmp_path)
    medhybrid.preprocess(config)
    cases = tmp_path / "prepared" / "blobs" / "cases"
    (cases / "backup").mkdir()
    (cases / "backup" / "x.txt").write_text("mine")
    (cases / "a" / "notes.txt").write_text("mine")
    image, _ = blob_case(7)
    save_nifti(tmp_path / "data" / "s0.nii.gz", image)

    result = medhybrid.preprocess(config)

    assert (cases / "backup" / "x.txt").read_text() == "mine"
    assert (cases / "a" / "notes.txt").read_text() == "mine"
    assert [f.where for f in result.findings if f.severity == "error"] == ["a"]


def test_commands_refuse_folders_with_files_of_the_same_names(tmp_path: Path) -> None:
    write_table(tmp_path, ["a", "b"])
    prepared = tmp_path / "prepared" / "blobs" / "cases" / "a"
    prepared.mkdir(parents=True)
    (prepared / "case.json").write_text("mine")
    with pytest.raises(MedHybridError, match="did not write"):
        medhybrid.preprocess(small_config(tmp_path))

    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "summary.json").write_text("mine")
    (tmp_path / "masks").mkdir()
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "masks" / "a.nii.gz")
    shutil.copytree(tmp_path / "masks", tmp_path / "more")
    with pytest.raises(MedHybridError, match="did not write"):
        medhybrid.evaluate(tmp_path / "masks", tmp_path / "more", labels={"x": 1}, out=tmp_path / "scores")
    assert (tmp_path / "scores" / "summary.json").read_text() == "mine"
    assert (prepared / "case.json").read_text() == "mine"


@pytest.mark.parametrize("name", ["results.csv", "work.csv", "run.json", "report.html"])
def test_a_folder_with_a_table_of_the_user_is_not_an_output_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("patient,age\n")
    with pytest.raises(OutputError, match="did not write"):
        claim_folder(tmp_path, OUTPUT)


def test_a_converted_file_that_was_edited_is_kept(tmp_path: Path) -> None:
    save_nifti(tmp_path / "scans" / "a.nii.gz", blob_case(0)[0])
    medhybrid.convert(tmp_path / "scans", out=tmp_path / "out")
    edited = save_nifti(tmp_path / "out" / "a.nii.gz", blob_case(1)[0]).read_bytes()

    (row,) = medhybrid.convert(tmp_path / "scans", out=tmp_path / "out")

    assert row.name == "a_2"
    assert (tmp_path / "out" / "a.nii.gz").read_bytes() == edited


def test_an_edited_job_script_is_kept(tmp_path: Path) -> None:
    first = write_array_script(tmp_path / "predict.sbatch", ["x"], 2)
    first.write_text("filled in")
    second = write_array_script(tmp_path / "predict.sbatch", ["x"], 2)
    assert (first.read_text(), second.name) == ("filled in", "predict-2.sbatch")
    assert write_array_script(tmp_path / "predict.sbatch", ["x"], 2) == second
