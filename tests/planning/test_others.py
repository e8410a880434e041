"""A speed that is measured beside other programs is doubtful, and the plan reports it."""

from __future__ import annotations

import pytest

from medhybrid.planning import others
from medhybrid.planning.others import OtherLoad
from medhybrid.progress import Silent
from medhybrid.steps import plan as step
from tests.planning.test_plan import GIB, SLOW, config, fingerprint


class Messages(Silent):
    """Reporter that keeps messages."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def message(self, text: str) -> None:
        self.shown.append(text)


def test_cores_in_use_by_others_are_those_of_all_programs_without_the_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, busy, own = iter([10.0, 20.0]), iter([100.0, 125.0]), iter([5.0, 20.0])
    monkeypatch.setattr(others.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(others, "_busy_s", lambda: next(busy))
    monkeypatch.setattr(others, "_own_s", lambda: next(own))
    assert OtherLoad().cores == 1.0


@pytest.mark.parametrize(("cores", "is_told"), [(0.1, False), (1.5, True)])
def test_a_plan_measured_on_a_busy_machine_says_how_to_plan_again(
    cores: float, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "measure_rates", lambda *_: SLOW)
    monkeypatch.setattr(OtherLoad, "cores", cores)
    study = config()
    training = study.training.model_copy(update={"max_minutes": 20.0, "iterations": None, "device": "cpu"})
    messages = Messages()
    step.plan_dataset(
        study.model_copy(update={"training": training}),
        fingerprint((160, 160, 100), (1, 1, 1), thickness_mm=20),
        memory=8 * GIB,
        reporter=messages,
    )
    assert (
        any("other programs used 1.5 CPU cores" in text and "plan.json" in text for text in messages.shown) is is_told
    )
