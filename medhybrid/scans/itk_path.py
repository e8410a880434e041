"""Paths that ITK can open."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def plain_link(path: Path) -> Iterator[str]:
    """Yield the path of a temporary link to a file: ITK crashes the process for a path that is not UTF-8."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"image{path.suffix.lower()}"
        os.symlink(os.path.abspath(path), link)
        yield str(link)
