"""Where a study's prepared cases are: a folder here, or one on a store (`prepare.folder=s3://...`) with a copy here."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from medhybrid.config import StudyConfig
from medhybrid.remote import Mirror, is_remote

WRITTEN_LAST = ("case.json", "fingerprint.json", "folds.json", "plan.json", "config.yaml")
"""A case is whole where its record is, and a dataset where its plan is: they leave the store first and come back last."""


def prepared_folder(config: StudyConfig) -> Path:
    """The folder of a study's prepared cases here; a copy of a store's is brought up to date when a process first asks.

    Raises
    ------
    DataError
        If the store does not answer.
    """
    place = config.prepare.folder
    return _fetched(f"{place.rstrip('/')}/{config.name}") if is_remote(place) else Path(place) / config.name


def refresh_prepared(config: StudyConfig) -> Path:
    """The same, brought up to date now."""
    _fetched.cache_clear()
    return prepared_folder(config)


def send_prepared(config: StudyConfig) -> None:
    """Put on the store what changed here; without one, nothing is to be done. Raises `DataError` if it does not answer."""
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
    """Once a process: a training sees one state of its cases."""
    return Mirror(url).fetch()
