"""Names that MLflow accepts, one for each name of a case, label or channel.

A character that MLflow refuses becomes `_xHEX_`, its code point: `case (2)` is `case _x28_2_x29_`. Names that MLflow accepts
stay as they are, except where they hold such an escape themselves, so that two different names never share one.
"""

from __future__ import annotations

import hashlib
import re

MAX_METRIC_NAME = 250
"""Characters that every store takes as the name of a metric."""

MAX_IMAGE_NAME = 140
"""MLflow adds step, time and a random number to an image's name, and a file name has at most 255 bytes."""

DIGEST_LENGTH = 16
"""Characters of the hash that stands for the end of a name which is too long."""

_METRIC = r"\w.\- :"
_IMAGE = r"a-zA-Z0-9_.\- "


def metric_name(name: str) -> str:
    """Encode the name of a metric; slashes stay, which group metrics in the UI."""
    return _encode(name, _METRIC, MAX_METRIC_NAME)


def image_name(name: str) -> str:
    """Encode the name of a series of images; slashes stay, which group images in the UI."""
    return _encode(name, _IMAGE, MAX_IMAGE_NAME)


def _encode(name: str, accepted: str, limit: int) -> str:
    """Encode each part between slashes; a long name ends in its hash."""
    encoded = "/".join(_encode_part(part, accepted) for part in name.split("/"))
    if len(encoded) <= limit:
        return encoded
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_LENGTH]
    return f"{encoded[: limit - DIGEST_LENGTH - 1]}-{digest}"


def _encode_part(part: str, accepted: str) -> str:
    """Encode a part so that the whole is a plain path: MLflow refuses empty parts, `.` and `..`."""
    if not part:
        return "_x_"
    if part in (".", ".."):
        return "".join(map(_escape, part))
    # An underscore that would read as the start of an escape once the rest is encoded is escaped itself.
    like_escape = rf"_(?=x[0-9A-F]*(?:_|[^{accepted}]))"
    return re.sub(rf"{like_escape}|[^{accepted}]", lambda found: _escape(found.group()), part)


def _escape(character: str) -> str:
    """Write a character as its code point."""
    return f"_x{ord(character):X}_"
