"""Work shared out to processes, one item at a time each, so that a process that dies names its item and the cause."""

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
"""Bytes a preparing process may need; fewer processes are started where memory is short."""


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """One process a core, as far as memory allows."""
    return max(1, min(available_cores(), free_memory() // MEMORY_PER_WORKER))


MEETING = "MEDHYBRID_MEETING"
"""Environment variable with the file by which the processes of one training find each other on one machine."""

PLACE = "MEDHYBRID_WORKER"
"""Environment variable in which a process finds its place among its fellows, from 0; one that replaces another has the same."""


FELLOWS = "MEDHYBRID_WORKERS"
"""And in this one, how many they are."""


class WorkerDied(DataError):
    """The process that worked on an item ended without an answer."""


class Processes:
    """Up to `n` processes that work through items; they stay for the next work, with what they have imported.

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
        """Apply `function` to each item; yields in order of completion.

        `function` must be importable and catch its own expected errors. If its process dies, the item's result is a
        `WorkerDied` with the cause, a new process takes its place, and the rest goes on.
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
                    except OSError:  # died while it had nothing to do: the item is not to blame
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
            self._drop(busy)  # the caller has gone, and nobody wants what they work on

    def _drop(self, workers: Iterable[_Worker]) -> None:
        for worker in (gone := list(workers)):
            worker.stop()
        self._workers = [w for w in self._workers if w not in gone]

    def _replace(self, worker: _Worker, item: object) -> WorkerDied:
        worker.process.wait()  # it has closed its pipe: it is about to end by itself
        worker.stop()
        self._workers[self._workers.index(worker)] = _Worker(worker.place, self.n)
        return WorkerDied(
            f"the process working on {getattr(item, 'name', item)} died",
            found=cause_of_end(worker.process.returncode),
            remedy="give it more memory or fewer workers (prepare.workers), or leave the case out",
        )


class _Worker:
    """A process and the pipe to it.

    Not one of `multiprocessing`: its processes run the caller's script again, to find functions that lie in it. Ours lie in
    modules, and a script that calls us would call us once more, and wait for itself.
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
"""What a worker runs: it imports from where its parent does."""


def serve(handle: int) -> None:
    """Apply the functions that come by a pipe to the items that come with them, until it is closed."""
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
    """Get SIGTERM where the parent, whose pipe our stdin is, was killed: its locks are free then, and others may begin."""

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # nobody writes: it returns when the parent is gone
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def cause_of_end(exit_code: int | None) -> str:
    """What ended a process, in words."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = ", most often the system's answer to too little memory" if name == "SIGKILL" else ""
        return f"signal {name}{hint}"
    return f"exit code {exit_code}"
