"""`medhybrid review`: the MLflow UI on a folder of runs."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path

from medhybrid.addresses import hide_password
from medhybrid.errors import ConfigError
from medhybrid.steps.interrupt import stop_on_signals
from medhybrid.tracking.mlflow_store import quiet_mlflow, sqlite_path, store_uri
from medhybrid.tracking.mlflow_ui import experiment_page
from medhybrid.tracking.setup import prepare_store

logger = logging.getLogger(__name__)

POLL_S = 0.2
"""How often the server is looked after."""


def review_command(runs: Path, *, host: str, port: int, uri: str | None) -> list[str]:
    """The command that serves the UI.

    Raises
    ------
    ConfigError
        If there is no store yet, or it is a server.
    TrackingError
        If the store cannot be used.
    """
    address = store_uri(uri, runs)
    place = sqlite_path(address)
    if place is not None and not place.is_file():
        raise ConfigError(
            f"{runs} holds no MLflow store" if uri is None else "there is no such MLflow store",
            expected=str(place),
            remedy="train first, or give --tracking-uri",
        )
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"{hide_password(address)} is a server, which shows its runs itself", remedy="open it in the browser"
        )
    prepare_store(address)
    return [
        *(sys.executable, "-m", "mlflow", "ui"),
        *("--backend-store-uri", address),
        *("--host", host, "--port", str(port)),
    ]


def review(
    runs: str | Path = "runs",
    *,
    host: str = "127.0.0.1",
    port: int = 5000,
    uri: str | None = None,
    opens: bool = False,
) -> int:
    """Serve the UI until Ctrl-C or SIGTERM; returns its exit code (0 when stopped).

    Parameters
    ----------
    opens : bool
        Show, in the browser, the experiment with the newest run, the columns that matter first.
    """
    quiet_mlflow()
    server = subprocess.Popen(review_command(Path(runs), host=host, port=port, uri=uri))
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
    except Exception as error:  # the address is on the screen: a person can go there
        logger.debug("no browser was opened", exc_info=error)


def _answers(host: str, port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/health", timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False
