"""Queue on disk: each job is a folder, and its state is the folder it lies in.

A job moves between states by one rename, so that after a crash each job is in exactly one state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from medhybrid.errors import OutputError
from medhybrid.files import held

State = Literal["incoming", "queued", "done", "failed"]

STATES: tuple[State, ...] = ("incoming", "queued", "done", "failed")


def make_states(spool: Path) -> None:
    """Create the folder of each state."""
    for state in STATES:
        (spool / state).mkdir(exist_ok=True)


@contextmanager
def locked(spool: Path) -> Iterator[None]:
    """Lock a spool; raise `OutputError` if another service uses it."""
    with held(spool / ".serve.lock", wait=False) as is_ours:
        if not is_ours:
            raise OutputError(f"another service uses {spool}", remedy="stop the other one, or choose another --spool")
        yield


def folders(parent: Path) -> list[Path]:
    """Return the jobs of a state, the one that was changed first at the front."""
    changed: dict[Path, float] = {}
    for path in parent.glob("[!.]*"):
        with suppress(FileNotFoundError):  # it moved to another state meanwhile
            if path.is_dir():
                changed[path] = path.stat().st_mtime
    return sorted(changed, key=lambda path: changed[path])


def move(job: Path, spool: Path, state: State) -> Path:
    """Move a job to a state; return its new folder."""
    return job.rename(spool / state / job.name)
