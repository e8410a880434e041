"""Waits end with their condition, at once where they are in vain, and last longer on a slow machine."""

import itertools
import subprocess
import sys
import time

import pytest

from tests import patience
from tests.patience import patience_s, slowness, wait_until


def test_a_wait_returns_the_value_of_its_condition() -> None:
    values = iter([None, "", "here"])

    assert wait_until(lambda: next(values), "a value") == "here"


def test_a_wait_in_vain_says_for_what_and_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.05)

    with pytest.raises(AssertionError, match=r"the moon: not so after .*; clouds"):
        wait_until(lambda: False, "the moon", found=lambda: "clouds")


def test_a_wait_for_a_process_that_has_ended_is_over() -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])

    with pytest.raises(AssertionError, match="a file: the process ended"):
        wait_until(lambda: False, "a file", process=process)


def test_a_slow_machine_is_waited_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 1.0)
    monkeypatch.setattr(patience, "slowness", lambda: 20.0)
    clock = itertools.count(step=5)  # seconds: each look at it is five later
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    looks = itertools.count()

    assert wait_until(lambda: next(looks) == 4, "the fifth look")
    assert patience_s() == 20.0


def test_slowness_is_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "work", lambda: 0)

    assert slowness() == 1.0
