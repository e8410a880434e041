"""Comparison of a header's shape with the file's size, before memory is allocated for the values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import MedHybridError, ScanError

MAX_VALUES = 4_000_000_000
"""Largest number of values in one scan."""

MAX_DEFLATE_RATIO = 1032
"""Largest number of bytes that one byte of gzip or zlib can hold (zlib's documentation)."""

MAX_BZIP2_RATIO = 50_000
"""Largest number of bytes that one byte of bzip2 can hold, with a margin: 45 MB of zeros take about 1 kB."""


def check_claim(path: Path, shape: Sequence[int], value_bytes: int, *, data: Path, max_ratio: int) -> None:
    """Raise `ScanError` if a volume is too large, or larger than its file can hold.

    Parameters
    ----------
    path : Path
        The header's file, for messages.
    value_bytes : int
        Bytes per value.
    data : Path
        The file that holds the values: `path`, or another file in its folder.
    max_ratio : int
        Largest number of bytes of values per byte of the file: 1 if it is not compressed.
    """
    n_values = int(np.prod(shape, dtype=object))
    if n_values > MAX_VALUES:
        raise ScanError(
            f"{path.name}: its header describes too many values",
            expected=f"at most {MAX_VALUES}",
            found=f"shape {tuple(shape)}",
        )
    try:
        length = data.stat().st_size
    except (OSError, ValueError) as error:  # the file is missing, or its name is not valid
        raise ScanError(f"{path.name}: the file of its values cannot be read", found=str(error)) from error
    if n_values * value_bytes > length * max_ratio:
        raise ScanError(
            f"{path.name}: its header describes more values than the file can hold",
            expected=f"{n_values * value_bytes} bytes of values",
            found=f"a file of {length} bytes",
            remedy="it may be incomplete: copy or export it again",
        )


def report_affine(path: Path, error: Exception) -> ScanError:
    """Return the error for a header with an invalid affine."""
    if not isinstance(error, MedHybridError):
        return ScanError(f"{path.name} has an invalid affine", found=str(error), remedy="repair its header")
    return ScanError(
        f"{path.name} has an invalid affine: {error.what}",
        expected=error.expected,
        found=error.found,
        remedy="repair its header",
    )


def refuse_overflow(path: Path, narrow: NDArray[np.float32], wide: NDArray[np.generic]) -> None:
    """Raise `ScanError` if finite values of a file overflow in float32."""
    if np.isinf(narrow).any() and np.isinf(wide).sum() < np.isinf(narrow).sum():
        raise ScanError(
            f"{path.name} holds values that are too large",
            expected="values that float32 holds",
            found=f"up to {np.abs(wide[np.isfinite(wide)]).max():g}",
            remedy="scale the values before they are exported",
        )
