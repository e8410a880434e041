"""Speed of this machine: the time of a training step, measured for some seconds."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from medhybrid.config import StudyConfig
from medhybrid.data.plan import Plan
from medhybrid.data.sampling import READ_MARGIN
from medhybrid.inference.network import config_of_network
from medhybrid.planning.cost import cost_of
from medhybrid.planning.geometry import MIN_TOKENS_PER_AXIS
from medhybrid.training.determinism import random_numbers_kept
from medhybrid.training.loop import Trainer
from medhybrid.training.tracker import NoTracker

SECONDS = 1.5
"""Time for each measurement, after `WARM_STEPS`."""

WARM_STEPS, MIN_STEPS, MAX_STEPS = 2, 4, 40


class Rates(BaseModel):
    """Time of a training step: a fixed part, one for each voxel of a batch, and one for each operation of the network.

    Attributes
    ----------
    device : str
        Name of the device, with the number of threads for a CPU.
    fixed_s : float
        Seconds per step.
    voxel_ns : float
        Nanoseconds per voxel and channel of a batch, for reading and augmentation.
    gflop_s : float
        Seconds per 10^9 operations of the forward pass; the backward pass is included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    fixed_s: float = Field(ge=0)
    voxel_ns: float = Field(ge=0)
    gflop_s: float = Field(gt=0)

    def seconds(self, batch: int, voxels: int, n_channels: int, flops: float) -> float:
        """Return the seconds of a step with a batch of patches."""
        return self.fixed_s + batch * (voxels * n_channels * self.voxel_ns * 1e-9 + flops * 1e-9 * self.gflop_s)


LEAST_FIXED = 0.1
"""Least part of the time of a step that does not depend on its size, and least part that does: without the first, smaller
patches would seem to cost nothing."""

TYPICAL = Rates(device="two CPU cores", fixed_s=0.02, voxel_ns=150, gflop_s=0.011)
"""Two cores of a server processor with bf16 arithmetic."""


def device_name(device: torch.device) -> str:
    """Return the name of a torch device for the records."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device.type)


@dataclass(frozen=True, slots=True)
class _WholeRecord:
    """Record of a case with all labels, known in all voxels."""

    annotated: None = None
    known_share: float = 1.0


@dataclass(frozen=True, slots=True)
class _RandomCase:
    """Prepared case of random values, to time steps without reading files."""

    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    n_context: int
    foreground: NDArray[np.int32]
    name: str = "random"
    record: _WholeRecord = _WholeRecord()

    @property
    def shape(self) -> tuple[int, int, int]:
        x, y, z = self.labels.shape
        return x, y, z

    def read_box(
        self, start: tuple[int, int, int], size: tuple[int, int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return a box of the given size."""
        x, y, z = size
        return self.image[:, :x, :y, :z], self.labels[:x, :y, :z]

    def context(self, fields: Any) -> NDArray[np.float32]:
        """Return no metadata."""
        return np.full(self.n_context, np.nan, np.float32)


def measure_rates(config: StudyConfig, plan: Plan) -> Rates:
    """Measure the rates of the config's device with steps of a plan and with smaller ones, for some seconds each."""
    network = config_of_network(config.network, plan)
    n_channels = len(plan.channels)

    def gflop(of: Plan) -> float:
        cost = cost_of(network, n_channels, of.n_labels, of.patch_size, of.strides, of.kernels)
        return of.batch_size * cost.flops * 1e-9

    plans = [plan, *([small] if (small := _smaller(plan)) != plan else [])]
    times = [_time_steps(config, of) for of in plans]
    voxel_ns = times[0].reading_s / (plan.batch_size * int(np.prod(plan.patch_size)) * n_channels) * 1e9
    fixed = least = LEAST_FIXED * times[-1].network_s
    if len(plans) == 2:
        slope = (times[0].network_s - times[1].network_s) / (gflop(plans[0]) - gflop(plans[1]))
        # larger patches may cost more than in proportion, and other programs may have disturbed one of the two
        fixed = min(max(times[0].network_s - slope * gflop(plan), least), (1 - LEAST_FIXED) * times[0].network_s)
    slope = (times[0].network_s - fixed) / gflop(plan)
    return Rates(device=times[0].device, fixed_s=fixed, voxel_ns=voxel_ns, gflop_s=slope)


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds of a step: for sampling and augmentation, and for the network."""

    reading_s: float
    network_s: float
    device: str


def _smaller(plan: Plan) -> Plan:
    """Return a plan with half of the patch along the longest axis that keeps enough tokens, otherwise half of the batch."""
    total = np.prod(np.array(plan.strides), axis=0)
    sizes = list(plan.patch_size)
    for axis in sorted(range(3), key=lambda a: -sizes[a]):
        half = sizes[axis] // 2 // int(total[axis]) * int(total[axis])
        if half >= MIN_TOKENS_PER_AXIS * int(total[axis]):
            sizes[axis] = half
            return plan.model_copy(update={"patch_size": (sizes[0], sizes[1], sizes[2])})
    return plan.model_copy(update={"batch_size": max(1, plan.batch_size // 2)})


def _time_steps(config: StudyConfig, plan: Plan) -> _Times:
    """Time training steps of a plan on random values: the lower quartiles, which other work disturbs least."""
    rng = np.random.default_rng(0)
    shape = tuple(int(np.ceil(n * READ_MARGIN)) + 2 if n > 1 else 1 for n in plan.patch_size)
    image = rng.normal(2, 1, (len(plan.channels), *shape)).astype(np.float32).clip(0)
    labels = rng.integers(0, plan.n_labels + 1, shape).astype(np.uint8)
    case: Any = _RandomCase(image, labels, len(plan.context), np.zeros((0, 4), np.int32))
    changes = {"iterations": 10**9, "max_minutes": None, "pretrained": None, "workers": 0, "stages": ()}
    changed = config.model_copy(update={"training": config.training.model_copy(update=changes)})
    reading: list[float] = []
    whole: list[float] = []
    with tempfile.TemporaryDirectory() as folder, random_numbers_kept():
        trainer = Trainer(changed, plan, [case], [], folder=Path(folder), tracker=NoTracker())
        trainer.network.train()
        while len(whole) < WARM_STEPS + MIN_STEPS or (sum(whole[WARM_STEPS:]) < SECONDS and len(whole) < MAX_STEPS):
            began = time.perf_counter()
            batch = trainer.sampler.batch(trainer.step)
            trainer.inputs(batch)
            _wait(trainer.device)
            middle = time.perf_counter()
            trainer.train_step(batch)
            _wait(trainer.device)
            whole.append(time.perf_counter() - middle)
            reading.append(middle - began)
            trainer.step += 1
    step, read = (statistics.quantiles(t[WARM_STEPS:])[0] for t in (whole, reading))
    return _Times(read, max(step - read, step / 10), device_name(trainer.device))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
