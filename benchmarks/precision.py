"""Compare the masks of the fast paths with those in float32, by Dice, for each validation scan of a fold.

    python benchmarks/precision.py /data/glioma RUN ...

Fast paths: torch in bf16, OpenVINO in float32 and in bf16 (extra [openvino]). Writes results/precision_<study>.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch

import medhybrid
from medhybrid.data.dataset import PreparedDataset
from medhybrid.metrics import dice
from medhybrid.runs.prepared import prepared_folder

RESULTS = Path(__file__).parent / "results"

WAYS = {
    "float32": ("cpu", "float32"),
    "bf16": ("cpu", "bf16"),
    "OpenVINO, float32": ("openvino", "float32"),
    "OpenVINO, bf16": ("openvino", "bf16"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict each scan by every path, and write the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("runs", type=Path, nargs="+", help="runs of one study and fold")
    chosen = parser.parse_args(arguments)
    configs = [medhybrid.load_config(run / "config.yaml", []) for run in chosen.runs]
    config = configs[0]
    if len({(c.name, c.training.fold) for c in configs}) > 1:
        raise SystemExit("the runs are from different studies or folds; pass runs of one study and fold")
    fold = PreparedDataset(prepared_folder(config)).fold_for(config)
    scans = {case: medhybrid.read_scan(chosen.root / "imagesTr" / f"{case}.nii.gz") for case in fold.validation}
    told: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for run in chosen.runs:
        exact: dict[str, np.ndarray] = {}
        for way, (device, precision) in WAYS.items():
            model = medhybrid.load_model(run, device=device, precision=precision)
            model.predict(scans[fold.validation[0]])
            began = time.perf_counter()
            masks: dict[str, np.ndarray] = {case: model.predict(scan) for case, scan in scans.items()}
            seconds = (time.perf_counter() - began) / len(scans)
            exact = exact or masks
            told[way].append(
                {
                    "seconds": round(seconds, 3),
                    "dice_to_float32": {c: round(dice(exact[c] > 0, m > 0), 5) for c, m in masks.items()},
                    "voxels_of_1000_that_differ": round(
                        1000 * mean(np.mean(exact[c] != m) for c, m in masks.items()), 5
                    ),
                }
            )
    print("| path | seconds per scan | Dice to float32: minimum | median | different labels, voxels of 1,000 |")
    print("| --- | --- | --- | --- | --- |")
    for way, made in told.items():
        agreements = [d for of_run in made for d in of_run["dice_to_float32"].values()]
        seconds, differ = (mean(r[key] for r in made) for key in ("seconds", "voxels_of_1000_that_differ"))
        print(f"| {way} | {seconds:.2f} | {min(agreements):.5f} | {median(agreements):.5f} | {differ:.4f} |")
    path = RESULTS / f"precision_{config.name}.json"
    path.write_text(json.dumps({"torch": torch.__version__, "ways": told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
