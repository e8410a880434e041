"""Failures of a disk that may be over in a moment, and files that change while they are read."""

from __future__ import annotations

import errno
from pathlib import Path

from medhybrid.data.store import Stamps, stamp_files

PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENETUNREACH, errno.EHOSTUNREACH)
"""What a network disk says that may be back in a moment."""


def may_pass(error: BaseException | None) -> bool:
    """Whether a disk's failure to answer is behind an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in PASSING:
            return True
        error = error.__cause__
    return False


def stay(files: tuple[Path, ...], stamps: Stamps) -> bool:
    """Whether files are as they were; true of files that are gone, which waiting brings back rarely."""
    try:
        return stamp_files(files) == stamps
    except OSError:
        return True
