"""A training outlasts the loss of its MLflow server, with artifacts through the server and PostgreSQL if installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import mlflow
import pytest

from medhybrid.runs.models import load_model
from medhybrid.steps.review import WITHOUT_JOBS
from tests.patience import patience_s, wait_until
from tests.servers import answers, free_port
from tests.synthetic import StudyFolder

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@contextmanager
def server(store: str, folder: Path, port: int) -> Iterator[str]:
    """Run `mlflow server` as docker/compose.yaml does, and kill it with its workers at the end."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += [
        "--workers",
        "1",
        "--backend-store-uri",
        store,
        "--artifacts-destination",
        str(folder / "artifacts"),
        "--serve-artifacts",
    ]
    with (folder / "server.log").open("a") as log:
        environment = os.environ | WITHOUT_JOBS
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}"), "an answer of MLflow", process=process)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """Start a PostgreSQL server; use SQLite if it is not installed, may not be started, or its driver (pg8000) is missing."""
    if not POSTGRES or find_spec("pg8000") is None or shutil.which("setpriv") is None or os.getuid() != 0:
        yield f"sqlite:///{tmp_path / 'mlflow.db'}"
        return
    bin_, data, port = POSTGRES[-1].parent, Path(f"/tmp/medhybrid-postgres-{os.getpid()}"), free_port()
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data.mkdir()
    shutil.chown(data, "postgres", "postgres")
    subprocess.run(
        [*as_user, bin_ / "initdb", "-D", data, "-A", "trust", "-U", "mlflow"], check=True, capture_output=True
    )
    options = ["-c", f"port={port}", "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={data}"]
    process = subprocess.Popen([*as_user, bin_ / "postgres", "-D", data, *options], stderr=subprocess.DEVNULL)
    try:
        made = [*as_user, bin_ / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow"]
        wait_until(lambda: subprocess.run(made, capture_output=True).returncode == 0, "a database in PostgreSQL")
        yield f"postgresql+pg8000://mlflow@127.0.0.1:{port}/mlflow"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
        shutil.rmtree(data)


def test_a_server_that_is_restarted_receives_every_step_and_the_model(
    prepared: StudyFolder, store: str, tmp_path: Path
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "medhybrid", "train", "--config", str(prepared.folder / "small.yaml")]
    changes = [f"runs={tmp_path / 'runs'}", "training.iterations=60", f"tracking.uri=http://127.0.0.1:{port}"]
    said = tmp_path / "training.log"
    with server(store, tmp_path, port), said.open("w") as log:
        environment = os.environ | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
        training = subprocess.Popen([*command, *changes], env=environment, stdout=subprocess.DEVNULL, stderr=log)
        wait_until(
            lambda: any(tmp_path.glob("runs/blobs/*/mlflow_run_id")) or training.poll() is not None, "an MLflow run"
        )
    wait_until(lambda: "cannot send" in said.read_text() or training.poll() is not None, "a warning about the server")
    with server(store, tmp_path, port) as address:
        training.wait(patience_s())
        assert training.returncode == 0, said.read_text()
        assert "cannot send" in said.read_text(), "the server was unreachable"
        (id_file,) = tmp_path.glob("runs/blobs/*/mlflow_run_id")
        client, run_id = mlflow.MlflowClient(address), id_file.read_text().strip()
        losses = client.get_metric_history(run_id, "train/loss")
        artifacts = {a.path for a in client.list_artifacts(run_id)}
        loaded = load_model("models:/blobs@newest", device="cpu", tracking_uri=address)

    assert [m.step for m in losses] == list(range(10, 61, 10))
    assert "config.yaml" in artifacts
    assert loaded.record.plan.study == "blobs"
