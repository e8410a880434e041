"""Check of a device at its first use: one convolution in the chosen precision, compared with exact values.

Releases of torch and cuDNN have computed wrong 3-D convolutions on GPUs without any error, such as cuDNN 9.10.2 in bf16 for
large inputs (pytorch issue 163539). A wrong mask would be the only sign.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F

from medhybrid.errors import DeviceError
from medhybrid.inference.device import say_once
from medhybrid.inference.device_memory import is_out_of_memory
from medhybrid.inference.precision import AUTO, Precision, choose_precision, in_precision

WIDTH = 16
"""Channels of the convolution."""

N_POINTS = 256
"""Voxels whose values are compared; a quarter of them in the last rows, where large offsets are."""

LARGEST_ERROR = {Precision.FLOAT32: 1e-4, Precision.TF32: 1e-2, Precision.FP16: 1e-2, Precision.BF16: 3e-2}
"""Largest difference from the exact values, relative to the largest of these. Rounding alone causes less than a third of it."""


def checked_precision(
    device: torch.device, wanted: str, *, patch_size: tuple[int, int, int], is_thin: bool = False
) -> Precision:
    """Choose the precision (`choose_precision`), and check that the device computes right convolutions in it.

    CPUs are not checked. If `auto` fails the check and float32 passes it, float32 is chosen with a warning.

    Parameters
    ----------
    patch_size : (3,) tuple of int
        Size of the windows in voxels.

    Raises
    ------
    DeviceError
        If the precision is unknown, or the convolution is wrong.
    """
    chosen = choose_precision(device, wanted, is_thin=is_thin)
    if device.type == "cpu":
        return chosen
    error = convolution_error(device, chosen, patch_size)
    if error <= LARGEST_ERROR[chosen]:
        return chosen
    exact = Precision.FLOAT32
    if wanted == AUTO and chosen is not exact and convolution_error(device, exact, patch_size) <= LARGEST_ERROR[exact]:
        say_once(
            f"{device} computes wrong convolutions in {chosen} (relative error {error:.2g}); float32 is used instead"
        )
        return exact
    raise DeviceError(
        f"{device} computes wrong convolutions in {chosen}",
        expected=f"a relative error of at most {LARGEST_ERROR[chosen]:g}",
        found=f"{error:.2g}, with torch {torch.__version__} and cuDNN {torch.backends.cudnn.version()}",  # type: ignore[no-untyped-call]
        remedy="use another version of torch, another precision (training.precision, inference.precision), or the CPU",
    )


@cache
def convolution_error(device: torch.device, precision: Precision, size: tuple[int, int, int]) -> float:
    """Return the largest error of a 3x3x3 convolution of random values, relative to the largest exact value.

    Exact values are computed in float64 at some voxels. NaN or infinite values anywhere give infinity. The error is 0 if the
    device has too little memory for the convolution: windows of this size are then not computed either.
    """
    rng = np.random.default_rng(0)
    image = rng.standard_normal((WIDTH, *size), np.float32)
    weight = rng.standard_normal((WIDTH, WIDTH, 3, 3, 3), np.float32) / np.sqrt(27 * WIDTH, dtype=np.float32)
    try:
        with torch.inference_mode(), in_precision(device, precision):
            x = torch.from_numpy(image)[None].to(device).contiguous(memory_format=torch.channels_last_3d)
            result = F.conv3d(x, torch.from_numpy(weight).to(device), padding=1)[0].float()
            if not result.isfinite().all():
                return float("inf")
            values = result.cpu().numpy()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return 0.0
    points = rng.integers(0, size, (N_POINTS, 3))
    points[: N_POINTS // 4, 0] = size[0] - 1
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (1, 1)))
    exact = np.stack(
        [
            np.einsum("oixyz,ixyz->o", weight, padded[:, x : x + 3, y : y + 3, z : z + 3], dtype=np.float64)
            for x, y, z in points
        ],
        axis=1,
    )
    return float(np.abs(values[:, points[:, 0], points[:, 1], points[:, 2]] - exact).max() / np.abs(exact).max())
