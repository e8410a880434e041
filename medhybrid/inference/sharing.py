"""Several processes with one output folder: each predicts its own share of the scans.

A share is `i/n`: the scans for which the hash of the name modulo n is i, on every computer. Locks on hidden files of the output
folder refuse a second process on the same share, on another division, or on the whole folder. They end with the process.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from medhybrid.errors import ConfigError, OutputError
from medhybrid.files import held


@dataclass(frozen=True, slots=True)
class Share:
    """Share `index` (from 0) of `count` shares."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """Parse `i/n`; raises `ConfigError`."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if found is None or not int(found[1]) < int(found[2]):
            raise ConfigError(f"{text!r} is not a valid share", expected="i/n with i from 0 to n - 1, for example 0/8")
        return cls(int(found[1]), int(found[2]))

    def takes(self, case: str) -> bool:
        """Return whether a case is in this share."""
        return int.from_bytes(hashlib.sha256(case.encode()).digest()[:8], "big") % self.count == self.index


@contextmanager
def hold_folder(out: Path, share: Share | None) -> Iterator[None]:
    """Lock an output folder, or a share of it, for this process; raises `OutputError` if another process holds it."""
    with ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            # exclusive for the whole folder, shared for shares: these exclude each other
            whole = stack.enter_context(held(out / ".whole.lock", is_shared=share is not None, wait=False))
            if share is None:
                free = whole
            else:
                division = f".division-{share.count}.lock"
                ours = stack.enter_context(held(out / division, is_shared=True, wait=False))
                part = stack.enter_context(held(out / f".share-{share.index}-of-{share.count}.lock", wait=False))
                free = whole and ours and part and not _others(out, division)
        except OSError as error:
            raise OutputError(f"{out} cannot be written to", found=error.strerror or str(error)) from error
        if not free:
            raise OutputError(
                f"another process is using {out}",
                remedy="wait for it, choose another folder, or give each process another share: --shard 0/2 and --shard 1/2",
            )
        yield


def _others(out: Path, division: str) -> bool:
    """Return whether another process is working on a share of another division."""
    for path in out.glob(".division-*.lock"):
        if path.name != division:
            with held(path, wait=False) as is_free:
                if not is_free:
                    return True
    return False
