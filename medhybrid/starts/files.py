"""Reading of pretrained weights from a file or folder, without running code in it."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medhybrid.errors import ModelError
from medhybrid.inference.model_folder import load_model_folder
from medhybrid.inference.weights_file import About, check_archive, check_tensors, check_version, read_about

OUR_FILE = "start.safetensors"
"""Weights in the folder of a pretraining."""

CHECKPOINT = Path("checkpoint", "last.pt")
"""Latest checkpoint in the folder of a run."""

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".pyth", ".bin")

NESTED = ("average", "state_dict", "network_weights", "model", "model_state_dict", "net")
"""Keys of the weights in checkpoints of training programs; the first is medhybrid's."""

WHERE = (
    "see docs/how-to/training-options.md for known files with their sources and licences; "
    "run and model folders of medhybrid work, too"
)


@dataclass(frozen=True, slots=True)
class Weights:
    """Named tensors with their source and their record; weights of other programs have no record."""

    tensors: dict[str, Tensor]
    source: str
    sha256: str
    about: About | None = None


def read_weights(path: Path) -> Weights:
    """Read the weights of a medhybrid run or model folder, or of a file (`SUFFIXES`).

    Raises
    ------
    ModelError
        If the file is missing, damaged, of an unknown type, or holds more than tensors.
    """
    if (path / OUR_FILE).is_file():
        path = path / OUR_FILE
    if not (path / "model.json").is_file() and not (path / "model" / "model.json").is_file():
        path = path / CHECKPOINT if (path / CHECKPOINT).is_file() else path  # a run that was killed has no model folder
    if path.name == "model.safetensors" and path.with_name("model.json").is_file():
        path = path.parent
    if path.is_dir():
        try:
            return _of_model(path)
        except ModelError as error:
            raise ModelError(f"{path} cannot be used as pretrained weights", found=error.what, remedy=WHERE) from error
    if not path.is_file():
        raise ModelError(f"{path}: no weights found", expected="a file or folder with weights", remedy=WHERE)
    if path.suffix not in SUFFIXES:
        raise ModelError(
            f"{path.name} is not a known type of weights file", expected=f"one of {', '.join(SUFFIXES)}", remedy=WHERE
        )
    tensors, about = _read(path)
    if not tensors:
        raise ModelError(f"{path.name} holds no weights", remedy=WHERE)
    return Weights(tensors, path.name, hashlib.sha256(path.read_bytes()).hexdigest(), about)


def _of_model(folder: Path) -> Weights:
    model = load_model_folder(folder, device="cpu")
    record = model.record
    return Weights(
        {name: tensor.detach() for name, tensor in model.network.state_dict().items()},
        source=f"medhybrid {record.network.kind}, {', '.join(record.plan.labels)}",
        sha256=record.weights_sha256,
        about=record.about,
    )


def _read(path: Path) -> tuple[dict[str, Tensor], About | None]:
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            tensors = dict(load_file(path))
            check_tensors(path, tensors)
            return tensors, read_about(path)
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in arrays.files}, None
        check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        return _tensors_in(state), _of_checkpoint(path, state)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path.name} holds more than weights, and reading such a file could run code in it",
            expected="tensors only",
            found=str(error).splitlines()[0][:200],
            remedy="save only the state dict with the program that wrote the file, preferably as .safetensors",
        ) from error
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # damaged archives raise many types of errors
        raise ModelError(
            f"{path.name} is damaged or not a weights file", found=str(error)[:200], remedy=WHERE
        ) from error


def _of_checkpoint(path: Path, state: Any) -> About | None:
    """Return the record of the weights in a medhybrid checkpoint; None for other checkpoints and earlier versions."""
    if not (isinstance(state, dict) and "average" in state):
        return None
    if "about" in state:
        return About.read(state["about"], path.name)
    check_version(path.name, state.get("version"))
    return None


def _tensors_in(state: Any) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint from any of its `NESTED` keys, with names without the prefix of a wrapper module."""
    for key in NESTED:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        return {}
    named = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    for prefix in ("module.", "_orig_mod."):
        if named and all(name.startswith(prefix) for name in named):
            named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    return named
