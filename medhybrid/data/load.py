"""Loading a case of a dataset: image channels and reference mask, as MONAI `MetaTensor`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from monai.data import MetaTensor
from monai.transforms import Transform

from medhybrid.data.layouts import Case, Paths
from medhybrid.errors import DataError, GeometryError
from medhybrid.geometry import match_axes, place_on_grid
from medhybrid.scans import Scan
from medhybrid.scans.dicom.headers import read_header
from medhybrid.scans.dicom.seg import read_seg
from medhybrid.scans.reader import ScanReader, read_scan, stack_channels


def load_image(case: Case, channels: Sequence[str]) -> Scan:
    """The case's image with all channels; missing ones are zero."""
    if len(case.images) == 1 and case.images[0] is not None:
        scan = _read(case.images[0], case.name)
        names = tuple(channels) if len(channels) == len(scan.array) else scan.channels
        return scan.named(case.name, names)
    scans = [None if paths is None else _read(paths, case.name) for paths in case.images]
    return stack_channels(scans, channels, case=case.name)


def load_mask(case: Case, image: Scan, labels: Mapping[str, int]) -> Scan:
    """The case's reference mask: an image file, or a DICOM SEG, which is placed on the image's grid."""
    if case.mask is None:
        raise DataError(f"case {case.name} has no reference mask")
    path = case.mask[0]
    if len(case.mask) == 1 and path.is_file() and _is_seg(path):
        seg = read_seg(path, labels, case=case.name)
        try:
            placed = place_on_grid(seg.array[0], seg.grid, image.grid)
        except GeometryError as error:
            raise DataError(f"case {case.name}: {error}") from error
        return Scan(placed[None], image.affine, seg.source, case.name, ("",))
    mask = _read(case.mask, case.name)
    if len(mask.array) != 1:
        raise DataError(f"case {case.name}: mask has several channels", expected="1", found=str(len(mask.array)))
    array, grid = match_axes(
        mask.array, mask.grid, image.grid
    )  # a file may run through the same voxels in another order
    return replace(mask, array=array, affine=grid.affine)


def _read(paths: Paths, name: str) -> Scan:
    return read_scan(paths[0] if len(paths) == 1 else paths, case=name)


def _is_seg(path: Any) -> bool:
    if path.name.lower().endswith((".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".nhdr")):
        return False
    header = read_header(path)
    return header is not None and header.modality == "SEG"


class LoadCased(Transform):  # type: ignore[misc]
    """MONAI transform: `{"case": Case}` to `image` and `label` as `MetaTensor` (C, X, Y, Z)."""

    def __init__(self, labels: Mapping[str, int], channels: Sequence[str]) -> None:
        self.labels, self.channels = labels, channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load both."""
        image = load_image(data["case"], self.channels)
        mask = load_mask(data["case"], image, self.labels)
        return {**data, "scan": image, "image": _meta_tensor(image), "label": _meta_tensor(mask)}


def _meta_tensor(scan: Scan) -> Any:
    import numpy as np
    import torch

    array, meta = ScanReader().get_data(scan)
    meta["affine"] = torch.from_numpy(scan.affine)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64 if array.dtype.itemsize > 2 else np.int32)  # torch has no wide unsigned types
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array)), meta=meta)


__all__ = ["LoadCased", "load_image", "load_mask"]
