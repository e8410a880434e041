"""One process at a time creates a store, incomplete stores are never used, and other versions are refused with a remedy."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from medhybrid.errors import TrackingError
from medhybrid.files import held
from medhybrid.tracking import setup as module
from medhybrid.tracking.mlflow_store import sqlite_url
from medhybrid.tracking.schema import known_revisions, read_schema
from medhybrid.tracking.setup import prepare_store
from tests.tracking.records import add_experiment, add_run, execute

FIRST_REVISION = "451aebb31d03"
"""The first revision of MLflow's tables."""

UNKNOWN_REVISION = "ffffffffffff"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STILL_S", 0.1)
    monkeypatch.setattr(module, "POLL_S", 0.01)


@pytest.fixture
def makes(monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> list[Path]:
    """Replace the creation of a store by a slow copy, and return the list of created paths."""
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        time.sleep(0.1)
        shutil.copyfile(empty_store, path)

    monkeypatch.setattr(module, "_make", make)
    return made


def half_made(path: Path, revision: str = FIRST_REVISION) -> Path:
    """Create a store whose tables two processes created at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        columns = "experiment_id INTEGER PRIMARY KEY, name TEXT, artifact_location TEXT, lifecycle_stage TEXT"
        database.execute(f"CREATE TABLE experiments ({columns})")
        database.execute("CREATE TABLE runs (run_uuid TEXT)")
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        if revision:
            database.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
    return path


def test_a_created_store_is_ready_and_the_only_file_in_its_folder(empty_store: Path) -> None:
    assert read_schema(empty_store).state == "ready"
    assert sorted(p.name for p in empty_store.parent.iterdir()) == [".mlflow.db.lock", "mlflow.db"]
    (place,) = execute(empty_store, "SELECT artifact_location FROM experiments")
    assert place[0] == (empty_store.parent / "mlartifacts" / "0").as_uri(), "not in the working directory"


def test_one_of_several_processes_creates_the_store_and_the_others_wait(tmp_path: Path, makes: list[Path]) -> None:
    path, problems = tmp_path / "runs" / "mlflow.db", []
    states: list[str] = []

    def begin() -> None:
        try:
            prepare_store(sqlite_url(path))
            states.append(read_schema(path).state)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=begin) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not problems
    assert states == ["ready"] * 5
    assert makes == [path]


def test_the_holder_of_the_lock_is_waited_for(tmp_path: Path, makes: list[Path]) -> None:
    path = tmp_path / "mlflow.db"
    with held(tmp_path / ".mlflow.db.lock"):
        thread = threading.Thread(target=prepare_store, args=(sqlite_url(path),))
        thread.start()
        thread.join(0.2)
        assert not makes
    thread.join(10)

    assert makes == [path]


@pytest.mark.parametrize("revision", [FIRST_REVISION, ""])
def test_an_unfinished_store_is_renamed_and_created_again(
    tmp_path: Path, makes: list[Path], revision: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = half_made(tmp_path / "mlflow.db", revision)
    before = path.read_bytes()

    prepare_store(sqlite_url(path))

    assert read_schema(path).state == "ready"
    (kept,) = tmp_path.glob("mlflow.db.unfinished-*")
    assert kept.read_bytes() == before
    assert "was interrupted" in caplog.text


def test_unfinished_tables_that_still_change_are_waited_for(
    tmp_path: Path, empty_store: Path, makes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STILL_S", 5.0)
    path = half_made(tmp_path / "mlflow.db")

    def finish() -> None:
        shutil.copyfile(empty_store, tmp_path / "finished")
        (tmp_path / "finished").replace(path)

    threading.Timer(0.2, finish).start()
    prepare_store(sqlite_url(path))

    assert read_schema(path).state == "ready"
    assert not makes
    assert not list(tmp_path.glob("mlflow.db.unfinished-*"))


def test_a_store_of_an_older_mlflow_is_refused_with_the_command_that_upgrades_it(store: Path) -> None:
    add_run(store, "a" * 32, add_experiment(store, "t", "file:///x"), "file:///x/a")
    execute(store, "UPDATE alembic_version SET version_num = ?", (FIRST_REVISION,))

    with pytest.raises(
        TrackingError, match=f"older version of MLflow.*{FIRST_REVISION}.*mlflow db upgrade sqlite:///{store}"
    ):
        prepare_store(sqlite_url(store))


def test_a_store_of_a_newer_mlflow_is_refused(store: Path) -> None:
    execute(store, "UPDATE alembic_version SET version_num = ?", (UNKNOWN_REVISION,))

    with pytest.raises(TrackingError, match=f"newer version of MLflow.*{UNKNOWN_REVISION}"):
        prepare_store(sqlite_url(store))


def test_a_database_of_another_program_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "trials.db"
    execute(path, "CREATE TABLE trials (n INTEGER)")

    with pytest.raises(TrackingError, match="is not an MLflow store"):
        prepare_store(sqlite_url(path))
    assert execute(path, "SELECT name FROM sqlite_master") == [("trials",)]


@pytest.mark.parametrize("columns", ["a INTEGER", "name TEXT", "experiment_id INTEGER, name TEXT"])
@pytest.mark.parametrize("others", [[], ["alembic_version (version_num TEXT)"]])
def test_another_programs_table_of_experiments_is_not_taken_for_a_store(
    tmp_path: Path, columns: str, others: list[str]
) -> None:
    path = tmp_path / "other.db"
    for table in (f"experiments ({columns})", *others):
        execute(path, f"CREATE TABLE {table}")
    execute(path, f"INSERT INTO experiments VALUES ({', '.join('1' for _ in columns.split(','))})")
    before = path.read_bytes()

    with pytest.raises(TrackingError, match=r"is not an MLflow store.*a database of another program"):
        prepare_store(sqlite_url(path))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["other.db"]


def test_a_damaged_store_is_reported_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"no database" * 100)

    with pytest.raises(TrackingError, match=r"cannot be read.*not a database"):
        prepare_store(sqlite_url(path))
    assert path.read_bytes() == b"no database" * 100


def test_the_revisions_of_the_installed_mlflow_form_one_chain() -> None:
    from mlflow.store.db.utils import _get_latest_schema_revision

    revisions, newest = known_revisions()

    assert FIRST_REVISION in revisions
    assert newest == _get_latest_schema_revision()


def test_no_store_is_created_for_a_server(tmp_path: Path) -> None:
    prepare_store("http://127.0.0.1:9", lock=tmp_path)

    assert not list(tmp_path.iterdir())
