"""Models of nnU-Net with the masks that nnU-Net predicted, as `benchmarks/nnunet_truth.py` recorded them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

RECORDED = Path(__file__).parent / "recorded"

KINDS = sorted(path.stem for path in RECORDED.glob("*.npz"))


@dataclass(frozen=True)
class Recorded:
    """Model folder as nnU-Net writes it, its images, and nnU-Net's masks (X, Y, Z).

    Attributes
    ----------
    certain : dict
        Where the logits of nnU-Net differ by more than 0.001, so that rounding cannot decide.
    """

    folder: Path
    images: Path
    masks: dict[str, np.ndarray]
    certain: dict[str, np.ndarray]


def write_recorded(kind: str, place: Path, **changed: Any) -> Recorded:
    """Write the folder and the images of a recorded model.

    Parameters
    ----------
    changed
        Further entries of the checkpoints.
    """
    with np.load(RECORDED / f"{kind}.npz") as file:
        arrays = {name: file[name] for name in file.files}
    values = json.loads(str(arrays["json"]))
    configuration = next(n for n in values["plans"]["configurations"] if n != "base")
    folder, images = place / f"nnUNetTrainer__nnUNetPlans__{configuration}", place / "images"
    folder.mkdir(parents=True)
    images.mkdir()
    (folder / "plans.json").write_text(json.dumps(values["plans"]))
    (folder / "dataset.json").write_text(json.dumps(values["dataset"]))
    folds = sorted({name.split("/")[1] for name in arrays if name.startswith("weights/")})
    n_axes = len(values["plans"]["configurations"]["base"]["patch_size"])
    for fold in folds:
        weights = {
            n.split("/", 2)[2]: torch.from_numpy(a) for n, a in arrays.items() if n.startswith(f"weights/{fold}/")
        }
        checkpoint = {
            "network_weights": with_doubled_names(weights),
            "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float64(0.5)], "ema_fg_dice": [np.float32(0.4)]},
            "_best_ema": np.float64(0.4),
            "current_epoch": 1000,
            "init_args": {"configuration": configuration, "fold": int(fold), "device": torch.device("cpu")},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": tuple(values["mirror"] or range(n_axes)),
            **changed,
        }
        (folder / f"fold_{fold}").mkdir()
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    for name, array in arrays.items():
        if name.startswith("images/"):
            image = sitk.GetImageFromArray(array)
            geometry = arrays[f"geometry/{name.split('/')[1]}"].tolist()
            image.SetSpacing(geometry[:3])
            image.SetOrigin(geometry[3:6])
            image.SetDirection(geometry[6:])
            sitk.WriteImage(image, str(images / name.split("/")[1]))
    masks = {name.split("/")[1]: array for name, array in arrays.items() if name.startswith("masks/")}
    bits = {case: np.unpackbits(arrays[f"certain/{case}"], count=mask.size) for case, mask in masks.items()}
    return Recorded(folder, images, masks, {case: bits[case].reshape(mask.shape) == 1 for case, mask in masks.items()})


def with_doubled_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in float32 under all the names that nnU-Net's networks give them."""
    named = {n: t.float() if t.is_floating_point() else t for n, t in weights.items()}
    for name, tensor in list(named.items()):
        for part, number in ((".conv.", 0), (".norm.", 1)):
            if part in name:
                named[name.replace(part, f".all_modules.{number}.")] = tensor
    for name, tensor in list(named.items()):
        if name.startswith("encoder."):
            named[f"decoder.{name}"] = tensor
    return named
