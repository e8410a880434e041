"""Memory available to this process: free memory of the host, within the limits of its control groups (cgroups).

A container, a Slurm job or a systemd unit may have far less memory than the host. Linux keeps such limits in a tree of
control groups, in version 1 or 2. The limits of all parent groups apply to a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")

VERSION_2 = ("memory.max", "memory.current", "inactive_file")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""Files with the limit and the use of a group, and the key of the cache in its use."""


def free_memory(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the free memory in bytes, within every limit on this process.

    Parameters
    ----------
    groups, membership : Path
        The tree of control groups, and the file with the groups of this process.
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
    """Yield the folder of each control group that limits the memory of this process, with the names of its files."""
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
