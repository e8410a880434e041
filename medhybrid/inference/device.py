"""Choice of the device and of the precision in which a network is computed."""

from __future__ import annotations

import logging
import re
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from medhybrid.errors import DeviceError

logger = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """Return the torch device for `auto`, `cpu`, `cuda`, `cuda:<number>` or `mps`.

    `auto` is the first of CUDA, MPS and CPU that is available.

    Raises
    ------
    DeviceError
        If the name is unknown, or the device is not available.
    """
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return _ready(torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"))
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if numbered := re.fullmatch(r"cuda:(\d{1,4})", name):
        absent: bool | None = int(numbered[1]) >= n_gpus
    else:
        absent = {"cuda": not n_gpus, "mps": not has_mps, "cpu": False}.get(name)
    if absent is None:
        raise DeviceError(
            f"unknown device {name!r}", expected="auto, cpu, cuda, cuda:<number>, mps; openvino for predict"
        )
    if absent:
        raise DeviceError(
            f"device {name} is not available",
            found=f"{n_gpus} GPUs" if n_gpus else "cpu only",
            remedy="use --device auto, or install a build of torch for this device",
        )
    return _ready(torch.device(name))


def _ready(device: torch.device) -> torch.device:
    """Return the device, with cuDNN set to choose the fastest convolutions: the sizes of windows and patches do not change."""
    if (
        device.type == "cuda"
    ):  # on an H100, the gradients of a training step take 10.8 ms without this and 4.5 ms with it
        torch.backends.cudnn.benchmark = True
    return device


def choose_precision(device: torch.device, wanted: str, *, is_thin: bool = False) -> torch.dtype:
    """Return bfloat16 if `wanted` is `bf16`, or if it is `auto` and the device computes in bfloat16; otherwise float32.

    Parameters
    ----------
    is_thin : bool
        See `Plan.is_thin`: a CPU then computes in float32. In torch 2.13, bf16 convolutions on CPUs give wrong values if their
        stride leaves one voxel along Z. They seem to read memory that is not initialised.

    Raises
    ------
    DeviceError
        If `wanted` is neither `auto`, `bf16` nor `float32`.
    """
    if wanted not in ("auto", "bf16", "float32"):
        raise DeviceError(f"unknown precision {wanted!r}", expected="auto, bf16 or float32")
    if wanted == "float32" or (wanted == "auto" and not _computes_in_bf16(device)):
        return torch.float32
    if device.type == "cpu" and is_thin:
        _say_once(
            "patches of one token along Z are computed in float32: torch gives wrong values for them in bf16 on CPUs"
        )
        return torch.float32
    return torch.bfloat16


@cache
def _say_once(text: str) -> None:
    logger.warning(text)


def _computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type == "cpu":
        has_mkldnn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        return bool(has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Return a context of `torch.autocast` to a precision; for float32, a context without effect."""
    if precision is torch.float32:
        return nullcontext()
    return torch.autocast(device.type, precision)


LACKS = ("out of memory", "ALLOC_FAILED")
"""Words in the error messages of CUDA, its libraries and MPS that mean too little memory."""


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
