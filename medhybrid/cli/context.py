"""Context of one call of the command line: its arguments and the options that precede the command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from medhybrid.progress import Reporter


@dataclass(slots=True)
class Call:
    """Call of the command line; `typer` passes it to each command as `context.obj`.

    Parameters
    ----------
    arguments : sequence of str
        Arguments of the call, unchanged.
    is_debug : bool
        Whether debug messages and tracebacks are printed.
    as_json : bool
        Whether progress, tables and errors are JSON lines.
    """

    arguments: Sequence[str]
    is_debug: bool = False
    as_json: bool = False

    def reporter(self, quiet: bool = False) -> Reporter:
        """Return the reporter for a terminal, or for JSON lines."""
        from medhybrid.cli.terminal import JsonReporter, TerminalReporter

        return JsonReporter(quiet=quiet) if self.as_json else TerminalReporter(quiet=quiet)

    def arguments_without(self, *options: str) -> list[str]:
        """Return the arguments without some options and their values."""
        left: list[str] = []
        skip = False
        for argument in self.arguments:
            if not (skip or argument.split("=")[0] in options):
                left.append(argument)
            skip = argument in options
        return left


def call_of(context: typer.Context) -> Call:
    """Return the call of a command; it is created if `app` was called without `main`."""
    if not isinstance(context.obj, Call):
        context.obj = Call(tuple(sys.argv[1:]))
    return context.obj
