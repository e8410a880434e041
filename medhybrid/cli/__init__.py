"""Command line: `main` runs a command and returns its exit code, `app` has the commands and their options."""

from medhybrid.cli.entry import app, main

__all__ = ["app", "main"]
