"""Training, prediction and export use no network: no downloads and no telemetry of libraries."""

from __future__ import annotations

import json
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from subprocess import run

import matplotlib

from medhybrid.config import save_config
from tests.synthetic import StudyFolder

WATCHED = '''
import json, sys, threading
from pathlib import Path

def watch(event, arguments):
    """Python tells of every name that is looked up and every address that is connected to, in any thread or fork."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host not in (None, "", "localhost", "127.0.0.1", "::1"):
        with open(sys.argv[5], "a") as file:
            print(host, file=file)

sys.addaudithook(watch)

from medhybrid.cli import app

config, scans, out = sys.argv[1:4]
for command in json.loads(sys.argv[4]):
    run = [path.parents[1] for path in Path(out, "runs").glob("*/*/model/model.json")]
    words = [w.format(config=config, scans=scans, out=out, run=run[0] if run else "") for w in command]
    app(words, standalone_mode=False)
for thread in threading.enumerate():
    if thread is not threading.current_thread() and not thread.daemon:
        thread.join(20)
'''

TRAIN = ["train", "--config", "{config}", "training.iterations=2", "runs={out}/runs"]
PREDICT = ["predict", "{scans}", "--model", "{run}", "--out", "{out}/masks-{device}", "--device", "{device}"]
EXPORT = ["export", "--model", "{run}", "--format", "pt2", "--out", "{out}/program"]


def test_no_command_uses_the_network(prepared: StudyFolder, tmp_path: Path) -> None:
    devices = ["cpu", *(["openvino"] if find_spec("openvino") else [])]  # OpenVINO converts its network from ONNX
    commands = [TRAIN, *([word.replace("{device}", d) for word in PREDICT] for d in devices), EXPORT]
    fonts = matplotlib.get_cachedir()  # with a new home folder, fonts would be searched again
    save_config(prepared.config, tmp_path / "study.yaml")
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")}
    scans = tmp_path / "scans"
    scans.mkdir()
    shutil.copy(prepared.folder / "data" / "imagesTr" / "case_00.nii.gz", scans)
    reached = tmp_path / "reached.txt"

    done = run(
        [
            sys.executable,
            "-c",
            WATCHED,
            str(tmp_path / "study.yaml"),
            str(scans),
            str(tmp_path),
            json.dumps(commands),
            str(reached),
        ],
        env=environment | {"HOME": str(tmp_path), "MPLCONFIGDIR": fonts},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert not reached.exists(), reached.read_text()
