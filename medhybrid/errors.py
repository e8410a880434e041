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

from pathlib import Path


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
        super().__init__(" ".join(parts))

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
