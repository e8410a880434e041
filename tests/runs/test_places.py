"""A resumed run finds the current paths of its data, its store and the other runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from medhybrid.config import StudyConfig, load_config, save_config
from medhybrid.errors import ConfigError
from medhybrid.runs.folder import new_run_folder
from medhybrid.runs.places import config_here, remember_working_folder
from medhybrid.runs.resume import extend, find_run, run_config, with_places
from medhybrid.steps.train_all import run_beside


def make_project(root: Path, *overrides: str) -> StudyConfig:
    """Write a config file, prepared cases and data into a folder."""
    for name in ("prepared/blobs", "d"):
        (root / name).mkdir(parents=True)
    (root / "c.yaml").write_text("name: blobs\ndata: {channels: [{name: T1, modality: MR}], labels: {left: 1}}\n")
    return load_config(root / "c.yaml", ["data.root=d", "prepare.folder=prepared", *overrides])


def begin(config: StudyConfig) -> Path:
    """Create a run folder with its config."""
    folder = new_run_folder(config)
    save_config(config, folder / "config.yaml")
    return folder.resolve()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a project folder and change into it."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    return root


def places(folder: Path) -> list[str | None]:
    config = config_here(folder)
    return [config.runs, config.prepare.folder, config.data.root, config.tracking.uri]


def of(root: Path, store: str | None = None) -> list[str | None]:
    return [str(root / "runs"), str(root / "prepared"), str(root / "d"), store]


def test_relative_paths_start_at_the_working_directory_of_the_training(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(make_project(project, "tracking.uri=sqlite:///store.db"))
    monkeypatch.chdir(tmp_path)

    assert places(run) == of(project, f"sqlite:///{project / 'store.db'}")
    assert run_config(run).prepare.folder == "prepared", "the saved paths stay relative"


def test_without_a_record_relative_paths_start_at_the_parent_of_the_runs_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(make_project(project))
    (run / "working_folder").unlink()
    monkeypatch.chdir(tmp_path)

    assert places(run) == of(project)


@pytest.mark.parametrize("is_copied", [False, True])
@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_project_that_was_moved_or_copied_uses_its_own_folders(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_absolute: bool, is_copied: bool
) -> None:
    overrides = [f"runs={project / 'runs'}", f"prepare.folder={project / 'prepared'}", f"data.root={project / 'd'}"]
    run = begin(make_project(project, *(overrides if is_absolute else [])))
    monkeypatch.chdir(tmp_path)
    (shutil.copytree if is_copied else shutil.move)(project, tmp_path / "new")
    new = tmp_path / "new"

    assert places(new / "runs" / "blobs" / run.name) == of(new)


def test_moved_runs_find_the_data_in_the_working_directory(project: Path, tmp_path: Path) -> None:
    run = begin(make_project(project))
    (tmp_path / "disk").mkdir()
    shutil.move(project / "runs", tmp_path / "disk" / "runs")

    found = places(tmp_path / "disk" / "runs" / "blobs" / run.name)

    assert found == [str(tmp_path / "disk" / "runs"), *of(project)[1:]]


def test_prepared_cases_on_a_remote_store_keep_their_url(project: Path) -> None:
    run = begin(make_project(project, "prepare.folder=s3://bucket/prepared"))

    assert config_here(run).prepare.folder == "s3://bucket/prepared"


def test_runs_outside_the_working_directory_keep_a_relative_path_to_it(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(make_project(project, "runs=../elsewhere/runs"))
    monkeypatch.chdir("/")

    assert places(run) == [str(tmp_path / "elsewhere" / "runs"), *of(project)[1:]]


def test_the_path_to_the_working_directory_is_relative(project: Path) -> None:
    run = begin(make_project(project))
    remember_working_folder(run)

    assert (run / "working_folder").read_text() == "../../.."


def test_resume_may_change_paths_and_tracking_but_nothing_else(project: Path) -> None:
    run = begin(make_project(project))

    for overrides in (["training.peak_rate=1"], ["training.iterations=+2", "network.depth=2"]):
        with pytest.raises(ConfigError, match="cannot change on --resume"):
            find_run("", overrides, run)
    given = [
        "training.iterations=20",
        "prepare.folder=p2",
        "tracking.experiment=other",
        "tracking.register_model=false",
    ]
    assert find_run("", given, run) == (run, given)
    assert find_run("c.yaml", given, None) == (Path("runs/blobs") / run.name, given)

    kept = extend(run_config(run), given)
    assert (kept.tracking.experiment, kept.tracking.register_model) == ("other", False)
    assert kept.prepare.folder == "prepared", "it applies to one call"
    assert with_places(kept, given).prepare.folder == str(project / "p2")


def test_a_copied_cross_validation_continues_with_its_own_runs(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name / "runs" / "t" / "run-1").mkdir(parents=True)
    whole = tmp_path / "new" / "runs" / "t" / "cross-validation"

    assert run_beside(whole, str(tmp_path / "old" / "runs" / "t" / "run-1")) == whole.parent / "run-1"
    assert run_beside(whole, "runs/t/run-1") == whole.parent / "run-1", "from any working directory"
    assert run_beside(whole, "runs/t/gone") == whole.parent / "gone"
