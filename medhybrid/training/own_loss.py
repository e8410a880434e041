"""Losses of the user: a Python function that is given with the call of a training, and never found through a record.

A config, a run folder and the record of a model hold at most the word `own`, and the name and hash of the function's file.
They cannot name code that is then imported: such files are exchanged between people, and reading one must not run anything.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from medhybrid.data.fingerprint import UNKNOWN
from medhybrid.errors import ConfigError, TrainingError
from medhybrid.files import write_atomically
from medhybrid.names import printable_path
from medhybrid.networks.regions import RegionScores
from medhybrid.training.team import ALONE, Team

FILE = "own_loss.json"

LossFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Function from logits (B, K, X, Y, Z), target and known voxels (B, X, Y, Z) to a scalar.

Without regions, the target is (B, X, Y, Z) int64 with classes from 0, the background. With regions, it is (B, K, X, Y, Z)
float32, 1 inside. Where a voxel is not known, the target is 0 and must not be used.
"""


class OwnLossRecord(BaseModel):
    """Name of a function and SHA-256 of its file; empty if it has no file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}, SHA-256 {self.sha256[:16]}" if self.sha256 else self.name

    def save(self, folder: Path) -> None:
        """Write the record of a new run."""
        write_atomically(folder / FILE, self.model_dump_json())

    def check(self, folder: Path) -> None:
        """Raise `ConfigError` unless this is the function of an earlier run."""
        try:
            then = OwnLossRecord.model_validate_json((folder / FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise ConfigError(
                f"{folder / FILE} cannot be read", remedy="start a new run: its loss is not known"
            ) from error
        if then != self:
            raise ConfigError(
                f"the run {folder.name} was trained with another loss",
                expected=str(then),
                found=str(self),
                remedy="give the same file, unchanged, or start a new run",
            )


@dataclass(frozen=True, slots=True)
class OwnLoss:
    """Loss of the user, with its record."""

    function: LossFunction
    record: OwnLossRecord

    @classmethod
    def of(cls, function: LossFunction) -> OwnLoss:
        """Return the loss of a function or another callable, such as a module of PyTorch or MONAI."""
        if not callable(function):
            raise ConfigError("the loss is not callable", expected="a function", found=type(function).__name__)
        named = function if inspect.isroutine(function) else type(function)
        name, sha256 = getattr(named, "__qualname__", "loss"), ""
        with suppress(TypeError, OSError):
            path = Path(inspect.getsourcefile(named) or "")
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            name = f"{path.name}:{name}"
        return cls(function, OwnLossRecord(name=name, sha256=sha256))

    def terms(
        self, logits: Tensor, target: Tensor, *, regions: RegionScores | None = None, team: Team = ALONE
    ) -> dict[str, Tensor]:
        """Compute the loss of a part of a batch; that of several processes is the mean of their parts.

        Parameters
        ----------
        logits : (B, K, X, Y, Z) Tensor
            The function gets them in float32.
        target : (B, X, Y, Z) int64 Tensor
            Classes, and `UNKNOWN`.

        Raises
        ------
        TrainingError
            If the function fails, or its result is not a scalar with a gradient.
        """
        known = target != UNKNOWN
        wanted = torch.where(known, target, 0) if regions is None else regions.targets(target)
        try:
            value = self.function(logits.float(), wanted, known)
        except (TypeError, ValueError, AttributeError, LookupError, NameError) as error:
            raise TrainingError(
                f"the loss {self.record.name} fails",
                expected="a function of logits, target and known voxels, which returns a Tensor with one value",
                found=f"{type(error).__name__}: {error}",
                remedy="correct the function; docs/how-to/training-options.md has an example",
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            gradient = ", without a gradient" if isinstance(value, Tensor) and not value.requires_grad else ""
            raise TrainingError(
                f"the loss {self.record.name} cannot be used",
                expected="a Tensor with one value, computed from the logits",
                found=found + gradient,
            )
        return {"own_loss": team.total(value.reshape(()) / team.size)}


def load_own_loss(text: str) -> OwnLoss:
    """Load a loss from `FILE.py:FUNCTION`, as the person who calls the command gave it; this runs the file.

    Raises
    ------
    ConfigError
        If the file cannot be imported or has no such function.
    """
    place, separator, name = text.rpartition(":")
    path = Path(place)
    if not separator or path.suffix != ".py" or not name.isidentifier():
        raise ConfigError(f"{text!r} does not name a loss", expected="FILE.py:FUNCTION")
    if not path.is_file():
        raise ConfigError(f"{printable_path(path)} does not exist", remedy="check --own-loss")
    spec = importlib.util.spec_from_file_location(f"own_loss_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(
            f"{printable_path(path)} cannot be imported", found=f"{type(error).__name__}: {error}"[:300]
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        functions = [n for n, f in vars(module).items() if inspect.isfunction(f)]
        raise ConfigError(
            f"{printable_path(path)} has no function {name}", expected=", ".join(functions) or "a function"
        )
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return OwnLoss(function, OwnLossRecord(name=f"{path.name}:{name}", sha256=sha256))
