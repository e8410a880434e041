"""`ImageReader` for MONAI's transforms, in a separate module because importing MONAI takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from numpy.typing import NDArray

from medhybrid.scans.reader import read_scan, stack_channels
from medhybrid.scans.scan import Scan


class ScanReader(ImageReader):  # type: ignore[misc]
    """MONAI reader based on `read_scan`. `LoadImage(reader=ScanReader())` returns a `(C, X, Y, Z)` `MetaTensor` in RAS mm."""

    def verify_suffix(self, filename: Sequence[str | Path] | str | Path) -> bool:
        """Return True for every path, because DICOM files often have no suffix."""
        return True

    def read(self, data: Sequence[str | Path] | str | Path, **_: Any) -> Scan:
        """Read one scan. Several paths are its channels, in their order."""
        if isinstance(data, (str, Path)):
            return read_scan(data)
        if len(data) == 1:
            return read_scan(data[0])
        scans = [read_scan(p) for p in data]
        return stack_channels(scans, [f"channel_{i}" for i in range(len(scans))], case=scans[0].case)

    def get_data(self, img: Scan) -> tuple[NDArray[np.generic], dict[str, Any]]:
        """Return the array and its metadata with MONAI's keys."""
        meta = {
            "affine": img.affine.copy(),
            "original_affine": img.affine.copy(),
            "spatial_shape": np.array(img.array.shape[1:]),
            "original_channel_dim": 0,
            "space": "RAS",
            "filename_or_obj": img.case,
        }
        return img.array, meta
