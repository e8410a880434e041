"""Several processes that train one network: each has a part of every batch, and all have the same weights.

A step's patches, their changes and what is left out are drawn by the place in the batch, losses are those of the whole batch
(Dice is no mean over its parts), and gradients are added up: any number of processes gives the training that one gives, but for
rounding. Processes are told of each other by the environment that `torchrun` sets (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
MASTER_PORT), or, on one machine, by a file in place of the port, which torch opens on every address of the machine. They talk
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
    """Place of this process, from 0, and how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one keeps the records."""
        return self.rank == 0

    def part(self, batch_size: int) -> range:
        """Places in the batch that are this process's; raises `ConfigError` where they cannot be shared out evenly."""
        if batch_size % self.size:
            raise ConfigError(
                f"a batch of {batch_size} cannot be shared out to {self.size} processes",
                expected=f"prepare.batch_size in multiples of {self.size}",
                remedy="choose another prepare.batch_size, or fewer processes",
            )
        n = batch_size // self.size
        return range(self.rank * n, (self.rank + 1) * n)

    def places(self, batch_size: int, *, pastes: bool) -> tuple[int, ...]:
        """`part`, and the next one, where a lesion of each may be pasted into the one before it."""
        own = self.part(batch_size)
        return (*own, own.stop % batch_size) if pastes and self.size > 1 else tuple(own)

    def total(self, x: Tensor) -> Tensor:
        """The sum over all processes of (any shape) tensors; its gradient is that of this process's summand."""
        if self.size == 1:
            return x
        everybody = x.detach().clone()
        dist.all_reduce(everybody)
        return x + (everybody - x.detach())

    def add_gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Give each weight the sum of its gradients."""
        gradients = [w.grad for w in weights if w.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat, [g.numel() for g in gradients])
        for gradient, added in zip(gradients, parts, strict=True):
            gradient.copy_(added.view_as(gradient))

    def agree(self, elapsed_s: float, wants_to_stop: bool, device: torch.device) -> tuple[float, bool]:
        """The longest time, and whether anybody wants to stop: what all go by."""
        if self.size == 1:
            return elapsed_s, wants_to_stop
        said = torch.tensor([elapsed_s, float(wants_to_stop)], dtype=torch.float64, device=device)
        dist.all_reduce(said, op=dist.ReduceOp.MAX)
        longest, stop = said.tolist()
        return longest, bool(stop)

    def tell(self, value: T) -> T:
        """What the first process says; it must be plain data."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held)
        return held[0]

    def collect(self, mine: Sequence[T], count: int) -> list[T]:
        """In the first process, `count` items of which each has every `size`-th, in their order; empty in the others."""
        if self.size == 1:
            return list(mine)
        parts: list[list[T]] | None = [[] for _ in range(self.size)] if self.is_first else None
        dist.gather_object(list(mine), parts)  # between our own processes: what is unpickled is what we pickled
        return [] if parts is None else [parts[n % self.size][n // self.size] for n in range(count)]


ALONE = Team()


def is_told_of_others() -> bool:
    """Whether the environment says that this is one of several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def refuse_team(command: str) -> None:
    """Raise `ConfigError` where several processes are to do what only one can."""
    if is_told_of_others():
        raise ConfigError(
            f"{command} is no work for a team of processes",
            found=f"WORLD_SIZE={os.environ['WORLD_SIZE']}",
            remedy="call it without torchrun; medhybrid train is what several processes share",
        )


@contextmanager
def join_team(device: torch.device) -> Iterator[Team]:
    """Meet the other processes, where the environment tells of some; see this module."""
    if not is_told_of_others():
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Its functions keep for ever the group that there is when they are imported, and with it threads that may abort the process
    # where Python ends; torch imports them at a step of its own choice.
    importlib.import_module("torch.distributed.nn")
    place: dict[str, Any] = {}
    if meeting := os.environ.get(MEETING):
        place = {"init_method": Path(meeting).as_uri(), "rank": int(os.environ["RANK"])}
        place["world_size"] = int(os.environ["WORLD_SIZE"])
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", **place)  # plain data go by gloo
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def draw_for_all(network: nn.Module, team: Team) -> None:
    """Let what a network leaves out at random be that of the whole batch, of which it sees a part.

    Raises
    ------
    ConfigError
        If the network normalises over the batch, which no part of a batch can.
    """
    if team.size > 1 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules()):
        raise ConfigError(
            "a network with batch norm cannot be trained by several processes",
            expected="network.kind of hybrid, interleave, identity, resnet or transformer",
            remedy="train it with one process",
        )
    for module in network.modules():
        if isinstance(module, DropPath):
            module.part = (team.rank, team.size)


def own_gpu(device: str) -> str:
    """The GPU of this process among those of its machine, where one is asked for; raises `ConfigError` if they are too few."""
    if not (is_told_of_others() and torch.cuda.is_available() and device in ("auto", "cuda")):
        return device
    place, n_gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if place >= n_gpus:
        raise ConfigError(
            "more processes than GPUs",
            expected=f"{n_gpus} of this machine",
            remedy="fewer --processes, or training.device=cpu",
        )
    return f"cuda:{place}"
