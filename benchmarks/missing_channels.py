"""Measure the Dice of the validation cases of a run without each optional channel.

    python benchmarks/missing_channels.py runs/brain/<run>

The channel is set to 0 in the prepared images, as prediction does for a missing channel. Cases without that channel count with
the same Dice on both sides. Adds a row for each channel to results/missing_channels.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import medhybrid
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.store import PreparedCase
from medhybrid.inference.model import Model
from medhybrid.inference.to_grid import labels_on_scan
from medhybrid.inference.windows import to_tensor
from medhybrid.metrics import dice, mean_interval, paired_difference
from medhybrid.runs.prepared import prepared_folder
from medhybrid.runs.resume import run_config

RESULTS = Path(__file__).parent / "results" / "missing_channels.json"


def dice_without(model: Model, case: PreparedCase, channel: int | None) -> float:
    """Return the mean Dice over the labels of a case without a channel, on the grid of the scan."""
    image = case.image().copy()
    if channel is not None:
        image[channel] = 0
    logits = model.logits(to_tensor(image, model.device), case.record.context)
    prediction = labels_on_scan(logits, case.grid, case.turn.grid(case.source_grid), case.turn)
    reference = case.source_mask()
    return float(np.mean([dice(prediction == v, reference == v) for v in range(1, model.plan.n_labels + 1)]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each channel and record the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    folder = parser.parse_args(arguments).run
    config, model = run_config(folder), medhybrid.load_model(folder)
    dataset = PreparedDataset(prepared_folder(config))
    cases = dataset.open(dataset.fold_for(config).validation)
    whole = [dice_without(model, c, None) for c in cases]
    rows = {"none": str(mean_interval(whole))}
    print("all channels", rows["none"])
    for n, rule in enumerate(model.plan.normalisation):
        if rule.optional:
            without = [dice_without(model, c, n) for c in cases]
            gap = paired_difference(without, whole)
            rows[rule.channel] = f"{mean_interval(without)}; change {gap.interval}"
            print(f"without {rule.channel}", rows[rule.channel])
    records = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    records[f"{config.name}, {config.network.kind}, {folder.name}"] = rows
    RESULTS.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
