"""Measure the parts of a training step on a GPU, with and without CUDA graphs and cuDNN benchmarking.

    python benchmarks/gpu_step.py brain.yaml /data/glioma

The same batch is used each time, so that reading is excluded. Times are milliseconds, the median of some rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import torch

import medhybrid
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.sampling import Batch
from medhybrid.tracking.several import SeveralTrackers
from medhybrid.training import loop
from medhybrid.training.step import PlainStep, RecordedStep

ROUNDS, CALLS, WARM_STEPS = 5, 20, 6


def milliseconds(work: Callable[[], object]) -> float:
    """Measure the milliseconds of a call; each round ends with a synchronisation of the GPU."""
    told = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(CALLS):
            work()
        torch.cuda.synchronize()
        told.append((time.perf_counter() - began) / CALLS * 1e3)
    return statistics.median(told)


def step_parts(trainer: loop.Trainer, batch: Batch) -> list[Callable[[], object]]:
    """Return the parts of a training step as calls: inputs, gradients, update, average, and the whole step."""
    inputs = trainer.inputs(batch)
    return [
        lambda: trainer.inputs(batch),
        lambda: trainer.maker.gradients(*inputs),
        trainer.maker.update,
        lambda: trainer.average.update(trainer.network, trainer.step),
        lambda: trainer.train_step(batch),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each combination in a new trainer, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("root", type=Path)
    parser.add_argument("overrides", nargs="*")
    chosen = parser.parse_intermixed_args(arguments)
    if not torch.cuda.is_available():
        parser.error("no CUDA GPU found")
    length = ["training.iterations=100000", "training.max_minutes=null", "training.device=cuda"]
    config = medhybrid.load_config(chosen.config, [f"data.root={chosen.root}", *length, *chosen.overrides])
    dataset = PreparedDataset(medhybrid.preprocess(config).folder)
    cases = dataset.open(dataset.fold_for(config).train)
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    print("| step | cuDNN benchmark | inputs | gradients | update | average | whole step, ms | MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for made, measures in ((PlainStep, False), (RecordedStep, False), (PlainStep, True), (RecordedStep, True)):
        torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as folder, patch.object(loop, "RecordedStep", made):
            trainer = loop.Trainer(config, dataset.plan, cases, [], folder=Path(folder), tracker=SeveralTrackers([]))
            torch.backends.cudnn.benchmark = measures
            trainer.network.train()
            batch = trainer.sampler.batch(0)
            for _ in range(WARM_STEPS):
                trainer.train_step(batch)
                trainer.step += 1
            told = " | ".join(f"{milliseconds(part):.2f}" for part in step_parts(trainer, batch))
        way = "recorded" if made is RecordedStep else "plain"
        print(f"| {way} | {measures} | {told} | {torch.cuda.max_memory_allocated() >> 20} |", flush=True)


if __name__ == "__main__":  # workers import this file
    main()
