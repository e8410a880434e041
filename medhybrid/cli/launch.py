"""`medhybrid train --processes N`: launch of N training processes on this host.

On several hosts, use `torchrun --nnodes 2 --nproc-per-node 8 ... -m medhybrid train ...`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medhybrid.data.workers import MEETING, available_cores, cause_of_end
from medhybrid.errors import ConfigError, TrainingError

POLL_S = 0.1

LAUNCHED = "MEDHYBRID_LAUNCHED"
"""Environment variable of processes that end with the launcher."""

GRACE_S = 180.0
"""Seconds between SIGTERM and SIGKILL for the processes of a failed team; the first one needs time to close its records."""


def launch(arguments: Sequence[str], n: int) -> int:
    """Run `medhybrid ARGUMENTS` in `n` processes that train together, and return the exit code.

    Ctrl-C and SIGTERM are forwarded to all of them. If one fails, the others are stopped.

    Raises
    ------
    ConfigError
        If `n` is less than 1.
    TrainingError
        If a signal killed one, so that it could not report the error itself.
    """
    if n < 1:
        raise ConfigError(f"invalid number of processes {n}", expected="--processes of 1 or more")
    with tempfile.TemporaryDirectory(
        prefix="medhybrid-"
    ) as meeting:  # private to this user, unlike a port (MASTER_PORT)
        return _run_team(arguments, n, Path(meeting) / "team")


def _run_team(arguments: Sequence[str], n: int, meeting: Path) -> int:
    common = os.environ | {"WORLD_SIZE": str(n), MEETING: str(meeting)}
    common.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // n)))
    if loopback := {"linux": "lo", "darwin": "lo0"}.get(sys.platform):
        common |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    command = [sys.executable, "-m", "medhybrid", *arguments]
    common[LAUNCHED] = "1"
    apart: dict[str, Any] = (
        {} if sys.platform == "win32" else {"process_group": 0}
    )  # else Ctrl-C would reach them twice
    places = [{"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(n)]
    # with LAUNCHED set, a process ends when its stdin is closed, also if the launcher is killed
    team = [subprocess.Popen(command, env=common | place, stdin=subprocess.PIPE, **apart) for place in places]

    def pass_on(number: int, _: object) -> None:
        for process in team:
            process.send_signal(number)

    caught = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, pass_on) for number in caught]
    try:
        return _wait(team)
    finally:
        for number, handler in zip(caught, before, strict=True):
            signal.signal(number, handler)
        for process in team:
            process.communicate()


def _wait(team: list[subprocess.Popen[bytes]]) -> int:
    """Wait for all processes and return the exit code of the first one that failed, or 0."""
    failed: subprocess.Popen[bytes] | None = None
    while any(process.poll() is None for process in team):
        if failed is None and (failed := next((p for p in team if p.poll()), None)):
            _end(team, failed)
        time.sleep(POLL_S)
    failed = failed or next((p for p in team if p.returncode), None)
    if failed is not None and failed.returncode < 0:
        raise TrainingError(
            f"process {team.index(failed) + 1} of {len(team)} was killed",
            found=cause_of_end(failed.returncode),
            remedy="continue from the last checkpoint with medhybrid train --resume",
        )
    return 0 if failed is None else failed.returncode


def _end(team: list[subprocess.Popen[bytes]], failed: subprocess.Popen[bytes]) -> None:
    """Stop the other processes: by SIGTERM, then by SIGKILL, since they may wait for the failed one forever."""
    deadline = time.monotonic() + (0 if failed.returncode < 0 else GRACE_S)
    for process in team:
        if process.poll() is None and failed.returncode != 130:
            process.terminate()
    while any(p.poll() is None for p in team) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for process in team:
        if process.poll() is None:
            process.kill()
