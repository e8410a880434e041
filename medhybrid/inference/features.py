"""Features of a scan: the coarsest map of the network's encoder, summed up over the scan."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medhybrid.inference.model import Model
from medhybrid.inference.network import window_settings
from medhybrid.inference.windows import predict_slabs, to_tensor
from medhybrid.networks.hybrid import SegmentationNetwork
from medhybrid.scans import Scan


def scan_features(model: Model, scan: Scan) -> NDArray[np.float32] | None:
    """Return the mean and the standard deviation of each channel of the coarsest map (2 D,), over windows with tissue.

    Windows do not overlap. The result is None for networks without such a map, as imported ones, and for a scan of air.

    Raises
    ------
    DataError
        If the channels of the scan differ from those of the model.
    """
    network = model.network
    if not isinstance(network, SegmentationNetwork):
        return None
    maps: list[Tensor] = []
    plan, n_classes = model.plan, model.plan.n_labels + 1

    def predictor(batch: Tensor) -> Tensor:
        maps.append(network.coarsest_map(batch).float().flatten(2).cpu())  # (B, D, T)
        return batch.new_zeros(1).expand(len(batch), n_classes, *batch.shape[2:])

    settings = window_settings(plan, model.record.inference, model.precision)
    settings |= {"overlap": 0.0, "mirror_axes": (), "exchange": (), "focus": None}
    image = to_tensor(model.prepare(scan).image, model.device)
    for _ in predict_slabs(image, predictor, **settings, device=model.device):
        pass
    if not maps:
        return None
    tokens = torch.cat([m.transpose(1, 2).flatten(0, 1) for m in maps])  # (N, D)
    return torch.cat([tokens.mean(0), tokens.std(0)]).numpy()
