"""Writer of enhanced multi-frame MR images with several volumes, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedMRImageStorage

from medhybrid.scans.dicom.write import write_mr_series


def write_enhanced(path: Path, arrays: Sequence[np.ndarray], affine: np.ndarray) -> Path:
    """Write volumes (X, Y, Z) on one grid, interleaved by slice, each with its rescaling and frame type."""
    slices = write_mr_series(path.parent / "slices", arrays[0], affine, description="MR", study="s", case="c")
    parts = [pydicom.dcmread(p) for p in slices]
    d = pydicom.dcmread(slices[0])
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "EchoTime"):
        delattr(d, name)
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    shared, measures, turn = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = parts[0].PixelSpacing, parts[0].SliceThickness
    turn.ImageOrientationPatient = parts[0].ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([turn])
    d.SharedFunctionalGroupsSequence = Items([shared])
    frames, pixels = [], []
    for k, part in enumerate(parts):
        for v, array in enumerate(arrays):
            frame, place, scale, kind = Dataset(), Dataset(), Dataset(), Dataset()
            place.ImagePositionPatient = part.ImagePositionPatient
            scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 1 + v, -10 * v, "US"
            kind.FrameType, kind.ComplexImageComponent = ["ORIGINAL", "PRIMARY"], ("MAGNITUDE", "PHASE")[v]
            frame.PlanePositionSequence = Items([place])
            frame.PixelValueTransformationSequence = Items([scale])
            frame.MRImageFrameTypeSequence = Items([kind])
            frames.append(frame)
            pixels.append(np.ascontiguousarray(array[:, :, k].T.astype(np.uint16)))
    d.PerFrameFunctionalGroupsSequence = Items(frames)
    d.NumberOfFrames = len(frames)
    d.PixelData = np.stack(pixels).tobytes()
    for p in slices:
        p.unlink()
    slices[0].parent.rmdir()
    d.save_as(path)
    return path
