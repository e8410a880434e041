"""Test long-range context: the label of a blob depends on the nearer of two distant cubes.

    python benchmarks/far_context.py --folder /tmp/far --minutes 15

Each generated scan (160 x 160 x 8 voxels of 1.5 mm, noise) has a bright and a dark cube, the keys, and eight blobs that look
alike. A blob has label `a` if the bright key is nearer, and `b` if the dark key is nearer. Neither the surroundings of a blob
nor global statistics of the scan (which instance norm would use) determine the label: a network must relate positions. Network
kinds are trained for the same minutes on whole scans. The result is the share of correctly labelled blobs by their distance
from the nearer key, in results/far_context.json and .md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

import medhybrid

RESULTS = Path(__file__).parent / "results"

SHAPE = (160, 160, 8)

SPACING_MM = 1.5

N_BLOBS, RADIUS, KEY = 8, 3, 4

MARGIN = 10
"""Minimum difference between the distances of a blob from the two keys, in voxels."""

EDGES_MM = (0.0, 30.0, 60.0, 90.0, 300.0)

KINDS = ("hybrid", "resnet", "identity", "interleave")


def make_scan(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Generate a scan: image and labels (X, Y, Z), and voxel centres of blobs (N, 3) and of the bright and dark key (2, 3)."""
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 10, SHAPE)
    low, high = np.array([6, 6, 4]), np.array(SHAPE) - (6, 6, 3)

    def place() -> np.ndarray:
        return np.asarray(rng.integers(low.astype(int), high.astype(int)))

    keys = [place(), place()]
    while np.linalg.norm(keys[0] - keys[1]) < 50:
        keys[1] = place()
    for key, contrast in zip(keys, (80, -80), strict=True):
        image[tuple(slice(c - KEY, c + KEY) for c in key)] += contrast
    labels = np.zeros(SHAPE, np.uint8)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    blobs: list[np.ndarray] = []
    while len(blobs) < N_BLOBS:
        centre = place()
        to_keys = [float(np.linalg.norm(centre - key)) for key in keys]
        is_apart = min(to_keys) > 4 * RADIUS and all(np.linalg.norm(centre - other) > 4 * RADIUS for other in blobs)
        if not is_apart or abs(to_keys[0] - to_keys[1]) < MARGIN:
            continue
        blobs.append(centre)
        inside = np.linalg.norm(grid - centre, axis=-1) <= RADIUS
        image[inside] += 40
        labels[inside] = 1 if to_keys[0] < to_keys[1] else 2
    return np.clip(image, 0, None).astype(np.int16), labels, np.array(blobs), np.array(keys)


def write_data(folder: Path, n_train: int, n_validation: int) -> Path:
    """Write the dataset in the layout of the Decathlon, and the config of the study."""
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    names = [f"far_{seed:03d}" for seed in range(n_train + n_validation)]
    for seed, name in enumerate(names):
        image, labels, _, _ = make_scan(seed)
        for kind, array in (("imagesTr", image), ("labelsTr", labels)):
            path = folder / "data" / kind / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                nib.save(nib.Nifti1Image(array, affine), path)
    listed = [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in names]
    (folder / "data" / "dataset.json").write_text(json.dumps({"training": listed}))
    split = {"train": names[:n_train], "validation": names[n_train:]}
    (folder / "data" / "splits.json").write_text(json.dumps([split]))
    study = {
        "name": "far",
        "data": {
            "root": str(folder / "data"),
            "channels": [{"name": "MR"}],
            "labels": {"a": 1, "b": 2},
            "splits": "splits.json",
        },
        "prepare": {
            "folder": str(folder / "prepared"),
            "patch_size": list(SHAPE),
            "batch_size": 2,
            "mirror_axes": [0, 1],
        },
        "augment": {"affine_probability": 0.0, "intensity_probability": 0.0, "low_resolution_probability": 0.0},
        "inference": {"tta_mirroring": False},
        "training": {"n_validations": 4},
        "tracking": {"kind": "none"},
        "runs": str(folder / "runs"),
    }
    (folder / "far.yaml").write_text(yaml.safe_dump(study))
    return folder / "far.yaml"


def right_by_distance(run: Path, names: list[str]) -> list[tuple[float, bool]]:
    """Return, for each blob of the scans, the distance from the nearer key in mm and whether most of its voxels are right."""
    told = []
    for name in names:
        _, labels, blobs, keys = make_scan(int(name.split("_")[1]))
        prediction = np.asarray(nib.load(run / "validation" / f"{name}.nii.gz").dataobj)
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
        for centre in blobs:
            inside = np.linalg.norm(grid - centre, axis=-1) <= RADIUS
            right = (prediction[inside] == labels[tuple(centre)]).mean() > 0.5
            told.append((float(np.linalg.norm(centre - keys, axis=-1).min()) * SPACING_MM, bool(right)))
    return told


def share(told: list[bool]) -> float | None:
    """Return the share of blobs with the right label; None without blobs."""
    return float(np.mean(told)) if told else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Generate the scans, train each kind with each seed, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--scans", default="200,30", help="numbers of training and validation scans")
    parser.add_argument("overrides", nargs="*")
    chosen = parser.parse_intermixed_args(arguments)
    n_train, n_validation = (int(n) for n in chosen.scans.split(","))
    file = write_data(chosen.folder.resolve(), n_train, n_validation)
    kinds, seeds = chosen.kinds.split(","), [int(s) for s in chosen.seeds.split(",")]
    length = f"training.max_minutes={chosen.minutes}"
    configs = {kind: medhybrid.load_config(file, [length, *chosen.overrides, f"network.kind={kind}"]) for kind in kinds}
    medhybrid.preprocess(configs[kinds[0]])
    result = medhybrid.compare_settings(configs, seeds=seeds, name="far-context")
    if result is None:
        raise SystemExit(130)
    runs = json.loads((result.folder / "runs.json").read_text())
    names = [f"far_{seed:03d}" for seed in range(n_train, n_train + n_validation)]
    record: dict[str, Any] = {"minutes": chosen.minutes, "scans": [n_train, n_validation], "seeds": seeds, "kinds": {}}
    bins = list(pairwise(EDGES_MM))
    lines = [
        "| kind | " + " | ".join(f"{a:g} to {b:g} mm" for a, b in bins) + " | all |",
        "| --- " * (len(bins) + 2) + "|",
    ]
    for kind in kinds:
        told = [t for seed in seeds for t in right_by_distance(Path(runs[f"{kind}-seed{seed}"]), names)]
        shares = {f"{a:g}-{b:g}": share([r for d, r in told if a <= d < b]) for a, b in bins}
        shares["all"] = share([r for _, r in told])
        record["kinds"][kind] = shares | {"blobs": len(told)}
        lines.append(f"| {kind} | " + " | ".join("" if v is None else f"{v:.2f}" for v in shares.values()) + " |")
    table = "\n".join([*lines, "", result.table])
    (RESULTS / "far_context.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / "far_context.md").write_text(table)
    print(table)


if __name__ == "__main__":  # workers import this file
    main()
