"""Weights from a file or folder of the user's, read without running code that is in it."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medhybrid.errors import ModelError
from medhybrid.inference.model import load_model

OUR_FILE = "start.safetensors"
"""In the folder of a pretraining."""

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".pyth", ".bin")

NESTED = ("state_dict", "network_weights", "model", "model_state_dict", "net")
"""Keys under which training programs keep the weights in a checkpoint."""

WHERE = "docs/practices.md lists known files, where they are from and their licences; a run or model folder serves, too"


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors by name, and where they are from.

    Attributes
    ----------
    channels, labels : tuple of str
        Names of a medhybrid model's inputs and outputs; empty where they are not known.
    """

    tensors: dict[str, Tensor]
    source: str
    sha256: str
    channels: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def is_ours(self) -> bool:
        """Whether they are of a medhybrid model."""
        return bool(self.channels)


def read_weights(path: Path) -> Weights:
    """Weights of a medhybrid run or model folder, or of a file (`SUFFIXES`).

    Raises
    ------
    ModelError
        If there is none, it is of another kind, is damaged, or holds more than tensors.
    """
    if (path / OUR_FILE).is_file():
        path = path / OUR_FILE
    if path.is_dir():
        model = load_model(path, device="cpu")
        record = model.record
        return Weights(
            {name: tensor.detach() for name, tensor in model.network.state_dict().items()},
            source=f"medhybrid {record.network.kind}, {', '.join(record.plan.labels)}",
            sha256=record.weights_sha256,
            channels=record.plan.channels,
            labels=tuple(record.plan.labels),
        )
    if not path.is_file():
        raise ModelError(f"{path}: there are no weights here", expected="a file or folder", remedy=WHERE)
    if path.suffix not in SUFFIXES:
        raise ModelError(f"{path.name} cannot be read", expected=", ".join(SUFFIXES), remedy=WHERE)
    tensors = _read(path)
    if not tensors:
        raise ModelError(f"{path.name} holds no weights", remedy=WHERE)
    channels = _our_channels(path)
    return Weights(tensors, source=path.name, channels=channels, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def save_start(path: Path, tensors: dict[str, Tensor], *, channels: Sequence[str]) -> Path:
    """Write weights of a medhybrid network that is no model, with the names of its channels."""
    from safetensors.torch import save_file

    pending = path.with_name(f".{path.name}")
    metadata = {"medhybrid.channels": json.dumps(list(channels))}
    save_file({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, pending, metadata=metadata)
    pending.replace(path)
    return path


def _our_channels(path: Path) -> tuple[str, ...]:
    from safetensors import safe_open

    if path.suffix != ".safetensors":
        return ()
    with safe_open(path, framework="pt") as file:
        return tuple(json.loads((file.metadata() or {}).get("medhybrid.channels", "[]")))


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in arrays.files}
        return _tensors_in(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path.name} holds more than weights, and such files can run code when they are read",
            found=str(error).splitlines()[0][:200],
            remedy="save the state dict alone with its author's program, best as .safetensors",
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, SafetensorError) as error:
        raise ModelError(
            f"{path.name} is damaged or no file of weights", found=str(error)[:200], remedy=WHERE
        ) from error


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
