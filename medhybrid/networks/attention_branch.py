"""A feature map to tokens, through a Transformer, and back to where it came from.

Shapes: B batch, C channels of the map, D token width, X Y Z space.
"""

from __future__ import annotations

from torch import Tensor, nn

from medhybrid.config import NetworkConfig
from medhybrid.networks.blocks import Stride, Upsample
from medhybrid.networks.study_tokens import Study, StudyTokens
from medhybrid.networks.transformer import Transformer


class AttentionBranch(nn.Module):
    """Adds to a map what its parts learn of each other; adds nothing at first, so that a network begins without it.

    Parameters
    ----------
    pool : Stride
        A token stands for so many voxels of the map.
    study_tokens : StudyTokens, optional
        What the tokens of the map are told of the study.
    starts_at_zero : bool
        False where nothing but this branch carries the picture.
    """

    def __init__(
        self,
        channels: int,
        config: NetworkConfig,
        *,
        depth: int,
        pool: Stride,
        token_mm: tuple[float, float, float],
        study_tokens: StudyTokens | None,
        starts_at_zero: bool,
    ) -> None:
        super().__init__()
        width, is_pooled = config.token_width, pool != (1, 1, 1)
        self.to_tokens = nn.Conv3d(channels, width, pool, stride=pool)
        self.transformer = Transformer(width, depth, config.heads, drop_path=config.drop_path, token_mm=token_mm)
        self.from_tokens: nn.Conv3d | Upsample = (
            Upsample(width, channels, pool) if is_pooled else nn.Conv3d(width, channels, 1)
        )
        if starts_at_zero:
            nn.init.zeros_(self.from_tokens.weight)
            nn.init.zeros_(self.from_tokens.bias)  # type: ignore[arg-type]
        self.study_tokens = study_tokens

    def forward(self, x: Tensor, study: Study) -> Tensor:
        """(B, C, X, Y, Z) -> the same with the branch added."""
        told = None if self.study_tokens is None else self.study_tokens(study)
        out: Tensor = x + self.from_tokens(self.transformer(self.to_tokens(x), told))
        return out
