"""Distributed training: several processes train one network, each on a part of every batch, with the same weights.

Random numbers of patches, augmentation and stochastic depth depend on the position in the batch. Losses are those of the whole
batch, because batch Dice is not a mean over parts. Gradients are summed. So any number of processes gives the training of a
single process, except for rounding.

Processes find each other by the environment variables of `torchrun` (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT).
On one machine they can use a file instead of the port, because torch opens the port on all network addresses. They communicate
by NCCL on GPUs and gloo on CPUs.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medhybrid.data.workers import MEETING
from medhybrid.errors import ConfigError
from medhybrid.networks.transformer import DropPath

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Team:
    """Rank of this process, from 0, and number of processes."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Return whether this process writes files and logs."""
        return self.rank == 0

    def part(self, batch_size: int) -> range:
        """Return the positions of this process in the batch; raise `ConfigError` if the batch cannot be divided evenly."""
        if batch_size % self.size:
            raise ConfigError(
                f"a batch of {batch_size} cannot be divided among {self.size} processes",
                expected=f"prepare.batch_size as a multiple of {self.size}",
                remedy="choose another prepare.batch_size, or fewer processes",
            )
        n = batch_size // self.size
        return range(self.rank * n, (self.rank + 1) * n)

    def places(self, batch_size: int, *, pastes: bool) -> tuple[int, ...]:
        """Return the positions to sample: `part`, and the next one if each sample may paste lesions into the previous one."""
        own = self.part(batch_size)
        return (*own, own.stop % batch_size) if pastes and self.size > 1 else tuple(own)

    def total(self, x: Tensor) -> Tensor:
        """Sum a tensor of any shape over all processes; its gradient is that of this process's summand."""
        if self.size == 1:
            return x
        everybody = x.detach().clone()
        dist.all_reduce(everybody)
        return x + (everybody - x.detach())

    def add_gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Sum the gradients of each weight over all processes."""
        gradients = [w.grad for w in weights if w.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat, [g.numel() for g in gradients])
        for gradient, added in zip(gradients, parts, strict=True):
            gradient.copy_(added.view_as(gradient))

    def agree(self, elapsed_s: float, wants_to_stop: bool, device: torch.device) -> tuple[float, bool]:
        """Return the longest elapsed time and whether any process wants to stop, the same for all processes."""
        if self.size == 1:
            return elapsed_s, wants_to_stop
        said = torch.tensor([elapsed_s, float(wants_to_stop)], dtype=torch.float64, device=device)
        dist.all_reduce(said, op=dist.ReduceOp.MAX)
        longest, stop = said.tolist()
        return longest, bool(stop)

    def tell(self, value: T) -> T:
        """Broadcast a value of the first process to all; it must be picklable."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held)
        return held[0]

    def collect(self, mine: Sequence[T], count: int) -> list[T]:
        """Gather `count` items in the first process, in order; other processes get an empty list.

        Process number `rank` has the items `rank`, `rank + size`, `rank + 2 * size` and so on.
        """
        if self.size == 1:
            return list(mine)
        parts: list[list[T]] | None = [[] for _ in range(self.size)] if self.is_first else None
        dist.gather_object(list(mine), parts)  # unpickling is safe here: only our own processes send
        return [] if parts is None else [parts[n % self.size][n // self.size] for n in range(count)]


ALONE = Team()


def is_told_of_others() -> bool:
    """Return whether the environment (WORLD_SIZE) makes this process one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def refuse_team(command: str) -> None:
    """Raise `ConfigError` if a command for a single process runs in several."""
    if is_told_of_others():
        raise ConfigError(
            f"{command} cannot be distributed over several processes",
            expected="one process",
            found=f"WORLD_SIZE={os.environ['WORLD_SIZE']}",
            remedy="call it without torchrun; only medhybrid train can be distributed",
        )


@contextmanager
def join_team(device: torch.device) -> Iterator[Team]:
    """Join the process group that the environment describes, and leave it at the end; a single process is a team of one."""
    if not is_told_of_others():
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # On import, this module keeps a reference to the current process group, whose threads may abort the process when Python
    # exits. Torch would import it during training, so it is imported here, before the group exists.
    importlib.import_module("torch.distributed.nn")
    place: dict[str, Any] = {}
    if meeting := os.environ.get(MEETING):
        place = {"init_method": Path(meeting).as_uri(), "rank": int(os.environ["RANK"])}
        place["world_size"] = int(os.environ["WORLD_SIZE"])
    # gloo sends Python objects, also on GPUs
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", **place)
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def draw_for_all(network: nn.Module, team: Team) -> None:
    """Set stochastic depth to draw for the whole batch, of which this process has a part.

    Raises
    ------
    ConfigError
        If the network has batch norm, whose statistics need the whole batch.
    """
    if team.size > 1 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules()):
        raise ConfigError(
            "a network with batch norm cannot be trained by several processes",
            expected="network.kind hybrid, interleave, identity, resnet or transformer",
            remedy="train it with one process",
        )
    for module in network.modules():
        if isinstance(module, DropPath):
            module.part = (team.rank, team.size)


def own_gpu(device: str) -> str:
    """Return the device of this process: its own GPU if GPUs are used; raise `ConfigError` if there are too few GPUs."""
    if not (is_told_of_others() and torch.cuda.is_available() and device in ("auto", "cuda")):
        return device
    place, n_gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if place >= n_gpus:
        raise ConfigError(
            "more processes than GPUs on this machine",
            expected=f"at most {n_gpus} processes",
            found=f"LOCAL_RANK={place}, counted from 0",
            remedy="use fewer --processes, or training.device=cpu",
        )
    return f"cuda:{place}"
