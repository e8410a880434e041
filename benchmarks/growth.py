"""Measure how time and memory of a prediction grow with the size of the scan, the number of labels and of scans.

    python benchmarks/growth.py --sizes 128x128x100,256x256x200,512x512x400,512x512x800 --labels 1,10 --cases 10,100,1000

Each point runs in a separate process. A scan of int16 at 0.8 x 0.8 x 1 mm is read, prepared and split into windows of 96 voxels
on the grid of the network (`--spacing 0`: the grid of the scan). The result is resampled to the scan, small components are
removed, and the mask is measured and written. A smooth field with every label everywhere replaces the network; this is the
worst case for the resampling of the result. The time of a network would be the reported number of windows, times that of one
window. Points with several scans use scans of 40 x 48 x 36 voxels, one window each. Writes results/growth.json, .md and the
figure of docs/lab-notes/performance.md.
"""

from __future__ import annotations

import argparse
import json
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
from medhybrid.config import InferenceConfig, NetworkConfig
from medhybrid.data.plan import Normalisation, Plan
from medhybrid.inference.folder import predict_worklist
from medhybrid.inference.model import Model
from medhybrid.inference.model_record import ModelRecord
from medhybrid.inference.network import network_for
from medhybrid.inference.worklist import make_worklist
from medhybrid.networks.logits import Logits
from medhybrid.scans import discover

RESULTS = Path(__file__).parent / "results"

SPACING = (0.8, 0.8, 1.0)

WINDOW = (96, 96, 96)

SMALL = "40x48x36"


def make_model(spacing_mm: float, n_labels: int) -> tuple[Model, list[int]]:
    """Create a model whose network is a smooth field, and a list to which it adds the size of each batch."""
    plan = Plan(
        study="growth",
        spacing_mm=(spacing_mm,) * 3 if spacing_mm else SPACING,
        patch_size=WINDOW,
        strides=((2, 2, 2),) * 3,
        batch_size=2,
        normalisation=(Normalisation(channel="CT", rule="clip_and_scale", low=-1000, high=1000, deviation=400),),
        labels={f"label{i}": i for i in range(1, n_labels + 1)},
        mirror_axes=(),
        keep_largest=(),
        min_component_ml=0.5,
        blank_copied_channels=False,
    )
    network = NetworkConfig(widths=(8, 16, 32), token_width=24, depth=1, heads=2, head_width=8)
    record = ModelRecord(
        medhybrid_version="0", network=network, inference=InferenceConfig(), channel_map={}, plan=plan, fold=0,
        data_hash="", weights_sha256="", metrics={},
    )  # fmt: skip
    model = Model(network_for(network, plan), record, torch.device("cpu"))
    coarse = torch.randn((1, n_labels + 1, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    field = torch.nn.functional.interpolate(coarse, size=WINDOW, mode="trilinear")
    batches: list[int] = []

    def run(image: torch.Tensor) -> Logits:
        batches.append(len(image))
        logits = field.expand(len(image), -1, -1, -1, -1)
        return Logits(logits, logits)

    model.run = run
    return model, batches


def one(shape: tuple[int, int, int], n_labels: int, spacing_mm: float, n_cases: int = 1) -> dict[str, Any]:
    """Measure a point: seconds, peak memory and number of windows."""
    model, batches = make_model(spacing_mm, n_labels)
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        array = np.empty(shape, np.int16)
        for z in range(shape[2]):
            array[:, :, z] = rng.normal(0, 200, shape[:2])
        scans = Path(folder) / "scans"
        scans.mkdir()
        for n in range(n_cases):
            nib.save(nib.Nifti1Image(array, np.diag([*SPACING, 1.0])), scans / f"scan{n}.nii")
        del array
        before = _peak()
        began = time.perf_counter()
        work = make_worklist(discover(scans), [("CT", False)], {})
        done = predict_worklist(model, work, Path(folder) / "out")
        seconds = time.perf_counter() - began
    if failed := [p.message for p in done if p.status != "done"]:
        raise SystemExit(failed[0])
    return {
        "shape": list(shape), "megavoxels": float(np.prod(shape)) / 1e6, "labels": n_labels, "cases": n_cases,
        "seconds": seconds, "peak_gib": _peak(), "imports_gib": before, "windows": sum(batches),
    }  # fmt: skip


def _peak() -> float:
    """Return the peak resident memory since the last call in GiB, and reset it."""
    status = Path("/proc/self/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return kib / 2**20


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Draw seconds and memory over the number of voxels, with a line for each number of labels, and over that of scans."""
    import matplotlib.pyplot as plt

    figure, rows = plt.subplots(2, 2, figsize=(9, 6.5), layout="constrained")
    single, many = ([p for p in points if (p["cases"] > 1) is is_many] for is_many in (False, True))
    for column, (key, title) in enumerate({"seconds": "seconds", "peak_gib": "peak memory, GiB"}.items()):
        for n_labels in sorted({p["labels"] for p in single}):
            line = sorted((p["megavoxels"], p[key]) for p in single if p["labels"] == n_labels)
            rows[0, column].plot(*zip(*line, strict=True), "o-", label=f"{n_labels} label{'s' if n_labels > 1 else ''}")
        rows[0, column].set(xlabel="million voxels of one scan", ylabel=title)
        rows[1, column].plot([p["cases"] for p in many], [p[key] for p in many], "o-")
        rows[1, column].set(xlabel="scans of 0.07 million voxels", ylabel=title)
    for panel in rows.flat:
        panel.set(ylim=(0, 1.1 * panel.dataLim.y1), xlim=(0, None))
        panel.grid(alpha=0.3)
    rows[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all points, each in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", required=True)
    parser.add_argument("--labels", default="1,10")
    parser.add_argument("--cases", default="10,100,1000")
    parser.add_argument("--spacing", type=float, default=1.5)
    parser.add_argument("--one", action="store_true", help="measure one point in this process and print JSON")
    chosen = parser.parse_args(arguments)
    sizes, labels, cases = (getattr(chosen, key).split(",") for key in ("sizes", "labels", "cases"))
    if chosen.one:
        x, y, z = map(int, sizes[0].split("x"))
        print(json.dumps(one((x, y, z), int(labels[0]), chosen.spacing, int(cases[0]))))
        return
    asked = [(size, n, "1") for size in sizes for n in labels] + [(SMALL, "1", n) for n in cases]
    points = []
    for size, n_labels, n_cases in asked:
        call = [sys.executable, __file__, "--one", "--sizes", size, "--labels", n_labels, "--cases", n_cases]
        told = subprocess.run([*call, "--spacing", str(chosen.spacing)], capture_output=True, text=True, check=True)
        points.append(json.loads(told.stdout.splitlines()[-1]))
        print(points[-1], flush=True)
    RESULTS.mkdir(exist_ok=True)
    record = {"spacing_mm": chosen.spacing, "medhybrid": medhybrid.__version__, "points": points}
    (RESULTS / "growth.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [
        f"| {p['cases']} | {' x '.join(map(str, p['shape']))} | {p['labels']} | {p['seconds']:.1f} | "
        f"{p['peak_gib']:.2f} | {p['windows']} |"
        for p in points
    ]
    head = ["| scans | voxels | labels | seconds | peak GiB | windows |", "| --- " * 6 + "|"]
    (RESULTS / "growth.md").write_text("\n".join([*head, *lines]) + "\n")
    draw(points, RESULTS.parents[1] / "docs" / "images" / "growth.png")


if __name__ == "__main__":
    main()
