"""Output of commands: text in the terminal, JSON lines for programs."""

from __future__ import annotations

import io
import json
import logging
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from medhybrid.cli import main
from medhybrid.cli.terminal import JsonReporter, TerminalReporter
from medhybrid.errors import SafeFormatter
from tests.synthetic import StudyFolder


def test_json_prints_progress_tables_and_messages_as_lines(
    prepared: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["--json", "inspect", str(prepared.folder / "data" / "imagesTr")])

    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    table = next(e for e in events if e["event"] == "table")
    assert [r["scan"] for r in table["rows"]] == [f"case_{i:02d}" for i in range(10)]
    assert table["rows"][0]["shape"] == "36 x 40 x 20"
    assert events[-1] == {"event": "message", "text": "10 scans, 0 refused, 0 skipped, 0 other files"}


def test_json_prints_errors_and_applies_to_one_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "inspect", "nowhere"]) == 2

    shown = capsys.readouterr()
    event = json.loads(shown.out)
    assert event["event"] == "error"
    assert "nowhere does not exist" in event["text"]
    main(["inspect", "nowhere"])
    assert capsys.readouterr().out == ""


def test_json_progress_is_a_fraction_printed_at_most_once_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = JsonReporter()
    reporter.begin("work", 1000)
    for n in range(1000):
        reporter.advance(n)
    reporter.end()

    events = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert events[0] == "begin"
    assert events[-1] == "end"
    assert len(events) < 20


@pytest.mark.parametrize(("is_terminal", "colours"), [(True, "truecolor"), (True, "standard"), (False, "truecolor")])
def test_a_figure_is_shown_only_in_a_true_colour_terminal(tmp_path: Path, is_terminal: bool, colours: str) -> None:
    from PIL import Image

    Image.fromarray(np.full((40, 80, 3), (10, 200, 30), np.uint8)).save(tmp_path / "x.png")
    reporter, shown = TerminalReporter(), io.StringIO()
    reporter.out = Console(file=shown, force_terminal=is_terminal, color_system=colours, width=60)  # type: ignore[arg-type]

    reporter.picture(tmp_path / "x.png")

    if is_terminal and colours == "truecolor":
        lines = shown.getvalue().splitlines()
        assert len(lines) == 15, "60 columns and 30 rows of pixels, two rows in each line"
        assert "10;200;30" in lines[0]
    else:
        assert shown.getvalue() == ""


HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e"


def test_control_characters_of_names_and_headers_are_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medhybrid.cli.terminal.log_interval_s", lambda _: -1.0)
    reporter = TerminalReporter()
    reporter.begin(HOSTILE, 2)
    reporter.advance(1, HOSTILE)
    reporter.message(f"wrote {HOSTILE}")
    reporter.table(HOSTILE, ["a", HOSTILE], [[HOSTILE, "1"]])
    record = logging.LogRecord("medhybrid", logging.WARNING, "", 0, "left out %s", (HOSTILE,), None)
    shown = "".join(capsys.readouterr()) + SafeFormatter("%(message)s").format(record)
    for name in ("scan\x1b[2J.nii.gz", "b\x9bad\n\x1b]0;x.dcm"):
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / "t").mkdir()
    main(["inspect", str(tmp_path)])
    main(["convert", str(tmp_path), "--out", str(tmp_path / "out\x1b[2J")])
    main([f"no-such-command{HOSTILE}"])
    shown += "".join(capsys.readouterr())

    assert "\\x1b[2J" in shown
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t"]
