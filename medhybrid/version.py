"""Version of the package, and revision of its code."""

from __future__ import annotations

import subprocess
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    __version__ = version("medhybrid")
except PackageNotFoundError:  # run from a source tree that was not installed
    __version__ = "0+unknown"

OLD_NAMES_UNTIL = "0.3"
"""Version without the names that 0.2 replaced: config keys and public Python names of 0.1 are accepted before it."""


def warn_renamed(old: str, present: str, *, stacklevel: int) -> None:
    """Warn that a public Python name is deprecated; `stacklevel` 1 is the line that calls this function."""
    text = f"{old} is now {present}; the old name is accepted until version {OLD_NAMES_UNTIL}"
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel + 1)


def code_revision() -> str:
    """Return the git revision of the package, with `+changes` if it was edited; without git, the version."""
    here = Path(__file__).parent
    try:
        ask = ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"]
        revision = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        dirty = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "."], capture_output=True, text=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return __version__
    return revision + ("+changes" if dirty else "")
