"""Encoding of case, label and channel names as names that MLflow accepts.

A character that MLflow refuses becomes `_xHEX_`, its code point: `case (2)` is `case _x28_2_x29_`. Names that MLflow accepts
stay unchanged, unless they contain such an escape. So two different names never become equal.
"""

from __future__ import annotations

import hashlib
import re

MAX_METRIC_NAME = 250
"""Maximum length of a metric name that every store accepts, in characters."""

MAX_IMAGE_NAME = 140
"""Maximum length of an image name: MLflow appends step, time and a random number, and file names have at most 255 bytes."""

DIGEST_LENGTH = 16
"""Length of the hash that replaces the end of a long name, in characters."""

_METRIC = r"\w.\- :"
_IMAGE = r"a-zA-Z0-9_.\- "


def metric_name(name: str) -> str:
    """Encode the name of a metric; slashes are kept, because the UI groups metrics by them."""
    return _encode(name, _METRIC, MAX_METRIC_NAME)


def image_name(name: str) -> str:
    """Encode the name of a series of figures; slashes are kept, because the UI groups figures by them."""
    return _encode(name, _IMAGE, MAX_IMAGE_NAME)


def _encode(name: str, accepted: str, limit: int) -> str:
    """Encode each part between slashes; the end of a long name is replaced by a hash of the name."""
    encoded = "/".join(_encode_part(part, accepted) for part in name.split("/"))
    if len(encoded) <= limit:
        return encoded
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_LENGTH]
    return f"{encoded[: limit - DIGEST_LENGTH - 1]}-{digest}"


def _encode_part(part: str, accepted: str) -> str:
    """Encode a part of a name: MLflow refuses empty parts, `.` and `..`, because it uses names as paths."""
    if not part:
        return "_x_"
    if part in (".", ".."):
        return "".join(map(_escape, part))
    # Also escape an underscore that would look like the start of an escape after encoding.
    like_escape = rf"_(?=x[0-9A-F]*(?:_|[^{accepted}]))"
    return re.sub(rf"{like_escape}|[^{accepted}]", lambda found: _escape(found.group()), part)


def _escape(character: str) -> str:
    """Return the escape of a character, with its code point."""
    return f"_x{ord(character):X}_"
