"""Addresses of servers and stores without the user names and passwords in them: what is stored and shown has none."""

from __future__ import annotations

import os
import re
from typing import Any

USER_INFO = re.compile(r"(?<=[A-Za-z0-9+.-]{2})(:/{1,2})[^\s/'\"]+@")
"""User, and perhaps password, of an address; also where a path made one slash of two."""

QUERY = re.compile(r"([?&](?:pass\w*|pwd|\w*token|\w*secret|\w*key)=)[^&\s'\"]+", re.IGNORECASE)
"""A password among the parameters of an address, as `postgresql://host/db?password=...`."""


def hide_password(text: str) -> str:
    """Replace user and password in the addresses of a text."""
    return QUERY.sub(r"\1***", USER_INFO.sub(r"\1***@", text))


def without_passwords(values: Any) -> Any:
    """Return the values of a config without users and passwords in its addresses; lists and sections at any depth."""
    if isinstance(values, str):
        return QUERY.sub(r"\1", USER_INFO.sub(r"\1", values)) if "://" in values else values
    if isinstance(values, dict):
        return {key: without_passwords(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [without_passwords(value) for value in values]
    return values


_known: dict[str, str] = {}
"""Addresses with their passwords that this process was given, by the address without them."""


def remember_address(address: str) -> None:
    """Keep an address with a password in memory, for records of this process that hold it without."""
    if (stored := str(without_passwords(address))) != address:
        _known[stored] = address


def complete_address(address: str) -> str:
    """Return the address of a record with its password: from this process, or `MLFLOW_TRACKING_URI`; else as it is."""
    if address in _known:
        return _known[address]
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    return given if given and without_passwords(given) == address else address
