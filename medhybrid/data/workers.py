"""Worker processes that each work on one item at a time, so that the failure of a process is reported for its item."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.connection import Pipe, wait
from typing import Any, TypeVar

from medhybrid.errors import DataError
from medhybrid.memory import free_memory

Item = TypeVar("Item")
Result = TypeVar("Result")

MEMORY_PER_WORKER = 2 << 30
"""Memory in bytes that a worker may need. It limits the default number of workers."""


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """Return the default number of workers: one per core, as far as memory allows."""
    return max(1, min(available_cores(), free_memory() // MEMORY_PER_WORKER))


MEETING = "MEDHYBRID_MEETING"
"""Environment variable with the file through which the processes of a training on the same host find each other."""

PLACE = "MEDHYBRID_WORKER"
"""Environment variable with the index of a worker, from 0. A replacement of a worker has the same index."""


FELLOWS = "MEDHYBRID_WORKERS"
"""Environment variable with the number of workers."""


class WorkerDied(DataError):
    """Failure of a worker process that ended without a result."""


class Processes:
    """Pool of up to `n` worker processes, which are kept for later calls, with their imported modules.

    with Processes(4) as processes:
        for item, result in processes.map(check, cases): ...
        for item, result in processes.map(prepare, cases): ...
    """

    def __init__(self, n: int) -> None:
        self.n = max(1, n)
        self._workers: list[_Worker] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        while self._workers:
            self._workers.pop().stop()

    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Result | WorkerDied]]:
        """Apply `function` to each item, and yield items and results in order of completion.

        `function` must be importable, and must catch expected errors itself. If a worker dies, the result of its item is a
        `WorkerDied` with the cause. A new worker replaces it, and the other items continue.
        """
        waiting = list(reversed(items))
        self._drop([w for w in self._workers if not w.is_alive])
        free = [n for n in range(self.n) if n not in {w.place for w in self._workers}]
        self._workers += [
            _Worker(place, self.n) for place in free[: max(0, min(self.n, len(items)) - len(self._workers))]
        ]
        busy: dict[_Worker, Item] = {}
        try:
            while waiting or busy:
                for worker in [w for w in self._workers if w not in busy][: len(waiting)]:
                    try:
                        worker.pipe.send((function, waiting[-1]))
                    except OSError:  # the worker died while idle: the item is not the cause
                        self._workers[self._workers.index(worker)] = _Worker(worker.place, self.n)
                        worker.stop()
                        continue
                    busy[worker] = waiting.pop()
                if not busy:
                    continue
                ready = wait([w.pipe for w in busy])
                for worker in [w for w in busy if w.pipe in ready]:
                    item = busy.pop(worker)
                    try:
                        result = worker.pipe.recv()
                    except (EOFError, OSError):
                        result = self._replace(worker, item)
                    yield item, result
        finally:
            self._drop(busy)  # the caller stopped iterating: their results are not needed

    def _drop(self, workers: Iterable[_Worker]) -> None:
        for worker in (gone := list(workers)):
            worker.stop()
        self._workers = [w for w in self._workers if w not in gone]

    def _replace(self, worker: _Worker, item: object) -> WorkerDied:
        worker.process.wait()  # it has closed its pipe, so it is about to exit
        worker.stop()
        self._workers[self._workers.index(worker)] = _Worker(worker.place, self.n)
        return WorkerDied(
            f"the process working on {getattr(item, 'name', item)} died",
            found=cause_of_end(worker.process.returncode),
            remedy="provide more memory, use fewer workers (prepare.workers), or exclude the case",
        )


class _Worker:
    """Worker process with a pipe to it.

    It is not a process of `multiprocessing`, which would run the caller's script again in each process. A script without a
    `__main__` guard would then start the same work again.
    """

    def __init__(self, place: int, n: int) -> None:
        self.place = place
        self.pipe, theirs = Pipe()
        handle = theirs.fileno()
        inherited: dict[str, Any] = {"pass_fds": [handle]}
        if sys.platform == "win32":
            os.set_handle_inheritable(handle, True)
            inherited = {"close_fds": False}
        command = [sys.executable, "-c", START, str(handle), *sys.path]
        environment = os.environ | {PLACE: str(place), FELLOWS: str(n)}
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, **inherited)
        theirs.close()

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate()
        self.pipe.close()


START = """
import sys
handle, sys.path[:] = int(sys.argv[1]), sys.argv[2:]
from medhybrid.data.workers import serve
serve(handle)
"""
"""Code that a worker runs, with the import paths of its parent."""


def serve(handle: int) -> None:
    """Receive functions and items from a pipe and send back the results, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    end_with_parent()
    kind = "PipeConnection" if sys.platform == "win32" else "Connection"
    pipe = getattr(connection, kind)(handle)
    while True:
        try:
            function, item = pipe.recv()
        except EOFError:
            return
        pipe.send(function(item))


def end_with_parent() -> None:
    """Send SIGTERM to this process if its parent is killed, which closes the pipe to stdin.

    The locks of a killed parent are free, so that another process may start the same work.
    """

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # the parent never writes: this returns when it has ended
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def cause_of_end(exit_code: int | None) -> str:
    """Return a description of the cause that ended a process."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = ", in most cases because memory ran out" if name == "SIGKILL" else ""
        return f"signal {name}{hint}"
    return f"exit code {exit_code}"
