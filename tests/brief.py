"""What a test does not look at, done in brief: pictures, the program for MLflow and processes that prepare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from medhybrid.inference import program
from medhybrid.steps import preprocess, validation_record

PLOTS = ("dice_by_case", "volumes", "dice_over_size", "reliability")


def blank_picture(path: Path) -> Path:
    """Write a PNG of one pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(path)
    return path


@contextmanager
def blank_pictures() -> Iterator[None]:
    """Let trainings of this process write each picture, plot and report under its name, and blank."""

    def drawn(_: Any, path: Path, **__: Any) -> Path:
        return blank_picture(path)

    def plotted(path: Path, *_: Any) -> Path:
        return blank_picture(path)

    def reported(out: Path, *_: Any, **__: Any) -> Path:
        page = out / "report.html"
        page.write_text("<!doctype html><title>medhybrid</title>")
        return page

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation_record, "draw_reference", drawn)
        patch.setattr(validation_record, "draw_result", drawn)
        patch.setattr(validation_record, "write_report", reported)
        for name in PLOTS:
            patch.setattr(validation_record.plots, name, plotted)
        yield


class OneVoxel(nn.Module):
    """In place of a network, for a program that is exported at once."""

    def __init__(self, _: nn.Module) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> the same."""
        return image + self.bias


@contextmanager
def small_program() -> Iterator[None]:
    """Let trainings of this process log and register a program of one weight, with the files of their own model beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "FullLogits", OneVoxel)
        yield


class InThisProcess:
    """In place of `Processes`, which import all that a case needs anew."""

    def __init__(self, _: int) -> None: ...

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Apply `function` to each item."""
        return ((item, function(item)) for item in items)


@contextmanager
def in_this_process() -> Iterator[None]:
    """Let cases be checked and prepared by this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "Processes", InThisProcess)
        yield
