"""A process that dies names its case and the cause, and the rest goes on."""

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
    with Processes(2) as processes:
        results = dict(processes.map(work, list(range(9))))

    died = {k: str(v) for k, v in results.items() if isinstance(v, WorkerDied)}
    assert set(died) == {3, 5, 7}
    assert "working on 3 died" in died[3]
    assert "SIGKILL" in died[3]
    assert "too little memory" in died[3]
    assert "SIGSEGV" in died[5]
    assert "exit code 9" in died[7]
    assert {k: v for k, v in results.items() if k not in died} == {k: k**2 for k in range(9) if k not in died}


def test_nothing_to_do_is_done_at_once() -> None:
    with Processes(2) as processes:
        assert list(processes.map(work, [])) == []


def who(_: int) -> int:
    """The process that works."""
    return os.getpid()


@pytest.mark.slow
def test_processes_stay_for_the_next_work_unless_its_caller_has_gone() -> None:
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
def test_a_process_that_dies_while_it_has_nothing_to_do_is_replaced_and_no_item_is_blamed(n: int) -> None:
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
def test_a_script_needs_no_guard_against_being_run_by_its_workers(tmp_path: Path) -> None:
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
