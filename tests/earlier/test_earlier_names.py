"""Names of version 0.1 in records, folders and Python are read under their present names."""

from __future__ import annotations

import json
import shutil
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

import medhybrid
from medhybrid.files import write_atomically
from medhybrid.inference.folder_record import OUTPUT, read_folder_record
from medhybrid.inference.model_record import read_record
from medhybrid.inference.records import Prediction, Records
from medhybrid.inference.weights_file import read_about
from medhybrid.owned import claim_folder
from medhybrid.runs.leakage import read_training_images
from medhybrid.steps.predict import FolderResult
from medhybrid.steps.train_all import _known_runs
from medhybrid.version import OLD_NAMES_UNTIL

ROOT = Path(__file__).parents[2]
RUN = Path("runs/blobs/finished")
STAMPS = [("scan.nii.gz", 1, 1)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the project folder of version 0.1.0."""
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(Path(__file__).parent / "0.1.0.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "project"


def read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def test_the_record_of_a_model_has_its_training_and_training_images(project: Path) -> None:
    stored = read(project / RUN / "model" / "model.json")
    _, record = read_record(project / RUN)

    assert record.training is not None
    assert record.training.n_steps == stored["made"]["n_steps"]
    assert record.training_images == tuple(stored["learnt_from"])
    assert {"training", "training_images", "inner_fold"} <= json.loads(record.model_dump_json()).keys()
    assert not {"made", "learnt_from", "inner"} & json.loads(record.model_dump_json()).keys()


def test_weights_and_runs_have_their_training_images(project: Path) -> None:
    stored = tuple(json.loads((project / RUN / "learnt_from.json").read_text()))
    about = read_about(project / RUN / "model" / "model.safetensors")

    assert read_training_images(project / RUN) == stored
    assert about is not None
    assert about.training_images == stored


def test_the_record_of_a_folder_has_its_skipped_files(project: Path, tmp_path: Path) -> None:
    values = read(project / "out" / "run.json") | {"left_aside": [{"name": "scout", "reason": "localizer"}]}
    (tmp_path / "run.json").write_text(json.dumps(values))

    (file,) = read_folder_record(tmp_path).skipped_files

    assert (file.name, file.reason) == ("scout", "localizer")


def test_the_record_of_a_scan_has_its_channel_assignment(project: Path) -> None:
    values = read(project / "out" / "done" / "new.json") | {"slots": "+echo 1|-"}

    assert Prediction.model_validate(values).channel_assignment == "+echo 1|-"


def test_attempts_in_the_folder_begun_count_and_move_to_started(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert records.begin("scan", STAMPS) == 1  # by a worker that dies
    shutil.move(tmp_path / "started", tmp_path / "begun")

    later = Records(tmp_path)

    assert later.begin("scan", STAMPS) == 2
    assert not list((tmp_path / "begun").iterdir())
    later.end(Prediction(case="scan", status="done"))
    assert not list((tmp_path / "started").iterdir())


def test_a_folder_with_begun_scans_and_no_marker_is_an_output_folder(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(project / "out", out)
    write_atomically(out / "begun" / "new.json", "{}")

    claim_folder(out, OUTPUT, remedy="")


def test_a_training_in_the_folder_begun_is_known(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_atomically(tmp_path / "all" / "begun" / "fold0", str(run))

    assert _known_runs(tmp_path / "all") == {"fold0": run}
    assert read(tmp_path / "all" / "runs.json") == {"fold0": str(run)}


def test_public_names_of_python_are_accepted_with_a_warning(tmp_path: Path) -> None:
    result = FolderResult(tmp_path, (), 0, ())

    with pytest.warns(DeprecationWarning, match=r"medhybrid\.compare_runs is now medhybrid\.compare; .* 0\.3"):
        assert medhybrid.compare_runs is medhybrid.compare
    with pytest.warns(DeprecationWarning, match="skipped_files"):
        assert result.left_aside == result.skipped_files


def test_old_names_are_accepted_for_one_minor_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    major, minor = (int(part) for part in version.split(".")[:2])

    assert f"{major}.{minor + 1}" == OLD_NAMES_UNTIL, "remove the old names, or name the next minor version"
