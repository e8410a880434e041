"""A worker process that dies is reported with its case and the cause, and the other items continue."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from medhybrid.data.workers import Processes, WorkerDied
from tests.patience import patience_s


def work(item: int) -> int:
    """Return the square, or die in one of several ways."""
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 5:
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == 7:
        sys.stderr.close()
        os._exit(9)
    return item**2


@pytest.mark.slow
def test_a_dead_worker_is_reported_with_its_signal_and_the_other_items_are_done() -> None:
    with Processes(2) as processes:
        results = dict(processes.map(work, list(range(9))))

    died = {k: str(v) for k, v in results.items() if isinstance(v, WorkerDied)}
    assert set(died) == {3, 5, 7}
    assert "working on 3 died" in died[3]
    assert "SIGKILL" in died[3]
    assert "memory ran out" in died[3]
    assert "SIGSEGV" in died[5]
    assert "exit code 9" in died[7]
    assert {k: v for k, v in results.items() if k not in died} == {k: k**2 for k in range(9) if k not in died}


def test_an_empty_list_of_items_gives_no_results() -> None:
    with Processes(2) as processes:
        assert list(processes.map(work, [])) == []


def who(_: int) -> int:
    """Return the id of the worker process."""
    return os.getpid()


@pytest.mark.slow
def test_processes_are_reused_unless_the_caller_stopped_early() -> None:
    with Processes(1) as processes:
        first, second = ({pid for _, pid in processes.map(who, [1, 2])} for _ in range(2))
        left = processes.map(who, [1, 2, 3])
        next(left)
        left.close()
        third = {pid for _, pid in processes.map(who, [1])}

    assert first == second
    assert len(third) == 1


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2])
def test_an_idle_process_that_dies_is_replaced_without_a_failed_item(n: int) -> None:
    with Processes(n) as processes:
        answers = processes.map(who, [1, 2])
        first = {pid for _, pid in answers}
        again = processes.map(who, [1, 2, 3, 4])
        _, died = next(again)  # this process is idle until the next answer is asked for
        os.kill(died, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(died)], timeout=patience_s())
        rest = dict(again)

    assert died in first
    assert set(rest) < {1, 2, 3, 4}
    assert len(rest) == 3
    assert all(isinstance(pid, int) and pid != died for pid in rest.values())


@pytest.mark.slow
def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from medhybrid.data.workers import Processes\n"
        "from tests.data.test_workers import who\n"
        "print('run')\n"
        "with Processes(2) as processes:\n"
        "    assert all(isinstance(pid, int) for _, pid in processes.map(who, [1, 2, 3]))\n"
    )

    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=patience_s(),
    )

    assert (done.returncode, done.stdout) == (0, "run\n"), done.stderr
