"""A single pair of image and mask trains with a warning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import medhybrid
from medhybrid.errors import DataError
from medhybrid.inference.model_record import read_record
from medhybrid.progress import Silent
from tests.synthetic import small_config, write_study

pytestmark = pytest.mark.usefixtures("in_this_process")


class Messages(Silent):
    """Reporter that keeps the messages."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def test_one_pair_trains_without_validation(tmp_path: Path) -> None:
    write_study(tmp_path / "data", n_cases=1)
    (tmp_path / "data" / "splits.json").unlink()
    config = small_config(tmp_path, "training.iterations=1", "tracking.kind=jsonl")
    reporter = Messages()

    prepared = medhybrid.preprocess(config, reporter=reporter)
    run = medhybrid.train(config)

    assert any("none validates" in text for text in reporter.said)
    assert json.loads((prepared.folder / "folds.json").read_text()) == [{"train": ["case_00"], "validation": []}]
    assert run.verdict is not None
    assert run.verdict.outcome == "unscored"
    assert not read_record(run.folder)[1].calibration.is_fitted
    assert "The model is not scored" in (run.folder / "model" / "card.md").read_text()
    with pytest.raises(DataError, match="has no validation case"):
        medhybrid.cross_validate(config)
