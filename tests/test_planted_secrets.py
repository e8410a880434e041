"""A password in every place that takes an address: commands may use it, and neither show, log, write nor send it elsewhere."""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from medhybrid.cli import main
from medhybrid.errors import SafeFormatter
from tests.synthetic import StudyFolder

SECRET = "s3cr3t-Pass"


class Recorder(BaseHTTPRequestHandler):
    """A server that keeps what it is sent, and has nothing."""

    received: list[str]

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.received.append(f"{self.path}\n{self.headers}\n{self.rfile.read(length).decode('latin-1')}")
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_PUT = do_HEAD = handle_any

    def log_message(self, *_: object) -> None:
        """Be silent."""


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    received: list[str] = []
    handler = type("Handler", (Recorder,), {"received": received})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"127.0.0.1:{listening.server_port}", received
        listening.shutdown()
        thread.join()


ADDRESSES = {
    "tracking.uri": (
        "train",
        "--config",
        "{config}",
        "tracking.kind=mlflow",
        f"tracking.uri=http://me:{SECRET}@{{server}}/x",
    ),
    "tracking.uri of a database": (
        "train",
        "--config",
        "{config}",
        "tracking.kind=mlflow",
        f"tracking.uri=postgresql://me:{SECRET}@127.0.0.1:1/x",
    ),
    "data.root": ("preprocess", "--config", "{config}", f"data.root=s3://key:{SECRET}@127.0.0.1/data"),
    "prepare.folder": ("preprocess", "--config", "{config}", f"prepare.folder=s3://key:{SECRET}@127.0.0.1/data"),
    "scans": ("predict", f"s3://key:{SECRET}@127.0.0.1/scans", "-m", "{model}", "-o", "{out}"),
    "--out": ("predict", "{scans}", "-m", "{model}", "-o", f"s3://key:{SECRET}@127.0.0.1/out"),
    "--model": ("predict", "{scans}", "-m", f"s3://key:{SECRET}@127.0.0.1/model", "-o", "{out}"),
    "--from": (
        "predict",
        "--from",
        f"dicomweb://me:{SECRET}@{{server}}/x?StudyInstanceUID=1.2",
        "-m",
        "{model}",
        "-o",
        "{out}",
    ),
    "--to": ("predict", "{scans}", "--to", f"dicomweb://me:{SECRET}@{{server}}/x", "-m", "{model}", "-o", "{out}"),
    "--storage": (
        "tune",
        "--config",
        "{config}",
        "--minutes",
        "1",
        "--storage",
        f"postgresql://me:{SECRET}@127.0.0.1:1/x",
    ),
    "training.pretrained": (
        "train",
        "--config",
        "{config}",
        f"training.pretrained=https://me:{SECRET}@127.0.0.1:1/w.pt",
    ),
    "a parameter of an address": (
        "train",
        "--config",
        "{config}",
        "tracking.kind=mlflow",
        f"tracking.uri=http://{{server}}/x?access_token={SECRET}",
    ),
    "a key that does not exist": ("train", "--config", "{config}", f"tracking.url=http://me:{SECRET}@{{server}}/x"),
    "listen": ("listen", "--config", "{listen}", "--model", "{model}"),
    "review": ("review", f"http://me:{SECRET}@{{server}}/x"),
    "config": ("config", "{config}", f"tracking.uri=http://me:{SECRET}@{{server}}/x"),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", ADDRESSES)
def test_a_password_in_an_address_is_shown_nowhere(
    place: str,
    prepared: StudyFolder,
    trained: tuple[StudyFolder, Path],
    server: tuple[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    values = {"senders": [{"ae_title": "A"}], "send_to": f"dicomweb://me:{SECRET}@{server[0]}/x", "port": 11199}
    (tmp_path / "listen.yaml").write_text(yaml.safe_dump(values))
    given = {
        "config": str(prepared.folder / "small.yaml"),
        "model": str(trained[1]),
        "scans": str(prepared.folder / "data" / "imagesTr"),
        "out": str(tmp_path / "out"),
        "listen": str(tmp_path / "listen.yaml"),
        "server": server[0],
    }
    arguments = [part.format(**given) for part in ADDRESSES[place]]
    (tmp_path / "listen.yaml").rename(tmp_path / "kept.yaml") if place != "listen" else None

    code = main(["--debug", *arguments])

    ours = [r for r in caplog.records if r.name.startswith("medhybrid") or r.levelno >= logging.WARNING]
    shown = "".join(capsys.readouterr()) + "".join(map(SafeFormatter().format, ours))
    assert place == "config" or code != 0, shown
    assert SECRET not in shown
    (tmp_path / "kept.yaml").unlink(missing_ok=True)
    (tmp_path / "listen.yaml").unlink(missing_ok=True)
    assert [p for p in tmp_path.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()] == []
    encoded = base64.b64encode(f"me:{SECRET}".encode()).decode()
    sent = [line for request in server[1] for line in request.splitlines() if SECRET in line or encoded in line]
    used = "Authorization: Basic", "/x?access_token=", "/x/api"  # the server that the address names may get it
    assert all(line.startswith(used) for line in sent)
