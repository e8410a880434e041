"""Weights from a file or folder of the user's, read without running code that is in it."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from medhybrid.errors import ModelError
from medhybrid.inference.model import FORMAT_VERSION, load_model

OUR_FILE = "start.safetensors"
"""In the folder of a pretraining."""

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".pyth", ".bin")

NESTED = ("average", "state_dict", "network_weights", "model", "model_state_dict", "net")
"""Keys under which training programs keep the weights in a checkpoint; the first is ours."""

ABOUT = "medhybrid"
"""Key of what our own file says of itself."""

WHERE = "docs/practices.md lists known files, where they are from and their licences; a run or model folder serves, too"


class About(BaseModel):
    """What is known of weights besides their values; of another program's, nothing.

    Attributes
    ----------
    format_version : int
        Of what a network computes with them; see `inference.model`.
    channels, labels : tuple of str
        Names of the network's inputs and outputs.
    heads : int
        Attention heads that share a token's width: others cut it elsewhere.
    learnt_from : tuple of str
        Hashes of the pictures (`data.pictures`) that they were learnt from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    channels: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    heads: int | None = None
    learnt_from: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors by name, where they are from, and what is known of them."""

    tensors: dict[str, Tensor]
    source: str
    sha256: str
    about: About = field(default_factory=About)


def read_weights(path: Path) -> Weights:
    """Weights of a medhybrid run or model folder, or of a file (`SUFFIXES`).

    Raises
    ------
    ModelError
        If there is none, it is of another kind, is damaged, or holds more than tensors.
    """
    if (path / OUR_FILE).is_file():
        path = path / OUR_FILE
    if path.name == "model.safetensors" and path.with_name("model.json").is_file():
        path = path.parent
    if path.is_dir():
        return _of_model(path)
    if not path.is_file():
        raise ModelError(f"{path}: there are no weights here", expected="a file or folder", remedy=WHERE)
    if path.suffix not in SUFFIXES:
        raise ModelError(f"{path.name} cannot be read", expected=", ".join(SUFFIXES), remedy=WHERE)
    tensors = _read(path)
    if not tensors:
        raise ModelError(f"{path.name} holds no weights", remedy=WHERE)
    return Weights(tensors, path.name, hashlib.sha256(path.read_bytes()).hexdigest(), _about(path))


def save_start(path: Path, tensors: dict[str, Tensor], about: About) -> Path:
    """Write weights of a medhybrid network that is no model, and what is known of them."""
    from safetensors.torch import save_file

    pending = path.with_name(f".{path.name}")
    metadata = {ABOUT: about.model_dump_json()}
    save_file({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, pending, metadata=metadata)
    pending.replace(path)
    return path


def _of_model(folder: Path) -> Weights:
    model = load_model(folder, device="cpu")
    record = model.record
    return Weights(
        {name: tensor.detach() for name, tensor in model.network.state_dict().items()},
        source=f"medhybrid {record.network.kind}, {', '.join(record.plan.labels)}",
        sha256=record.weights_sha256,
        about=About(
            format_version=record.format_version,
            channels=record.plan.channels,
            labels=tuple(record.plan.labels),
            heads=record.network.heads,
            learnt_from=record.learnt_from,
        ),
    )


def _about(path: Path) -> About:
    from safetensors import safe_open

    if path.suffix != ".safetensors":
        return About()
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(ABOUT)
    try:
        about = About() if text is None else About.model_validate_json(text)
    except ValidationError as error:
        raise ModelError(f"{path.name} does not say what it is", found=str(error)[:200], remedy=WHERE) from error
    _check_version(path, about.format_version)
    return about


def _check_version(path: Path, version: Any) -> None:
    if version != FORMAT_VERSION:
        raise ModelError(
            f"the weights in {path.name} were made by another version of medhybrid",
            expected=f"format {FORMAT_VERSION}",
            found=f"format {version}",
            remedy="make them again",
        )


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in arrays.files}
        state = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(state, dict) and "average" in state:
            _check_version(path, state.get("version"))
        return _tensors_in(state)
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
