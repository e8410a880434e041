"""Compare masks of the scans that `report --unlabelled` ranks first with masks of scans chosen at random.

    python benchmarks/label_next.py glioma=/data/glioma --steps 800 --seeds 0,1,2 --work label-next-work

For each seed, a model is trained on a few cases of fold 0, drawn at random. It predicts the other training cases of the fold,
whose masks are not read, and they are ranked. Two models are then trained anew: on the few cases with those ranked first, and
with as many at random. All have the config of `medhybrid init` and the same number of steps, and are scored on the validation
cases of the fold. Each training adds a line to results/label_next.jsonl.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import medhybrid
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.layouts import list_cases
from medhybrid.steps.init import init_study
from medhybrid.steps.label_next import label_next

RESULTS = Path(__file__).parent / "results" / "label_next.jsonl"


class Experiment:
    """Trainings of one seed on parts of the training cases of fold 0."""

    def __init__(self, study: Path, work: Path, seed: int, steps: int, overrides: Sequence[str]) -> None:
        self.study, self.work, self.seed, self.steps, self.overrides = study, work, seed, steps, overrides
        config = self.config()
        medhybrid.preprocess(config)
        fold = PreparedDataset(Path(config.prepare.folder) / config.name).fold_for(config)
        self.pool, self.validation = sorted(fold.train), sorted(fold.validation)
        self.images = {c.name: c.images for c in list_cases(config.data)}

    def config(self, *more: str) -> medhybrid.StudyConfig:
        """Return the config of the study, with further settings."""
        fixed = [
            f"prepare.folder={self.work}/prepared",
            f"runs={self.work}/runs",
            "tracking.kind=none",
            f"training.seed={self.seed}",
            f"training.iterations={self.steps}",
            "training.max_minutes=null",
        ]
        return medhybrid.load_config(str(self.study), [*fixed, *self.overrides, *more])

    def train(self, cases: Sequence[str]) -> medhybrid.Run:
        """Train on some cases, and validate on those of the fold."""
        splits = self.work / "splits.json"
        splits.write_text(json.dumps([{"train": list(cases), "validation": self.validation}]))
        config = self.config(f"data.splits={splits}")
        medhybrid.preprocess(config)
        return medhybrid.train(config)

    def ranked(self, run: medhybrid.Run, cases: Sequence[str], out: Path) -> list[str]:
        """Predict some cases without reading their masks, and return them in the order in which to label them."""
        scans = out / "scans"
        for case in cases:
            for files in self.images[case]:
                for path in () if files is None else files.paths:
                    target = scans / case / path.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.symlink_to(path.resolve())
        medhybrid.predict(scans, model=run.folder, out=out / "masks")
        return [r.case for r in label_next(out / "masks", run.folder)]


def scored(run: medhybrid.Run) -> float:
    """Return the mean Dice of the validation cases."""
    with (run.folder / "validation.csv").open(newline="") as table:
        return statistics.mean(float(row["dice"]) for row in csv.DictReader(table))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all seeds and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="NAME=FOLDER")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--first", type=int, default=5)
    parser.add_argument("--more", type=int, default=10)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--work", type=Path, required=True)
    chosen = parser.parse_intermixed_args(arguments)
    name, _, root = chosen.dataset.partition("=")
    chosen.work.mkdir(parents=True, exist_ok=True)
    study = chosen.work / f"{name}.yaml"
    if not study.exists():
        init_study(Path(root), study, name=name)
    gains = []
    for seed in map(int, chosen.seeds.split(",")):
        experiment = Experiment(study, chosen.work, seed, chosen.steps, chosen.overrides)
        rng = np.random.default_rng(seed)
        shuffled = [experiment.pool[i] for i in rng.permutation(len(experiment.pool))]
        first, rest = shuffled[: chosen.first], shuffled[chosen.first :]
        base = experiment.train(first)
        ranked = experiment.ranked(base, rest, chosen.work / f"seed-{seed}")
        sets = {"ranked": ranked[: chosen.more], "random": rest[: chosen.more]}
        dice = {"few": scored(base)} | {
            kind: scored(experiment.train([*first, *cases])) for kind, cases in sets.items()
        }
        record: dict[str, Any] = {
            "set": name,
            "seed": seed,
            "steps": chosen.steps,
            "first": first,
            **sets,
            "dice": {k: round(v, 4) for k, v in dice.items()},
        }
        with RESULTS.open("a") as out:
            out.write(json.dumps(record) + "\n")
        print(json.dumps(record["dice"]), flush=True)
        gains.append(dice["ranked"] - dice["random"])
    spread = f", deviation {statistics.stdev(gains):.4f}" if len(gains) > 1 else ""
    print(f"ranked minus random: {statistics.mean(gains):+.4f} over {len(gains)} seeds{spread}")


if __name__ == "__main__":  # workers import this file
    main()
