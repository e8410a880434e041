"""Run nnU-Net by its command line on a dataset of ours: convert, plan, train for a time, and read its masks.

It needs a separate environment with `nnunetv2` (`python -m venv nnunet; nnunet/bin/pip install nnunetv2`), whose folder of
commands is passed. Only the length of its training is changed (nnunet_trainer/minutes.py).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from medhybrid.geometry import Grid
from medhybrid.metrics import LabelScore, score_case

PRESETS = {"nnunet": ("nnUNetPlans", []), "nnunet_resenc": ("nnUNetResEncUNetMPlans", ["-pl", "nnUNetPlannerResEncM"])}
"""Plans and arguments of the planner for each preset: the plain network, and the recommended residual encoder."""

DATASET_ID = 900


@dataclass(frozen=True, slots=True)
class NnUNetResult:
    """Result of an nnU-Net training; `masks` is the folder of masks, with consecutive label values."""

    masks: Path
    steps: int
    seconds: float
    parameters: int
    peak_mib: int


def run_nnunet(
    preset: str,
    root: Path,
    work: Path,
    commands: Path,
    *,
    channels: Sequence[str],
    labels: Mapping[str, int],
    train: Sequence[str],
    validation: Sequence[str],
    minutes: float,
) -> NnUNetResult:
    """Convert `root` (Decathlon layout), prepare, train, and predict the validation cases with nnU-Net's defaults.

    Parameters
    ----------
    work : Path
        Working folder; converted and prepared data in it are used again by later calls.
    commands : Path
        Folder of `nnUNetv2_train` and the other commands.
    """
    plans, planner = PRESETS[preset]
    name = f"Dataset{DATASET_ID}_{root.resolve().name}"
    folders = {key: work / key for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    report = work / f"report_{preset}.json"
    environment = os.environ | {k: str(v.resolve()) for k, v in folders.items()}
    environment |= {
        "nnUNet_extTrainer": str((Path(__file__).parent / "nnunet_trainer").resolve()),
        "NNUNET_MINUTES": str(minutes),
        "NNUNET_REPORT": str(report.resolve()),
    }
    cases = sorted({*train, *validation})
    convert_dataset(root, folders["nnUNet_raw"] / name, channels, labels, cases)

    def call(command: str, *arguments: str) -> int:
        """Run one of nnU-Net's commands and return its peak memory in MiB."""
        with (work / "nnunet.log").open("a") as log:
            process = subprocess.Popen(
                [commands / command, *arguments], env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{command} failed; see its output in {work / 'nnunet.log'}")
        return usage.ru_maxrss // 1024

    prepared = folders["nnUNet_preprocessed"] / name
    if not (prepared / f"{plans}.json").is_file():
        call("nnUNetv2_plan_and_preprocess", "-d", str(DATASET_ID), "-c", "3d_fullres", *planner, "-np", "2")
    (prepared / "splits_final.json").write_text(json.dumps([{"train": list(train), "val": list(validation)}]))
    arguments = [str(DATASET_ID), "3d_fullres", "0", "-tr", "nnUNetTrainerMinutes", "-p", plans]
    peak = call("nnUNetv2_train", *arguments, "-device", "cpu")
    made = folders["nnUNet_results"] / name / f"nnUNetTrainerMinutes__{plans}__3d_fullres" / "fold_0" / "validation"
    told = json.loads(report.read_text())
    return NnUNetResult(made, told["steps"], told["seconds"], told["parameters"], peak)


def score_masks(masks: Path, root: Path, labels: Mapping[str, int], cases: Sequence[str]) -> list[LabelScore]:
    """Score nnU-Net's masks (consecutive values) against the references (label values of the dataset), on the scan grids."""
    table = np.array([0, *labels.values()])
    scores: list[LabelScore] = []
    for case in cases:
        made, reference = nib.load(masks / f"{case}.nii.gz"), nib.load(root / "labelsTr" / f"{case}.nii.gz")
        if made.shape != reference.shape or not np.allclose(made.affine, reference.affine, atol=1e-3):
            raise RuntimeError(f"{case}: nnU-Net's mask is not on the reference's grid")
        grid = Grid(reference.shape, reference.affine)
        prediction = table[np.asarray(made.dataobj, np.uint8)]
        scores += score_case(case, prediction, np.asarray(reference.dataobj), labels, grid)
    return scores


def convert_dataset(
    root: Path, folder: Path, channels: Sequence[str], labels: Mapping[str, int], cases: Sequence[str]
) -> None:
    """Convert the Decathlon layout to nnU-Net's: a file for each channel, consecutive label values from 1."""
    if (folder / "dataset.json").is_file():
        return
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for case in cases:
        image = nib.load(root / "imagesTr" / f"{case}.nii.gz")
        array = np.asarray(image.dataobj)
        array = array if array.ndim == 4 else array[..., None]
        for c in range(len(channels)):
            nib.save(nib.Nifti1Image(array[..., c], image.affine), folder / "imagesTr" / f"{case}_{c:04}.nii.gz")
        mask = np.asarray(nib.load(root / "labelsTr" / f"{case}.nii.gz").dataobj)
        inside = np.zeros(mask.shape, np.uint8)
        for n, value in enumerate(labels.values(), start=1):
            inside[mask == value] = n
        nib.save(nib.Nifti1Image(inside, image.affine), folder / "labelsTr" / f"{case}.nii.gz")
    description = {
        "channel_names": {str(i): c for i, c in enumerate(channels)},
        "labels": {"background": 0} | {label: n for n, label in enumerate(labels, start=1)},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
