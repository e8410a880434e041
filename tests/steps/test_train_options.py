"""Trainings with another length than the plan: what is reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medhybrid.config import load_config
from medhybrid.data.plan import PlanBudget
from medhybrid.progress import Silent
from medhybrid.runs.remarks import report_other_budget
from medhybrid.runs.setup import resolve_setup
from tests.synthetic import StudyFolder

SHORT = ("training.iterations=10", "tracking.kind=jsonl")


class Messages(Silent):
    """Reporter that keeps messages."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def message(self, text: str) -> None:
        """Keep a message."""
        self.told.append(text)


def config_of(study: StudyFolder, runs: Path, *changes: str) -> Any:
    return load_config(str(study.folder / "small.yaml"), [f"runs={runs}", *SHORT, *changes])


@pytest.mark.parametrize(
    ("minutes", "steps", "reasons", "told"),
    [
        (None, 10, {}, False),
        (30.0, None, {}, True),
        (None, 500, {}, True),
        (30.0, None, dict.fromkeys(("spacing_mm", "patch_size", "batch_size"), "config: prepare"), False),
    ],
)
def test_a_length_other_than_that_of_the_plan_is_told(
    prepared: StudyFolder, tmp_path: Path, minutes: float | None, steps: int | None, reasons: dict[str, str], told: bool
) -> None:
    setup = resolve_setup(config_of(prepared, tmp_path))
    budget = PlanBudget(minutes=minutes, steps=steps, memory_bytes=1, rates={})
    plan = setup.plan.model_copy(update={"budget": budget, "reasons": reasons})
    reporter = Messages()

    report_other_budget(replace(setup, plan=plan), reporter)

    planned = "30 minutes" if minutes else f"{steps} steps"
    expected = f"the plan was made for {planned} and this training has 10 steps"
    assert [text.startswith(expected) for text in reporter.told] == [True] * told
