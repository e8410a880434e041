"""Generate two studies of brains with lesions, one MR and one CT, to test pretrained weights across modalities.

    python benchmarks/modalities.py /tmp/two
    cd /tmp/two; python REPOSITORY/benchmarks/practices.py ct.yaml ct --other mr.yaml mr --work work \
        --steps 600 --other-steps 600 --settings scratch,twice,other,other_encoder --masks ''

The MR is the T1 of the demo. The CT has other subjects, with fluid near 5, white matter near 28, grey matter near 37 and bone
above 600 Hounsfield units. Lesions are about 15 units darker than their surroundings, and noise has a deviation of 5 units.
Each study has 14 training and 10 validation subjects.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from scipy import ndimage

from medhybrid.data.phantom import Subject, load_template, make_subject
from medhybrid.scans import write_nifti

N_TRAIN, N_VALIDATION = 14, 10
FIRST_SEED = {"mr": 1000, "ct": 5000}

TISSUES = ((0.0, -1000.0), (0.02, 0.0), (0.15, 5.0), (0.55, 37.0), (0.85, 28.0), (1.2, 25.0))
"""T1 signal of the phantom before scaling, and the Hounsfield units of that tissue."""


def as_ct(subject: Subject, rng: np.random.Generator) -> np.ndarray:
    """Return Hounsfield units (X, Y, Z) of the tissues of a subject, with a skull around them."""
    inside = subject.t1 > 0
    signal = subject.t1 / np.percentile(subject.t1[inside], 98) * 0.9
    signals, units = zip(*TISSUES, strict=True)
    hounsfield = np.interp(ndimage.gaussian_filter(signal, 0.7), signals, units)
    head = ndimage.binary_fill_holes(inside)
    skull = head & ~ndimage.binary_erosion(head, iterations=3)
    hounsfield[skull] = rng.uniform(600, 1200)
    hounsfield -= ndimage.gaussian_filter(subject.lesions.astype(float), 0.6) * rng.uniform(10, 20)
    hounsfield += rng.normal(0, 5, hounsfield.shape)
    hounsfield[~head] = -1000
    rounded: np.ndarray = np.rint(hounsfield).astype(np.int16)
    return rounded


def write_study(folder: Path, name: str) -> None:
    """Write `folder/<name>` with scans, masks, table and fold, and `folder/<name>.yaml`."""
    template, rows = load_template(), []
    names = [f"{name}_{n:02d}" for n in range(N_TRAIN + N_VALIDATION)]
    for n, case in enumerate(names):
        subject = make_subject(template, seed=FIRST_SEED[name] + n)
        is_ct = name == "ct"
        values = as_ct(subject, np.random.default_rng(n)) if is_ct else np.rint(subject.t1).astype(np.uint16)
        write_nifti(folder / name / "images" / f"{case}.nii.gz", values, subject.affine)
        write_nifti(folder / name / "masks" / f"{case}.nii.gz", subject.lesions, subject.affine)
        rows.append([case, case, f"images/{case}.nii.gz", f"masks/{case}.nii.gz"])
    with (folder / name / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["case", "subject", "scan", "mask"], *rows])
    fold = {"train": names[:N_TRAIN], "validation": names[N_TRAIN:]}
    (folder / name / "splits.json").write_text(json.dumps([fold]))
    study = {
        "name": name,
        "data": {
            "layout": "csv",
            "channels": [{"name": "scan", "modality": name.upper()}],
            "labels": {"lesion": 1},
            "splits": "splits.json",
        },
        "prepare": {"patch_size": [48, 56, 32], "batch_size": 2, "mirror_axes": [0]},
        "training": {"foreground_share": 0.5, "n_validations": 2},
        "inference": {"overlap": 0.0, "tta_mirroring": False},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(study, sort_keys=False))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write both studies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    for name in FIRST_SEED:
        write_study(folder, name)


if __name__ == "__main__":
    main()
