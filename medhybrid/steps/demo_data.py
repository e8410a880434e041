"""Synthetic dataset of the demo: half NIfTI, half DICOM series, with NIfTI references and folds."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medhybrid.data.phantom import Subject, load_template, make_subject
from medhybrid.errors import ConfigError
from medhybrid.scans import write_nifti
from medhybrid.scans.dicom.write import write_mr_series

N_SUBJECTS = 20
HELD_OUT_SHARE = 0.3
"""Share of the validation subjects; the DICOM folder for prediction has the same ones."""


def write_demo_data(
    root: str | Path, *, n_subjects: int = N_SUBJECTS, on_subject: Callable[[int], None] = lambda _: None
) -> None:
    """Write `cases.csv`, `splits.json`, images and references, and the held-out subjects as DICOM in `new_scans`.

    Parameters
    ----------
    n_subjects : int
        Number of subjects, at least 2. The last 30 % are held out for validation.
    on_subject : callable
        Called with the number of subjects written so far.

    Raises
    ------
    ConfigError
        If there are fewer than 2 subjects.
    """
    if n_subjects < 2:
        raise ConfigError(f"invalid number of subjects {n_subjects}", expected="2 or more")
    root, template = Path(root), load_template()
    names = [f"brain_{i:02d}" for i in range(n_subjects)]
    n_held_out = max(1, round(HELD_OUT_SHARE * n_subjects))
    rows = []
    for i, name in enumerate(names):
        subject = make_subject(template, seed=1000 + i)
        is_held_out = i >= n_subjects - n_held_out
        row = _write_dicom(root, root / "images", name, subject) if i % 2 else _write_nifti(root, name, subject)
        if is_held_out:
            _write_dicom(root, root / "new_scans", name, subject)
        rows.append({"case": name, "subject": name, **row})
        on_subject(i + 1)
    with (root / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["case", "subject", "T1", "FLAIR", "mask"])
        writer.writeheader()
        writer.writerows(rows)
    fold = {"train": names[:-n_held_out], "validation": names[-n_held_out:]}
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
