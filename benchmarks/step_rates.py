"""Measure the steps that each kind of network makes in some minutes on an idle machine, in alternation.

    OMP_NUM_THREADS=1 python benchmarks/step_rates.py brain.yaml /data/glioma --minutes 20
    OMP_NUM_THREADS=1 python benchmarks/step_rates.py brain.yaml /data/glioma --minutes 20 --kinds swin_unetr,unetr

Each kind, or network of MONAI, is trained for some seconds in alternation, with the data and augmentation of `medhybrid train`.
The last line of the output is for `--steps` of `pipelines/compare_networks.py` and `accuracy.py`. Trainings of these numbers of
steps take equal time on an idle machine. They may run beside other work or on another machine, where trainings limited by
minutes would make fewer or more steps.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import medhybrid
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.sampling import Prefetcher
from medhybrid.tracking.jsonl import JsonlTracker
from medhybrid.training.loop import Trainer

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
from accuracy import PEERS
from compare_networks import KINDS

WARM_STEPS = 5


class Kind:
    """Training of one kind, step by step."""

    def __init__(self, name: str, config: medhybrid.StudyConfig, dataset: PreparedDataset, folder: Path) -> None:
        cases = dataset.open(dataset.fold_for(config).train)
        plan = dataset.plan_for(config)
        network = PEERS[name](plan) if name in PEERS else None
        tracker = JsonlTracker(folder / "log.jsonl")
        self.trainer = Trainer(config, plan, cases, [], folder=folder, tracker=tracker, network=network)
        self.trainer.network.train()
        self.seconds: list[float] = []

    def run(self, seconds: float) -> None:
        """Train for some seconds, after a few warm-up steps."""
        source = Prefetcher(self.trainer.sampler, self.trainer.training.workers)
        took: list[float] = []
        while sum(took[WARM_STEPS:]) < seconds or len(took) < WARM_STEPS + 2:
            began = time.perf_counter()
            self.trainer.train_step(source.batch(self.trainer.step))
            self.trainer.step += 1
            took.append(time.perf_counter() - began)
        self.seconds += took[WARM_STEPS:]
        source.close()

    @property
    def rate(self) -> float:
        """Return steps per second from the lower quartile of step times: other work makes steps longer, never shorter."""
        return 1 / statistics.quantiles(self.seconds)[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all kinds in alternation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("root", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seconds", type=float, default=10, help="length of a turn")
    parser.add_argument("--turns", type=int, default=3)
    chosen = parser.parse_intermixed_args(arguments)
    common = [f"data.root={chosen.root}", "training.iterations=100000", "training.max_minutes=null", *chosen.overrides]
    ways = KINDS | {peer: ["network.deep_supervision=false"] for peer in PEERS}
    configs = {k: medhybrid.load_config(chosen.config, [*common, *ways[k]]) for k in chosen.kinds.split(",")}
    dataset = PreparedDataset(medhybrid.preprocess(next(iter(configs.values()))).folder)
    with tempfile.TemporaryDirectory() as folder:
        kinds = {kind: Kind(kind, config, dataset, Path(folder)) for kind, config in configs.items()}
        for _ in range(chosen.turns):
            for kind in kinds.values():
                kind.run(chosen.seconds)
    steps = {}
    for name, kind in kinds.items():
        steps[name] = round(kind.rate * 60 * chosen.minutes, -1)
        n, middle = len(kind.seconds), statistics.median(kind.seconds)
        print(f"{name:12s} {kind.rate:.2f} steps per second ({1 / middle:.2f} by the median of {n})", flush=True)
    print(",".join(f"{name}={n:.0f}" for name, n in steps.items()))


if __name__ == "__main__":  # workers import this file
    main()
