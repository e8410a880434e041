"""Memory that this process may still use: the machine's, within the limits of the control groups that it is in.

A container, a job of Slurm or a systemd unit may have far less than the machine. Linux keeps such limits in a tree of control
groups, in one of two layouts (versions 1 and 2); a group is bound by its own limit and by those of all groups above it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")

VERSION_2 = ("memory.max", "memory.current", "inactive_file")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""Files with the limit and the use of a group, and the part of the use that is only cache."""


def free_memory(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the bytes that are free on the machine and within every limit on this process.

    Parameters
    ----------
    groups, membership : Path
        The tree of control groups, and the file that names those of this process.
    """
    free = int(psutil.virtual_memory().available)
    for folder, (limit, use, cache) in _groups_of_this_process(groups, membership):
        try:
            most, taken = int((folder / limit).read_text()), int((folder / use).read_text())
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no limit, or "max"
            continue
        free = min(free, most - taken + int(statistics.get(cache, 0)))
    return max(free, 0)


def _groups_of_this_process(groups: Path, membership: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Yield the folder of each control group that limits this process's memory, with the names of its files."""
    version_1 = groups / "memory"
    yield groups, VERSION_2
    yield version_1, VERSION_1
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = groups, VERSION_2
        elif "memory" in controllers.split(","):
            root, names = version_1, VERSION_1
        else:
            continue
        folder = root / path.lstrip("/")
        while folder != root and folder.is_relative_to(root):
            yield folder, names
            folder = folder.parent
