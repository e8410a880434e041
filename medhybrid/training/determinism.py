"""Bit-equal trainings on one machine: each operation in the one of its ways that adds in a fixed order.

Random numbers of a training come from torch's own generators, which belong to the whole process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Leave torch's generators as they were: what the caller draws after a training is not the same after each."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() and torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=gpus):
        yield


@contextmanager
def deterministic(is_asked_for: bool) -> Iterator[None]:
    """Have torch and cuDNN choose no way whose result differs from call to call, for a while.

    torch warns of an operation that has none; what it does then may differ. cuBLAS reads its own setting when it is first used
    in a process.
    """
    if not is_asked_for:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    measures = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False  # which kernel is quickest differs from call to call
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = measures
