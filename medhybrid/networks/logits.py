"""What every network returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Logits(NamedTuple):
    """What the network returns.

    Attributes
    ----------
    full : (B, K, X, Y, Z) Tensor
        K classes, background first.
    auxiliary : (B, K, X/s, Y/s, Z/s) Tensor
        At the first level's size, for deep supervision.
    """

    full: Tensor
    auxiliary: Tensor
