"""Writing of synthetic volumes as DICOM MR series, for the demo and tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhybrid.geometry import LPS_FROM_RAS, Affine


def write_mr_series(
    folder: Path, array: NDArray[np.generic], affine: Affine, *, description: str, study: str, case: str
) -> list[Path]:
    """Write `array` (X, Y, Z) as a DICOM series, with one MR image per slice of its last axis.

    Parameters
    ----------
    study : str
        Any text. Series with the same text belong to one study.
    case : str
        Patient identifier, which must be synthetic.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(np.rint(array), 0, 65535).astype(np.uint16)
    lps = LPS_FROM_RAS @ affine
    spacing = np.sqrt((lps[:3, :3] ** 2).sum(axis=0))
    cosines = lps[:3, :3] / spacing
    series_uid = generate_uid(entropy_srcs=[study, description, "series"])
    paths = []
    for k in range(array.shape[2]):
        d = Dataset()
        d.SOPClassUID = MRImageStorage
        d.SOPInstanceUID = generate_uid(entropy_srcs=[study, description, str(k)])
        d.StudyInstanceUID = generate_uid(entropy_srcs=[study, "study"])
        d.SeriesInstanceUID = series_uid
        d.FrameOfReferenceUID = generate_uid(entropy_srcs=[study, "frame"])
        d.PatientID = d.PatientName = case
        d.PatientBirthDate = d.PatientSex = d.StudyID = d.AccessionNumber = d.ReferringPhysicianName = ""
        d.StudyDate, d.StudyTime, d.Modality, d.Manufacturer = "20260101", "120000", "MR", "synthetic"
        d.SeriesDescription, d.SeriesNumber, d.InstanceNumber = description, 1, k + 1
        d.ImageType = ["DERIVED", "PRIMARY", "OTHER"]
        d.ScanningSequence, d.SequenceVariant, d.ScanOptions, d.MRAcquisitionType = "SE", "NONE", "", "3D"
        d.EchoTime, d.RepetitionTime, d.EchoTrainLength = "10", "500", "1"
        d.PositionReferenceIndicator = ""
        d.ImageOrientationPatient = [f"{v:.9f}" for v in (*cosines[:, 0], *cosines[:, 1])]
        d.ImagePositionPatient = [f"{v:.6f}" for v in (lps @ [0, 0, k, 1])[:3]]
        d.PixelSpacing = [f"{spacing[1]:.6f}", f"{spacing[0]:.6f}"]
        d.SliceThickness = f"{spacing[2]:.6f}"
        d.Rows, d.Columns = array.shape[1], array.shape[0]
        d.SamplesPerPixel, d.PhotometricInterpretation, d.PixelRepresentation = 1, "MONOCHROME2", 0
        d.BitsAllocated, d.BitsStored, d.HighBit = 16, 16, 15
        d.PixelData = np.ascontiguousarray(pixels[:, :, k].T).tobytes()
        d.file_meta = FileMetaDataset()
        d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{k + 1:04d}.dcm"
        d.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
