"""Subjects in the names of cases: frames, sessions and sides of one person must be on the same side of a fold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

SUBJECT_WORD = re.compile(
    r"(?<![a-z0-9])(sub-[a-z0-9]+|sub_[a-z]*\d[a-z0-9]*|(?:patient|subject|subj|sub|pat|pt)[\-_ ]?\d+)(?![a-z0-9])",
    re.IGNORECASE,
)
"""A subject that names itself as such, for example `sub-01` in BIDS, `sub_01` or `patient012`."""

SESSION_WORD = re.compile(
    r"^(ses(sion)?[-_]?\w*|visit\d*|v\d{1,2}|t\d{1,2}|tp\d*|time\d*|frame\d*|scan\d*|run[-_]?\d*|rep\d*|pre|post|baseline"
    r"|follow\w*|fu\d*|ed|es|l|r|left|right|lh|rh|a|b|c|\d{1,3})$",
    re.IGNORECASE,
)
"""The last part of a name that may tell scans of one person apart."""

MAX_SCANS = 8
"""Largest median number of scans of a subject: more suggest that the rest of the name is that of a group."""


def subject_pattern(names: Sequence[str]) -> tuple[str | None, str]:
    """Return a regular expression for `data.subject_pattern`, or None if each case is a subject; and the reason."""
    found = [SUBJECT_WORD.search(n) for n in names]
    if names and all(found):
        subjects = Counter(m[1].casefold() for m in found if m)
        if 1 < len(subjects) < len(names):
            return SUBJECT_WORD.pattern.replace("(?<![a-z0-9])", "(?i)(?<![a-z0-9])", 1), _reason(subjects)
        if len(subjects) < len(names):
            return None, "each case counts as a subject, although the names are of one: folds need several subjects"
        return None, "by their names, each case is another subject"
    for separator in ("_", "-", "."):
        end = _shared_end(names, separator)
        short = [n.removesuffix(end) for n in names]
        if (groups := _groups(short, separator)) is not None:
            last = f"{re.escape(separator)}[^{re.escape(separator)}]+"
            is_plain = all(separator in n for n in short)
            return (f"^(.+){last}" if is_plain else f"^(.+?)(?:{last})?") + f"{re.escape(end)}$", _reason(groups)
    return None, "each case counts as a subject: the names show no subjects with several scans"


def _shared_end(names: Sequence[str], separator: str) -> str:
    """Return the last parts that all names have, such as `_T1w`: they tell no scans apart."""
    end = ""
    while True:
        short = [n.removesuffix(end) for n in names]
        ends = {n[n.rfind(separator) :] if n.rfind(separator) > 0 else "" for n in short}
        if len(ends) != 1 or ends == {""} or len(names) < 2:
            return end
        end = ends.pop() + end


def _groups(names: Sequence[str], separator: str) -> Counter[str] | None:
    """Return the scans of each subject if the last part of the names tells scans of the same subject apart.

    A name without the separator is that of a subject (`p1` beside `p1_2`).
    """
    parts = [(n.rsplit(separator, 1) if separator in n else [n, ""]) for n in names]
    if not any(last for _, last in parts) or not all(first for first, _ in parts):
        return None
    groups = Counter(first for first, _ in parts)
    n_alike = Counter(last.casefold() for _, last in parts)
    several = [n for n in groups.values() if n > 1]
    is_repeated = sum(n for n in n_alike.values() if n > 1) >= len(parts) / 2
    is_session = sum(not last or SESSION_WORD.match(last) is not None for _, last in parts) >= 0.9 * len(parts)
    if len(groups) < 2 or sum(several) < len(parts) / 2 or sorted(several)[len(several) // 2] > MAX_SCANS:
        return None
    return groups if is_repeated or is_session else None


def _reason(groups: Counter[str]) -> str:
    most = max(groups.values())
    return f"{len(groups)} subjects with up to {most} scans each; they stay in one fold"
