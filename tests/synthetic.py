"""Small synthetic data, generated in milliseconds."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

from medhybrid.config import InferenceConfig, NetworkConfig, StudyConfig, load_config
from medhybrid.data.plan import Normalisation, Plan
from medhybrid.inference.model_record import ModelRecord

SHAPE = (36, 40, 20)
AFFINE = np.array([[-1.5, 0, 0, 30], [0, 1.5, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1.0]])  # LAS, slices of 3 mm


@dataclass(frozen=True)
class StudyFolder:
    """A folder with `data/`, and the config of a study on it."""

    folder: Path
    config: StudyConfig


def blob_case(seed: int, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (X, Y, Z) uint16 with an ellipsoid and two bright blobs, and the mask uint8 of the blobs (1 and 4)."""
    rng = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    head = (index**2).sum(0) < 0.9
    image = head * (300 + rng.normal(0, 15, shape))
    mask = np.zeros(shape, np.uint8)
    for value, sign, level in ((1, -1, 250), (4, 1, 500)):
        centre = np.array([sign * 0.35, 0, 0]) + rng.uniform(-0.15, 0.15, 3)
        blob = (((index - centre[:, None, None, None]) / rng.uniform(0.2, 0.3)) ** 2).sum(0) < 1
        mask[blob] = value
        image = image + blob * level
    return np.clip(image, 0, None).astype(np.uint16), mask


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """Write a file with nibabel, the independent library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def write_study(root: Path, n_cases: int = 10) -> None:
    """Write a dataset in the layout of the Medical Segmentation Decathlon, with a file of folds."""
    names = [f"case_{i:02d}" for i in range(n_cases)]
    for i, name in enumerate(names):
        image, mask = blob_case(i)
        save_nifti(root / "imagesTr" / f"{name}.nii.gz", image)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", mask)
    listed = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    (root / "dataset.json").write_text(json.dumps({"training": listed}))
    fold = {"train": names[:-3], "validation": names[-3:]}
    (root / "splits.json").write_text(json.dumps([fold]))


def write_csv(root: Path, rows: list[dict[str, str]]) -> None:
    """Write a table of cases."""
    with (root / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def small_values(folder: Path) -> dict[str, Any]:
    """Return the config values of a study whose network trains in seconds."""
    return {
        "name": "blobs",
        "data": {
            "root": str(folder / "data"),
            "channels": [{"name": "T1", "modality": "MR"}],
            "labels": {"left": 1, "right": 4},
        },
        "prepare": {
            "folder": str(folder / "prepared"),
            "patch_size": [24, 24, 16],
            "batch_size": 2,
            "mirror_axes": [0],
            "workers": 1,
        },
        "network": {"widths": [8, 16], "blocks": [1, 1], "token_width": 24, "heads": 2, "depth": 1, "head_width": 8},
        "training": {
            "iterations": 120,
            "warmup_steps": 5,
            "ema": 0.9,
            "n_validations": 2,
            "workers": 1,
            "peak_rate": 5e-3,
            "precision": "float32",
        },
        "inference": {"tta_mirroring": False, "overlap": 0.25, "precision": "float32"},
        "runs": str(folder / "runs"),
    }


def small_config(folder: Path, *overrides: str) -> StudyConfig:
    """Write the YAML of the small study into `folder` and load it."""
    path = folder / "small.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(small_values(folder)))
    return load_config(path, overrides)


def make_test_plan(**changes: Any) -> Plan:
    """Return a plan with one MR channel and one label."""
    values: dict[str, Any] = {
        "study": "test",
        "spacing_mm": (1.5, 1.5, 3.0),
        "patch_size": (16, 16, 8),
        "strides": ((2, 2, 1), (2, 2, 2)),
        "batch_size": 2,
        "normalisation": (Normalisation(channel="T1", rule="zscore_foreground"),),
        "labels": {"lesion": 255},
        "mirror_axes": (0,),
        "keep_largest": (),
        "min_component_ml": 0.0,
        "blank_copied_channels": True,
    }
    return Plan(**{**values, **changes})


def make_test_record(plan: Plan, network: NetworkConfig | None = None) -> ModelRecord:
    """Return a model record with only a plan and a network."""
    return ModelRecord(
        medhybrid_version="0",
        network=network or NetworkConfig(),
        inference=InferenceConfig(),
        channel_map={},
        plan=plan,
        fold=0,
        data_hash="",
        weights_sha256="",
        metrics={},
    )
