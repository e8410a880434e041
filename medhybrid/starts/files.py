"""Weights from a file or folder of the user's, read without running code that is in it."""

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
from medhybrid.inference.model import load_model
from medhybrid.inference.weights_file import About, check_archive, check_tensors, check_version, read_about

OUR_FILE = "start.safetensors"
"""In the folder of a pretraining."""

CHECKPOINT = Path("checkpoint", "last.pt")
"""In the folder of a run."""

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".pyth", ".bin")

NESTED = ("average", "state_dict", "network_weights", "model", "model_state_dict", "net")
"""Keys under which training programs keep the weights in a checkpoint; the first is ours."""

WHERE = (
    "see docs/how-to/training-options.md for known files, where they are from and their licences; "
    "a run or model folder serves, too"
)


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors by name, where they are from, and what they say of themselves; of another program's, nothing is known."""

    tensors: dict[str, Tensor]
    source: str
    sha256: str
    about: About | None = None


def read_weights(path: Path) -> Weights:
    """Weights of a medhybrid run or model folder, or of a file (`SUFFIXES`).

    Raises
    ------
    ModelError
        If there is none, it is of another kind, is damaged, or holds more than tensors.
    """
    if (path / OUR_FILE).is_file():
        path = path / OUR_FILE
    if not (path / "model.json").is_file() and not (path / "model" / "model.json").is_file():
        path = path / CHECKPOINT if (path / CHECKPOINT).is_file() else path  # a run that was killed
    if path.name == "model.safetensors" and path.with_name("model.json").is_file():
        path = path.parent
    if path.is_dir():
        try:
            return _of_model(path)
        except ModelError as error:
            raise ModelError(f"{path} cannot be a start", found=error.what, remedy=WHERE) from error
    if not path.is_file():
        raise ModelError(f"{path}: there are no weights here", expected="a file or folder", remedy=WHERE)
    if path.suffix not in SUFFIXES:
        raise ModelError(f"{path.name} cannot be read", expected=", ".join(SUFFIXES), remedy=WHERE)
    tensors, about = _read(path)
    if not tensors:
        raise ModelError(f"{path.name} holds no weights", remedy=WHERE)
    return Weights(tensors, path.name, hashlib.sha256(path.read_bytes()).hexdigest(), about)


def _of_model(folder: Path) -> Weights:
    model = load_model(folder, device="cpu")
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
            f"{path.name} holds more than weights, and such files can run code when they are read",
            found=str(error).splitlines()[0][:200],
            remedy="save the state dict alone with its author's program, best as .safetensors",
        ) from error
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # damaged zip files and archives of arrays raise of every kind
        raise ModelError(
            f"{path.name} is damaged or no file of weights", found=str(error)[:200], remedy=WHERE
        ) from error


def _of_checkpoint(path: Path, state: Any) -> About | None:
    """What a checkpoint of ours says of its weights."""
    if not (isinstance(state, dict) and "average" in state):
        return None
    if "about" in state:
        return About.read(state["about"], path.name)
    check_version(path.name, state.get("version"))
    return None


def _tensors_in(state: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint, wherever it keeps them; names without the prefix of a wrapper."""
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
