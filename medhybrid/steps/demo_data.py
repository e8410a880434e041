"""Synthetic dataset of the demo: half NIfTI, half DICOM series, with NIfTI references and folds."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medhybrid.data.phantom import Subject, load_template, make_subject
from medhybrid.scans import write_nifti
from medhybrid.scans.dicom.write import write_mr_series

N_SUBJECTS = 20
N_HELD_OUT = 6
"""Number of validation subjects; the DICOM folder for prediction has the same ones."""


def write_demo_data(root: str | Path, *, on_subject: Callable[[int], None] = lambda _: None) -> None:
    """Write `cases.csv`, `splits.json`, images and references, and the held-out subjects as DICOM in `new_scans`."""
    root, template = Path(root), load_template()
    names = [f"brain_{i:02d}" for i in range(N_SUBJECTS)]
    rows = []
    for i, name in enumerate(names):
        subject = make_subject(template, seed=1000 + i)
        is_held_out = i >= N_SUBJECTS - N_HELD_OUT
        row = _write_dicom(root, root / "images", name, subject) if i % 2 else _write_nifti(root, name, subject)
        if is_held_out:
            _write_dicom(root, root / "new_scans", name, subject)
        rows.append({"case": name, "subject": name, **row})
        on_subject(i + 1)
    with (root / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["case", "subject", "T1", "FLAIR", "mask"])
        writer.writeheader()
        writer.writerows(rows)
    fold = {"train": names[:-N_HELD_OUT], "validation": names[-N_HELD_OUT:]}
    (root / "splits.json").write_text(json.dumps([fold], indent=1))


def _write_nifti(root: Path, name: str, subject: Subject) -> dict[str, str]:
    row = {}
    for channel, array in (("T1", subject.t1), ("FLAIR", subject.flair)):
        path = root / "images" / f"{name}_{channel}.nii.gz"
        write_nifti(path, np.rint(array).astype(np.uint16), subject.affine)
        row[channel] = str(path.relative_to(root))
    return row | _write_mask(root, name, subject)


def _write_dicom(root: Path, folder: Path, name: str, subject: Subject) -> dict[str, str]:
    row = {}
    for channel, array in (("T1", subject.t1), ("FLAIR", subject.flair)):
        series = folder / name / channel
        write_mr_series(series, array, subject.affine, description=channel, study=name, case=name)
        row[channel] = str(series.relative_to(root))
    return row | _write_mask(root, name, subject)


def _write_mask(root: Path, name: str, subject: Subject) -> dict[str, str]:
    path = root / "references" / f"{name}.nii.gz"
    write_nifti(path, subject.lesions, subject.affine)
    return {"mask": str(path.relative_to(root))}
