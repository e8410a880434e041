"""Ensembles: several models whose calibrated probabilities are averaged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from medhybrid.data.fingerprint import join_seen
from medhybrid.errors import ModelError
from medhybrid.inference.confidence import Calibration
from medhybrid.inference.model import Context, Model, Segmenter
from medhybrid.inference.rows import Rows
from medhybrid.inference.windows import PIECE


class Ensemble(Segmenter):
    """Ensemble of models with one plan, such as the folds of a cross-validation.

    Raises
    ------
    ModelError
        If the inputs of the models differ (channels, spacing, intensities, labels, reading and matching of scans), or their
        component rules differ.
    """

    def __init__(self, members: Sequence[Model]) -> None:
        first = members[0]
        if imported := [m.plan.study for m in members if m.record.nnunet is not None]:
            raise ModelError(
                "models of nnU-Net cannot be averaged with other models",
                found=f"{len(members)} models, of which from nnU-Net: {', '.join(imported)}",
                remedy="import the folds of one configuration together, as one model",
            )
        for other in members[1:]:
            _refuse_other_plan(first, other)
        decides = "".join(m.record.weights_sha256 + m.record.calibration.model_dump_json() for m in members)
        calibrations = [m.record.calibration for m in members]
        self.record = first.record.model_copy(
            update={
                "weights_sha256": hashlib.sha256(decides.encode()).hexdigest(),
                # the members' probabilities are calibrated before they are averaged
                "calibration": Calibration(threshold=float(np.mean([c.threshold for c in calibrations]))),
                "seen": join_seen([m.record.seen for m in members]),
                "training_images": tuple(sorted({image for m in members for image in m.record.training_images})),
                "channel_map": next((m.record.channel_map for m in members if m.record.channel_map), {}),
            }
        )
        self.members, self.n_networks = tuple(members), len(members)
        self.device, self.precision, self.runtime = first.device, first.precision, first.runtime
        self._orders = [_label_order(first, m) for m in members]

    @property
    def is_calibrated(self) -> bool:
        """Whether the confidence of every member is calibrated."""
        return all(m.record.calibration.is_fitted for m in self.members)

    @property
    def share(self) -> float:
        """Largest share of the last scan that a member computed with overlap."""
        return max(m.share for m in self.members)

    def slabs(self, image: Tensor, context: Context | None = None) -> Iterator[Tensor]:
        """Yield the logarithm of the mean probabilities (K, n, Y, Z), slab by slab along X."""
        members = [(Rows(m.slabs(image, context)), m.record.calibration.temperature) for m in self.members]
        n_rows, n_classes = image.shape[1], self.plan.n_labels + 1
        step = max(1, PIECE // (n_classes * image[0, 0].numel()))
        for first in range(0, n_rows, step):
            last = min(first + step, n_rows)
            mean: Tensor | None = None
            for (rows, temperature), order in zip(members, self._orders, strict=True):
                probabilities = (rows.take(first, last) / temperature).softmax(dim=0)
                if order is not None:
                    probabilities = probabilities[order]
                mean = probabilities if mean is None else mean + probabilities
            assert mean is not None
            yield torch.log((mean / len(self.members)).clamp_min(1e-12))


def _label_order(first: Model, other: Model) -> list[int] | None:
    """Return the classes of a model in the order of the first one's label names; None if the order is the same."""
    ours, theirs = list(first.plan.labels), list(other.plan.labels)
    return None if ours == theirs else [0, *(1 + theirs.index(name) for name in ours)]


def _refuse_other_plan(a: Model, b: Model) -> None:
    of_images = {"spacing_mm", "normalisation", "labels", "context", "blank_copied_channels"}
    ours, theirs = (m.plan.model_dump(include=of_images) for m in (a, b))
    for values, model in ((ours, a), (theirs, b)):
        values["scans"] = model.record.scans
        values["regions"] = [(name, model.plan.values_of(classes)) for name, classes in model.plan.regions.items()]
    if a.record.channel_map and b.record.channel_map:
        ours["channel_map"], theirs["channel_map"] = a.record.channel_map, b.record.channel_map
    if differing := [k for k in ours if ours[k] != theirs[k]]:
        raise ModelError(
            "the models cannot be averaged: their inputs differ",
            expected=f"the same {', '.join(differing)}",
            found="; ".join(f"{k}: {ours[k]} and {theirs[k]}" for k in differing)[:300],
            remedy="use models that were trained on one prepared dataset",
        )
    of_masks = ("keep_largest", "min_component_ml")
    if differing := [k for k in of_masks if getattr(a.plan, k) != getattr(b.plan, k)]:
        raise ModelError(
            "the models cannot be averaged: their component rules differ",
            expected=f"the same {', '.join(differing)}",
            found="; ".join(f"{k}: {getattr(a.plan, k)} and {getattr(b.plan, k)}" for k in differing)[:300],
            remedy="set the same rules for all with medhybrid cross-validate, or train with the same prepare settings",
        )
