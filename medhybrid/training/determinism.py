"""Reproducibility: deterministic algorithms, and isolation of torch's random number generators.

With deterministic algorithms, sums are added in a fixed order, and two trainings on one machine are equal bit by bit. On GPUs,
torch has no such algorithm for cross entropy and the gradients of mean pooling and bicubic interpolation. Losses and networks
compute these in another way if `torch.are_deterministic_algorithms_enabled()`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from medhybrid.errors import DeviceError

LACKS_ALGORITHM = "does not have a deterministic implementation"
"""Words in torch's message for an operation without a deterministic algorithm."""


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Restore torch's global random generators afterwards: a training must not change the random numbers of its caller."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() and torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=gpus):
        yield


@contextmanager
def deterministic(is_asked_for: bool) -> Iterator[None]:
    """Use deterministic algorithms of torch, cuDNN and cuBLAS inside the context, if asked for.

    cuBLAS reads its setting at its first use in a process, so the setting has no effect later.

    Raises
    ------
    DeviceError
        If an operation has no deterministic algorithm on the device.
    """
    if not is_asked_for:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    measures = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # benchmarking may choose another kernel in each run
    try:
        yield
    except RuntimeError as error:
        if LACKS_ALGORITHM not in str(error):
            raise
        raise DeviceError(
            "the training cannot be deterministic on this device",
            expected="a deterministic algorithm for every operation",
            found=str(error).partition(".")[0],
            remedy="train with training.device=cpu, or without --deterministic",
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = measures
