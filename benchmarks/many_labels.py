"""Measure how training, preparation and prediction grow from 2 labels to 144.

    python benchmarks/many_labels.py --threads 2

A training step has a patch of 64 voxels along each axis (`--patch`) and a batch of 2, with the loss, the optimiser and the
augmentation of `medhybrid train`, on random values. Preparation checks and prepares scans of 96 x 112 x 96 voxels (`--shape`),
in which the labels are cells of a grid. Prediction runs an untrained network on one such scan, and the estimated memory of
`predict` is recorded beside the peak. Ratios are of processor time, which other work disturbs least. Each number
of labels runs in a separate process, and the steps of both in alternation. Writes results/many_labels.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

import medhybrid
from medhybrid.config import InferenceConfig, StudyConfig
from medhybrid.data.plan import Normalisation, Plan
from medhybrid.inference.memory import needed_memory
from medhybrid.inference.model import Model
from medhybrid.inference.model_record import ModelRecord
from medhybrid.inference.network import config_of_network, network_for
from medhybrid.planning.rates import _RandomCase
from medhybrid.scans.reader import read_scan
from medhybrid.training.loop import Trainer
from medhybrid.training.tracker import NoTracker

RESULT = Path(__file__).parent / "results" / "many_labels.json"

CASES = 4

Shape = tuple[int, int, int]

WARM_STEPS = 2

AIMS = {"step_ratio": 2.5, "steps_per_second": 0.5, "step_gib": 6.0, "preparation_ratio": 2.0}


def config_of(folder: Path, n_labels: int, patch: int) -> StudyConfig:
    """Return the config of a study with some labels."""
    values: dict[str, Any] = {
        "name": f"labels{n_labels}",
        "data": {
            "root": str(folder / "data"),
            "channels": [{"name": "T1"}],
            "labels": {f"label{i}": i for i in range(1, n_labels + 1)},
        },
        "prepare": {"folder": str(folder / "prepared"), "patch_size": (patch,) * 3, "batch_size": 2, "workers": 1},
        "training": {"iterations": 1000, "workers": 0, "device": "cpu"},
        "tracking": {"kind": "none"},
        "runs": str(folder / "runs"),
    }
    return StudyConfig.model_validate(values)


def plan_of(config: StudyConfig, patch: int) -> Plan:
    """Return the plan of the step and of the prediction."""
    return Plan(
        study=config.name,
        spacing_mm=(1.0, 1.0, 1.0),
        patch_size=(patch,) * 3,
        strides=((2, 2, 2),) * 3,
        batch_size=2,
        normalisation=(Normalisation(channel="T1", rule="zscore_foreground"),),
        labels=config.data.labels,
        mirror_axes=(0,),
        keep_largest=(),
        min_component_ml=0.0,
        blank_copied_channels=False,
    )


def label_map(n_labels: int, shape: Shape) -> np.ndarray:
    """Return a label map (X, Y, Z) of cells with background between them."""
    n = int(np.ceil(n_labels ** (1 / 3)))
    index = np.stack(np.meshgrid(*(np.arange(size) * n // size for size in shape), indexing="ij"))
    cell = 1 + index[0] * n * n + index[1] * n + index[2]
    edges = np.stack(np.meshgrid(*(np.arange(size) % (size // n) < 2 for size in shape), indexing="ij")).any(0)
    return np.where(edges | (cell > n_labels), 0, cell).astype(np.uint8)


def measure_steps(n_labels: int, patch: int, seconds: float) -> dict[str, Any]:
    """Return the seconds of single training steps and the peak memory of the process."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(Path(folder), n_labels, patch)
        labels = label_map(n_labels, (patch * 3 // 2,) * 3)
        image = (labels + rng.normal(2, 1, labels.shape)).astype(np.float32)[None]
        case: Any = _RandomCase(image, labels, 0, np.zeros((0, 4), np.int32))
        trainer = Trainer(config, plan_of(config, patch), [case], [], folder=Path(folder), tracker=NoTracker())
        trainer.network.train()
        took: list[float] = []
        worked: list[float] = []
        while len(took) < WARM_STEPS + 3 or sum(took[WARM_STEPS:]) < seconds:
            batch = trainer.sampler.batch(trainer.step)
            began, began_cpu = time.perf_counter(), _cpu_seconds()
            trainer.train_step(batch)
            took.append(time.perf_counter() - began)
            worked.append(_cpu_seconds() - began_cpu)
            trainer.step += 1
        return {"step_seconds": took[WARM_STEPS:], "step_cpu_seconds": worked[WARM_STEPS:], "step_gib": _peak()}


def measure_preparation(n_labels: int, patch: int, shape: Shape) -> dict[str, Any]:
    """Return the processor seconds of checking and preparing a few scans, without their writing by this script."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = config_of(folder, n_labels, patch)
        for part in ("imagesTr", "labelsTr"):
            (folder / "data" / part).mkdir(parents=True)
        affine = np.diag([1.2, 1.2, 1.2, 1.0])
        labels = label_map(n_labels, shape)
        for i in range(CASES):
            image = (labels * 3 + rng.normal(200, 20, shape)).astype(np.int16)
            nib.save(nib.Nifti1Image(image, affine), folder / "data" / "imagesTr" / f"case_{i}_0000.nii")
            nib.save(nib.Nifti1Image(labels, affine), folder / "data" / "labelsTr" / f"case_{i}.nii")
        resampled = config.prepare.model_copy(update={"spacing_mm": (1.0, 1.0, 1.0)})
        before = _cpu_seconds()
        medhybrid.preprocess(config.model_copy(update={"prepare": resampled}))
        return {"preparation_seconds": _cpu_seconds() - before}


def measure_prediction(n_labels: int, patch: int, shape: Shape) -> dict[str, Any]:
    """Return seconds, peak memory and estimated memory of the prediction of one scan with an untrained network."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = config_of(folder, n_labels, patch)
        plan = plan_of(config, patch)
        inference = InferenceConfig(tta_mirroring=False, window_batch=1)
        record = ModelRecord(
            medhybrid_version="0", network=config_of_network(config.network, plan), inference=inference, channel_map={},
            plan=plan, fold=0, data_hash="", weights_sha256="", metrics={},
        )  # fmt: skip
        model = Model(network_for(config.network, plan), record, torch.device("cpu"))
        values = np.random.default_rng(0).normal(200, 20, shape).astype(np.int16)
        nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.0, 1.0, 1.0])), folder / "scan.nii")
        scan = read_scan(folder / "scan.nii")
        before = _resident()
        _peak()
        began = time.perf_counter()
        model.predict(scan)
        seconds = time.perf_counter() - began
        estimate = needed_memory(scan, plan, inference) / 2**30
        return {
            "prediction_seconds": seconds,
            "prediction_gib": _peak() - before,
            "prediction_estimated_gib": estimate,
        }


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _status(key: str) -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(key)) / 2**20


def _resident() -> float:
    """Return the present resident memory in GiB."""
    return _status("VmRSS")


def _peak() -> float:
    """Return the peak resident memory since the last call in GiB, and reset it."""
    peak = _status("VmHWM")
    Path("/proc/self/clear_refs").write_text("5")
    return peak


def _in_process(part: str, n_labels: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure a part in a separate process."""
    command = [sys.executable, __file__, "--one", f"{part}:{n_labels}", "--seconds", str(chosen.seconds)]
    command += ["--patch", str(chosen.patch), "--shape", chosen.shape]
    environment = os.environ | {"OMP_NUM_THREADS": str(chosen.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all parts and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8, help="length of a turn of training steps")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--labels", default="2,144", help="two numbers of labels")
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--shape", default="96x112x96")
    parser.add_argument("--one", help="PART:LABELS, measure in this process and print JSON")
    chosen = parser.parse_args(arguments)
    x, y, z = map(int, chosen.shape.split("x"))
    if chosen.one:
        part, text = chosen.one.split(":")
        n_labels = int(text)
        if part == "steps":
            print(json.dumps(measure_steps(n_labels, chosen.patch, chosen.seconds)))
        else:
            measure = measure_preparation if part == "preparation" else measure_prediction
            print(json.dumps(measure(n_labels, chosen.patch, (x, y, z))))
        return
    numbers = [int(n) for n in chosen.labels.split(",")]
    found: dict[int, dict[str, Any]] = {n: {"step_seconds": [], "step_cpu_seconds": []} for n in numbers}
    for _ in range(chosen.turns):
        for n in numbers:
            turn = _in_process("steps", n, chosen)
            for key in ("step_seconds", "step_cpu_seconds"):
                found[n][key] += turn[key]
            found[n]["step_gib"] = max(turn["step_gib"], found[n].get("step_gib", 0.0))
    for n in numbers:
        found[n] |= _in_process("preparation", n, chosen) | _in_process("prediction", n, chosen)
        found[n]["n_steps"] = len(found[n]["step_seconds"])
        for key in ("step_seconds", "step_cpu_seconds"):  # other work makes steps longer, never shorter
            found[n][key] = statistics.quantiles(found[n][key])[0]
    few, many = (found[n] for n in numbers)
    reached = {
        "step_ratio": many["step_cpu_seconds"] / few["step_cpu_seconds"],
        "steps_per_second": 1 / many["step_seconds"],
        "step_gib": many["step_gib"],
        "preparation_ratio": many["preparation_seconds"] / few["preparation_seconds"],
    }
    result = {
        "command": f"python benchmarks/many_labels.py --threads {chosen.threads}",
        "torch": torch.__version__,
        "threads": chosen.threads,
        "load": os.getloadavg()[0],
        "labels": {str(n): {k: round(v, 3) for k, v in of.items()} for n, of in found.items()},
        "reached": {k: round(v, 2) for k, v in reached.items()},
        "aims": AIMS,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":  # workers import this file
    main()
