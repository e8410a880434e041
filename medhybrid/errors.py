"""Exceptions of medhybrid.

MedHybridError
├── ConfigError     invalid config, plan or command line
├── DataError       invalid dataset, split or prepared cases
├── ScanError       image file that cannot be read correctly
│   └── SeriesError DICOM series that cannot be read correctly, with a code
├── GeometryError   arrays or affines that do not match
├── ModelError      invalid model folder or checkpoint
├── TrainingError   training that cannot continue (non-finite loss, nothing to train)
├── DeviceError     missing device, or device out of memory
├── TrackingError   unusable store of runs
└── OutputError     output folder that cannot be written

Each message has up to four parts: the failure, the expected state, the found state and the remedy.
"""

from __future__ import annotations

import errno
import logging
import unicodedata
from pathlib import Path
from typing import TypeVar

from medhybrid.addresses import hide_password

logger = logging.getLogger(__name__)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Error numbers of a full or read-only disk, or a limit of the size of files: no later item can be written either."""

JOINERS = "\u200c\u200d"
"""Format characters that occur in words of some scripts."""

OF_MACHINE = (*NO_ROOM, errno.EMFILE, errno.ENFILE)
"""Error numbers of the system, which are not the failure of one item."""


class MedHybridError(Exception):
    """Base class of the exceptions of medhybrid.

    Parameters
    ----------
    what : str
        The failure, with its case or file.
    expected, found, remedy : str, optional
        The expected state, the found state, and the step that the user can take.
    table : str
        Lines of a table, shown between the failure and the remedy.
    """

    def __init__(self, what: str, *, expected: str = "", found: str = "", remedy: str = "", table: str = "") -> None:
        self.what, self.expected, self.found, self.remedy = what, expected, found, remedy
        parts = [what.rstrip(".") + "."]
        if expected or found:
            pair = ", ".join(p for p in (f"expected {expected}" * bool(expected), f"found {found}" * bool(found)) if p)
            parts.append(pair[0].upper() + pair[1:].rstrip(".") + ".")
        above = " ".join(parts) + (f"\n{table}\n" if table else " ")
        below = remedy[0].upper() + remedy[1:].rstrip(".") + "." if remedy else ""
        super().__init__(printable(hide_password((above + below).rstrip())))

    def __reduce__(self) -> tuple[object, ...]:
        # Errors are pickled between processes: __init__ would compose the message a second time.
        return _rebuild, (type(self), str(self), dict(self.__dict__))


def _rebuild(kind: type[MedHybridError], message: str, state: dict[str, object]) -> MedHybridError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class ConfigError(MedHybridError):
    """Invalid config, plan or command line."""


class DataError(MedHybridError):
    """Invalid dataset, split or prepared cases."""


class ScanError(MedHybridError):
    """Image file that cannot be read correctly."""


class SeriesError(ScanError):
    """DICOM series that cannot be read correctly.

    Parameters
    ----------
    code : str
        One word for tables and tests: ``no_dicom, not_image, localizer, single_slice, mixed_orientation, mixed_shape,
        missing_slice, duplicate_slice, nonuniform, gantry_tilt, multi_volume, mosaic, no_geometry, truncated,
        unsupported_codec, encrypted_or_unreadable``.
    path : Path, optional
        The invalid file.
    series : str
        Name of the scan.
    """

    def __init__(
        self,
        what: str,
        *,
        code: str,
        path: Path | None = None,
        series: str = "",
        expected: str = "",
        found: str = "",
        remedy: str = "",
    ) -> None:
        self.code, self.path, self.series = code, path, series
        super().__init__(what, expected=expected, found=found, remedy=remedy)


class GeometryError(MedHybridError):
    """Arrays or affines that do not match."""


class ModelError(MedHybridError):
    """Invalid model folder or checkpoint."""


class TrainingError(MedHybridError):
    """Training that cannot continue."""


class DeviceError(MedHybridError):
    """Missing device, or device out of memory."""


class TrackingError(MedHybridError):
    """Store of runs (MLflow) that cannot be used in its present state."""


class OutputError(MedHybridError):
    """Output folder that cannot be written: full, read-only, or locked by another process."""


Kind = TypeVar("Kind", bound=MedHybridError)


def item_error(error: Exception, what: str, kind: type[Kind], *, remedy: str = "") -> Kind | MedHybridError:
    """Return the failure of one item for any exception raised while it was processed.

    Libraries raise many kinds of exceptions on damaged files. Each becomes the failure of its item, and the loop continues.

    Parameters
    ----------
    what : str
        The failure, with the item's name.
    kind : type
        Class of the returned error; an error of medhybrid is returned unchanged.

    Raises
    ------
    OSError
        The error itself, if it concerns the system: a full or read-only disk, too many open files.
    """
    if isinstance(error, MedHybridError):
        return error
    if isinstance(error, OSError) and error.errno in OF_MACHINE:
        raise error
    logger.debug("%s", what, exc_info=error)
    if isinstance(error, OSError):
        found = error.strerror or str(error)
    else:
        first = (str(error).strip().splitlines() or [""])[0][:200]
        found = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return kind(what, found=printable(found), remedy=remedy)


def reason_of(error: Exception, limit: int = 200) -> str:
    """Return the reason of an error as text for `found`: that of the system without its number, otherwise the first line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    lines = text.strip().splitlines()
    return printable(lines[0][:limit]) if lines else type(error).__name__


def explain_os_error(error: OSError) -> str:
    """Return a message for an error of the operating system, with its file and a remedy."""
    where = printable(str(error.filename)) if error.filename is not None else ""
    reason = printable(error.strerror or str(error))
    if isinstance(error, FileNotFoundError) and where:
        return f"{where} does not exist. Check the path"
    if isinstance(error, PermissionError) and where:
        return f"{where} cannot be opened: {reason}. Check its permissions, or choose another folder"
    if error.errno in NO_ROOM:
        return f"{where + ': ' if where else ''}{reason}. Free disk space, or choose another folder, and run again"
    return f"{where}: {reason}" if where else reason


def printable(text: str) -> str:
    """Escape control characters and lone surrogates of a text; line ends and tabs stay."""
    return "".join(ascii(c)[1:-1] if is_unsafe(c) and c not in "\n\t" else c for c in text)


class SafeFormatter(logging.Formatter):
    """Formatter of log lines that escapes control characters and hides passwords of addresses."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return printable(hide_password(super().format(record)))


def is_unsafe(character: str) -> bool:
    """Return whether a character is a control or format character, a line separator or a lone surrogate.

    Joiners are part of words and are safe.
    """
    return character not in JOINERS and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
