"""Self-attention on a feature map: the map is turned into tokens, passes a Transformer and is turned back into a map.

Shapes: B batch, C channels of the map, D token width, X Y Z space.
"""

from __future__ import annotations

from torch import Tensor, nn

from medhybrid.config import NetworkConfig
from medhybrid.networks.blocks import Stride, Upsample
from medhybrid.networks.study_tokens import Study, StudyTokens
from medhybrid.networks.transformer import Transformer


class AttentionBranch(nn.Module):
    """Residual branch that adds the output of a Transformer to a feature map.

    With `starts_at_zero`, the last layer of the branch is initialised with zeros. A new network then behaves as if the branch
    were absent, and the branch grows during training.

    Parameters
    ----------
    pool : Stride
        Voxels of the map along X, Y and Z that form one token.
    study_tokens : StudyTokens, optional
        Metadata tokens that attend together with the tokens of the map.
    starts_at_zero : bool
        Whether to initialise the last layer with zeros; False for the pure Transformer, which has no encoder.
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
        """Add the branch to the map: (B, C, X, Y, Z) -> (B, C, X, Y, Z)."""
        told = None if self.study_tokens is None else self.study_tokens(study)
        out: Tensor = x + self.from_tokens(self.transformer(self.to_tokens(x), told))
        return out
