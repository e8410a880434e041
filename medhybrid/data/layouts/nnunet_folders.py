"""Folders of nnU-Net other than datasets: preprocessed data, results, and the folder of all three.

nnU-Net keeps datasets in `nnUNet_raw` (version 1: `nnUNet_raw_data_base/nnUNet_raw_data`), and writes `nnUNet_preprocessed`,
with the references but without the scans, and `nnUNet_results`, with predictions that have the names of references.
"""

from __future__ import annotations

import re
from pathlib import Path

from medhybrid.data.channels import IMAGE_SUFFIX
from medhybrid.errors import DataError
from medhybrid.names import printable_path

RAW = ("nnUNet_raw", "nnUNet_raw_data_base", "nnUNet_raw_data")

RESULTS = re.compile(r"(ensemble___)?nnUNetTrainer.*__.+")
"""Name of the folder of a training or an ensemble: its trainer, plans and configuration."""

PLANS = re.compile(r"dataset_fingerprint\.json|dataset_properties\.pkl|nnUNet\w*Plans.*\.(json|pkl)")
"""Files that nnU-Net writes to the folder of a dataset's preprocessed data."""

PREPROCESSED = re.compile(r"gt_segmentations|nnUNet.*|.+_(2d|3d_\w+|stage\d)")
"""Folders in that of a dataset's preprocessed data."""

DEPTH = 4
"""Levels of folders above that of a training: `nnUNet_results/nnUNet/3d_fullres/Task001/nnUNetTrainerV2__nnUNetPlansv2.1`."""


def raw_folder(root: Path) -> Path | None:
    """Return the folder of datasets in one that has nnU-Net's preprocessed data or results beside it; None otherwise."""
    folders = _folders(root)
    raw = [p for p in folders if p.name in RAW]
    others = [p for p in folders if p.name not in RAW]
    if len(raw) != 1 or not all(is_product(p) or not _entries(p) for p in others):
        return None
    inner = raw[0] / RAW[-1]
    return inner if inner.is_dir() else raw[0]


def is_product(folder: Path, depth: int = DEPTH) -> bool:
    """Return whether a folder has nothing but preprocessed data or results of nnU-Net, in itself or in each of its folders."""
    if RESULTS.fullmatch(folder.name) or RESULTS.fullmatch(folder.parent.name):
        return True
    files = [p.name for p in _entries(folder) if p.is_file()]
    if any(map(IMAGE_SUFFIX.search, files)):
        return False
    folders = _folders(folder)
    if any(map(PLANS.fullmatch, files)) and all(PREPROCESSED.fullmatch(p.name) for p in folders):
        return True
    return depth > 0 and bool(folders) and all(is_product(p, depth - 1) for p in folders)


def refuse_products(root: Path) -> None:
    """Raise `DataError` for preprocessed data or results of nnU-Net, which are not a dataset."""
    if is_product(root):
        raise DataError(
            f"{printable_path(root)} has preprocessed data or results of nnU-Net",
            expected="scans with reference masks",
            remedy="give the folder of the dataset, in nnUNet_raw (imagesTr, labelsTr); to use a model of nnU-Net, see "
            "`medhybrid import nnunet`",
        )


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in _entries(folder) if p.is_dir() and not p.name.startswith("."))


def _entries(folder: Path) -> list[Path]:
    """Return the entries of a folder; none if it cannot be read."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []
