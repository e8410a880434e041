"""The commands of the tutorials run unchanged, in one shell, on small data.

On Linux each command is a fork of a process with all imports, since importing takes longer than most commands.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medhybrid.scans.dicom.write import write_mr_series
from tests.patience import wait_until
from tests.synthetic import AFFINE, blob_case, save_nifti

DOCS = Path(__file__).parents[1] / "docs"
PAGES = (DOCS / "getting-started.md", DOCS / "how-to" / "from-nnunet.md")

SERVER = """
import json, os, signal, socket, sys
import torch._dynamo
import medhybrid.cli, medhybrid.steps.predict, medhybrid.steps.preprocess, medhybrid.steps.report, medhybrid.steps.train

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.bind(sys.argv[1] + ".new")
server.listen()
os.rename(sys.argv[1] + ".new", sys.argv[1])
while True:
    caller, _ = server.accept()
    text, files, *_ = socket.recv_fds(caller, 1 << 20, 3)
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        server.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
        asked = json.loads(text)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = ["medhybrid", *asked["arguments"]]
        try:
            code = medhybrid.cli.main(asked["arguments"])
            sys.stdout.flush()
            caller.send(bytes([code]))
        finally:
            os._exit(0)
    for file in files:
        os.close(file)
    caller.close()
"""

COMMAND = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
asked = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(server, [json.dumps(asked).encode()], [0, 1, 2])
sys.exit(server.recv(1)[0])
"""


@contextmanager
def folder_of_command(folder: Path) -> Iterator[Path]:
    """Return the folder of a command `medhybrid`, which starts fast where forks are possible."""
    installed = Path(sys.executable).parent
    if sys.platform != "linux":
        yield installed
        return
    help_ = subprocess.run([installed / "medhybrid", "--help"], capture_output=True, text=True, check=True).stdout
    assert "preprocess" in help_, "the installed command"
    folder.mkdir()
    with tempfile.TemporaryDirectory() as place:  # paths of sockets are limited in length
        address, command = Path(place, "s"), folder / "medhybrid"
        command.write_text(COMMAND.format(python=sys.executable, address=str(address)))
        command.chmod(0o755)
        server = subprocess.Popen([sys.executable, "-c", SERVER, address])
        try:
            wait_until(address.exists, "a process that commands begin from", process=server)
            yield folder
        finally:
            server.terminate()
            server.wait()


@pytest.mark.slow
def test_every_command_of_the_tutorials_runs(tmp_path: Path) -> None:
    for n in range(6):
        image, mask = blob_case(n)
        save_nifti(tmp_path / "data" / "imagesTr" / f"case_{n}_0000.nii.gz", image)
        save_nifti(tmp_path / "data" / "labelsTr" / f"case_{n}.nii.gz", mask // 2 + (mask == 1))  # 1 and 2
    labels = {"background": 0, "anterior": 1, "posterior": 2}
    listed = {"channel_names": {"0": "T1"}, "labels": labels, "numTraining": 6, "file_ending": ".nii.gz"}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(listed))
    write_mr_series(tmp_path / "scans" / "a", blob_case(20)[0], AFFINE, description="T1", study="s", case="x")
    save_nifti(tmp_path / "scans" / "b.nii.gz", blob_case(21)[0])
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", "".join(p.read_text() for p in PAGES), flags=re.DOTALL))
    environment = os.environ | {
        "DATA": str(tmp_path / "data"),
        "SCANS": str(tmp_path / "scans"),
        "MINUTES": "0.05",
    }

    with folder_of_command(tmp_path / "bin") as folder:
        environment["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    assert done.returncode == 0, done.stdout + done.stderr
    for path in (
        "results/report.html",
        "results/masks/b.nii.gz",
        "comparison/comparison.html",
        "by-champion/results.csv",
    ):
        assert (tmp_path / path).is_file(), path
    assert len(list((tmp_path / "runs" / "hippocampus").glob("2*/report.html"))) == 2
