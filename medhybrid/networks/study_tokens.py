"""Metadata conditioning: tokens for the channels that a study has and for its metadata, without a position in the image.

Shapes: B batch, C channels, F metadata fields, N tokens, D token width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

TYPICAL: dict[str, tuple[float, float]] = {
    "pixel_mm": (1.0, 0.5),
    "slice_mm": (3.0, 2.0),
    "field_strength_t": (2.25, 0.75),
    "echo_time_ms": (80.0, 50.0),
    "repetition_time_ms": (4000.0, 3000.0),
    "inversion_time_ms": (1500.0, 1000.0),
    "contrast_agent": (0.5, 0.5),
    "age_years": (50.0, 20.0),
    "sex": (0.5, 0.5),
}
"""Centre and spread of each field of `data.context`, which scale its values to about -1 to 1."""


class Study(NamedTuple):
    """Metadata of the studies of a batch.

    Attributes
    ----------
    presence : (B, C) Tensor of bool
        True for channels that the study has.
    context : (B, F) Tensor
        Values of the fields of `data.context`, NaN where absent.
    """

    presence: Tensor
    context: Tensor


class StudyTokens(nn.Module):
    """Metadata tokens: one per channel for its presence, and one per field for its value or absence."""

    middle: Tensor
    spread: Tensor

    def __init__(self, n_presence: int, context: Sequence[str], width: int) -> None:
        super().__init__()
        self.presence: nn.Parameter | None = None
        if n_presence:  # absent and present of each channel
            self.presence = nn.Parameter(0.02 * torch.randn(n_presence, 2, width))
        self.context: nn.Parameter | None = None
        if context:  # absent, present, and slope of each field
            self.context = nn.Parameter(0.02 * torch.randn(len(context), 3, width))
        typical = torch.tensor([TYPICAL[field] for field in context]).reshape(-1, 2)
        self.register_buffer("middle", typical[:, 0], persistent=False)
        self.register_buffer("spread", typical[:, 1], persistent=False)

    def forward(self, study: Study) -> Tensor | None:
        """Return the tokens (B, N, D); None if neither presence nor fields are used."""
        tokens = []
        if self.presence is not None:
            index = torch.arange(study.presence.shape[1], device=study.presence.device)
            tokens.append(self.presence[index, study.presence.long()])  # (B, C) -> (B, C, D)
        if self.context is not None:
            absent, present, slope = self.context.unbind(1)  # (F, D)
            is_there = ~study.context.isnan()[..., None]  # (B, F, 1)
            value = ((study.context - self.middle) / self.spread).nan_to_num().clamp(-3, 3)[..., None]
            tokens.append(torch.where(is_there, present + value * slope, absent))  # (B, F, D)
        return torch.cat(tokens, dim=1) if tokens else None
