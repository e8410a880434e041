"""Try settings on inner validation splits of the training cases of fold 0, whose validation cases are not used.

    python benchmarks/inner_split.py brain.yaml /data/glioma training.iterations=1600 --folds 1,2
    python benchmarks/inner_split.py brain.yaml /data/glioma augment.paste_probability=0 --label "no pasting"

For each chosen fold, its validation cases are scored, and the other training cases of fold 0 are used for training. Records
(mean Dice, Dice of each case, steps) are added to results/inner_<study>.jsonl.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from pathlib import Path

import medhybrid

RESULTS = Path(__file__).parent / "results"


def inner_folds(folds: list[dict[str, list[str]]], chosen: list[int]) -> list[dict[str, list[str]]]:
    """Return inner folds: validation cases of each chosen fold (1 and up), and the other training cases of fold 0."""
    outer = folds[0]
    made = []
    for k in chosen:
        validation = folds[k]["validation"]
        if set(validation) & set(outer["validation"]):
            raise SystemExit(f"fold {k} shares validation cases with fold 0")
        made.append({"train": [c for c in outer["train"] if c not in set(validation)], "validation": validation})
    return made


def main() -> None:
    """Prepare the data and train each inner fold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("root", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--folds", default="1,2")
    parser.add_argument("--label", default="the config as it is")
    chosen = parser.parse_intermixed_args()
    common = [f"data.root={chosen.root.resolve()}", "tracking.kind=none", *chosen.overrides]
    config = medhybrid.load_config(chosen.config, common)
    preparation = medhybrid.preprocess(config)
    numbers = [int(k) for k in chosen.folds.split(",")]
    splits = preparation.folder.parent / f"{config.name}-inner.json"
    splits.write_text(json.dumps(inner_folds(json.loads((preparation.folder / "folds.json").read_text()), numbers)))
    inner = [*common, f"data.splits={splits.resolve()}", f"name={config.name}-inner"]
    medhybrid.preprocess(medhybrid.load_config(chosen.config, inner))
    RESULTS.mkdir(exist_ok=True)
    for n, k in enumerate(numbers):
        run = medhybrid.train(medhybrid.load_config(chosen.config, [*inner, f"training.fold={n}"]))
        with (run.folder / "validation.csv").open(newline="") as file:
            cases = {row["case"]: float(row["dice"]) for row in csv.DictReader(file)}
        record = {
            "label": chosen.label,
            "overrides": chosen.overrides,
            "fold": k,
            "dice": round(statistics.mean(cases.values()), 4),
            "median": round(statistics.median(cases.values()), 4),
            "steps": run.n_steps,
            "cases": cases,
        }
        with (RESULTS / f"inner_{config.name}.jsonl").open("a") as out:
            out.write(json.dumps(record) + "\n")
        print(chosen.label, f"fold {k}", record["dice"], record["median"], flush=True)


if __name__ == "__main__":  # workers import this file
    main()
