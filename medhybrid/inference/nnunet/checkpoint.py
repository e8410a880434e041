"""nnU-Net's checkpoints (`fold_0/checkpoint_final.pth`), read without running code in them.

A checkpoint is a pickle. It is read with `weights_only`, which builds only types of a list: those of torch, and the harmless
ones in `allowed_types`, which nnU-Net's checkpoints hold.
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medhybrid.errors import ModelError
from medhybrid.inference.weights_file import check_archive
from medhybrid.names import printable_path

WRAPPED = re.compile(r"^(module\.|_orig_mod\.)+")
"""Start of the names in a compiled network, or one for several GPUs."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Content of a checkpoint that inference needs.

    Attributes
    ----------
    weights : dict
        Tensors by nnU-Net's names.
    mirror_axes : tuple of int
        Axes of test-time mirroring, in the order of the network's axes.
    """

    weights: dict[str, Tensor]
    configuration: str
    trainer: str
    mirror_axes: tuple[int, ...]


def allowed_types() -> list[Any]:
    """Return the types of nnU-Net's checkpoints that torch does not allow itself: numbers, arrays, devices and sizes."""
    dtypes = {type(np.dtype(kind)) for kind in (*np.typecodes["AllInteger"], *np.typecodes["Float"], "?", "U")}
    scalar: Any = np.float64(0).__reduce__()[0]  # numpy's function for its scalars
    array: Any = np.zeros(1).__reduce__()[0]
    earlier = [(f, f"numpy.core.multiarray.{f.__name__}") for f in (scalar, array)]  # their names before numpy 2
    return [scalar, array, *earlier, np.ndarray, np.dtype, *dtypes, torch.device, torch.Size]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of nnU-Net version 2.

    Raises
    ------
    ModelError
        If it is missing, truncated or damaged, holds other types than tensors and numbers, or is not one of nnU-Net.
    """
    name = printable_path(path)
    if not path.is_file():
        raise ModelError(
            f"{name} does not exist", expected="a checkpoint of nnU-Net", remedy="copy the whole model folder"
        )
    try:
        check_archive(path)
        with torch.serialization.safe_globals(allowed_types()):
            values = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{name} holds more than weights and numbers, and is not read: it could run any code",
            expected="tensors, numbers and texts",
            found=_unknown_type(error),
            remedy="save it again with nnU-Net's own trainer, without further objects",
        ) from error
    except Exception as error:  # zip, torch and pickle have many
        raise ModelError(
            f"{name} is damaged or not a checkpoint",
            found=(str(error).splitlines() or [type(error).__name__])[0][:200],
            remedy="copy it again",
        ) from error
    if not isinstance(values, dict) or not isinstance(values.get("network_weights"), dict):
        raise ModelError(
            f"{name} is not a checkpoint of nnU-Net version 2",
            expected="network_weights, init_args and trainer_name",
            found=", ".join(map(str, list(values)[:6])) if isinstance(values, dict) else type(values).__name__,
        )
    weights = {WRAPPED.sub("", str(k)): v for k, v in values["network_weights"].items()}
    if not all(isinstance(v, Tensor) for v in weights.values()):
        raise ModelError(f"{name} has weights that are not tensors")
    arguments = values.get("init_args")
    configuration = arguments.get("configuration") if isinstance(arguments, dict) else None
    axes = values.get("inference_allowed_mirroring_axes") or ()
    if not all(isinstance(a, int | np.integer) and 0 <= a <= 2 for a in axes):
        raise ModelError(f"{name} has axes of mirroring that do not exist", expected="0, 1, 2", found=str(axes)[:60])
    return Checkpoint(
        weights,
        configuration if isinstance(configuration, str) else "",
        str(values.get("trainer_name") or ""),
        tuple(int(a) for a in axes),
    )


def _unknown_type(error: Exception) -> str:
    """Return the name of the refused type in torch's message, or the start of the message."""
    text = str(error)
    for marker in ("GLOBAL ", "Unsupported class "):
        if marker in text:
            return text.split(marker, 1)[1].split()[0]
    return text.splitlines()[0][:120] if text else type(error).__name__
