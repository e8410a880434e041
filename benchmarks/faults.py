"""Test fault tolerance: `kill -9` a training and a prediction at random times, resume, and compare the results.

    python benchmarks/faults.py --kills 20

A small study is generated, prepared and trained without a kill. The same training is then killed at random times and resumed.
Its recorded losses and weights must equal those of the first. Next, the prediction of a folder is killed as often, first with
one process, then with two workers of which one is killed. Its masks must equal those of a prediction without kills. Results go
to results/faults.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import medhybrid  # noqa: E402
from tests.synthetic import blob_case, save_nifti, small_config, write_study  # noqa: E402

RESULTS = Path(__file__).parent / "results"
CHANGES = ["training.checkpoint_minutes=0.005", "tracking.kind=jsonl"]
WAITS_S = (4.0, 12.0)
"""Range of the time between the start of a process and its kill, in seconds; it includes the start-up."""

N_SCANS = 60


def call(*arguments: str) -> subprocess.Popen[str]:
    """Start `medhybrid ARGUMENTS`."""
    command = [sys.executable, "-m", "medhybrid", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def half_files(folder: Path) -> list[str]:
    """Return the NIfTI and JSON files with final names that cannot be read."""
    bad = []
    for path in folder.rglob("*"):
        if not path.is_file() or path.name.startswith("."):
            continue
        try:
            if path.name.endswith(".nii.gz"):
                np.asarray(nib.load(path).dataobj)
            elif path.suffix == ".json":
                json.loads(path.read_text())
        except Exception:  # any error means an unreadable file
            bad.append(str(path.relative_to(folder)))
    return bad


def losses_of(run: Path) -> dict[int, float]:
    """Return the last recorded loss of each step."""
    found = {}
    for line in (run / "log.jsonl").read_text().splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # a line truncated by a kill
            continue
        if "train/loss" in event.get("values", {}):
            found[event["step"]] = event["values"]["train/loss"]
    return found


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def enough_steps(config: str, root: Path, kills: int) -> int:
    """Estimate a number of steps with which a training on this machine outlasts all kills."""
    n = 100
    short = medhybrid.load_config(config, [*CHANGES, f"training.iterations={n}", f"runs={root / 'short'}"])
    began = time.monotonic()
    medhybrid.train(short)
    # The measured time includes start-up, so this underestimates the steps; hence the minimum.
    return max(600, round(n / (time.monotonic() - began) * kills * sum(WAITS_S)))


def kill_training(root: Path, kills: int, rng: random.Random) -> dict[str, Any]:
    """Train once without and once with kills, and compare."""
    config = str(root / "small.yaml")
    changes = [*CHANGES, f"training.iterations={enough_steps(config, root, kills)}"]
    whole = medhybrid.train(medhybrid.load_config(config, [*changes, f"runs={root / 'whole'}"])).folder
    runs, said, damaged = root / "killed", [], []
    for n in range(kills):
        run = next(iter((runs / "blobs").glob("*")), None)
        process = (
            call("train", "--resume", "--run", str(run))
            if run
            else call("train", "-c", config, *changes, f"runs={runs}")
        )
        began = time.monotonic()
        time.sleep(rng.uniform(*WAITS_S))
        if process.poll() is not None:
            print(f"the training ended before kill {n + 1}", flush=True)
            break
        process.kill()
        said.append(process.communicate()[0][-200:])
        damaged += half_files(runs)
        print(f"kill {n + 1} after {time.monotonic() - began:.1f} s", flush=True)
    (run,) = (runs / "blobs").iterdir()
    n_kills = len(said)
    last = call("train", "--resume", "--run", str(run))
    shown = last.communicate()[0]
    same = losses_of(run) == losses_of(whole)
    weights = [digest(f / "model" / "model.safetensors") for f in (run, whole)]
    return {
        "fault": "kill -9 of a training at a random time",
        "times": n_kills,
        "half_files": damaged,
        "exit_after": last.returncode,
        "losses_equal": same,
        "weights_equal": weights[0] == weights[1],
        "seen": shown.strip().splitlines()[-1:],
    }


def masks_of(out: Path) -> dict[str, str]:
    """Return the hash of the values of each mask."""
    folder = out / "masks"
    return {
        p.name: hashlib.sha256(np.asarray(nib.load(p).dataobj).tobytes()).hexdigest() for p in folder.glob("*.nii.gz")
    }


def kill_predict(root: Path, model: Path, kills: int, workers: int, rng: random.Random) -> dict[str, Any]:
    """Predict once without and once with kills, of the process or of one of its workers, and compare."""
    scans, peace, out = root / "scans", root / "peace", root / f"killed{workers}"
    if not peace.exists():
        medhybrid.predict(scans, model=model, out=peace)
    n = 0
    damaged: list[str] = []
    process: subprocess.Popen[str] | None = None
    while n < kills:
        if process is None or process.poll() is not None:
            process = call("predict", str(scans), "-m", str(model), "-o", str(out), "--workers", str(workers))
            wait_for_started(out, process)
        time.sleep(rng.uniform(0.0, 0.5))
        victims = psutil.Process(process.pid).children() if workers > 1 else [psutil.Process(process.pid)]
        victims = [v for v in victims if "medhybrid.data.workers" in " ".join(v.cmdline())] if workers > 1 else victims
        if process.poll() is not None or not victims:
            # The prediction has finished: remove half of its records, so that it has work again.
            for mask in list((out / "done").glob("*.json"))[: N_SCANS // 2]:
                mask.unlink()
            continue
        rng.choice(victims).kill()
        n += 1
        if workers == 1:
            process.wait()
        damaged += half_files(out)
    if process is not None:
        process.communicate()
    final = call("predict", str(scans), "-m", str(model), "-o", str(out), "--workers", str(workers))
    shown = final.communicate()[0]
    rows = (out / "results.csv").read_text().splitlines()[1:]
    return {
        "fault": "kill -9 of " + ("predict" if workers == 1 else f"one of {workers} workers of predict"),
        "times": n,
        "half_files": damaged,
        "exit_after": final.returncode,
        "masks_equal": masks_of(out) == masks_of(peace),
        "rows": len(rows),
        "rows_of_cases_twice": len(rows) - len({r.split(",")[0] for r in rows}),
        "seen": shown.strip().splitlines()[-1:],
    }


def wait_for_started(out: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the prediction of a scan has started."""
    while process.poll() is None:
        if (out / "started").is_dir() and any((out / "started").iterdir()):
            return
        time.sleep(0.02)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all tests and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    kills, rng = parser.parse_args(arguments).kills, random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_study(root / "data")
        medhybrid.preprocess(small_config(root))
        rows = [kill_training(root, kills, rng)]
        model = next((root / "whole" / "blobs").iterdir())
        for n in range(N_SCANS):
            save_nifti(root / "scans" / f"s{n:03}.nii.gz", blob_case(100 + n)[0])
        rows += [kill_predict(root, model, kills, workers, rng) for workers in (1, 2)]
    for row in rows:
        print(row, flush=True)
    (RESULTS / "faults.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
