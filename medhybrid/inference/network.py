"""Networks of a plan: their construction, and their logits of an image, window by window."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from medhybrid.config import InferenceConfig, NetworkConfig, NetworkSettings
from medhybrid.config.unet import UNetConfig
from medhybrid.data.plan import Plan
from medhybrid.inference.focus import Focus
from medhybrid.inference.precision import Precision
from medhybrid.inference.windows import Predictor, predict_windows
from medhybrid.networks import Network, build_network
from medhybrid.networks.logits import Logits
from medhybrid.networks.presets import network_of
from medhybrid.networks.unet import FoldUNets

logger = logging.getLogger(__name__)


def network_for(settings: NetworkSettings | UNetConfig, plan: Plan) -> Network:
    """Build a new network with the channels, labels, strides and preset of a plan, or an imported one."""
    if isinstance(settings, UNetConfig):
        return FoldUNets(settings)
    return build_network(
        config_of_network(settings, plan),
        n_channels=len(plan.channels),
        n_labels=plan.n_labels,
        strides=plan.strides,
        kernels=plan.kernels,
        token_mm=plan.token_mm,
        has_optional_channels=any(n.optional for n in plan.normalisation),
        context=plan.context,
        regions=tuple(plan.regions.values()),
    )


def config_of_network(settings: NetworkSettings, plan: Plan) -> NetworkConfig:
    """Return the architecture with all values: those of the config, and of the plan's preset for the others."""
    if isinstance(settings, NetworkConfig):
        return settings
    preset = plan.preset if settings.preset == "auto" else settings.preset
    return network_of(settings, preset, len(plan.strides))


def predict_logits(
    network: Network,
    image: Tensor,
    plan: Plan,
    config: InferenceConfig,
    precision: Precision,
    context: Tensor | None = None,
    *,
    device: torch.device | None = None,
) -> Tensor:
    """Return the logits (K, X, Y, Z) of a prepared image (C, X, Y, Z) during training, computed as by `Model.logits`.

    Parameters
    ----------
    context : (F,) Tensor, optional
        Values of `plan.context`, NaN where absent.
    device : torch.device, optional
        Device of the network, if it is not that of the image. The logits are on the image's.
    """
    run = without_overflow(network, network) if precision is Precision.FP16 else network
    settings = window_settings(plan, config, precision) | {"device": device}
    return predict_windows(image, predictor_of(run, plan, context), **settings)


def without_overflow(run: Callable[..., Logits], network: Network) -> Callable[..., Logits]:
    """Return a function like `run`, which computes in fp16, that computes a batch again in float32 if its logits overflow.

    The largest number in fp16 is 65,504. A larger activation is infinite, and the logits after it are NaN or infinite.

    Parameters
    ----------
    network : Network
        The network of `run`, with weights in float32.
    """

    def checked(image: Tensor, *context: Tensor) -> Logits:
        logits = run(image, *context)
        if logits.full.isfinite().all():
            return logits
        _say_overflow_once()
        with torch.autocast(image.device.type, enabled=False):
            exact: Logits = network(image, *context)
        return exact

    return checked


@cache
def _say_overflow_once() -> None:
    logger.warning("the network overflows in fp16 for some windows, which are computed again in float32")


def predictor_of(run: Callable[..., Logits], plan: Plan, context: Tensor | None) -> Predictor:
    """Return the function that computes the logits of a batch of windows; `context` as in `predict_logits`."""

    def predictor(batch: Tensor) -> Tensor:
        known = () if context is None or not plan.context else (context.expand(len(batch), -1),)
        return run(batch, *known).full

    return predictor


def window_settings(plan: Plan, config: InferenceConfig, precision: Precision) -> dict[str, Any]:
    """Return the settings of `predict_slabs`, which are the same for validation and prediction."""
    return {
        "window": plan.patch_size,
        "n_classes": plan.n_labels + 1,
        "overlap": config.overlap,
        "window_batch": config.window_batch,
        "mirror_axes": plan.mirror_axes if config.tta_mirroring else (),
        "exchange": plan.exchange,
        "skip_air": config.skip_air,
        "precision": precision,
        "focus": Focus() if config.focus else None,
    }
