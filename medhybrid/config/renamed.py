"""Config keys with another name in an earlier version: accepted for one minor version; in records, always."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from medhybrid.config.base import Frozen
from medhybrid.config.models import StudyConfig
from medhybrid.errors import ConfigError
from medhybrid.version import OLD_NAMES_UNTIL

logger = logging.getLogger(__name__)


def renamed_keys() -> dict[str, str]:
    """Return the dotted keys of earlier versions, and their present names."""
    return {
        f"{section}.{old}": f"{section}.{new}"
        for section, field in StudyConfig.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Frozen)
        for old, new in field.annotation.renamed.items()
    }


def present_key(key: str, *, source: str) -> str:
    """Return the present name of a user's dotted key; log a warning for a name of an earlier version."""
    present = renamed_keys().get(key, key)
    if present != key:
        until = f"the old name is accepted until version {OLD_NAMES_UNTIL}"
        logger.warning("%s: the key %s is now %s; %s", source, key, present, until)
    return present


def rename_sections(values: Mapping[str, Any], *, source: str = "", to_first: bool = False) -> dict[str, Any]:
    """Return a config's values (sections of keys) under their present names, or under their first names.

    Parameters
    ----------
    source : str
        The user's file or command line. If given, each earlier name is logged as a warning.
    to_first : bool
        Use the first names. A hash of these values stays the same when a key is renamed.

    Raises
    ------
    ConfigError
        If a key is present under both names.
    """
    renamed = dict(values)
    for old, new in renamed_keys().items():
        (section, before), (_, after) = (key.split(".") for key in ((new, old) if to_first else (old, new)))
        inside = renamed.get(section)
        if not isinstance(inside, Mapping) or before not in inside:
            continue
        if after in inside:
            raise ConfigError(
                f"{source or section}: {section}.{before} and {section}.{after} are names of the same key; remove one of them"
            )
        if source:
            present_key(f"{section}.{before}", source=source)
        renamed[section] = {after if key == before else key: value for key, value in inside.items()}
    return renamed
