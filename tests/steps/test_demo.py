"""The demo runs to its end: data, training, masks, scores of the held-out subjects, report and figure."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medhybrid.config import load_config
from medhybrid.data.phantom import Template
from medhybrid.progress import Silent
from medhybrid.steps import demo as steps
from medhybrid.steps import demo_data


class Tables(Silent):
    """Reporter that keeps the tables."""

    def __init__(self) -> None:
        self.shown: dict[str, list[list[str]]] = {}

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.shown[title] = [list(row) for row in rows]


def test_the_demo_scores_its_held_out_subjects_and_ends_with_their_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The template is a coarse ball, and two steps are trained.
    near = sum(x**2 for x in np.meshgrid(*[np.linspace(-1, 1, 28)] * 3, indexing="ij"))
    grey, white, head = ((near < r).astype(np.float32) for r in (0.4, 0.3, 0.6))
    template = Template(grey - white, white, head, np.diag([2.0, 2.0, 2.0, 1.0]))
    monkeypatch.setattr(demo_data, "load_template", lambda: template)
    monkeypatch.setattr(steps, "N_SUBJECTS", 4)
    monkeypatch.setattr(
        steps,
        "write_demo_data",
        lambda root, on_subject: demo_data.write_demo_data(root, n_subjects=4, on_subject=on_subject),
    )
    small = ["prepare.patch_size=[16,16,16]", "training.iterations=2", "training.n_validations=1", "tracking.kind=none"]

    def load(name: str, overrides: Sequence[str] = ()) -> Any:
        return load_config(name, [*overrides, *small])

    monkeypatch.setattr(steps, "load_config", load)
    reporter = Tables()

    assert steps.demo(tmp_path / "demo", reporter=reporter) == 0

    with (tmp_path / "demo" / "predictions" / "evaluation" / "scores.csv").open(newline="") as file:
        assert {row["case"] for row in csv.DictReader(file)} == {"brain_03"}
    assert (tmp_path / "demo" / "predictions" / "report.html").is_file()
    assert (tmp_path / "demo" / "predictions" / "picture.png").is_file()
    assert "Demo finished" in reporter.shown
