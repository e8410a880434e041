"""Translation of MLflow's errors into a reason, a remedy, and whether waiting can help."""

from __future__ import annotations

import re
from dataclasses import dataclass

from medhybrid.addresses import hide_password
from medhybrid.errors import MedHybridError, TrackingError

MAX_REASON = 300
"""Maximum length of the part of MLflow's message that is shown, in characters."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Reason why a request to a store failed.

    Attributes
    ----------
    is_lasting : bool
        Whether it stays until a person acts; a server that does not answer may recover alone.
    """

    what: str
    found: str
    remedy: str
    is_lasting: bool

    def as_error(self) -> TrackingError:
        """Return the problem as an error to raise."""
        return TrackingError(self.what, found=self.found, remedy=self.remedy)


@dataclass(frozen=True, slots=True)
class _Kind:
    """Kind of problem, recognised by words of the error."""

    words: str
    what: str
    remedy: str
    is_lasting: bool = True


_KINDS = (
    _Kind(
        r"out-of-date database schema|Can't locate revision",
        "the MLflow store {uri} was created by another version of MLflow",
        "make a backup of the database, then run: mlflow db upgrade {uri}; or install the MLflow that created it",
    ),
    _Kind(
        r"error code 40[13]|Unauthorized|UNAUTHENTICATED|PERMISSION_DENIED|authentication failed|Access denied"
        r"|credential configuration",
        "the MLflow store {uri} denies access",
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    ),
    _Kind(
        r"No module named|Can't load plugin|NoSuchModuleError",
        "the MLflow store {uri} needs a driver that is not installed",
        "install the driver of the database (pg8000 comes with medhybrid[server]), or check tracking.uri",
    ),
    _Kind(
        r"unsupported URI|UnsupportedModelRegistryStoreURI|Invalid database engine|Could not parse|No connection adapters"
        r"|filesystem tracking backend|Invalid (IPv6 )?URL",
        "{uri} is not the address of an MLflow store",
        "set http(s)://HOST:PORT, sqlite:///FILE or postgresql://...: tracking.uri=..., or MLFLOW_TRACKING_URI",
    ),
    _Kind(
        r"error code 404|Not Found|Expecting value|JSONDecodeError|valid JSON",
        "{uri} answers, but not as an MLflow server",
        "check the address: tracking.uri=..., or MLFLOW_TRACKING_URI",
    ),
    _Kind(
        r"readonly database|Read-only file system|Permission denied",
        "the MLflow store {uri} cannot be written to",
        "make it writable, or use another store: tracking.uri=...",
    ),
    _Kind(
        r"No space left|database or disk is full",
        "the disk of the MLflow store {uri} is full",
        "free disk space; records are stored and sent later",
        is_lasting=False,
    ),
    _Kind(
        r"must be in (the )?'?active'? (state|lifecycle)|in the deleted state|already deleted|Cannot start run with ID",
        "the run or its experiment is deleted in the MLflow store {uri}",
        "restore it in the MLflow UI, or run: mlflow runs restore --run-id ID, mlflow experiments restore --experiment-id ID",
    ),
    _Kind(
        r"RESOURCE_DOES_NOT_EXIST|Run with id=\S+ not found|No Experiment with id|Could not find",
        "the MLflow store {uri} does not have the run or its experiment",
        "set the store that has it: tracking.uri=..., or MLFLOW_TRACKING_URI",
    ),
    _Kind(
        r"SSLError|CERTIFICATE_VERIFY_FAILED",
        "the MLflow store {uri} cannot be reached by https",
        "check the address (http or https), or set the certificate: MLFLOW_TRACKING_SERVER_CERT_PATH",
    ),
    _Kind(
        r"Connection|connection|timed out|Timeout|Max retries|Name or service|getaddrinfo|error code 5\d\d|could not connect",
        "the MLflow store {uri} does not answer",
        "start it, or check the address; records are stored and sent later",
        is_lasting=False,
    ),
)


def explain(error: BaseException, uri: str) -> Problem:
    """Return the problem behind an error; passwords in addresses are hidden."""
    address = hide_password(uri)
    if isinstance(error, MedHybridError):
        return Problem(error.what, error.found, error.remedy, is_lasting=True)
    text = f"{type(error).__name__}: {_first_line(error)}"
    code = getattr(error, "error_code", "")
    for kind in _KINDS:
        if re.search(kind.words, f"{code} {text}"):
            return Problem(kind.what.format(uri=address), text, kind.remedy.format(uri=address), kind.is_lasting)
    return Problem(f"the MLflow store {address} returned an error", text, "", is_lasting=False)


def _first_line(error: BaseException) -> str:
    """Return the first line of a message, without passwords."""
    lines = hide_password(str(error)).strip().splitlines()
    return lines[0][:MAX_REASON] if lines else ""
