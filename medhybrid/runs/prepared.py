"""Folder of a study's prepared cases: local, or on a remote store (`prepare.folder=s3://...`) with a local copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from medhybrid.config import StudyConfig
from medhybrid.data.dataset import IN_USE
from medhybrid.errors import MedHybridError
from medhybrid.files import held
from medhybrid.remote import Mirror, is_remote

WRITTEN_LAST = ("case.json", "fingerprint.json", "folds.json", "plan.json", "config.yaml")
"""Files that mark a case or a dataset as complete: they are deleted remotely first and uploaded last."""


def prepared_folder(config: StudyConfig) -> Path:
    """Return the local folder of a study's prepared cases; a remote one is fetched once in each process.

    Raises
    ------
    DataError
        If the store does not respond.
    """
    place = config.prepare.folder
    return _fetched(f"{place.rstrip('/')}/{config.name}") if is_remote(place) else Path(place) / config.name


def refresh_prepared(config: StudyConfig) -> Path:
    """Return the folder of `prepared_folder`, after fetching a remote one again."""
    _fetched.cache_clear()
    return prepared_folder(config)


def send_prepared(config: StudyConfig) -> None:
    """Upload changed files to the remote store, if the study has one. Raises `DataError` if it does not respond."""
    if not is_remote(config.prepare.folder):
        return
    mirror = Mirror(f"{config.prepare.folder.rstrip('/')}/{config.name}")
    changes = mirror.changes()
    last = [n for n in changes if Path(n).name in WRITTEN_LAST]
    mirror.withdraw(last)
    mirror.send([n for n in changes if n not in set(last)])
    mirror.send(sorted(last, key=lambda n: WRITTEN_LAST.index(Path(n).name)))
    mirror.save()


@lru_cache(maxsize=8)
def _fetched(url: str) -> Path:
    """Fetch a remote folder once in each process, so that a training sees one state of its cases."""
    return Mirror(url).fetch()


@contextmanager
def in_use(config: StudyConfig) -> Iterator[None]:
    """Keep `preprocess` from changing the prepared cases of a study while they are read."""
    with ExitStack() as stack:
        with suppress(OSError, MedHybridError):  # a folder that is absent, or cannot be written to
            stack.enter_context(held(prepared_folder(config) / IN_USE, is_shared=True))
        yield
