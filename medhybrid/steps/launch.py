"""`medhybrid train --processes N`: this command again, N times on this machine, as one team.

On several machines, `torchrun` does this: `torchrun --nnodes 2 --nproc-per-node 8 ... -m medhybrid train ...`.
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
"""Environment variable of a process that ends with the launcher."""

GRACE_S = 180.0
"""The others of a team that lost one are ended, by force after this time: more than the first may take to close its records."""


def launch(arguments: Sequence[str], n: int) -> int:
    """Run `medhybrid ARGUMENTS` in `n` processes that know of each other; returns the exit code.

    Ctrl-C and SIGTERM reach all of them. When one fails, the others are ended.

    Raises
    ------
    ConfigError
        If `n` is less than 1.
    TrainingError
        If one was ended by a signal, of which it could not speak itself.
    """
    if n < 1:
        raise ConfigError(f"{n} processes cannot train", expected="--processes of 1 or more")
    with tempfile.TemporaryDirectory(prefix="medhybrid-") as meeting:  # theirs alone: MASTER_PORT would be open to all
        return _run_team(arguments, n, Path(meeting) / "team")


def _run_team(arguments: Sequence[str], n: int, meeting: Path) -> int:
    common = os.environ | {"WORLD_SIZE": str(n), MEETING: str(meeting)}
    common.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // n)))
    if loopback := {"linux": "lo", "darwin": "lo0"}.get(sys.platform):
        common |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    command = [sys.executable, "-m", "medhybrid", *arguments]
    common[LAUNCHED] = "1"
    apart: dict[str, Any] = {} if sys.platform == "win32" else {"process_group": 0}  # Ctrl-C reaches them once, by us
    places = [{"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(n)]
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
    """The exit code of the first that failed, or 0."""
    failed: subprocess.Popen[bytes] | None = None
    while any(process.poll() is None for process in team):
        if failed is None and (failed := next((p for p in team if p.poll()), None)):
            _end(team, failed)
        time.sleep(POLL_S)
    failed = failed or next((p for p in team if p.returncode), None)
    if failed is not None and failed.returncode < 0:
        raise TrainingError(
            f"process {team.index(failed) + 1} of {len(team)} ended before its work was done",
            found=cause_of_end(failed.returncode),
            remedy="go on from the last checkpoint with medhybrid train --resume",
        )
    return 0 if failed is None else failed.returncode


def _end(team: list[subprocess.Popen[bytes]], failed: subprocess.Popen[bytes]) -> None:
    """The others wait for one that is gone, so that asking them to stop after their step may not be enough."""
    deadline = time.monotonic() + (0 if failed.returncode < 0 else GRACE_S)
    for process in team:
        if process.poll() is None and failed.returncode != 130:
            process.terminate()
    while any(p.poll() is None for p in team) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for process in team:
        if process.poll() is None:
            process.kill()
