"""Entry point of `medhybrid` and of `python -m medhybrid`."""

import atexit
import gc
import os
import sys

from medhybrid.cli import main

SPINS = "10000"
"""Rounds in which a thread of OpenMP waits actively for the others before it sleeps; the library's default is 300,000.

Beside other programs, a thread that waits takes the core that the awaited one needs. With the default, a training step took 6 s
instead of 2 s on two cores with a load of 6; on idle cores, it takes as long with both.
"""


def run() -> int:
    """Run the command line as a process and return the exit code."""
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is imported
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    # torch creates a million small objects: collecting garbage among them takes 0.2 s of its import and 0.3 s at exit.
    gc.set_threshold(10_000, 10, 10)
    atexit.register(gc.freeze)
    return main()


if __name__ == "__main__":
    sys.exit(run())
