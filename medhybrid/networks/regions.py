"""Regions: structures that overlap or nest, each with its own sigmoid; and the label map that they give together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

OFF = -1e4
"""Logit of a class that is never chosen."""


class RegionScores(nn.Module):
    """Conversion of region logits to logits of disjoint classes, whose highest one is the class of a voxel.

    The last region that is on (logit above 0) decides, in the order of the regions. Among the classes whose last region this
    is, the one that fits the other regions best is chosen. The scores of classes are fuzzy: "and" is the minimum of logits,
    "not" the negative logit.

    Parameters
    ----------
    members : sequence of sequence of int
        For each region, its classes, from 1.
    n_classes : int
        Number of classes without background.
    """

    members_of: Tensor

    def __init__(self, members: Sequence[Sequence[int]], n_classes: int) -> None:
        super().__init__()
        self.members, self.n_classes = [tuple(classes) for classes in members], n_classes
        table = torch.zeros(len(self.members), n_classes + 1)
        for region, classes in enumerate(self.members):
            table[region, list(classes)] = 1
        self.register_buffer(
            "members_of", table, persistent=False
        )  # on the device: a recorded step cannot copy it there
        self.sets: dict[tuple[int, ...], int] = {}
        for value in range(1, n_classes + 1):  # classes that no region tells apart: the first one stands for all
            regions = tuple(r for r, classes in enumerate(self.members) if value in classes)
            if regions:
                self.sets.setdefault(regions, value)

    def targets(self, classes: Tensor) -> Tensor:
        """Return the target of each region (B, R, X, Y, Z), float32, for a label map (B, X, Y, Z); other values are off."""
        inside = torch.where(classes <= self.n_classes, classes, 0)
        return self.members_of[:, inside].movedim(0, 1)

    def forward(self, logits: Tensor) -> Tensor:
        """Convert region logits (B, R, X, Y, Z) to class logits (B, K, X, Y, Z), background first."""
        regions = list(logits.unbind(1))
        later: list[Tensor | None] = [None]  # for each region, the highest logit of the later ones
        for one in reversed(regions[1:]):
            highest = later[0]
            later.insert(0, one if highest is None else torch.maximum(highest, one))
        highest = regions[0] if later[0] is None else torch.maximum(regions[0], later[0])
        out = [torch.full_like(highest, OFF) for _ in range(self.n_classes + 1)]
        out[0] = -highest
        for last in range(len(regions)):
            group = [names for names in self.sets if names[-1] == last]
            after = later[last]
            score = regions[last] if after is None else torch.minimum(regions[last], -after)
            fits = [self._fit(regions, names, group) for names in group]
            for names, fit in zip(group, fits, strict=True):
                rest = torch.stack(fits).amax(0) - fit if len(group) > 1 else 0.0
                out[self.sets[names]] = score - rest
        return torch.stack(out, dim=1)

    @staticmethod
    def _fit(regions: Sequence[Tensor], names: tuple[int, ...], group: Sequence[tuple[int, ...]]) -> Tensor:
        """Return how well a set of regions fits, by the regions in which the sets of its group differ."""
        differing = {r for other in group for r in set(other) ^ set(names)}
        total = torch.zeros_like(regions[0])
        for region in sorted(differing):
            total = total + (regions[region] if region in names else -regions[region])
        return total
