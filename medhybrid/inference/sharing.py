"""One output folder and several processes: each takes a share that no other takes, or the second is turned away.

A share is `i/n`: the scans whose name's hash leaves i when divided by n, whoever asks and wherever. Locks on hidden files of
the output folder, which end with the process, keep the same share, another division, or the whole from being done twice.
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
    """Part `index` (from 0) of `count`."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """From `i/n`; raises `ConfigError`."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if found is None or not int(found[1]) < int(found[2]):
            raise ConfigError(f"{text!r} is no share", expected="i/n with i from 0 to n - 1, as 0/8")
        return cls(int(found[1]), int(found[2]))

    def takes(self, case: str) -> bool:
        """Whether a case is in this part."""
        return int.from_bytes(hashlib.sha256(case.encode()).digest()[:8], "big") % self.count == self.index


@contextmanager
def hold_folder(out: Path, share: Share | None) -> Iterator[None]:
    """Keep an output folder, or a share of it, for this process; raises `OutputError` where another has it."""
    with ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
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
                f"another process works on {out}",
                remedy="wait for it, take another folder, or give each process a share of its own: --shard 0/2 and --shard 1/2",
            )
        yield


def _others(out: Path, division: str) -> bool:
    """Whether a process works on a share of another division."""
    for path in out.glob(".division-*.lock"):
        if path.name != division:
            with held(path, wait=False) as is_free:
                if not is_free:
                    return True
    return False
