"""A line of progress fits into the terminal, with the time left first; a log file gets one line an interval."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from medhybrid.cli import terminal
from medhybrid.cli.progress_line import Clock, clock_time, duration, log_interval_s, log_line, progress_line
from medhybrid.cli.terminal import TerminalReporter

TRAINING = "step 1240  loss 0.312  dice 0.713"


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (80, "12 min left  ━━━━╌╌╌╌   46 %  10:25  training: step 1240  loss 0.312  dice 0.713"),
        (
            120,
            "12 min left  ━━━━━━━━━━━━━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌   46 %  10:25  training: step 1240  loss 0.312  dice 0.713",
        ),
        (60, "12 min left  ━━━━╌╌╌╌   46 %  10:25  step 1240  loss 0.312 …"),
    ],
)
def test_a_line_of_a_training_fits_into_the_terminal(width: int, expected: str) -> None:
    line = progress_line("training", 0.46, TRAINING, left_s=734, elapsed_s=625, width=width)
    assert line == expected
    assert len(line) <= width


@pytest.mark.parametrize("width", [40, 79, 80, 120, 200])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_no_line_is_wider_than_the_terminal(width: int, fraction: float) -> None:
    line = progress_line("training", fraction, "x" * 300, left_s=3 * 86_400, elapsed_s=86_399, width=width)
    assert len(line) <= width


def test_a_terminal_without_unicode_gets_an_ascii_bar() -> None:
    line = progress_line("preparing", 0.5, "case_01", left_s=None, elapsed_s=3, width=79, plain=True)
    assert line.startswith("estimating   ####")
    assert line.replace("…", "").isascii()


@pytest.mark.parametrize(
    ("seconds", "words", "clock"),
    [(0, "0 s", "0:00"), (89, "89 s", "1:29"), (90, "2 min", "1:30"), (5400, "1 h 30 min", "1:30:00")],
)
def test_durations(seconds: float, words: str, clock: str) -> None:
    assert (duration(seconds), clock_time(seconds)) == (words, clock)


def test_the_time_left_follows_from_the_work_of_this_call() -> None:
    now = 0.0
    clock = Clock(lambda: now)
    clock.note(0.5)  # done by an interrupted run
    now = 10.0
    clock.note(0.6)
    assert clock.left_s(0.6) == pytest.approx(40)


def test_the_lines_of_a_log_file_become_rarer_in_long_work() -> None:
    assert log_interval_s(0) == 30
    assert log_interval_s(3600) == 180
    assert log_line("training", 0.46, TRAINING, left_s=734, elapsed_s=625) == (
        "training: 46 %, 12 min left, 10:25 elapsed  step 1240  loss 0.312  dice 0.713"
    )


def test_a_log_file_gets_one_line_an_interval(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    reporter = TerminalReporter()
    reporter.begin("training", 1.0)
    for step in range(1, 101):
        now += 1.0
        reporter.advance(step / 100, f"step {step}")
    reporter.end()
    assert capsys.readouterr().err.splitlines() == [
        "training",
        "training: 31 %, 69 s left, 0:31 elapsed  step 31",
        "training: 62 %, 38 s left, 1:02 elapsed  step 62",
        "training: 93 %, 7 s left, 1:33 elapsed  step 93",
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_of_a_terminal_is_one_line(width: int) -> None:
    reporter, shown = TerminalReporter(), io.StringIO()
    reporter.err = Console(file=shown, force_terminal=True, width=width, color_system=None)
    reporter.begin("training", 1.0)
    reporter.advance(0.46, TRAINING)
    assert reporter._progress is not None
    reporter._progress.refresh()
    line = shown.getvalue().replace("\r", "\n").splitlines()[-1]
    reporter.end()
    assert "46 %" in line
    assert line.rstrip().endswith(TRAINING)
