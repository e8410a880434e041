"""Measure sliding-window prediction of one volume by our code, MONAI or nnU-Net; print seconds as JSON.

    python windows.py ours|openvino|plain|monai|monai_bf16|nnunet CONFIG tissue|head

All use the same untrained network, windows and overlap, without mirroring. `plain` is our code in float32 with every window
computed. `tissue` is a volume without air; `head` is an ellipsoid in air, half of the volume.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import medhybrid
from medhybrid.config import NetworkConfig
from medhybrid.inference.precision import Precision, choose_precision
from medhybrid.inference.windows import predict_windows
from medhybrid.networks import build_network
from medhybrid.networks.cast import cast_weights

SHAPES = {"hippocampus": (96, 112, 96), "brain": (120, 120, 32)}

OVERLAP = 0.5


def volume(shape: tuple[int, int, int], n_channels: int, kind: str) -> Tensor:
    """Generate an image (C, X, Y, Z) of positive noise, with 0 for air."""
    image = torch.rand((n_channels, *shape), generator=torch.Generator().manual_seed(0)) + 0.5
    if kind == "head":
        index = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
        image *= torch.from_numpy((index**2).sum(0) < 0.8).float()
    return image


def way(who: str, network: Any, window: tuple[int, int, int], n_classes: int) -> Callable[[Tensor], Tensor]:
    """Return the function from an image (C, X, Y, Z) to logits (K, X, Y, Z)."""
    if who == "openvino":
        network = _converted(network, window)
    elif who == "ours":  # as `predict` does
        network = cast_weights(network, choose_precision(torch.device("cpu"), "auto").dtype)

    def predictor(batch: Tensor) -> Tensor:
        out: Tensor = network(batch).full
        return out

    if who in ("ours", "openvino", "plain"):
        quick = who != "plain"
        precision = choose_precision(torch.device("cpu"), "auto") if quick else Precision.FLOAT32
        return lambda x: predict_windows(
            x, predictor, window=window, n_classes=n_classes, overlap=OVERLAP, window_batch=2, skip_air=quick,
            precision=precision,
        )  # fmt: skip
    if who == "nnunet":
        return _nnunet(predictor, window)
    from monai.inferers import sliding_window_inference

    def monai(x: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=who == "monai_bf16"):
            out: Tensor = sliding_window_inference(x[None], window, 2, predictor, overlap=OVERLAP, mode="gaussian")[0]
        return out

    return monai


def _converted(network: Any, window: tuple[int, int, int]) -> Any:
    """Convert the network as `predict --device openvino` does, without its cache of converted networks."""
    from medhybrid.config import InferenceConfig
    from medhybrid.data.plan import Normalisation, Plan
    from medhybrid.inference.model import Model
    from medhybrid.inference.model_record import ModelRecord
    from medhybrid.inference.openvino import on_openvino

    channels = [f"channel{i}" for i in range(network.encoder.stem[0].in_channels)]
    plan = Plan(
        study="windows", spacing_mm=(1.0, 1.0, 1.0), patch_size=window, batch_size=2, mirror_axes=(), keep_largest=(),
        strides=((2, 2, 2),) * 3, normalisation=tuple(Normalisation(channel=c, rule="zscore") for c in channels),
        labels={f"label{i}": i for i in range(1, N_CLASSES)}, min_component_ml=0.0, blank_copied_channels=False,
    )  # fmt: skip
    record = ModelRecord(
        medhybrid_version="0", network=network.config, inference=InferenceConfig(), channel_map={}, plan=plan, fold=0,
        data_hash="", weights_sha256="", metrics={},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        return on_openvino(Model(network, record, torch.device("cpu"))).run


def _nnunet(predictor: Callable[[Tensor], Tensor], window: tuple[int, int, int]) -> Callable[[Tensor], Tensor]:
    from types import SimpleNamespace

    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    class Wrapped(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return predictor(x)

    made = nnUNetPredictor(
        tile_step_size=1 - OVERLAP, use_gaussian=True, use_mirroring=False, device=torch.device("cpu"), verbose=False
    )
    made.network = Wrapped()
    made.configuration_manager = SimpleNamespace(patch_size=list(window))
    made.label_manager = SimpleNamespace(num_segmentation_heads=N_CLASSES)
    made.allowed_mirroring_axes, made.allow_tqdm = None, False
    return lambda x: made.predict_sliding_window_return_logits(x)


N_CLASSES = 3


def main(who: str, name: str, kind: str) -> None:
    """Measure the second prediction of a volume."""
    config = medhybrid.load_config(f"{name}.yaml", ["data.root=/nowhere"])
    window = config.prepare.patch_size
    assert window is not None
    strides = ((2, 2, 2),) * 3 if name == "hippocampus" else ((2, 2, 1), (2, 2, 2), (2, 2, 2))
    torch.manual_seed(0)
    network: Any = build_network(
        NetworkConfig(), n_channels=len(config.data.channels), n_labels=N_CLASSES - 1, strides=strides,
        token_mm=(8.0, 8.0, 8.0),
    )  # fmt: skip
    network = network.to(memory_format=torch.channels_last_3d).eval()
    image = volume(SHAPES[name], len(config.data.channels), kind)
    run = way(who, network, window, N_CLASSES)
    run(image)  # warm-up: threads and kernels are set up once per process
    began = time.perf_counter()
    logits = run(image)
    print(json.dumps({"seconds": time.perf_counter() - began, "shape": list(logits.shape)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
