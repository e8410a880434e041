"""Script of a Slurm job array with one job for each share. The last job to end writes the tables of all shares."""

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
# Set time, memory and GPUs for your cluster, for example:
##SBATCH --time=04:00:00 --mem=16G --gres=gpu:1
#
#   sbatch {script}
#
# Each job predicts the scans of its share. Submit the script again if jobs failed: finished scans are skipped.
set -euo pipefail
{command} --shard "${{SLURM_ARRAY_TASK_ID:?}}/{count}" & child=$!
trap 'kill -TERM $child; wait $child' TERM
wait $child
"""


def write_array_script(path: Path, command: Sequence[str], count: int) -> Path:
    """Write the script of an array of `count` jobs, each of which runs `command` with a share."""
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
    """Return a path that no other script has, so that a script with edited time and memory is not overwritten."""
    for number in range(1, 10_000):
        free = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        if not os.path.lexists(free) or (free.is_file() and free.read_bytes() == text.encode()):
            return free
    raise OutputError(f"{path.parent} has too many scripts", remedy="remove scripts that are not needed")
