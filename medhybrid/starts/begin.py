"""Initialisation of a network from pretrained weights in a file or folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from medhybrid.data.plan import Plan
from medhybrid.errors import ModelError
from medhybrid.inference.weights_file import UNKNOWN, About
from medhybrid.networks.parts import check_patterns, is_meant
from medhybrid.networks.transformer import Attention
from medhybrid.starts.files import WHERE, read_weights
from medhybrid.starts.fit import Names, Row, Start, fit
from medhybrid.starts.layouts import to_our_names


def begin_with(network: nn.Module, path: Path, plan: Plan, *, parts: Sequence[str] = ("all",)) -> Start:
    """Initialise a network from the pretrained weights in `path`; weights that do not fit stay unchanged.

    Parameters
    ----------
    plan : Plan
        Plan of the network; its channels and labels are matched with those of the pretrained weights.
    parts : sequence of str
        Patterns of the weights that may be set; see `medhybrid.networks.parts`.

    Returns
    -------
    Start
        Source of the weights, and the result for each weight of the network.

    Raises
    ------
    ModelError
        If the file cannot be read, holds NaN or infinite values, or none of its weights fits.
    ConfigError
        If a pattern selects no weight of the network.
    """
    names = [name for name, _ in network.named_parameters()]
    check_patterns(names, parts, key="training.pretrained_parts")
    weights = read_weights(path)
    about, source, tensors = weights.about or About(), weights.source, weights.tensors
    if "hidden_token" in tensors:  # a checkpoint of a pretraining: the network is a module of the autoencoder
        tensors = {name.removeprefix("network."): tensor for name, tensor in tensors.items()}
    if not tensors.keys() & set(names):
        try:
            layout, tensors = to_our_names(tensors)
        except (KeyError, RuntimeError) as error:  # a file of a known layout that lacks some weights
            raise ModelError(f"{path} is incomplete", found=f"no {error}"[:200], remedy=WHERE) from error
        source += f" (as a {layout})" if layout else ""
    if broken := [name for name in network.state_dict() if name in tensors and not tensors[name].isfinite().all()]:
        raise ModelError(
            f"{path} holds weights with NaN or infinite values",
            found=", ".join(broken[:3]),
            remedy="use an earlier checkpoint",
        )
    asked = {name for name in network.state_dict() if any(is_meant(name, part) for part in parts)}
    others = _with_other_heads(network, about.heads)
    rows = fit(
        network,
        {name: tensor for name, tensor in tensors.items() if name in asked - others},
        Names(about.channels, about.labels),
        Names(plan.channels, tuple(plan.labels)),
    )
    rows = [row if row.weight in asked else Row(row.weight, "not asked for") for row in rows]
    cut = f"{about.heads} heads there"
    rows = [Row(row.weight, "other shape", cut) if row.weight in others & tensors.keys() else row for row in rows]
    start = Start(
        source,
        weights.sha256,
        tuple(rows),
        weights.about.training_images if weights.about and weights.about.training_images else (UNKNOWN,),
    )
    if not start.count("taken", "adapted"):
        shapes = next((f"; {row.weight}: {row.how}" for row in rows if row.what == "other shape"), "")
        raise ModelError(
            f"no weight in {path} fits this network",
            found=", ".join(list(weights.tensors)[:4]) + " ..." + shapes,
            remedy=f"set network.widths, blocks, token_width and heads to those of the pretrained network; {WHERE}",
        )
    return start


def _with_other_heads(network: nn.Module, heads: int | None) -> set[str]:
    """Return attention weights of modules with another number of heads: shapes fit, but the width is split differently."""
    modules = {name: module for name, module in network.named_modules() if isinstance(module, Attention)}
    return {
        f"{name}.{weight}"
        for name, module in modules.items()
        if heads not in (None, module.heads)
        for weight, _ in module.named_parameters()
    }
