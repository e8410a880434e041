"""Run tests in rounds beside busy processes and count failed rounds: tests must wait for conditions, not for seconds.

python benchmarks/busy_tests.py tests/test_browser.py tests/tracking/test_server.py --rounds 20 --busy 2
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

COMPUTE = "while True: pass"
"""Program that keeps a core busy."""


@contextmanager
def busy_processes(n: int) -> Iterator[None]:
    """Run `n` busy processes inside the context."""
    processes = [subprocess.Popen([sys.executable, "-c", COMPUTE]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run_round(tests: list[str]) -> tuple[int, str]:
    """Run the tests once; return pytest's exit code and its output."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    return done.returncode, done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each round and the number of failed rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="+", help="files or folders of tests")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--busy", type=int, default=2, help="number of busy processes")
    parser.add_argument("--minutes", type=float, help="start no round after this time")
    options = parser.parse_args(arguments)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the busy processes also end
    begin = time.monotonic()
    n_done = 0
    n_failed = 0
    with busy_processes(options.busy):
        for number in range(1, options.rounds + 1):
            if options.minutes is not None and time.monotonic() - begin > 60 * options.minutes:
                break
            start = time.monotonic()
            code, shown = run_round(options.tests)
            n_done += 1
            n_failed += code != 0
            print(
                f"round {number}: {shown.splitlines()[-1]} ({time.monotonic() - start:.0f} s by the clock)", flush=True
            )
            for line in re.findall(r"^(?:FAILED|ERROR).*", shown, re.MULTILINE):
                print(f"  {line}", flush=True)
    print(f"{n_failed} of {n_done} rounds failed beside {options.busy} busy processes")
    return int(n_failed > 0)


if __name__ == "__main__":
    sys.exit(main())
