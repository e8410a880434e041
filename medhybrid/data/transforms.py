"""Preprocessing as MONAI transforms, for use in other pipelines.

`medhybrid preprocess` calls the same functions without MONAI, because the import of MONAI takes longer than preparing a hundred
small cases. A test compares the two.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Transform

from medhybrid.config import DataConfig, ScansConfig, StudyConfig
from medhybrid.data.load import load_image, load_mask
from medhybrid.data.plan import Plan
from medhybrid.data.prepare import inside_labels, prepare_image, prepare_labels
from medhybrid.geometry import Grid
from medhybrid.scans import Scan
from medhybrid.scans.monai_reader import ScanReader

Data = Mapping[Hashable, Any]


def preparation_transforms(plan: Plan, config: StudyConfig) -> Compose:
    """Compose the transforms from `{"case": Case}` to the prepared arrays.

    The result contains `image` (C, X, Y, Z) float32 and `label` (X, Y, Z) uint8 on the plan's grid. It also contains the
    `PreparedImage` as `prepared`, and the mask on the scan's grid, with values 0..n, as `label_source`.
    """
    return Compose([LoadCased(config.data, config.scans), PrepareImaged(plan), PrepareLabeld(plan)])


class LoadCased(Transform):  # type: ignore[misc]
    """Transform from `{"case": Case}` to `scan`, and to `image` and `label` as `MetaTensor` (C, X, Y, Z)."""

    def __init__(self, data: DataConfig, options: ScansConfig) -> None:
        self.data, self.options = data, options

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Load image and reference mask of the case."""
        image = load_image(data["case"], self.data, self.options)
        mask = load_mask(data["case"], image, self.data, self.options)
        return {**data, "scan": image, "image": _meta_tensor(image), "label": _meta_tensor(mask)}


class PrepareImaged(MapTransform):  # type: ignore[misc]
    """Transform that applies `prepare_image` to the loaded scan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(keys="image")
        self.plan = plan

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Replace `image` by the prepared image, and add `prepared`."""
        image = data["image"]
        grid = Grid(tuple(image.shape[1:]), np.asarray(image.affine, np.float64))
        prepared = prepare_image(np.asarray(image), grid, self.plan)
        return {**data, "image": prepared.image, "prepared": prepared}


class PrepareLabeld(Transform):  # type: ignore[misc]
    """Transform of the reference mask to the grid of the prepared image, with values 0..n."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Replace `label` by the prepared label map, and add `label_source`."""
        mask = inside_labels(np.asarray(data["label"])[0], self.plan.labels)
        return {**data, "label": prepare_labels(mask, data["prepared"], self.plan), "label_source": mask}


def _meta_tensor(scan: Scan) -> MetaTensor:
    array, meta = ScanReader().get_data(scan)
    meta["affine"] = torch.from_numpy(scan.affine)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64 if array.dtype.itemsize > 2 else np.int32)  # torch lacks operations for these
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array)), meta=meta)
