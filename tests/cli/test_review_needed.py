"""`predict` ends with the masks that need review and the next command."""

from __future__ import annotations

from pathlib import Path

import pytest

from medhybrid.cli.predict import _report_review
from medhybrid.cli.terminal import TerminalReporter
from medhybrid.inference.records import Prediction
from medhybrid.steps.predict import FolderResult


def ended(capsys: pytest.CaptureFixture[str], n_review: int, n_good: int, out: str = "OUT") -> list[str]:
    verdicts = ["needs review"] * n_review + ["confident"] * n_good
    found = tuple(Prediction(case=f"s{i}", status="done", verdict=v) for i, v in enumerate(verdicts))
    _report_review(FolderResult(Path(out), found, 0, ()), out, TerminalReporter())
    return capsys.readouterr().out.splitlines()


def test_scans_that_need_review_are_counted_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(capsys, 2, 3) == ["2 of 5 masks need review: s0, s1", "next: medhybrid review OUT"]
    assert ended(capsys, 0, 3) == ["0 of 3 masks need review", "next: medhybrid review OUT"]
    assert ended(capsys, 8, 0)[0] == "8 of 8 masks need review: s0, s1, s2, s3, s4 and 3 more"


def test_a_remote_folder_is_reviewed_as_a_copy(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(capsys, 0, 1, "s3://b/out")[1] == "next: medhybrid review FOLDER, a local copy of s3://b/out"
