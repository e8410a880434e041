"""Choice of the device and of the precision in which a network is computed."""

from __future__ import annotations

import logging
import re
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from medhybrid.errors import DeviceError

logger = logging.getLogger(__name__)

AUTO = "auto"

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}
"""Precisions by their name in configs."""

BF16_SINCE = (8, 0)
"""Compute capability of the first GPUs with bf16 in hardware (Ampere)."""

FP16_SINCE = (7, 0)
"""Compute capability of the first GPUs with tensor cores, which multiply fp16 and add in float32 (Volta)."""


def choose_device(name: str) -> torch.device:
    """Return the torch device for `auto`, `cpu`, `cuda`, `cuda:<number>` or `mps`.

    `auto` is the first of CUDA, MPS and CPU that is available. A GPU for which the installed torch has no code is not.

    Raises
    ------
    DeviceError
        If the name is unknown, or the device is not available.
    """
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        if torch.cuda.is_available():
            lack = _lacking_code(torch.device("cuda"))
            if lack is None:
                return _ready(torch.device("cuda"))
            _say_once(f"the GPU is not used: {lack}")
        return torch.device("mps" if has_mps else "cpu")
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
    device = torch.device(name)
    if device.type == "cuda" and (lack := _lacking_code(device)) is not None:
        raise DeviceError(
            f"the installed torch cannot compute on {name}",
            found=lack,
            remedy="use --device cpu, or install a build of torch for this GPU",
        )
    return _ready(device)


def _lacking_code(device: torch.device) -> str | None:
    """Return why the installed torch has no code for a GPU; None if it has.

    Code for a compute capability (`sm_75`) runs on the same major version from this minor version on, intermediate code
    (`compute_75`) also on later major versions. Code with a letter (`sm_90a`) is for one capability only.
    """
    held = torch.cuda.get_arch_list()
    if torch.version.hip is not None or not held:
        return None
    card = torch.cuda.get_device_capability(device)
    for name in held:
        kind, _, number = name.partition("_")
        made_for = int(number.rstrip("af")[:-1]), int(number.rstrip("af")[-1])
        if kind == "compute" and made_for <= card:
            return None
        if made_for == card or (kind == "sm" and made_for[0] == card[0] and made_for <= card and number[-1] != "a"):
            return None
    sort = f"{torch.cuda.get_device_name(device)} has compute capability {card[0]}.{card[1]}"
    return f"{sort}; torch {torch.__version__} has code for {', '.join(held)}"


def _ready(device: torch.device) -> torch.device:
    """Return the device, with cuDNN set to choose the fastest convolutions: the sizes of windows and patches do not change.

    A deterministic training keeps its setting: the fastest convolution may be another one in each run.
    """
    if device.type == "cuda" and not torch.are_deterministic_algorithms_enabled():
        # on an H100, the gradients of a training step take 10.8 ms without this and 4.5 ms with it
        torch.backends.cudnn.benchmark = True
    return device


def choose_precision(device: torch.device, wanted: str, *, is_thin: bool = False) -> torch.dtype:
    """Return the dtype of a precision; for `auto`, the fastest one that the device has in hardware.

    On a CUDA GPU, `auto` is bf16 from compute capability 8.0 (Ampere) on, fp16 from 7.0 (Volta, Turing) on, otherwise float32.
    Elsewhere it is bf16 or float32.

    Parameters
    ----------
    is_thin : bool
        See `Plan.is_thin`: a CPU then computes in float32. In torch 2.13, bf16 convolutions on CPUs give wrong values if their
        stride leaves one voxel along Z. They seem to read memory that is not initialised.

    Raises
    ------
    DeviceError
        If `wanted` is not one of `PRECISIONS` or `auto`.
    """
    if wanted not in (AUTO, *PRECISIONS):
        raise DeviceError(f"unknown precision {wanted!r}", expected=f"{AUTO}, {', '.join(PRECISIONS)}")
    chosen = PRECISIONS[_fastest_precision(device) if wanted == AUTO else wanted]
    if chosen is torch.float32:
        return chosen
    if device.type == "cpu" and is_thin:
        _say_once(
            "patches of one token along Z are computed in float32: torch gives wrong values for them in bf16 on CPUs"
        )
        return torch.float32
    if wanted == "bf16" and device.type == "cuda" and _fastest_precision(device) != "bf16":
        _say_once(f"{torch.cuda.get_device_name(device)} computes bf16 by emulation, which is slow; auto is faster")
    return chosen


@cache
def _say_once(text: str) -> None:
    logger.warning(text)


def _fastest_precision(device: torch.device) -> str:
    """Return the name of the fastest precision that a device has in hardware.

    `torch.cuda.is_bf16_supported` also counts emulation, with which a GPU before Ampere is slower than in float32.
    """
    if device.type == "cuda":
        if torch.version.hip is not None:
            return "bf16" if torch.cuda.is_bf16_supported() else "float32"
        card = torch.cuda.get_device_capability(device)
        return "bf16" if card >= BF16_SINCE else "fp16" if card >= FP16_SINCE else "float32"
    if device.type == "cpu":
        has_mkldnn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        return "bf16" if has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"
    return "float32"


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Return a context of `torch.autocast` to a precision; for float32, a context without effect."""
    if precision is torch.float32:
        return nullcontext()
    return torch.autocast(device.type, precision)
