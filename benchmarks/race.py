"""Measure seconds and peak memory of programs that do the same work, in alternating rounds.

Every contender is a separate process, so that contenders do not share caches or memory. A contender that times itself prints
JSON with `seconds` (without start-up) and other figures as its last line. For the others, the time of the whole process counts.
Every second round runs in the opposite order.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

SAMPLE_S = 0.2
"""Interval between measurements of memory, in seconds; each measurement takes a few milliseconds."""


@dataclass(frozen=True)
class Contender:
    """Program to measure.

    Attributes
    ----------
    before : callable
        Called before each round, to remove the output of the previous round.
    until_first : Path, optional
        Folder of masks; the time of the first mask in it is recorded as `first_s`.
    """

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], None] = lambda: None
    until_first: Path | None = None


def race(contenders: Sequence[Contender], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run all rounds; return `seconds`, `wall_s`, `peak_mib` and printed figures of each contender and round."""
    told: dict[str, list[dict[str, Any]]] = {c.name: [] for c in contenders}
    for n in range(rounds):
        for contender in contenders if n % 2 == 0 else reversed(contenders):
            told[contender.name].append(_run(contender))
    return told


def median(told: Sequence[Mapping[str, Any]], key: str = "seconds") -> tuple[float, float, float]:
    """Return median, minimum and maximum."""
    values = [float(t[key]) for t in told]
    return statistics.median(values), min(values), max(values)


def _run(contender: Contender) -> dict[str, Any]:
    contender.before()
    environment = os.environ | {"PYTHONWARNINGS": "ignore"} | dict(contender.environment)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        began = time.monotonic()
        process = subprocess.Popen([str(c) for c in contender.command], stdout=out, stderr=errors, env=environment)
        peak, first = 0, None
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            if first is None and contender.until_first is not None and _has_mask(contender.until_first):
                first = time.monotonic() - began
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SAMPLE_S)
        wall = time.monotonic() - began
        out.seek(0)
        errors.seek(0)
        lines = out.read().decode(errors="replace").strip().splitlines()
        if process.returncode:
            print(errors.read().decode(errors="replace")[-2000:], file=sys.stderr)
            raise SystemExit(f"{contender.name} failed: {' '.join(map(str, contender.command))}")
    told: dict[str, Any] = {"seconds": wall, "wall_s": wall, "peak_mib": peak // 2**20}
    if first is not None:
        told["first_s"] = first
    if lines and lines[-1].startswith("{"):
        with contextlib.suppress(json.JSONDecodeError):  # output of another program that only looks like JSON
            told |= json.loads(lines[-1])
    return told


def _resident(pid: int) -> int:
    """Return the memory of a process and its children in bytes; shared memory counts once (PSS) if the system reports it."""
    total = 0
    with contextlib.suppress(psutil.Error):
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                told = process.memory_full_info()
                total += getattr(told, "pss", told.rss)
    return total


def _has_mask(folder: Path) -> bool:
    return folder.is_dir() and any(p.name.endswith(".nii.gz") and p.stat().st_size for p in folder.rglob("*"))
