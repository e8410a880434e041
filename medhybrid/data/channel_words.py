"""Whether a text names a channel: by whole words, so that T1 is found in `ax_T1w_3mm` and not in `T1ce`, `T12` or `T1 post`."""

from __future__ import annotations

import re

CONTRAST = re.compile(
    r"(?<![a-z0-9])(?:post|postcontrast|ce|gd|gad|gado\w*|gadolinium|km|contrast|c\+|c)(?![a-z0-9])|\+\s*(?:c|gd|km)\b",
    re.IGNORECASE,
)
"""Words for a contrast agent, which make another channel of T1."""

OTHER_MASKS = re.compile(
    r"(?:(brain|bet|head|skull|body|foreground|background|fov|valid|noise)[_\-. ]*mask"
    r"|mask[_\-. ]*(?:of[_\-. ]*)?(brain|bet|head|skull|body|foreground|background|fov|valid|noise)(?![a-z]))",
    re.IGNORECASE,
)
"""Masks that processing leaves beside a scan, and that are not the reference."""


def names_channel(text: str, channel: str) -> bool:
    """Return whether a text holds a channel's name as a word, case ignored.

    A word ends at anything but a letter or digit, at a change between letters and digits, and at a capital after a small
    letter; T1 and T2 may go on as `T1w`, and not as `T1ce` or `T2*`. Separators within the name do not count: `T1Gd` is found
    in `t1_gd`. T1 itself is not found where the text goes on with a word for a contrast agent.
    """
    for found in re.finditer(_pattern(channel), text, re.IGNORECASE):
        begin, end = found.span()
        if not _begins_word(text, begin) or not _ends_word(text, end):
            continue
        if re.fullmatch(r"t1w?", channel, re.IGNORECASE) and CONTRAST.search(text[end:]):
            continue
        return True
    return False


def _pattern(channel: str) -> str:
    """Return the expression of a name whose letters and digits may stand apart."""
    words: list[str] = re.findall(r"(?:[A-Z]+(?![a-z])|[A-Z]?[a-z]+)\d*|\d+|[^A-Za-z\d\s_.\-]", channel)
    if not words:
        return re.escape(channel)
    pattern = r"[\s_.\-]*".join(re.escape(w) for w in words)
    return pattern if re.search(r"\dw$", channel, re.IGNORECASE) or not channel[-1].isdigit() else pattern + r"w?"


def _begins_word(text: str, begin: int) -> bool:
    if begin == 0 or not text[begin - 1].isalnum():
        return True
    before, first = text[begin - 1], text[begin]
    return before.isdigit() != first.isdigit() or (before.islower() and first.isupper())


def _ends_word(text: str, end: int) -> bool:
    if end == len(text):
        return True
    last, after = text[end - 1], text[end]
    if after == "*":
        return False
    if not after.isalnum():
        return True
    return last.isalpha() and (after.isdigit() or (last.islower() and after.isupper()))


def is_other_mask(name: str, labels: tuple[str, ...]) -> bool:
    """Return whether a file's name says that it is the mask of something that is no label, such as `brainmask`."""
    found = OTHER_MASKS.search(name)
    return found is not None and (found.group(1) or found.group(2)).casefold() not in {n.casefold() for n in labels}
