"""Measure the reading of a file or series to an array; print seconds as JSON.

python reading.py ours|nibabel|simpleitk FILE_OR_SERIES
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def read(who: str, path: Path) -> Any:
    """Return the voxel values."""
    if who == "ours":
        from medhybrid.scans.reader import read_scan

        return read_scan(path).array
    if who == "nibabel":
        import nibabel as nib

        return np.asarray(nib.load(path).dataobj)
    import SimpleITK as sitk

    if path.is_dir():
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
        return sitk.GetArrayFromImage(reader.Execute())
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


if __name__ == "__main__":
    who, path = sys.argv[1], Path(sys.argv[2])
    read(who, path)  # loads modules and fills the disk cache
    began = time.perf_counter()
    shape = read(who, path).shape
    print(json.dumps({"seconds": time.perf_counter() - began, "shape": list(shape)}))
