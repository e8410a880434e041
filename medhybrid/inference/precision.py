"""Choice of the precision in which a network is computed.

bf16     8 bits of precision, range of float32
fp16     11 bits of precision, numbers up to 65,504; training scales the loss (`training.loss_scale`)
tf32     float32, but a GPU rounds the inputs of products to 11 bits
float32  exact on every device

In bf16 and fp16, `torch.autocast` chooses the operations; the others are in exact float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

import torch

from medhybrid.errors import DeviceError
from medhybrid.inference.device import say_once

AUTO = "auto"

BF16_SINCE = TF32_SINCE = (8, 0)
"""Compute capability of the first GPUs with bf16 and TF32 in hardware (Ampere)."""

FP16_SINCE = (7, 0)
"""Compute capability of the first GPUs with tensor cores, which multiply fp16 and add in float32 (Volta)."""


class Precision(Enum):
    """Precision in which a network is computed; the values are those of configs."""

    BF16 = "bf16"
    FP16 = "fp16"
    TF32 = "tf32"
    FLOAT32 = "float32"

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights of convolutions and linear layers."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.value, torch.float32)

    def __str__(self) -> str:
        """Return the name in records: the type, or `tf32`."""
        return self.value if self is Precision.TF32 else str(self.dtype).removeprefix("torch.")


def choose_precision(device: torch.device, wanted: str, *, is_thin: bool = False) -> Precision:
    """Return the precision of a name in a config; for `auto`, the fastest one that the device has in hardware.

    On a CUDA GPU, `auto` is bf16 from compute capability 8.0 (Ampere) on, fp16 from 7.0 (Volta, Turing) on, otherwise float32.
    Elsewhere it is bf16 or float32. `auto` is never `tf32`. A device without TF32 computes `tf32` in float32.

    Parameters
    ----------
    is_thin : bool
        See `Plan.is_thin`: a CPU then computes in float32. In torch 2.13 and OpenVINO 2026.4, bf16 convolutions on CPUs
        give wrong values if their stride leaves one voxel along Z. They seem to read memory that is not initialised.

    Raises
    ------
    DeviceError
        If the name is not `auto` or that of a `Precision`.
    """
    names = [AUTO, *(p.value for p in Precision)]
    if wanted not in names:
        raise DeviceError(f"unknown precision {wanted!r}", expected=", ".join(names))
    fastest = _fastest_precision(device)
    chosen = fastest if wanted == AUTO else Precision(wanted)
    if chosen is Precision.TF32 and not _has_tf32(device):
        return Precision.FLOAT32
    if chosen.dtype is torch.float32:
        return chosen
    if device.type == "cpu" and is_thin:
        say_once(
            "patches of one token along Z are computed in float32: torch and OpenVINO give wrong values for them in bf16"
        )
        return Precision.FLOAT32
    if chosen is Precision.BF16 and device.type == "cuda" and fastest is not chosen:
        say_once(f"{torch.cuda.get_device_name(device)} computes bf16 by emulation, which is slow; auto is faster")
    return chosen


def _fastest_precision(device: torch.device) -> Precision:
    """Return the fastest precision that a device has in hardware.

    `torch.cuda.is_bf16_supported` also counts emulation, with which a GPU before Ampere is slower than in float32.
    """
    if device.type == "cuda":
        if torch.version.hip is not None:
            return Precision.BF16 if torch.cuda.is_bf16_supported() else Precision.FLOAT32
        card = torch.cuda.get_device_capability(device)
        return Precision.BF16 if card >= BF16_SINCE else Precision.FP16 if card >= FP16_SINCE else Precision.FLOAT32
    if device.type == "cpu":
        has_mkldnn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return Precision.BF16
    return Precision.FLOAT32


def _has_tf32(device: torch.device) -> bool:
    is_nvidia = device.type == "cuda" and torch.version.hip is None
    return is_nvidia and torch.cuda.get_device_capability(device) >= TF32_SINCE


@contextmanager
def stated_float32(precision: Precision) -> Iterator[None]:
    """Let a GPU round products of float32 numbers to TF32 inside the context only if the precision is `tf32`.

    By default, torch rounds them in convolutions.
    """
    settings = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "tf32" if precision is Precision.TF32 else "ieee"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


@contextmanager
def in_precision(device: torch.device, precision: Precision) -> Iterator[None]:
    """Compute in a precision inside the context."""
    with stated_float32(precision):
        if precision.dtype is torch.float32:
            yield
            return
        with torch.autocast(device.type, precision.dtype):
            yield
