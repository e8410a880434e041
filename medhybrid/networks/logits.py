"""The output type of all networks."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Logits(NamedTuple):
    """Output of a network.

    Attributes
    ----------
    full : (B, K, X, Y, Z) Tensor
        Logits of K classes, background first.
    auxiliary : (B, K, X/s, Y/s, Z/s) Tensor
        Logits at the size of the first level, for deep supervision.
    """

    full: Tensor
    auxiliary: Tensor
