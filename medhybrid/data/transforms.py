"""What `medhybrid preprocess` does to a case as MONAI transforms, for chains of one's own.

`preprocess` calls the same functions without MONAI, whose import takes longer than preparing a hundred small cases; a test
holds the two together.
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
    """From `{"case": Case}` to the prepared arrays.

    The result holds `image` (C, X, Y, Z) float32 and `label` (X, Y, Z) uint8 on the plan's grid, `prepared`, the
    `PreparedImage`, and `label_source`, the mask on the scan's own grid, with inside values too.
    """
    return Compose([LoadCased(config.data, config.scans), PrepareImaged(plan), PrepareLabeld(plan)])


class LoadCased(Transform):  # type: ignore[misc]
    """`{"case": Case}` to `image` and `label` as `MetaTensor` (C, X, Y, Z), and `scan`."""

    def __init__(self, data: DataConfig, options: ScansConfig) -> None:
        self.data, self.options = data, options

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Load both."""
        image = load_image(data["case"], self.data, self.options)
        mask = load_mask(data["case"], image, self.data, self.options)
        return {**data, "scan": image, "image": _meta_tensor(image), "label": _meta_tensor(mask)}


class PrepareImaged(MapTransform):  # type: ignore[misc]
    """`prepare_image` on the loaded scan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(keys="image")
        self.plan = plan

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Adds `prepared`."""
        image = data["image"]
        grid = Grid(tuple(image.shape[1:]), np.asarray(image.affine, np.float64))
        prepared = prepare_image(np.asarray(image), grid, self.plan)
        return {**data, "image": prepared.image, "prepared": prepared}


class PrepareLabeld(Transform):  # type: ignore[misc]
    """The reference mask on the same grid, with inside values."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Adds `label_source`."""
        mask = inside_labels(np.asarray(data["label"])[0], self.plan.labels)
        return {**data, "label": prepare_labels(mask, data["prepared"], self.plan), "label_source": mask}


def _meta_tensor(scan: Scan) -> MetaTensor:
    array, meta = ScanReader().get_data(scan)
    meta["affine"] = torch.from_numpy(scan.affine)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64 if array.dtype.itemsize > 2 else np.int32)  # torch has no wide unsigned types
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array)), meta=meta)
