"""`medhybrid review`: MLflow UI for a folder of runs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path

from medhybrid.addresses import hide_password
from medhybrid.errors import ConfigError
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
    return [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port)]


def review(
    runs: str | Path = "runs",
    *,
    host: str = "127.0.0.1",
    port: int = 5000,
    uri: str | None = None,
    opens: bool = False,
) -> int:
    """Serve the MLflow UI until Ctrl-C or SIGTERM; returns its exit code (0 if stopped).

    Parameters
    ----------
    opens : bool
        Open the experiment of the newest run in the browser, with the main columns first.
    """
    quiet_mlflow()
    command = review_command(Path(runs), host=host, port=port, uri=uri)
    # every user of the host can read the arguments of a process, and the address may have a password
    server = subprocess.Popen(command, env=os.environ | {"MLFLOW_BACKEND_STORE_URI": store_uri(uri, Path(runs))})
    is_waiting = opens
    try:
        with stop_on_signals() as should_stop:
            while server.poll() is None and not should_stop():
                time.sleep(POLL_S)
                if is_waiting and _answers(host, port):
                    is_waiting = False
                    _open_page(f"http://{host}:{port}/", store_uri(uri, Path(runs)))
            return 0 if should_stop() or server.returncode is None else server.returncode
    finally:
        _end(server)


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
