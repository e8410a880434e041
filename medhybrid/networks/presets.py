"""Presets of the network: the same hybrid in four sizes, S, M, L and XL."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from medhybrid.config import NetworkConfig, NetworkSettings

Preset = Literal["S", "M", "L", "XL"]


@dataclass(frozen=True, slots=True)
class Size:
    """Architecture of a preset; the entries of the levels a plan does not have are not used."""

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    token_width: int
    depth: int
    heads: int
    head_width: int


SIZES: dict[Preset, Size] = {
    "S": Size((32, 64, 128, 192, 256), (1, 1, 2, 2, 2), 192, 2, 6, 16),
    "M": Size((32, 64, 128, 256, 320), (1, 2, 2, 2, 2), 256, 4, 8, 24),
    "L": Size((48, 96, 192, 320, 384), (1, 2, 2, 3, 3), 384, 4, 6, 24),
    "XL": Size((64, 128, 256, 512, 512), (2, 2, 3, 4, 4), 512, 6, 8, 32),
}
"""With three levels, S has about 3 million parameters; with four, M, L and XL have about 14, 32 and 93 million."""

MIN_LEVELS, MAX_LEVELS = 2, 5


@lru_cache(maxsize=256)
def network_of(settings: NetworkSettings, preset: Preset, n_levels: int) -> NetworkConfig:
    """Complete the settings of a network with the values of a preset; values set by hand are kept.

    Parameters
    ----------
    n_levels : int
        Number of levels of the plan (`len(plan.strides)`).
    """
    size = SIZES[preset]
    values = settings.model_dump()
    if values["widths"] is None:
        n = n_levels if values["blocks"] is None else len(values["blocks"])
        values["widths"] = _first(size.widths, n)
    if values["blocks"] is None:
        values["blocks"] = _first(size.blocks, len(values["widths"]))
    for key in ("depth", "head_width"):
        values[key] = getattr(size, key) if values[key] is None else values[key]
    width, heads = values["token_width"], values["heads"]
    if width is None:
        values["token_width"] = size.token_width if heads is None or not size.token_width % heads else 32 * heads
    if heads is None:
        width = values["token_width"]
        values["heads"] = size.heads if not width % size.heads else max(h for h in range(1, 17) if not width % h)
    return NetworkConfig.model_validate(values)


def levels_by_hand(settings: NetworkSettings) -> int | None:
    """Return the number of levels that the config sets; None if the plan chooses it."""
    for value in (settings.widths, settings.blocks):
        if value is not None:
            return len(value)
    return None


def _first(values: tuple[int, ...], n: int) -> tuple[int, ...]:
    """Return the first `n` values; the last one is repeated where there are fewer."""
    return tuple(values[min(i, len(values) - 1)] for i in range(n))
