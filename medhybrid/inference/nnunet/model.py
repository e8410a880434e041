"""Prediction with an imported model of nnU-Net."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from medhybrid.config.unet import UNetConfig
from medhybrid.data.prepare import PreparedImage
from medhybrid.geometry import Grid
from medhybrid.inference.confidence import ScoreSum
from medhybrid.inference.model import Context, Inferred, Model
from medhybrid.inference.network import predictor_of, window_settings
from medhybrid.inference.nnunet.prepare import NnUNetImage, grid_for_nnunet, largest_shape, prepare_for_nnunet
from medhybrid.inference.nnunet.rules import NnUNetRules
from medhybrid.inference.rows import Rows, gather
from medhybrid.inference.to_grid import highest_label, resampled_labels, resampled_probabilities
from medhybrid.inference.windows import predict_slabs, to_tensor
from medhybrid.scans import Scan

ACTIVATIONS, ACTIVATIONS_OF_CHANNEL = 700, 14
"""Bytes of activations for each voxel of a window, and further ones for each channel of the first stage.

Measured in float32 on a CPU: 1,120 for 32 channels (1,140 with residual blocks), and 900 for 16.
"""

Value = TypeVar("Value", bound=np.generic)


class NnUNetModel(Model):
    """Imported model of nnU-Net: a `Model` with nnU-Net's own steps before and after the network."""

    @property
    def rules(self) -> NnUNetRules:
        """Return nnU-Net's steps."""
        assert self.record.nnunet is not None
        return self.record.nnunet

    @property
    def activations(self) -> int:
        """Bytes of activations for each voxel of a window, for the estimate of the memory."""
        network = self.record.network
        assert isinstance(network, UNetConfig)
        return ACTIVATIONS + ACTIVATIONS_OF_CHANNEL * network.widths[0]

    def network_shape(self, scan: Scan) -> tuple[int, int, int]:
        """Return the shape of a scan on the network's grid."""
        return largest_shape(self.grid_of(scan), self.plan, self.rules)

    def prepare(self, scan: Scan) -> NnUNetImage:
        """Crop, normalise and resample a scan for the network; raises the errors of `predict`."""
        return prepare_for_nnunet(scan.array, self.grid_of(scan), self.plan, self.rules)

    def grid_of(self, scan: Scan) -> Grid:
        """Return the grid of a scan with the voxel size that nnU-Net's reader gives it."""
        return grid_for_nnunet(scan, self.rules)

    def slabs(self, image: Tensor, context: Context | None = None) -> Iterator[Tensor]:
        """Yield the logits of the network, of classes or regions, as slabs (K, n, Y, Z) along X."""
        plan, config = self.plan, self.record.inference
        settings = window_settings(plan, config, self.precision) | {
            "window_batch": self.batch_size,
            "n_classes": len(self.rules.regions) or plan.n_labels + 1,
            "starts": window_starts,
            "weights": blending_weights(plan.patch_size),
        }
        if self.rules.regions:  # without a class for background
            settings["focus"] = None
        self.focus = settings["focus"]
        return predict_slabs(image, predictor_of(self.run, plan, None), **settings, device=self.device)

    def _infer(self, scan: Scan, prepared: PreparedImage, place: torch.device, *, with_probabilities: bool) -> Inferred:
        assert isinstance(prepared, NnUNetImage)
        regions = self.rules.regions
        decide = (lambda logits: drawn_labels(logits, regions)) if regions else highest_label
        as_classes = (lambda logits: class_logits(logits, regions, self.plan.n_labels)) if regions else _unchanged
        total = ScoreSum(self.record.calibration)
        slabs = self.slabs(to_tensor(prepared.image, place))
        if not with_probabilities:
            rows = Rows(slabs, on_slab=lambda slab: total.add(as_classes(slab)))
            cropped = resampled_labels(rows, prepared.to_crop, decide=decide)
            return Inferred(_on_scan(cropped, prepared), total.score, share=self.share)
        logits = gather(slabs, prepared.image.shape[1])
        total.add(as_classes(logits))
        cropped = resampled_labels(logits, prepared.to_crop, decide=decide)
        probabilities = resampled_probabilities(
            logits,
            prepared.to_crop,
            temperature=self.record.calibration.temperature,
            n_classes=self.plan.n_labels + 1,
            as_classes=as_classes,
        )
        background = _on_scan(probabilities[0], prepared, outside=1)
        others = [_on_scan(values, prepared) for values in probabilities[1:]]
        return Inferred(_on_scan(cropped, prepared), total.score, np.stack([background, *others]), self.share)


def _on_scan(cropped: NDArray[Value], prepared: NnUNetImage, *, outside: int = 0) -> NDArray[Value]:
    """Return values (X, Y, Z) of the cropped region on the scan's own grid, with one value outside the region."""
    whole = np.full(prepared.turned.shape, outside, cropped.dtype)
    whole[prepared.box] = cropped
    on_scan: NDArray[Value] = np.ascontiguousarray(prepared.turn.undo(whole))
    return on_scan


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Return the starts of nnU-Net's windows: at most a step of a window without its overlap apart, evenly spaced.

    nnU-Net computes some windows of one slice twice, which does not change their mean.
    """
    n = int(np.ceil((length - window) / (window * (1 - overlap)))) + 1
    if n <= 1:
        return [0]
    step = (length - window) / (n - 1)
    return list(dict.fromkeys(int(np.round(step * i)) for i in range(n)))


def blending_weights(window: Sequence[int]) -> Tensor:
    """Return nnU-Net's Gaussian weights (*window): a sigma of an eighth of the window about voxel `n // 2`."""
    profiles = []
    for n in window:
        impulse = np.zeros(n)
        impulse[n // 2] = 1
        profiles.append(gaussian_filter1d(impulse, n / 8, mode="constant"))
    weights = profiles[0][:, None, None] * profiles[1][None, :, None] * profiles[2][None, None, :]
    weights = weights / weights.max()
    return torch.from_numpy(np.maximum(weights, weights[weights > 0].min()).astype(np.float32))


def drawn_labels(logits: Tensor, regions: Sequence[int]) -> Tensor:
    """Return the label map (...) uint8 of region logits (R, ...): each region is drawn over the earlier ones.

    Parameters
    ----------
    regions : sequence of int
        Class 1..n of each region.
    """
    labels = torch.zeros(logits.shape[1:], dtype=torch.uint8, device=logits.device)
    for one, label in zip(logits, regions, strict=True):
        labels.masked_fill_(one > 0, label)
    return labels


def class_logits(logits: Tensor, regions: Sequence[int], n_labels: int) -> Tensor:
    """Return logarithms of class probabilities (K, ...), background first, from region logits (R, ...).

    A class has the probability that its region is on and no later region is; background, that no region is.
    """
    values = logits.float()
    later = torch.zeros_like(values[0])
    result = torch.full((n_labels + 1, *values.shape[1:]), -1e4, device=values.device)
    for one, label in zip(values.flip(0), reversed(regions), strict=True):
        on = torch.nn.functional.logsigmoid(one) + later
        result[label] = torch.logaddexp(result[label], on)
        later = later + torch.nn.functional.logsigmoid(-one)
    result[0] = later
    return result


def _unchanged(logits: Tensor) -> Tensor:
    return logits
