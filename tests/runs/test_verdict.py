"""A training that failed or was too short says so, with its reasons and the next command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medhybrid.runs.verdict import Verdict, enough_steps, judge_training, loss_change
from tests.synthetic import small_config


def judge(
    folder: Path, *lengths: str, n_steps: int, dice: float | None, losses: tuple[float, ...] = (), elapsed_s: float = 60
) -> Verdict | None:
    folder.mkdir(exist_ok=True)
    events = [{"event": "metrics", "step": 10 * i, "values": {"train/loss": v}} for i, v in enumerate(losses, start=1)]
    (folder / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    return judge_training(folder, small_config(folder, *lengths), n_steps=n_steps, elapsed_s=elapsed_s, dice=dice)


def test_one_step_with_a_low_dice_has_failed(tmp_path: Path) -> None:
    verdict = judge(tmp_path / "run", "training.iterations=1", n_steps=1, dice=0.05)

    assert verdict is not None
    assert verdict.lines == (
        "The training failed: mean Dice 0.05.",
        "  - too few steps for this plan: 1 of about 800",
        "  - the confidence is not calibrated: every mask of this model needs review",
        f"next: medhybrid train --resume --run {tmp_path / 'run'} training.iterations=+799",
    )


def test_a_short_training_whose_loss_falls_is_named_with_the_time_it_needs(tmp_path: Path) -> None:
    losses = tuple(2 - 0.05 * i for i in range(20))
    verdict = judge(tmp_path, "training.max_minutes=2", n_steps=200, dice=0.6, losses=losses, elapsed_s=120)

    assert verdict is not None
    assert verdict.outcome == "short"
    assert verdict.reasons[1] == "the loss is still falling: 1.40 to 1.15 in the last half of the run"
    assert verdict.command.endswith("training.max_minutes=+6"), "200 steps took 2 minutes, and 600 are missing"


@pytest.mark.parametrize(("n_steps", "dice"), [(5000, 0.4), (200, 0.9), (800, 0.75)])
def test_a_long_or_good_training_has_no_verdict(tmp_path: Path, n_steps: int, dice: float) -> None:
    assert judge(tmp_path, n_steps=n_steps, dice=dice) is None


def test_a_long_training_that_failed_names_other_causes(tmp_path: Path) -> None:
    verdict = judge(tmp_path, n_steps=5000, dice=0.02)
    assert verdict is not None
    assert verdict.command == "", "more steps are no remedy"
    assert "may not lie on their images" in " ".join(verdict.reasons)


def test_a_model_without_validation_is_not_scored(tmp_path: Path) -> None:
    verdict = judge(tmp_path, n_steps=5000, dice=None)
    assert verdict is not None
    assert verdict.outcome == "unscored"
    assert verdict.reasons == ("the confidence is not calibrated",)
    assert judge(tmp_path, "training.fold=all", n_steps=5000, dice=None) is None, "as the config asks for"


def test_the_number_of_steps_follows_the_planning_rule() -> None:
    n = enough_steps()
    assert 1 / n**0.5 + 90 / n <= 0.15 < 1 / (n - 100) ** 0.5 + 90 / (n - 100)


def test_few_losses_are_not_judged() -> None:
    assert loss_change([1.0] * 7) is None
    assert loss_change([4.0] * 4 + [2.0, 2.0, 1.0, 1.0]) == (2.0, 1.0)
