"""A store that a person must fix is refused before a training, with the command, and passwords are never shown."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.addresses import hide_password
from medhybrid.errors import ConfigError, TrackingError
from medhybrid.tracking.check import check_names, check_store
from medhybrid.tracking.mlflow_store import default_uri, sqlite_path, sqlite_url, store_uri
from tests.tracking.records import add_experiment, add_run, execute

RUN = "0123456789abcdef0123456789abcdef"


def place_of(store: Path) -> str:
    return (store.parent / "mlartifacts").as_uri()


def check(store: Path, run_id: str | None = None) -> None:
    check_store(sqlite_url(store), "t", run_id=run_id, lock=store.parent)


def test_a_new_project_passes_the_check(tmp_path: Path) -> None:
    check(tmp_path / "runs" / "mlflow.db")

    assert not list(tmp_path.iterdir())


def test_a_store_with_the_experiment_and_the_run_passes_the_check(store: Path) -> None:
    add_run(store, RUN, add_experiment(store, "t", place_of(store)), f"{place_of(store)}/{RUN}/artifacts")

    check(store)
    check(store, RUN)


def test_a_deleted_experiment_is_refused_with_the_command_that_restores_it(store: Path) -> None:
    number = add_experiment(store, "t", place_of(store), stage="deleted")
    add_run(store, RUN, number, "x")

    with pytest.raises(TrackingError, match=f"experiment t is deleted.*experiments restore --experiment-id {number}"):
        check(store)
    with pytest.raises(TrackingError, match="experiment t is deleted"):
        check(store, RUN)


def test_a_deleted_run_cannot_be_resumed_until_it_is_restored(store: Path) -> None:
    add_run(store, RUN, add_experiment(store, "t", place_of(store)), "x", stage="deleted")

    check(store)
    with pytest.raises(TrackingError, match=f"is deleted.*mlflow runs restore --run-id {RUN}"):
        check(store, RUN)


def test_a_run_of_another_store_is_not_resumed_in_this_one(store: Path) -> None:
    with pytest.raises(TrackingError, match=f"does not have the run that is resumed.*{RUN}.*MLFLOW_TRACKING_URI"):
        check(store, RUN)


def test_a_run_is_resumed_in_a_renamed_experiment(store: Path) -> None:
    add_run(store, RUN, add_experiment(store, "renamed", place_of(store)), "x")

    check(store, RUN)


def test_an_experiment_with_artifacts_on_a_server_needs_the_server(store: Path) -> None:
    add_experiment(store, "t", "mlflow-artifacts:/1")

    with pytest.raises(TrackingError, match=r"are stored by an MLflow server.*tracking.experiment"):
        check(store)


def test_a_missing_artifact_folder_elsewhere_is_refused_and_not_created(store: Path, tmp_path: Path) -> None:
    gone = tmp_path / "disk" / "files"
    number = add_experiment(store, "t", gone.as_uri())
    check(store)  # no artifact is stored there yet
    add_run(store, RUN, number, "x")

    with pytest.raises(TrackingError, match=f"does not exist.*{gone}"):
        check(store)


def test_a_read_only_store_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    connect = sqlite3.connect
    monkeypatch.setattr(
        "medhybrid.tracking.schema.sqlite3.connect",
        lambda path, **options: connect(f"file:{path}?mode=ro", uri=True, **options),
    )

    with pytest.raises(TrackingError, match=r"cannot be written to.*readonly"):
        check(store)


def test_a_store_that_another_process_is_writing_to_passes_the_check(store: Path) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(store)) as other:
        other.execute("BEGIN IMMEDIATE")
        check(store)


@pytest.mark.parametrize("alias", ["latest", "Latest", "v1", "V22", "", "my alias", "a/b", "x" * 256])
def test_an_alias_that_mlflow_reserves_or_refuses_is_reported_before_the_training(alias: str) -> None:
    with pytest.raises(ConfigError, match=r"tracking.alias"):
        check_names("t", alias)


def test_names_of_experiments_may_have_any_character(capsys: pytest.CaptureFixture[str]) -> None:
    check_names("Größe + (T1) / #2", "newest")
    for name in ("", "  ", "x" * 501):
        with pytest.raises(ConfigError, match=r"tracking.experiment"):
            check_names(name, "newest")


# --- servers ----------------------------------------------------------------------------------------------------------


@contextmanager
def answering(code: int, body: bytes) -> Iterator[str]:
    """Run a server with one answer to every request, with user and password in its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://ann:secret@127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


DELETED = (
    b'{"experiment": {"experiment_id": "7", "name": "t", "artifact_location": "mlflow-artifacts:/7",'
    b' "lifecycle_stage": "deleted"}}'
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("code", "body", "message"),
    [
        (401, b"who are you", "denies access.*MLFLOW_TRACKING_USERNAME"),
        (403, b"not you", "denies access"),
        (404, b"nothing here", "not as an MLflow server"),
        (200, b"<html>welcome</html>", "not as an MLflow server"),
        (200, DELETED, "experiment t is deleted.*experiments restore --experiment-id 7"),
    ],
)
def test_a_server_that_refuses_is_reported_before_the_training(
    code: int, body: bytes, message: str, tmp_path: Path
) -> None:
    with answering(code, body) as address, pytest.raises(TrackingError, match=message) as error:
        check_store(address, "t", lock=tmp_path)

    assert "secret" not in str(error.value)


@pytest.mark.filterwarnings("ignore")
def test_a_server_that_does_not_answer_gives_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_store("http://ann:secret@127.0.0.1:9", "t", lock=tmp_path)

    assert "does not answer" in caplog.text
    assert "stored and sent later" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "address", ["htp://host:5000", "./mlruns", "127.0.0.1:5000", "http://[::1", "mysql://u:secret@h/x"]
)
def test_an_invalid_store_address_is_refused(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(TrackingError, match=r"is not the address|driver") as error:
        check_store(address, "t", lock=tmp_path)

    assert "secret" not in str(error.value)


# --- addresses --------------------------------------------------------------------------------------------------------


def test_the_store_is_from_the_config_else_the_environment_else_the_folder_of_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store_uri(None, tmp_path) == default_uri(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://group:5000")
    assert store_uri(None, tmp_path) == "http://group:5000"
    assert store_uri("http://mine:5000", tmp_path) == "http://mine:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert store_uri(None, tmp_path) == default_uri(tmp_path)


@given(st.text(st.characters(codec="ascii", exclude_characters="@/ '\"", categories=("L", "N", "P", "S")), min_size=4))
def test_no_password_is_shown(password: str) -> None:
    text = f"API request to https://ann:{password}@host:5000/api failed, at postgresql://ann:{password}@db/x"

    shown = hide_password(text)

    assert shown == "API request to https://***@host:5000/api failed, at postgresql://***@db/x"


@pytest.mark.parametrize("name", ["mlflow.db", "with space.db", "per%cent.db", "what?.db", "ü#.db"])
def test_the_file_of_an_sqlite_address_is_recovered(name: str, tmp_path: Path) -> None:
    assert sqlite_path(sqlite_url(tmp_path / name)) == tmp_path / name


@pytest.mark.parametrize("address", ["http://h", "postgresql://u@h/x", "sqlite://", "sqlite:///:memory:", "./mlruns"])
def test_other_addresses_give_no_file(address: str) -> None:
    assert sqlite_path(address) is None


def test_the_records_of_a_store_are_read_as_mlflow_wrote_them(empty_store: Path) -> None:
    assert execute(empty_store, "SELECT name, lifecycle_stage FROM experiments") == [("Default", "active")]
