"""Checkpoints: the complete state of a run on disk, from which it resumes as if it had never stopped.

A checkpoint is written to a temporary file and flushed to the disk. Then `last.pt` is renamed to `previous.pt`, and the new
file to `last.pt`. So at any moment, also at a power cut, at least one complete checkpoint has its final name. Checkpoints are
loaded with `weights_only=True`, so that no pickled code runs.
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
"""Version of the checkpoint format and of the computation of the network."""


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of `state`: tensors, numbers, strings, and containers of them.

    Raises
    ------
    OutputError
        If it cannot be written; earlier checkpoints are kept.
    """
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
        cause = error if isinstance(error, OSError) else error.__context__  # torch raises its own error over it
        if not isinstance(cause, OSError):
            raise
        raise OutputError(
            f"no checkpoint can be written to {folder}",
            found=cause.strerror or str(cause),
            remedy="free disk space; --resume then continues from the previous checkpoint",
        ) from error


def has_checkpoint(folder: Path) -> bool:
    """Return whether a folder has a checkpoint."""
    return any((folder / name).exists() for name in NAMES)


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Load the latest readable checkpoint; a damaged one is skipped with a warning.

    Raises
    ------
    ModelError
        If none is readable, or it was written by another version of the format.
    """
    for name in NAMES:
        path = folder / name
        if not path.exists():
            continue
        try:
            check_archive(path)
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, pickle.PickleError) as error:
            logger.warning("checkpoint %s is damaged (%s) and skipped", path, type(error).__name__)
            continue
        if state.get("version") != VERSION:
            raise ModelError(
                f"{path} was written by another version of medhybrid",
                expected=f"format {VERSION}",
                found=f"format {state.get('version')}",
                remedy="resume with the version that wrote it, or start a new run",
            )
        return state
    raise ModelError(f"no usable checkpoint in {folder}", remedy="start a new run without --resume")


def to_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy a state dict to the CPU."""
    return {k: v.detach().cpu().clone() for k, v in state.items()}
