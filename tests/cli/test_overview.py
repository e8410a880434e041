"""Without arguments, the commands are shown in the order of a study; exit code 0."""

from __future__ import annotations

import pytest

from medhybrid.cli import main
from medhybrid.cli.entry import COMMANDS
from medhybrid.cli.overview import GROUPS
from medhybrid.version import __version__


def test_without_arguments_every_command_is_shown_once_within_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0

    shown = capsys.readouterr()
    assert shown.err == ""
    assert "Usage" not in shown.out
    assert all(len(line) <= 80 for line in shown.out.splitlines())
    assert sorted(name for group in GROUPS.values() for name in group) == sorted(COMMANDS)
    for name in COMMANDS:
        assert any(name in line.split() for line in shown.out.splitlines())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"medhybrid {__version__}\n"


def test_a_usage_error_shows_the_usage_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict"]) == 2
    shown = capsys.readouterr().err
    assert shown.count("Usage") == 1
    assert shown.count("error:") == 1


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_fits_into_the_terminal(
    command: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([command, "--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= columns
