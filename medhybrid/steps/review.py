"""`medhybrid review`: MLflow UI for a folder of runs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path
from typing import TextIO

from medhybrid.addresses import hide_password
from medhybrid.errors import ConfigError, TrackingError
from medhybrid.files import file_mode
from medhybrid.interrupt import stop_on_signals
from medhybrid.tracking.mlflow_store import quiet_mlflow, sqlite_path, store_uri
from medhybrid.tracking.mlflow_ui import experiment_page
from medhybrid.tracking.setup import prepare_store

logger = logging.getLogger(__name__)

POLL_S = 0.2
"""Seconds between two checks of the server."""


def review_command(runs: Path, *, host: str, port: int, uri: str | None) -> list[str]:
    """Return the command that serves the MLflow UI, with the store in `MLFLOW_BACKEND_STORE_URI`.

    Raises
    ------
    ConfigError
        If the store does not exist, or is a server.
    TrackingError
        If the store cannot be used.
    """
    address = store_uri(uri, runs)
    place = sqlite_path(address)
    if place is not None and not place.is_file():
        raise ConfigError(
            f"{runs} has no MLflow store" if uri is None else "the MLflow store does not exist",
            expected=str(place),
            remedy="train first, or give --tracking-uri",
        )
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"{hide_password(address)} is an MLflow server with its own UI", remedy="open it in the browser"
        )
    prepare_store(address)
    # several workers would watch each other, and restart those that a busy machine makes slow
    return [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"]


def review(
    runs: str | Path = "runs",
    *,
    host: str = "127.0.0.1",
    port: int = 5000,
    uri: str | None = None,
    opens: bool = False,
) -> int:
    """Serve the MLflow UI until Ctrl-C or SIGTERM; returns 0.

    Parameters
    ----------
    opens : bool
        Open the experiment of the newest run in the browser, with the main columns first.

    Raises
    ------
    ConfigError
        If the store does not exist, or is a server.
    TrackingError
        If the store cannot be used, or the server ends by itself.
    """
    quiet_mlflow()
    command = review_command(Path(runs), host=host, port=port, uri=uri)
    # every user of the host can read the arguments of a process, and the address may have a password
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": store_uri(uri, Path(runs))} | WITHOUT_JOBS
    is_waiting = opens
    with _log_file(Path(runs)) as log:
        earlier = log.tell()
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            with stop_on_signals() as should_stop:
                while server.poll() is None and not should_stop():
                    time.sleep(POLL_S)
                    if is_waiting and _answers(host, port):
                        is_waiting = False
                        _open_page(f"http://{host}:{port}/", store_uri(uri, Path(runs)))
                if not should_stop():  # also with exit code 0, as for a port in use
                    raise TrackingError(
                        "the MLflow UI has ended",
                        found=_last_error(Path(log.name), earlier),
                        remedy=f"see {log.name}; if the port is in use, give another --port",
                    )
                return 0
        finally:
            _end(server)


WITHOUT_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Environment of a server without MLflow's processes for jobs of language models."""


def _log_file(runs: Path) -> TextIO:
    """Open the log of the server, which only its user may read: `mlflow-ui.log` in the folder of runs, or a temporary file."""
    try:
        with file_mode(0o600):
            return (runs / "mlflow-ui.log").open("a")
    except OSError:  # no such folder, as for a store elsewhere, or read-only
        return tempfile.NamedTemporaryFile("a", prefix="mlflow-ui-", suffix=".log", delete=False)  # type: ignore[return-value]


def _last_error(path: Path, start: int) -> str:
    """Return the last line of a log from byte `start` that contains an error, otherwise its last line."""
    text = path.read_bytes()[start:].decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return hide_password((errors or lines or ["no message"])[-1])


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is not None:
        return
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _open_page(address: str, uri: str) -> None:
    try:
        webbrowser.open(address + experiment_page(uri))
    except Exception as error:  # the address was printed: the user can open it
        logger.debug("no browser was opened", exc_info=error)


def _answers(host: str, port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/health", timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False
