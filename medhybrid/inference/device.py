"""Choice of the device on which a network is computed."""

from __future__ import annotations

import logging
import os
import re
from functools import cache

import torch

from medhybrid.errors import DeviceError

logger = logging.getLogger(__name__)

MPS_FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"
"""Environment variable with which torch, when it starts, lets the CPU compute operations that it lacks on MPS."""


def choose_device(name: str) -> torch.device:
    """Return the torch device for `auto`, `cpu`, `cuda`, `cuda:<number>` or `mps`.

    `auto` is CUDA if it is available, otherwise the CPU. A GPU for which the installed torch has no code is not available.
    MPS is used only on request: medhybrid is not tested on it, and torch lacks some 3-D operations there.

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
            say_once(f"the GPU is not used: {lack}")
        return torch.device("cpu")
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
            remedy="use auto (--device auto, for a training training.device=auto), or install a build of torch for this device",
        )
    device = torch.device(name)
    if device.type == "mps":
        falls_back = os.environ.get(MPS_FALLBACK) == "1"
        missing = (
            "are computed on the CPU"
            if falls_back
            else f"end the command; with {MPS_FALLBACK}=1, the CPU computes them"
        )
        say_once(f"medhybrid is not tested on MPS; operations that torch lacks there {missing}")
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


@cache
def say_once(text: str) -> None:
    """Log a warning about the device, once for each process."""
    logger.warning(text)
