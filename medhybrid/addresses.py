"""Removal of user names and passwords from the addresses of servers and stores, before they are stored or shown."""

from __future__ import annotations

import os
import re
from typing import Any

USER_INFO = re.compile(r"(?<=[A-Za-z0-9+.-]{2})(://|:/(?=[^\s/'\"@]*:))(?:[^\s/'\"]+|[^\s/'\":@]*:(?!\d+/)[^\s'\"@]*)@")
"""User name, and password where given, of an address; also after a path has removed one of its two slashes."""

QUERY = re.compile(
    r"([?&#;](?:pass\w*|pwd|[\w-]*(?:token|secret|key|sig|signature|credential))=)([^&\s'\"]+)", re.IGNORECASE
)
"""A password in the query of an address, as in `postgresql://host/db?password=...`."""


_own_tokens: set[str] = set()
"""Tokens of the servers of this process."""


def show_own_token(token: str) -> None:
    """Let `hide_password` leave the token of a server of this process: its user opens the address that is printed."""
    _own_tokens.add(token)


def hide_password(text: str) -> str:
    """Replace user names and passwords in the addresses of a text by `***`."""
    return QUERY.sub(_hidden, USER_INFO.sub(r"\1***@", text))


def _hidden(found: re.Match[str]) -> str:
    return found[0] if found[2].rstrip(",.;:)") in _own_tokens else f"{found[1]}***"


def without_passwords(values: Any) -> Any:
    """Return the values of a config without user names and passwords in addresses, in lists and sections at any depth."""
    if isinstance(values, str):
        return QUERY.sub(r"\1", USER_INFO.sub(r"\1", values)) if "://" in values else values
    if isinstance(values, dict):
        return {key: without_passwords(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [without_passwords(value) for value in values]
    return values


_known: dict[str, str] = {}
"""Addresses with passwords that this process was given, keyed by the address without them."""


def remember_address(address: str) -> None:
    """Keep an address and its password in memory, since the records on disk hold the address without it."""
    if (stored := str(without_passwords(address))) != address:
        _known[stored] = address


def complete_address(address: str) -> str:
    """Add the password to the address of a record: from this process or `MLFLOW_TRACKING_URI`, else return it unchanged."""
    if address in _known:
        return _known[address]
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    return given if given and without_passwords(given) == address else address
