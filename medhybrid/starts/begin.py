"""A network begins with weights from a file or folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from medhybrid.data.plan import Plan
from medhybrid.errors import ModelError
from medhybrid.networks.parts import check_patterns, is_meant
from medhybrid.starts.files import WHERE, read_weights
from medhybrid.starts.fit import Names, Row, Start, fit
from medhybrid.starts.layouts import to_our_names


def begin_with(network: nn.Module, path: Path, plan: Plan, *, parts: Sequence[str] = ("all",)) -> Start:
    """Set what fits of the weights in `path`; the rest of the network stays as it was.

    Parameters
    ----------
    parts : sequence of str
        Which weights of the network may be set; see `medhybrid.networks.parts`.

    Raises
    ------
    ModelError
        If the file cannot be read, or nothing in it fits.
    ConfigError
        If a part means no weight of the network.
    """
    names = [name for name, _ in network.named_parameters()]
    check_patterns(names, parts, key="training.start_parts")
    weights = read_weights(path)
    source, tensors = weights.source, weights.tensors
    if not weights.is_ours:
        layout, tensors = to_our_names(tensors)
        source += f" (as a {layout})" if layout else ""
    asked = {name for name in names if any(is_meant(name, part) for part in parts)}
    rows = fit(
        network,
        {name: tensor for name, tensor in tensors.items() if name in asked},
        Names(weights.channels, weights.labels),
        Names(plan.channels, tuple(plan.labels)),
    )
    rows = [row if row.weight in asked else Row(row.weight, "not asked for") for row in rows]
    start = Start(source, weights.sha256, tuple(rows))
    if not start.count("taken", "adapted"):
        shapes = next((f"; {row.weight}: {row.how}" for row in rows if row.what == "other shape"), "")
        raise ModelError(
            f"nothing in {path} fits this network",
            found=", ".join(list(weights.tensors)[:4]) + " ..." + shapes,
            remedy=f"set network.widths, blocks, token_width and heads as they are there; {WHERE}",
        )
    return start
