"""A moved or copied project reads and writes artifacts in its current folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medhybrid.tracking.artifact_places import PLACES, follow_artifacts, local_path
from tests.tracking.records import add_experiment, add_run, execute

RUN = "0123456789abcdef0123456789abcdef"


def recorded(store: Path, root: Path | None = None) -> str:
    """Record a run, a model and a version as medhybrid does, and return the root of their artifacts."""
    root = root or store.parent.resolve() / "mlartifacts"
    place = root.as_uri()
    add_run(store, RUN, add_experiment(store, "t", place), f"{place}/{RUN}/artifacts")
    execute(
        store,
        "INSERT INTO logged_models (model_id, experiment_id, name, artifact_location, creation_timestamp_ms,"
        " last_updated_timestamp_ms, status, lifecycle_stage) VALUES ('m-1', 1, 'exported', ?, 0, 0, 1, 'active')",
        (f"{place}/models/m-1/artifacts",),
    )
    execute(store, "INSERT INTO registered_models (name) VALUES ('t')")
    execute(
        store,
        "INSERT INTO model_versions (name, version, source, storage_location) VALUES ('t', 1, 'models:/m-1', ?)",
        (f"{place}/models/m-1/artifacts",),
    )
    (root / RUN / "artifacts").mkdir(parents=True, exist_ok=True)
    return place


def places(store: Path) -> list[str]:
    """Return every artifact location in the store, except that of `Default`."""
    found = []
    for table, column in PLACES:
        found += [row[0] for row in execute(store, f"SELECT {column} FROM {table}")]
    return [p for p in found if p and not p.endswith("/0")]


def test_a_store_that_was_not_moved_is_not_changed(store: Path) -> None:
    recorded(store)
    before = store.read_bytes()

    follow_artifacts(store)

    assert store.read_bytes() == before


@pytest.mark.parametrize("is_copied", [False, True])
@pytest.mark.parametrize("name", ["renamed", "with space and ü", "deep/er"])
def test_a_moved_or_copied_project_has_its_artifacts_beside_the_store(
    store: Path, tmp_path: Path, is_copied: bool, name: str
) -> None:
    old = recorded(store)
    (shutil.copytree if is_copied else shutil.move)(tmp_path / "project", tmp_path / name)
    new = tmp_path / name / "runs" / "mlflow.db"

    follow_artifacts(new)

    here = (new.parent / "mlartifacts").as_uri()
    assert places(new) == [
        here,
        f"{here}/{RUN}/artifacts",
        f"{here}/models/m-1/artifacts",
        "models:/m-1",
        f"{here}/models/m-1/artifacts",
    ]
    if is_copied:
        assert old in places(store), "the original keeps its location"
    else:
        assert not (tmp_path / "project").exists()


def test_another_path_to_the_same_folder_does_not_change_the_store(store: Path, tmp_path: Path) -> None:
    os.symlink(tmp_path / "project", tmp_path / "link")
    recorded(store, tmp_path / "link" / "runs" / "mlartifacts")
    before = store.read_bytes()

    follow_artifacts(store)

    assert store.read_bytes() == before


@pytest.mark.parametrize(
    "place", ["s3://bucket/mlartifacts", "mlflow-artifacts:/1", "file:///srv/big/1", "/srv/mlruns/3", "hdfs://h/x"]
)
def test_artifacts_that_were_never_beside_the_store_keep_their_location(store: Path, place: str) -> None:
    add_run(store, RUN, add_experiment(store, "t", place), f"{place}/{RUN}/artifacts")

    follow_artifacts(store)

    assert places(store) == [place, f"{place}/{RUN}/artifacts"]


def test_a_store_with_another_name_keeps_artifact_locations_elsewhere(store: Path, tmp_path: Path) -> None:
    mine = store.rename(store.with_name("ours.db"))
    place = recorded(mine, tmp_path / "disk" / "mlartifacts")

    follow_artifacts(mine)

    assert place in places(mine)


@pytest.mark.parametrize("is_away", [False, True])
def test_a_store_of_the_user_with_our_names_keeps_its_artifacts_on_another_disk(
    store: Path, tmp_path: Path, is_away: bool
) -> None:
    (tmp_path / "disk").mkdir()
    place = recorded(store, tmp_path / "disk" / "mlartifacts")
    shutil.rmtree(store.parent / "mlartifacts", ignore_errors=True)
    if is_away:
        shutil.rmtree(tmp_path / "disk" / "mlartifacts", ignore_errors=True)
    else:
        (tmp_path / "disk" / "mlartifacts").mkdir(exist_ok=True)
        (tmp_path / "disk" / "mlartifacts" / "notes.txt").write_text("the user's own")

    follow_artifacts(store)

    assert place in places(store)


def test_artifacts_follow_the_project_even_if_its_old_folder_exists_again(store: Path, tmp_path: Path) -> None:
    recorded(store)
    shutil.move(tmp_path / "project", tmp_path / "renamed")
    (tmp_path / "project" / "runs" / "mlartifacts" / RUN).mkdir(parents=True)
    new = tmp_path / "renamed" / "runs" / "mlflow.db"

    follow_artifacts(new)

    assert (new.parent / "mlartifacts").as_uri() in places(new)


def test_mlflows_default_experiment_does_not_keep_the_working_directory_of_the_first_call(store: Path) -> None:
    execute(store, "UPDATE experiments SET artifact_location = '/gone/project/mlruns/0' WHERE name = 'Default'")

    follow_artifacts(store)

    ((place,),) = execute(store, "SELECT artifact_location FROM experiments WHERE name = 'Default'")
    assert place == (store.parent / "mlartifacts" / "0").as_uri()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=12))
def test_a_folder_is_recovered_from_its_address(name: str) -> None:
    folder = Path("/a") / name
    if folder.name != name:
        return

    assert local_path(folder.as_uri()) == folder
    assert local_path(str(folder)) == folder
