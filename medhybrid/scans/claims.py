"""What a header may claim of its values, held against the file before memory is asked for: readers ask first and read then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medhybrid.errors import ScanError

MAX_VALUES = 4_000_000_000

MAX_DEFLATE_RATIO = 1032
"""Bytes that one byte of gzip or zlib can become at most (zlib's documentation)."""


def check_claim(path: Path, shape: Sequence[int], value_bytes: int, *, data: Path, is_compressed: bool) -> None:
    """Raise `ScanError` where a volume is too large, or larger than its file can hold.

    Parameters
    ----------
    value_bytes : int
        Of one value.
    data : Path
        The file that holds the values: `path` itself, or one beside it.
    """
    n_values = int(np.prod(shape, dtype=object))
    if n_values > MAX_VALUES:
        raise ScanError(
            f"{path.name} claims too many values", expected=f"at most {MAX_VALUES}", found=f"shape {tuple(shape)}"
        )
    try:
        length = data.stat().st_size
    except (OSError, ValueError) as error:  # no such file; or a name that can be none
        raise ScanError(f"{path.name}: the file of its values cannot be read", found=str(error)) from error
    if n_values * value_bytes > length * (MAX_DEFLATE_RATIO if is_compressed else 1):
        raise ScanError(
            f"{path.name} claims more values than it can hold",
            expected=f"{n_values * value_bytes} bytes of values",
            found=f"a file of {length} bytes",
            remedy="it may be cut off: copy or export it again",
        )
