"""Measure everything that needs a GPU in ten minutes: each part of gpu.py in a process with its own limit of time.

    python benchmarks/gpu_session.py /data/hippocampus --out gpu.jsonl
    python benchmarks/gpu_session.py /data/hippocampus --device cpu --tiny --out gpu.jsonl

A line is added to the file when a part ends: its result, or how it failed. So an interrupted session keeps what it measured.
The limits add up to the minutes; a part that ends early leaves its time to the later ones. `--parts step,learn` chooses some.
The first part is `tests/test_gpu.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
SHARES = {
    "tests": 0.16,
    "ceilings": 0.04,
    "step": 0.14,
    "windows": 0.05,
    "learn": 0.25,
    "folder": 0.08,
    "precision": 0.06,
    "ct": 0.12,
    "memory": 0.10,
}
"""Parts in their order, with their shares of the time."""

SHOWN = 600
"""Characters of an error that are kept."""


def commands(part: str, data: Path, chosen: argparse.Namespace, work: Path) -> list[list[str]]:
    """Return the commands of a part."""
    if part == "tests":
        return [
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE.parent / "tests/test_gpu.py")]
        ]
    call = [sys.executable, str(HERE / "gpu.py"), part, str(data), "--device", chosen.device, "--work", str(work)]
    call += ["--tiny"] if chosen.tiny else []
    call += ["--minutes", str(round(SHARES["learn"] * chosen.minutes / 3, 2))]
    return [[*call, "--gib", gib] for gib in ("8", "16")] if part == "memory" else [call]


def measure(command: list[str], limit_s: float) -> dict[str, Any]:
    """Run a command; return its result, or how it failed."""
    began = time.monotonic()
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"not finished after {limit_s:.0f} s"}
    spent = {"wall_s": round(time.monotonic() - began, 1)}
    if ended.returncode:
        return {"failed": f"exit {ended.returncode}: {(ended.stderr or ended.stdout)[-SHOWN:]}", **spent}
    last = (ended.stdout.strip().splitlines() or [""])[-1]
    try:
        result: dict[str, Any] = json.loads(last)
        return result | spent
    except ValueError:
        return {"said": last, **spent}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the parts one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of a dataset with masks")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small data and few steps, to show that each part runs")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--parts", default=",".join(SHARES))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.jsonl")
    chosen = parser.parse_args(arguments)
    end = time.monotonic() + chosen.minutes * 60
    gpu = torch.cuda.get_device_name() if chosen.device == "cuda" and torch.cuda.is_available() else "none"
    machine = {"gpu": gpu, "cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
    parts = [p for p in SHARES if p in chosen.parts.split(",")]
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        for n, part in enumerate(parts):
            left = end - time.monotonic()
            share = SHARES[part] / sum(SHARES[p] for p in parts[n:])
            calls = commands(part, chosen.data, chosen, Path(work))
            for call in calls:
                limit_s = max(1.0, left * share / len(calls))
                record = {"part": part, **measure(call, limit_s), **machine, "is_tiny": chosen.tiny}
                with chosen.out.open("a") as out:
                    out.write(json.dumps(record) + "\n")
                print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
