"""How far the masks of the quick ways are from those in float32: Dice between them, for each scan that validates a run's fold.

    python benchmarks/precision.py RUN /data/glioma

Ways: torch in bf16, OpenVINO in float32 and in bf16 (extra [openvino]). Writes results/precision_<study>.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

import medhybrid
from medhybrid.data.dataset import PreparedDataset
from medhybrid.metrics import dice
from medhybrid.steps.prepared import prepared_folder

RESULTS = Path(__file__).parent / "results"

WAYS = {
    "float32": ("cpu", "float32"),
    "bf16": ("cpu", "bf16"),
    "OpenVINO, float32": ("openvino", "float32"),
    "OpenVINO, bf16": ("openvino", "bf16"),
}


def main() -> None:
    """Predict each scan in every way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("root", type=Path)
    chosen = parser.parse_args()
    config = medhybrid.load_config(chosen.run / "config.yaml", [])
    fold = PreparedDataset(prepared_folder(config)).fold_for(config)
    scans = [medhybrid.read_scan(chosen.root / "imagesTr" / f"{case}.nii.gz") for case in fold.validation]
    masks, seconds = {}, {}
    for way, (device, precision) in WAYS.items():
        model = medhybrid.load_model(chosen.run, device=device, precision=precision)
        model.predict(scans[0])
        began = time.perf_counter()
        masks[way] = [model.predict(scan) for scan in scans]
        seconds[way] = (time.perf_counter() - began) / len(scans)
    told = {}
    print("| way | seconds a scan | Dice to float32: least | median | labels differ, voxels of 1,000 |")
    print("| --- | --- | --- | --- | --- |")
    for way, made in masks.items():
        agreements = [dice(a > 0, b > 0) for a, b in zip(masks["float32"], made, strict=True)]
        differ = 1000 * statistics.mean(np.mean(a != b) for a, b in zip(masks["float32"], made, strict=True))
        told[way] = {
            "seconds": round(seconds[way], 3),
            "dice_to_float32": dict(zip(fold.validation, (round(a, 5) for a in agreements), strict=True)),
        }
        print(
            f"| {way} | {seconds[way]:.2f} | {min(agreements):.5f} | {statistics.median(agreements):.5f} | {differ:.4f} |"
        )
    path = RESULTS / f"precision_{config.name}.json"
    path.write_text(json.dumps({"torch": torch.__version__, "ways": told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
