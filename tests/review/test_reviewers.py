"""Agreement of two reviewers by their files of marks."""

from __future__ import annotations

from pathlib import Path

import pytest

from medhybrid.cli.entry import main
from medhybrid.errors import DataError
from medhybrid.review.marks import Mark, Marks
from medhybrid.review.reviewers import compare_reviewers


def write(path: Path, reviewer: str, key: str = "k", **decisions: str | None) -> Path:
    path.parent.mkdir(exist_ok=True)
    marks = {
        case: Mark.model_validate({"decision": d, "reviewer": reviewer, "comment": f"{reviewer} on {case}"})
        for case, d in decisions.items()
    }
    path.write_text(Marks(key=key, marks=marks).model_dump_json())
    return path


def test_disputed_cases_come_first_with_both_comments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "a.json", "Ada", one="accepted", two="accepted", three="rejected", four="accepted")
    second = write(tmp_path / "b.json", "Ben", one="accepted", two="rejected", three="rejected", five="accepted")
    result = compare_reviewers(first, second)
    assert [c.case for c in result.cases] == ["two", "one", "three"]
    assert result.names == ("Ada", "Ben")
    assert result.by_one == ("five", "four")
    assert main(["compare", str(first), str(second)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "67% of the decisions agree" in shown
    assert "Ben on two" in shown


def test_comments_without_a_decision_are_not_compared(tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", "Ada", one="accepted", two=None)
    second = write(tmp_path / "b.json", "Ben", one="accepted", two="rejected")
    assert [c.case for c in compare_reviewers(first, second).cases] == ["one"]


def test_marks_of_other_masks_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", "Ada", key="x", one="accepted")
    second = write(tmp_path / "b.json", "Ben", key="y", one="accepted")
    with pytest.raises(DataError, match="different models"):
        compare_reviewers(first, second)


def test_files_without_a_common_case_and_damaged_files_are_explained(tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", "Ada", one="accepted")
    with pytest.raises(DataError, match="no mask has a decision of both"):
        compare_reviewers(first, write(tmp_path / "b.json", "Ben", two="accepted"))
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(DataError, match="not a valid file of review marks"):
        compare_reviewers(first, tmp_path / "c.json")
    with pytest.raises(DataError, match="not a valid file of review marks"):
        compare_reviewers(first, tmp_path / "absent.json")
