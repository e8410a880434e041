"""The state of a run on disk: everything that is needed to go on as if nothing had happened.

`last.pt` is written under a temporary name and to the disk itself, the one before is kept as `previous.pt`, and then the new
one is renamed: at any moment, that of a power cut too, at least one whole checkpoint has its final name. Loaded with
`weights_only=True`: no pickled code runs.
"""

from __future__ import annotations

import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medhybrid.errors import ModelError, OutputError
from medhybrid.inference.weights_file import check_archive

logger = logging.getLogger(__name__)

NAMES = ("last.pt", "previous.pt")

VERSION = 2
"""Of the state and of what the network computes with it."""


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, containers of them); raises `OutputError`, and keeps what was there then."""
    pending, last = folder / ".pending.pt", folder / "last.pt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with pending.open("wb") as file:
            torch.save({"version": VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        if last.exists():
            last.replace(folder / "previous.pt")
        pending.replace(last)
    except (OSError, RuntimeError) as error:
        pending.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__  # torch hides it behind its own
        if not isinstance(cause, OSError):
            raise
        raise OutputError(
            f"no checkpoint can be written to {folder}",
            found=cause.strerror or str(cause),
            remedy="make room; a later --resume goes on from the checkpoint before",
        ) from error


def has_checkpoint(folder: Path) -> bool:
    """Whether one was ever written to its end."""
    return any((folder / name).exists() for name in NAMES)


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the last whole checkpoint.

    Raises
    ------
    ModelError
        If there is none.
    """
    for name in NAMES:
        path = folder / name
        if not path.exists():
            continue
        try:
            check_archive(path)
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, pickle.PickleError) as error:
            logger.warning("checkpoint %s is damaged (%s); trying the one before", path, type(error).__name__)
            continue
        if state.get("version") != VERSION:
            raise ModelError(
                f"{path} was written by another version of medhybrid",
                expected=f"format {VERSION}",
                found=f"format {state.get('version')}",
                remedy="go on with the version that wrote it, or start a new run",
            )
        return state
    raise ModelError(f"no usable checkpoint in {folder}", remedy="start a new run without --resume")


def to_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a state on the CPU."""
    return {k: v.detach().cpu().clone() for k, v in state.items()}
