"""Waits end with their condition or with the process, and last longer on a slow host."""

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


def test_a_failed_wait_reports_condition_and_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.05)

    with pytest.raises(AssertionError, match=r"the moon: not true after .*; clouds"):
        wait_until(lambda: False, "the moon", found=lambda: "clouds")


def test_a_wait_for_an_ended_process_fails_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])

    with pytest.raises(AssertionError, match="a file: the process ended"):
        wait_until(lambda: False, "a file", process=process)


def test_waits_are_longer_on_a_slow_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 1.0)
    monkeypatch.setattr(patience, "slowness", lambda: 20.0)
    clock = itertools.count(step=5)  # in seconds; each call is five seconds later
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    looks = itertools.count()

    assert wait_until(lambda: next(looks) == 4, "the fifth look")
    assert patience_s() == 20.0


def test_slowness_is_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "work", lambda: 0)

    assert slowness() == 1.0
