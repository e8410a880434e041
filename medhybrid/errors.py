"""Everything that medhybrid raises on purpose.

MedHybridError
├── ConfigError     a config, plan or command line that cannot be used
├── DataError       a dataset, split or prepared store that cannot be used
├── ScanError       an image file that cannot be read right
│   └── SeriesError a DICOM series that cannot be read right, with a code
├── GeometryError   arrays or affines that do not belong together
├── ModelError      a model folder or checkpoint that cannot be used
├── TrainingError   a run that cannot go on (non-finite loss, nothing to train)
├── DeviceError     a device that is absent or out of memory
├── TrackingError   a store of runs that cannot be used
└── OutputError     a place that results cannot be written to

The message says what was done, what was expected, what was found, and what to do.
"""

from __future__ import annotations

import errno
import logging
import unicodedata
from pathlib import Path
from typing import TypeVar

from medhybrid.addresses import hide_password

logger = logging.getLogger(__name__)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""The disk is full or read-only: no later item could be written either."""

JOINERS = "\u200c\u200d"
"""Format characters that words of some scripts are written with."""

OF_MACHINE = (*NO_ROOM, errno.EMFILE, errno.ENFILE)
"""Conditions of the machine, which are not the failure of one item."""


class MedHybridError(Exception):
    """Base of every error raised on purpose.

    Parameters
    ----------
    what : str
        What could not be done, and for which case or file.
    expected, found, remedy : str, optional
        What should have been there, what was, and what the user can do.
    """

    def __init__(self, what: str, *, expected: str = "", found: str = "", remedy: str = "") -> None:
        self.what, self.expected, self.found, self.remedy = what, expected, found, remedy
        parts = [what.rstrip(".") + "."]
        if expected or found:
            pair = ", ".join(p for p in (f"expected {expected}" * bool(expected), f"found {found}" * bool(found)) if p)
            parts.append(pair[0].upper() + pair[1:].rstrip(".") + ".")
        if remedy:
            parts.append(remedy[0].upper() + remedy[1:].rstrip(".") + ".")
        super().__init__(printable(hide_password(" ".join(parts))))

    def __reduce__(self) -> tuple[object, ...]:
        # Errors travel between processes: rebuilt from their state, not from the composed message.
        return _rebuild, (type(self), str(self), dict(self.__dict__))


def _rebuild(kind: type[MedHybridError], message: str, state: dict[str, object]) -> MedHybridError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class ConfigError(MedHybridError):
    """A config, plan or command line that cannot be used."""


class DataError(MedHybridError):
    """A dataset, split or prepared store that cannot be used."""


class ScanError(MedHybridError):
    """An image file that cannot be read right."""


class SeriesError(ScanError):
    """A DICOM series that cannot be read right.

    Parameters
    ----------
    code : str
        One word for tables and tests: ``no_dicom, not_image, localizer, single_slice, mixed_orientation, mixed_shape,
        missing_slice, duplicate_slice, nonuniform, gantry_tilt, multi_volume, mosaic, no_geometry, truncated,
        unsupported_codec, encrypted_or_unreadable``.
    path : Path, optional
        The file at fault.
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
    """Arrays or affines that do not belong together."""


class ModelError(MedHybridError):
    """A model folder or checkpoint that cannot be used."""


class TrainingError(MedHybridError):
    """A run that cannot go on."""


class DeviceError(MedHybridError):
    """A device that is absent or out of memory."""


class TrackingError(MedHybridError):
    """A store of runs (MLflow) that cannot be used as it is."""


class OutputError(MedHybridError):
    """A place that results cannot be written to: full, read-only, or in the hands of another process."""


Kind = TypeVar("Kind", bound=MedHybridError)


def item_error(error: Exception, what: str, kind: type[Kind], *, remedy: str = "") -> Kind | MedHybridError:
    """Return the failure of one item for anything that was raised while it was processed.

    Libraries raise many kinds of errors on damaged files. Each becomes the failure of its item, and the other items go on.

    Parameters
    ----------
    what : str
        What could not be done, with the item's name.
    kind : type
        The error to return; an error of medhybrid is returned as it is.

    Raises
    ------
    OSError
        The error itself, if the machine is to blame: a full or read-only disk, too many open files.
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


def printable(text: str) -> str:
    """Return text with its control characters and lone surrogates as escapes; line ends and tabs stay."""
    return "".join(ascii(c)[1:-1] if is_unsafe(c) and c not in "\n\t" else c for c in text)


class SafeFormatter(logging.Formatter):
    """Formats lines of the log with control characters escaped and passwords of addresses hidden."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return printable(hide_password(super().format(record)))


def is_unsafe(character: str) -> bool:
    """Whether a character is a control or format character, a line separator or a lone surrogate; joiners are text."""
    return character not in JOINERS and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
