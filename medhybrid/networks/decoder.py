"""Convolutional decoder: upsampling to full size, with skip connections from the encoder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medhybrid.networks.blocks import ConvNormAct, ResidualBlock, Stride, Upsample


class UpBlock(nn.Module):
    """Transposed convolution, concatenation of the skip connection, and a residual block."""

    def __init__(self, channels: int, width: int, stride: Stride, kernel: Stride, *, has_skip: bool) -> None:
        super().__init__()
        self.up = Upsample(channels, width, stride)
        self.block = ResidualBlock(2 * width if has_skip else width, width, kernel=kernel)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Upsample and merge with the skip connection: (B, C, X, Y, Z) -> (B, width, X*s, Y*s, Z*s)."""
        out: Tensor = self.block(self.up(x, skip))
        return out


class Decoder(nn.Module):
    """Decoder from the coarsest map to logits at full size and, for deep supervision, at the size of the first level."""

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        strides: Sequence[Stride],
        kernels: Sequence[Stride],
        *,
        n_classes: int,
        head_width: int,
        has_skips: bool,
    ) -> None:
        super().__init__()
        levels = range(len(widths) - 2, -1, -1)
        self.ups = nn.ModuleList(
            UpBlock(widths[i + 1], widths[i], strides[i + 1], kernels[i], has_skip=has_skips) for i in levels
        )
        self.auxiliary = nn.Conv3d(widths[0], n_classes, 1)
        self.up = Upsample(widths[0], head_width, strides[0])
        self.detail = ConvNormAct(head_width + channels, head_width, kernel=kernels[0])
        self.logits = nn.Conv3d(head_width, n_classes, 1)

    def forward(self, image: Tensor, x: Tensor, skips: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        """Decode a map.

        Parameters
        ----------
        image : (B, C, X, Y, Z) Tensor
            Input of the network; the last convolution sees it at full resolution.
        x : Tensor
            Coarsest map.
        skips : sequence of Tensor or None
            Finer maps, from coarse to fine.

        Returns
        -------
        logits : (B, K, X, Y, Z) Tensor
        auxiliary : (B, K, X/s, Y/s, Z/s) Tensor
        """
        for up, skip in zip(self.ups, skips, strict=True):
            x = up(x, skip)
        auxiliary = self.auxiliary(x)
        full = self.detail(self.up(x, image))
        return self.logits(full), auxiliary
