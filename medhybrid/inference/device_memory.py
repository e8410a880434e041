"""Memory of the device on which networks are computed: free memory, and fallbacks if it is too little.

Training, validation and prediction have one policy. The device is asked for its free memory, and the work is planned for it. If
an allocation fails nevertheless, the work is repeated in a way that needs less memory, with a warning:

windows         fewer at once
logits          collected on the CPU instead of the device
training step   activations computed again in the backward pass instead of kept (`training.recomputation`)
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from medhybrid.errors import DeviceError

logger = logging.getLogger(__name__)

T = TypeVar("T")

LACKS = (
    "out of memory",
    "ALLOC_FAILED",
    "unable to find an engine",
    "Unable to find a valid cuDNN algorithm",
    "can't allocate memory",
    "not enough memory",
)
"""Words in the error messages of CUDA, its libraries, MPS and CPUs that mean too little memory.

cuDNN finds no engine for a convolution if no engine's workspace fits into the memory.
"""

USABLE_SHARE = 0.9
"""Share of the free memory that is planned for; the rest is lost to fragments and to libraries."""


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a device had too little memory.

    Libraries of CUDA, and MPS, raise a plain `RuntimeError` for it, which only its message (`LACKS`) tells apart.
    """
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in LACKS)
    )


def free_cache(device: torch.device) -> None:
    """Release the memory of a device that torch has cached."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def free_device_memory(device: torch.device) -> int | None:
    """Return the bytes that this process can still allocate on a device; None for a CPU, whose memory the host manages."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
        limit = int(total * torch.cuda.get_per_process_memory_fraction(device)) - allocated
        return max(min(free + reserved - allocated, limit), 0)
    if device.type == "mps":
        return max(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory(), 0)
    return None


def affordable(device: torch.device, wanted: int, bytes_each: int) -> int:
    """Return how many of `wanted` items, such as windows, fit into the free memory of a device together; at least 1."""
    free = free_device_memory(device)
    if free is None:
        return wanted
    return max(1, min(wanted, int(free * USABLE_SHARE) // max(bytes_each, 1)))


def on_device_or_cpu(device: torch.device, compute: Callable[[torch.device], T], *, needed: int, of: str) -> T:
    """Compute with arrays on a device, or on the CPU if the device has too little memory for them.

    Parameters
    ----------
    compute : callable
        Called with the device of the arrays. The network stays on `device`.
    needed : int
        Bytes of the arrays. If more than the free memory, the device is not tried.
    of : str
        Name of the case, for the warning.

    Raises
    ------
    DeviceError
        If the device has too little memory for a single window.
    """
    free = free_device_memory(device)
    if free is None or needed <= free * USABLE_SHARE:
        try:
            return compute(device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        free_cache(device)
    logger.warning("%s has too little memory for %s; its logits are collected on the CPU", device, of)
    try:
        return compute(torch.device("cpu"))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        found = first_line(error)
    free_cache(device)
    raise DeviceError(
        f"{device} has too little memory for one window",
        found=found,
        remedy="use --device cpu, or train with a smaller prepare.patch_size",
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error message: torch adds a page of advice to it."""
    return str(error).partition("\n")[0][:200]
