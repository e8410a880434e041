"""Train trials with settings given by hand, on inner splits: the table from which the planning rule's constants are chosen.

    OMP_NUM_THREADS=1 python benchmarks/planning_trials.py acdc=/data/acdc --trial "2x2x10" --minutes 10 \
        prepare.spacing_mm=[2,2,10] prepare.patch_size=[112,112,8] prepare.batch_size=2

The number of steps is that of an idle core (or cores, as OMP_NUM_THREADS says) in the given minutes: step times are measured
for some seconds, and their lower quartile counts. Fold 0's validation cases are never read; its training cases are split once
more (`training.inner_fold`). The rest of the config is that of `medhybrid init`. Each trial adds a line to
`benchmarks/results/planning_trials.jsonl`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import medhybrid
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.sampling import Prefetcher
from medhybrid.steps.init import init_study
from medhybrid.tracking.jsonl import JsonlTracker
from medhybrid.training.loop import Trainer

RESULTS = Path(__file__).parent / "results" / "planning_trials.jsonl"
WARM_STEPS = 4

LEAST_STEPS = 50


def rate_of(config: medhybrid.StudyConfig, dataset: PreparedDataset, seconds: float) -> float:
    """Return steps per second: the lower quartile of step times."""
    cases = dataset.open(dataset.fold_for(config).train)
    with tempfile.TemporaryDirectory() as folder:
        tracker = JsonlTracker(Path(folder) / "log.jsonl")
        trainer = Trainer(config, dataset.plan_for(config), cases, [], folder=Path(folder), tracker=tracker)
        trainer.network.train()
        source = Prefetcher(trainer.sampler, trainer.training.workers)
        took: list[float] = []
        while sum(took[WARM_STEPS:]) < seconds or len(took) < WARM_STEPS + 2:
            began = time.perf_counter()
            trainer.train_step(source.batch(trainer.step))
            trainer.step += 1
            took.append(time.perf_counter() - began)
        source.close()
    return 1 / statistics.quantiles(took[WARM_STEPS:])[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare the data, time the steps and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="NAME=FOLDER")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--trial", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--steps", type=int, help="number of steps in place of minutes")
    parser.add_argument("--seconds", type=float, default=20, help="length of the measurement of step times")
    parser.add_argument("--inner", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True)
    chosen = parser.parse_intermixed_args(arguments)
    name, _, root = chosen.dataset.partition("=")
    file = chosen.work / f"{name}-{os.getpid()}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    init_study(Path(root), file, name=name)
    common = [
        f"prepare.folder={chosen.work}/prepared/{chosen.trial}",
        f"runs={chosen.work}/runs",
        "tracking.kind=none",
        f"training.inner_fold={chosen.inner}",
        *chosen.overrides,
    ]
    many = ["training.iterations=100000", "training.max_minutes=null"]
    config = medhybrid.load_config(str(file), [*common, *many])
    folder = medhybrid.preprocess(config).folder
    rate = rate_of(config, PreparedDataset(folder), chosen.seconds)
    steps = chosen.steps or max(LEAST_STEPS, int(rate * chosen.minutes * 60))
    few = [f"training.iterations={steps}", "training.max_minutes=null", "training.n_validations=1"]
    run = medhybrid.train(medhybrid.load_config(str(file), [*common, *few]))
    with (run.folder / "validation.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    dice = [float(r["dice"]) for r in rows]
    plan = json.loads((run.folder / "plan.json").read_text())
    record = {
        "set": name,
        "trial": chosen.trial,
        "minutes": None if chosen.steps else chosen.minutes,
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "inner": chosen.inner,
        "overrides": chosen.overrides,
        "spacing_mm": plan["spacing_mm"],
        "patch_size": plan["patch_size"],
        "batch_size": plan["batch_size"],
        "strides": plan["strides"],
        "rate": round(rate, 3),
        "steps": steps,
        "dice": round(statistics.mean(dice), 4),
        "median": round(statistics.median(dice), 4),
        "low": round(min(dice), 4),
        "cases": {r["case"]: round(float(r["dice"]), 4) for r in rows},
        "labels": {k: round(v, 4) for k, v in run.metrics.items() if "label" in k},
    }
    with RESULTS.open("a") as out:
        out.write(json.dumps(record) + "\n")
    print(json.dumps(record), flush=True)


if __name__ == "__main__":  # workers import this file
    main()
