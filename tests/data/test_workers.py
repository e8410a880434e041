"""A process that dies names its case and the cause, and the rest goes on."""

import os
import signal
import sys

import pytest

from medhybrid.data.workers import WorkerDied, map_in_processes


def work(item: int) -> int:
    """Square, or die in some way."""
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 5:
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == 7:
        sys.stderr.close()
        os._exit(9)
    return item**2


@pytest.mark.slow
def test_a_worker_that_dies_is_named_with_its_signal_and_the_rest_is_done() -> None:
    results = dict(map_in_processes(work, list(range(9)), n_workers=2))

    died = {k: str(v) for k, v in results.items() if isinstance(v, WorkerDied)}
    assert set(died) == {3, 5, 7}
    assert "working on 3 died" in died[3]
    assert "SIGKILL" in died[3]
    assert "too little memory" in died[3]
    assert "SIGSEGV" in died[5]
    assert "exit code 9" in died[7]
    assert {k: v for k, v in results.items() if k not in died} == {k: k**2 for k in range(9) if k not in died}


def test_nothing_to_do_is_done_at_once() -> None:
    assert list(map_in_processes(work, [], n_workers=2)) == []
