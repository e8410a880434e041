"""Fast replacements for parts that a test does not check: figures, the exported program and worker processes."""

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
from medhybrid.runs import validation
from medhybrid.steps import preprocess

PLOTS = ("dice_by_case", "volumes", "dice_over_size", "reliability")


def blank_picture(path: Path) -> Path:
    """Write a PNG of one pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(path)
    return path


@contextmanager
def blank_pictures() -> Iterator[None]:
    """Write blank figures, plots and reports in trainings of this process."""

    def drawn(_: Any, path: Path, **__: Any) -> Path:
        return blank_picture(path)

    def plotted(path: Path, *_: Any) -> Path:
        return blank_picture(path)

    def reported(out: Path, *_: Any, **__: Any) -> Path:
        page = out / "report.html"
        page.write_text("<!doctype html><title>medhybrid</title>")
        return page

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "draw_reference", drawn)
        patch.setattr(validation, "draw_result", drawn)
        patch.setattr(validation, "write_report", reported)
        for name in PLOTS:
            patch.setattr(validation.plots, name, plotted)
        yield


class OneVoxel(nn.Module):
    """Network of one weight, which is exported fast."""

    def __init__(self, _: nn.Module) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, X, Y, Z) to the same shape."""
        return image + self.bias


@contextmanager
def small_program() -> Iterator[None]:
    """Log and register a program of one weight in trainings of this process, beside the files of the model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "FullLogits", OneVoxel)
        yield


class InThisProcess:
    """Replacement of `Processes`, whose workers import all modules again."""

    def __init__(self, _: int) -> None: ...

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Apply `function` to each item."""
        return ((item, function(item)) for item in items)


@contextmanager
def in_this_process() -> Iterator[None]:
    """Check and prepare cases in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "Processes", InThisProcess)
        yield
