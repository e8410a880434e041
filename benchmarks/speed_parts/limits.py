"""Measure the peak rates of the machine, and the share of them that the forward pass of the network reaches; print JSON.

    python limits.py

Rates are the best of several calls. Computation: matrices of 2048 and convolutions (3 x 3 x 3, 64 and 128 channels, two
volumes of 32 x 32 x 32, channels last), in float32 and bf16. Memory: copying 512 MiB. Disk: writing and reading 512 MiB; the
data may be read from the cache.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import medhybrid
from medhybrid.config import NetworkConfig
from medhybrid.inference.precision import Precision, in_precision
from medhybrid.networks import build_network
from medhybrid.networks.cast import cast_weights

BLOCK = 512 * 2**20


def best(function: Callable[[], object], seconds: float = 1.5) -> float:
    """Return the minimum time of one call in seconds."""
    function()
    until = time.perf_counter() + seconds
    times: list[float] = []
    while time.perf_counter() < until or len(times) < 3:
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def matrix_rate(precision: torch.dtype) -> float:
    """Return the rate of matrix products in GFLOP/s."""
    a = torch.randn(2048, 2048, dtype=precision)
    return 2 * 2048**3 / best(lambda: a @ a) / 1e9


def convolution_rate(precision: torch.dtype) -> float:
    """Return the rate of convolutions in GFLOP/s."""
    rates = []
    for width in (64, 128):
        x = torch.randn(2, width, 32, 32, 32, dtype=precision).contiguous(memory_format=torch.channels_last_3d)
        w = torch.randn(width, width, 3, 3, 3, dtype=precision).contiguous(memory_format=torch.channels_last_3d)
        flops = 2 * 27 * width**2 * 2 * 32**3
        rates.append(flops / best(lambda x=x, w=w: F.conv3d(x, w, padding=1)) / 1e9)  # type: ignore[misc]
    return max(rates)


def network_rate(name: str, precision: Precision) -> dict[str, float]:
    """Return GFLOP per window of the network of a packaged config, and its rate in GFLOP/s for a batch of two."""
    config = medhybrid.load_config(f"{name}.yaml", ["data.root=/nowhere"])
    strides = ((2, 2, 2),) * 3 if name == "hippocampus" else ((2, 2, 1), (2, 2, 2), (2, 2, 2))
    n_channels = len(config.data.channels)
    made: Any = build_network(
        NetworkConfig(), n_channels=n_channels, n_labels=2, strides=strides, token_mm=(8.0, 8.0, 8.0)
    )
    made = made.to(memory_format=torch.channels_last_3d).eval()
    assert config.prepare.patch_size is not None
    x = torch.rand(2, n_channels, *config.prepare.patch_size).contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            made(x)
        with in_precision(torch.device("cpu"), precision):
            run = cast_weights(made, precision.dtype)
            seconds = best(lambda: run(x), 4)
    flops = counter.get_total_flops()
    return {"gflop": flops / 2e9, "gflop_per_s": flops / seconds / 1e9}


def disk_rate() -> tuple[float, float]:
    """Return the rates of writing (with fsync) and reading in MiB/s."""
    data = np.random.default_rng(0).bytes(BLOCK)
    with tempfile.NamedTemporaryFile(dir=".") as file:
        began = time.perf_counter()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter() - began
        began = time.perf_counter()
        with open(file.name, "rb") as again:
            again.read()
        return BLOCK / 2**20 / written, BLOCK / 2**20 / (time.perf_counter() - began)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all rates."""
    told: dict[str, object] = {"threads": torch.get_num_threads()}
    for name, precision in (("float32", Precision.FLOAT32), ("bf16", Precision.BF16)):
        told[f"matrix_{name}"] = matrix_rate(precision.dtype)
        told[f"convolution_{name}"] = limit = convolution_rate(precision.dtype)
        for study in ("hippocampus", "brain"):
            rate = network_rate(study, precision)
            told[f"{study}_{name}"] = rate | {"share": rate["gflop_per_s"] / limit}
    block = torch.ones(BLOCK // 4)
    told["memory_gib_per_s"] = 2 * BLOCK / best(block.clone) / 2**30
    told["disk_write_mib_per_s"], told["disk_read_mib_per_s"] = disk_rate()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
