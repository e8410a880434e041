"""Discovery, reading and writing of image files. No other package opens image files."""

from medhybrid.scans.discover import BURNED_IN, Discovery, ScanEntry, discover
from medhybrid.scans.label_image import label_image_suffix, write_label_image
from medhybrid.scans.nifti import is_in_millimetres, nifti_bytes, write_nifti
from medhybrid.scans.scan import Scan, Source

__all__ = [
    "BURNED_IN",
    "Discovery",
    "Scan",
    "ScanEntry",
    "Source",
    "discover",
    "is_in_millimetres",
    "label_image_suffix",
    "nifti_bytes",
    "write_label_image",
    "write_nifti",
]
