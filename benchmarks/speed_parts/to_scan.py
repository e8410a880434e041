"""Measure the resampling of logits on a network grid to labels on a scan grid; print seconds as JSON.

    python to_scan.py ours|plain|nnunet everywhere|lesion X Y Z LABELS

The scan has a spacing of 0.8 x 0.8 x 1 mm, the network grid 1.5 mm. `everywhere` has smooth fields in which every label wins
somewhere; `lesion` has one small region. `plain` resamples all logits and takes the maximum. `nnunet` is the function of
nnU-Net's prediction with default settings and one thread per core.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medhybrid.geometry import Grid, resample_image, respace, turn_to_ras
from medhybrid.inference.to_grid import labels_on_scan

SPACING = (0.8, 0.8, 1.0)

NETWORK_MM = 1.5


def make_logits(kind: str, shape: tuple[int, int, int], n_labels: int) -> Tensor:
    """Generate logits (K, X, Y, Z), background first."""
    generator = torch.Generator().manual_seed(0)
    coarse = 10 * torch.randn((1, n_labels + 1, 9, 9, 7), generator=generator)
    logits: Tensor = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0]
    if kind == "lesion":
        logits[0] = logits.max(0).values + 1
        x, y, z = (slice(n // 2, n // 2 + 20) for n in shape)
        logits[1, x, y, z] = logits[0, x, y, z] + 2
    return logits


def way(who: str, network: Grid, scan: Grid, n_labels: int) -> Callable[[Tensor], Any]:
    """Return the function from logits to a label map of the shape of the scan."""
    if who == "ours":
        return lambda x: labels_on_scan(x, network, scan, turn_to_ras(scan.affine))
    if who == "plain":
        return lambda x: resample_image(x.numpy(), network, scan).argmax(0).astype(np.uint8)
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    way_with_probabilities = {
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
    }
    network_of_none = {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []}
    full = {"spacing": [NETWORK_MM] * 3, "architecture": network_of_none, **way_with_probabilities}
    plans = PlansManager(
        {
            "plans_name": "p", "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
            "label_manager": "LabelManager", "configurations": {"3d_fullres": full},
        }
    )  # fmt: skip
    labels = plans.get_label_manager({"labels": {"background": 0} | {f"l{i}": i for i in range(1, n_labels + 1)}})
    properties = {
        "spacing": list(scan.spacing_mm),
        "shape_before_cropping": scan.shape,
        "shape_after_cropping_and_before_resampling": scan.shape,
        "bbox_used_for_cropping": [[0, n] for n in scan.shape],
    }
    configuration = plans.get_configuration("3d_fullres")
    return lambda x: convert_predicted_logits_to_segmentation_with_correct_shape(
        x, plans, configuration, labels, properties, num_threads_torch=os.cpu_count() or 1
    )


def main(who: str, kind: str, *numbers: str) -> None:
    """Measure one call."""
    x, y, z, n_labels = (int(n) for n in numbers)
    scan = Grid((x, y, z), np.diag([*SPACING, 1.0]))
    network = respace(scan, (NETWORK_MM,) * 3)
    logits = make_logits(kind, network.shape, n_labels)
    run = way(who, network, scan, n_labels)
    began = time.perf_counter()
    labels = run(logits)
    seconds = time.perf_counter() - began
    counts = np.bincount(np.asarray(labels).ravel(), minlength=n_labels + 1)
    print(json.dumps({"seconds": seconds, "voxels": counts.tolist()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
