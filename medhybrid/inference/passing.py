"""Temporary failures of a disk, and files that change while they are read."""

from __future__ import annotations

import errno
from pathlib import Path

from medhybrid.data.store import Stamps, stamp_files

PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENETUNREACH, errno.EHOSTUNREACH)
"""Errors of a network disk that may be temporary."""


def may_pass(error: BaseException | None) -> bool:
    """Return whether an error or one of its causes is a failure of a disk that may be temporary."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in PASSING:
            return True
        error = error.__cause__
    return False


def stay(files: tuple[Path, ...], stamps: Stamps) -> bool:
    """Return whether files are unchanged. Missing files count as unchanged: they rarely come back within a short wait."""
    try:
        return stamp_files(files) == stamps
    except OSError:
        return True
