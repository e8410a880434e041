"""Where to compute and in which precision."""

from __future__ import annotations

import logging
import re
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from medhybrid.errors import DeviceError

logger = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """The device meant by `auto`, `cpu`, `cuda`, `cuda:<number>` or `mps`.

    Raises
    ------
    DeviceError
        If it is not there.
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
            remedy="take --device auto, or install a matching torch",
        )
    return _ready(torch.device(name))


def _ready(device: torch.device) -> torch.device:
    """A device, and its libraries told that windows and patches are of the same size again and again."""
    if device.type == "cuda":  # on an H100 a training step's gradients took 10.8 ms without, 4.5 with
        torch.backends.cudnn.benchmark = True
    return device


def choose_precision(device: torch.device, wanted: str, *, is_thin: bool = False) -> torch.dtype:
    """bfloat16 where asked for, or where the device computes in it and it is asked to choose; else float32.

    Parameters
    ----------
    is_thin : bool
        As `Plan.is_thin`: float32 is taken on a CPU. Convolutions of bf16 whose stride leaves one voxel along Z are wrong there
        in torch 2.13, which seems to read what nothing was written to, and right only by chance.

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
        _say_once("patches of one token along Z are computed in float32: in bf16 torch is wrong there on CPUs")
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
    """Autocast to `precision`; nothing for float32."""
    if precision is torch.float32:
        return nullcontext()
    return torch.autocast(device.type, precision)


LACKS = ("out of memory", "ALLOC_FAILED")
"""In messages of CUDA, its libraries and MPS."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device had too little memory; its libraries, and MPS, say so by plain errors with these words."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in LACKS)
    )


def free_cache(device: torch.device) -> None:
    """Give back what torch keeps of a device's memory for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
