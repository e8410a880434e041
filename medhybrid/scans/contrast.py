"""Whether a text says that a contrast agent was given: ContrastBolusAgent of a header, or a cell of `context.csv`."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

logger = logging.getLogger(__name__)

ABSENT = re.compile(r"|nan|null|none specified|[\s\-_.*]+|n\.?a\.?|n/a|not applicable")
"""Stands in place of a text."""

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
"""Short texts that say that there was one; longer ones are names of agents."""


def has_contrast_agent(value: Any) -> bool | None:
    """Return whether a contrast agent was given; None where nothing is said, or nothing that can be understood.

    A text that says neither yes nor no names the agent. One of fewer than three letters is named in a warning.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        return _read(str(value).strip().casefold()) if value is not None else None
    return None if number != number else number > 0


def is_blank(value: Any) -> bool:
    """Return whether a text stands for none at all, as an absent attribute does."""
    return value is None or ABSENT.fullmatch(str(value).strip().casefold()) is not None


@lru_cache(maxsize=1024)
def _read(text: str) -> bool | None:
    if ABSENT.fullmatch(text) or UNKNOWN.fullmatch(text):
        return None
    if NO.fullmatch(text):
        return False
    if YES.fullmatch(text) or len(re.findall(r"[^\W\d_]", text)) > 2:
        return True
    shown = repr(text) if len(text) <= MAX_SHOWN else f"{len(text)} characters"  # no number of anything gets into logs
    logger.warning("a contrast agent of %s says neither yes nor no; it counts as not known", shown)
    return None
