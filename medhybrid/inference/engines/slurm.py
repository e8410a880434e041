"""The script of a Slurm array: a job a share; the last of them to end leaves the tables of all."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from medhybrid.errors import OutputError
from medhybrid.files import write_atomically

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=medhybrid
#SBATCH --array=0-{last}
#SBATCH --output={log}/%A_%a.log
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
# Time, memory and GPUs are those of your cluster, for example:
##SBATCH --time=04:00:00 --mem=16G --gres=gpu:1
#
#   sbatch {script}
#
# Each job takes the scans of its share; run it again, or with other jobs dead, and what is done is skipped.
set -euo pipefail
{command} --shard "${{SLURM_ARRAY_TASK_ID:?}}/{count}" & child=$!
trap 'kill -TERM $child; wait $child' TERM
wait $child
"""


def write_array_script(path: Path, command: Sequence[str], count: int) -> Path:
    """Write the script of an array of `count` jobs that run `command` with a share each."""
    log = path.parent / "logs"
    log.mkdir(parents=True, exist_ok=True)
    text = SCRIPT.format(
        last=count - 1,
        count=count,
        command=shlex.join(command),
        log=shlex.quote(str(log)),
        script=shlex.quote(str(path)),
    )
    path = _free_path(path, text)
    write_atomically(path, text)
    path.chmod(0o755)
    return path


def _free_path(path: Path, text: str) -> Path:
    """Return a path at which nothing else stands: a script whose time and memory were filled in is kept."""
    for number in range(1, 10_000):
        free = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        if not os.path.lexists(free) or (free.is_file() and free.read_bytes() == text.encode()):
            return free
    raise OutputError(f"{path.parent} holds too many scripts", remedy="remove those that are not needed")
