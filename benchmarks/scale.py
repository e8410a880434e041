"""Measure the prediction of many small scans by one or more workers, and a large work list with workers that die.

    python benchmarks/scale.py folder --cases 5000      predict by one process, by workers of this machine, by Ray
    python benchmarks/scale.py list --cases 100000      the work list and its records, with idle workers that die at random

`folder` generates the scans (32 x 32 x 16, noise and a bright ball) and a small untrained network. Each engine predicts all
scans with one thread per worker. The overhead per case is the time for reading, preparing, measuring, writing and distributing,
without the time of the network. Memory is that of the first process, over the cases. Results go to results/scale.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil

RESULTS = Path(__file__).parent / "results"
WAYS = {
    "this process": [],
    "Ray, 1 actor": ["--workers", "1", "--engine", "ray", "--address", "local"],
    "2 workers": ["--workers", "2"],
    "Ray, 2 actors": ["--workers", "2", "--engine", "ray", "--address", "local"],
}
SHAPE = (32, 32, 16)


def write_scans(folder: Path, n: int) -> None:
    """Write scans of noise with a bright ball."""
    folder.mkdir(parents=True)
    grid = np.stack(np.meshgrid(*(np.arange(s) for s in SHAPE), indexing="ij"), -1)
    for i in range(n):
        rng = np.random.default_rng(i)
        image = rng.normal(100, 10, SHAPE)
        image[np.linalg.norm(grid - rng.integers(6, 10, 3), axis=-1) < 5] += 100
        nib.save(nib.Nifti1Image(image.astype(np.int16), np.diag([2.0, 2, 2, 1])), folder / f"s{i:06}.nii")


def write_model(folder: Path) -> None:
    """Save a small untrained network as a model folder."""
    import torch

    from medhybrid.config import InferenceConfig, NetworkConfig
    from medhybrid.data.plan import Normalisation, Plan
    from medhybrid.inference.model_folder import model_card, save_model
    from medhybrid.inference.model_record import ModelRecord
    from medhybrid.inference.network import network_for

    plan = Plan(
        study="scale",
        spacing_mm=(2, 2, 2),
        patch_size=SHAPE,
        strides=((2, 2, 2), (2, 2, 2), (2, 2, 2)),
        batch_size=2,
        normalisation=(Normalisation(channel="T1", rule="zscore_foreground"),),
        labels={"ball": 1},
        mirror_axes=(),
        keep_largest=(),
        min_component_ml=0.0,
        blank_copied_channels=True,
    )
    network = NetworkConfig(widths=(16, 32, 64), blocks=(1, 1, 1), depth=1)
    record = ModelRecord(
        medhybrid_version="0",
        network=network,
        inference=InferenceConfig(),
        channel_map={},
        plan=plan,
        fold=0,
        data_hash="",
        weights_sha256="",
        metrics={},
    )
    torch.manual_seed(0)
    save_model(folder, network_for(network, plan).state_dict(), record, model_card(record, "scale"))


def network_seconds(model: Path, scans: Path) -> float:
    """Return the median time of the network for one scan with one thread, over thirty scans."""
    import torch

    import medhybrid

    torch.set_num_threads(1)
    loaded, times = medhybrid.load_model(model, device="cpu"), []
    for path in sorted(scans.iterdir())[:30]:
        scan = medhybrid.read_scan(path)
        prepared = loaded.prepare(scan)
        began = time.perf_counter()
        loaded.infer(scan, prepared)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def predict_folder(way: str, scans: Path, model: Path, out: Path) -> dict[str, Any]:
    """Predict all scans; return seconds in total and after the first mask, and memory of the first process over the cases."""
    command = [sys.executable, "-m", "medhybrid", "predict", str(scans), "-m", str(model), "-o", str(out), "-q"]
    began = time.monotonic()
    process = subprocess.Popen([*command, "--device", "cpu", *WAYS[way]], env=os.environ | {"OMP_NUM_THREADS": "1"})
    memory: list[tuple[int, int]] = []
    first: list[float] = []

    def watch() -> None:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            n = len(os.listdir(out / "done")) if (out / "done").is_dir() else 0
            if n and not first:
                first.append(time.monotonic() - began)
            try:
                memory.append((n, watched.memory_info().rss >> 20))
            except psutil.Error:
                break
            time.sleep(1)

    thread = threading.Thread(target=watch)
    thread.start()
    process.wait()
    thread.join()
    seconds = time.monotonic() - began
    digest = hashlib.sha256()
    for path in sorted((out / "masks").iterdir()):
        digest.update(np.asarray(nib.load(path).dataobj).tobytes())
    n = len(os.listdir(out / "masks"))
    half = [mib for done, mib in memory if done > n / 2]
    return {
        "way": way,
        "exit": process.returncode,
        "masks": n,
        "seconds": round(seconds, 1),
        "first_mask_s": round(first[0], 1) if first else None,
        "ms_a_case": round(1000 * (seconds - (first[0] if first else 0)) / n, 2),
        "mib_at": memory[:: max(1, len(memory) // 20)],
        "mib_growth_second_half": half[-1] - half[0] if half else None,
        "masks_sha256": digest.hexdigest(),
    }


def run_folder(n: int) -> list[dict[str, Any]]:
    """Predict the same scans by every engine, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_scans(root / "scans", n)
        write_model(root / "model")
        own = network_seconds(root / "model", root / "scans")
        rows = []
        for i, way in enumerate(WAYS):
            row = predict_folder(way, root / "scans", root / "model", root / f"out{i}")
            row["network_ms"] = round(1000 * own, 2)
            print({k: v for k, v in row.items() if k != "mib_at"}, flush=True)
            rows.append(row)
        if len({r["masks_sha256"] for r in rows}) != 1:
            print("the masks differ", flush=True)
        return rows


class Deadly:
    """Pool of workers that do no work and die at random."""

    def __init__(self, share: float, job: Any) -> None:
        self.share, self.job, self.rng, self.deaths = share, job, random.Random(0), 0

    def map(self, function: Any, items: Any) -> Iterator[tuple[Any, Any]]:
        """Yield each item as done, or with the death of its worker."""
        from medhybrid.data.workers import WorkerDied
        from medhybrid.inference.records import Prediction

        records, made_by = self.job.records, self.job.made_by
        for item in items:
            records.begin(item.case, [])
            if self.rng.random() < self.share:
                self.deaths += 1
                yield item, WorkerDied("died", found="signal SIGKILL")
                continue
            prediction = Prediction(case=item.case, status="done", made_by=made_by)
            records.end(prediction)
            yield item, (prediction, False)


def run_list(n: int, share: float) -> dict[str, Any]:
    """Run the driver with `n` cases and a share of deaths: distribution, records and tables."""
    from medhybrid.inference.collect import collect
    from medhybrid.inference.engines import pool as pools
    from medhybrid.inference.folder_job import FolderJob
    from medhybrid.inference.model_folder import load_model_folder
    from medhybrid.inference.worklist import WorkItem

    pools.AGAIN_AFTER_S = 0.0
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "model")
        model = load_model_folder(Path(folder) / "model", device="cpu")
        job = FolderJob(model, Path(folder) / "out")
        items = [WorkItem(f"s{i:07}", ()) for i in range(n)]
        pool = Deadly(share, job)
        recipe = pools.WorkerArguments(lambda **_: model, (), "cpu", job.out, job.made_by)
        began = time.monotonic()
        known = collect(pools.predict_on(pool, recipe, items, job), [i.case for i in items], job)
        seconds = time.monotonic() - began
        began = time.monotonic()
        again = job.records.all([i.case for i in items])
        done = sum(p.status == "done" for p in known)
        return {
            "cases": n,
            "share_of_deaths": share,
            "deaths": pool.deaths,
            "done": done,
            "set_aside": len(known) - done,
            "lost": n - len(again),
            "seconds": round(seconds, 1),
            "ms_a_case": round(1000 * seconds / n, 3),
            "reading_all_records_s": round(time.monotonic() - began, 1),
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the chosen measurement, and add it to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["folder", "list"])
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--deaths", type=float, default=0.1)
    chosen = parser.parse_args(arguments)
    path = RESULTS / "scale.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    if chosen.what == "folder":
        results["folder"] = run_folder(chosen.cases)
    else:
        results["list"] = [run_list(chosen.cases, share) for share in (0.0, chosen.deaths)]
        print(results["list"])
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
