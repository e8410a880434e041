"""Detection of a contrast agent from text: ContrastBolusAgent of a DICOM header, or a cell of `context.csv`."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

logger = logging.getLogger(__name__)

ABSENT = re.compile(r"|nan|null|none specified|[\s\-_.*]+|n\.?a\.?|n/a|not applicable")
"""Placeholders for an empty text."""

UNKNOWN = re.compile(
    r"[?\s]+|unk|unkn\w*|unbekannt|unspecified|tbd|other|perhaps|maybe|possibly|pending|optional"
    r"|not (?:known|specified|stated|available|recorded|documented)"
)

AGENT = r"(?:contrast|kontrast\w*|agent|cm|km|gd|gad\w*|iv|i\.v\.)"

NO = re.compile(
    r"(?:n|f|c-|-c|false|falsch)"
    r"|(?:no|none|nil|not|nein|kein\w*|without|w/?o|ohne|sans|senza|sin|nativ\w*|unenhanced|un-enhanced|negative?)(?![a-z]).*"
    rf"|(?:non|pre)(?:[\s_\-]*{AGENT})?(?![a-z])(?![\s_\-]*ionic).*"
    r"|non[\s_\-]*enhanced.*"
    rf"|{AGENT}\W*(?:no|none|nein|false|not \w+|0)"
    r"|0+(?:[.,]0+)?(?![\d.,]).*"
)
MAX_SHOWN = 4

YES = re.compile(r"y|j|t|c\+|\+c|\+|\d.*|iv|gd|km|cm|ja")
"""Short texts that mean yes. Other texts of three letters or more are names of agents."""


def has_contrast_agent(value: Any) -> bool | None:
    """Return True if a contrast agent was given, False if not, and None if this is unknown.

    A text that means neither yes nor no is the name of an agent. With fewer than three letters it counts as unknown, with a
    warning.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        return _read(str(value).strip().casefold()) if value is not None else None
    return None if number != number else number > 0


def is_blank(value: Any) -> bool:
    """Return True if a text is a placeholder, equivalent to an absent attribute."""
    return value is None or ABSENT.fullmatch(str(value).strip().casefold()) is not None


@lru_cache(maxsize=1024)
def _read(text: str) -> bool | None:
    if ABSENT.fullmatch(text) or UNKNOWN.fullmatch(text):
        return None
    if NO.fullmatch(text):
        return False
    if YES.fullmatch(text) or len(re.findall(r"[^\W\d_]", text)) > 2:
        return True
    shown = (
        repr(text) if len(text) <= MAX_SHOWN else f"{len(text)} characters"
    )  # longer texts may be identifiers and stay out of logs
    logger.warning("contrast agent %s means neither yes nor no; it is treated as unknown", shown)
    return None
