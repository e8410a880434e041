"""Names of labels as values of SegmentLabel: at most 64 characters, without backslashes and control characters (PS3.5 6.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_CHARACTERS = 64

NOT_ALLOWED = re.compile(r"[\x00-\x1f\x7f]")


def segment_names(labels: Iterable[str]) -> list[str]:
    """Return a valid name for each label, in their order. Valid labels are unchanged, and no name occurs twice."""
    names: list[str] = []
    for label in labels:
        plain = " ".join(NOT_ALLOWED.sub(" ", label.replace("\\", "/")).split()) or "label"
        name, n = plain[:MAX_CHARACTERS], 1
        while name in names:
            n += 1
            name = f"{plain[: MAX_CHARACTERS - 1 - len(str(n))]}~{n}"
        names.append(name)
    return names


def label_of(name: str, tracking_id: str) -> str:
    """Return the label of a segment: its TrackingID if SegmentLabel is the valid form of that, else SegmentLabel."""
    is_valid = len(tracking_id) <= MAX_CHARACTERS and "\\" not in tracking_id and not NOT_ALLOWED.search(tracking_id)
    return tracking_id if not is_valid and segment_names([tracking_id]) == [name] else name
