"""Work shared out to processes, one item at a time each, so that a process that dies names its item and the cause."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

import psutil

from medhybrid.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

MEMORY_PER_WORKER = 2 << 30
"""Bytes a preparing process may need; fewer processes are started where memory is short."""


def default_workers() -> int:
    """One process a core, as far as memory allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(psutil.virtual_memory().available // MEMORY_PER_WORKER)))


class WorkerDied(DataError):
    """The process that worked on an item ended without an answer."""


class _Worker(Generic[Item]):
    """A process, the pipe to it, and what it works on."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = mp.get_context("spawn")  # fork is unsafe once threads of numerical libraries run
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.item: Item | None = None

    def give(self, item: Item) -> None:
        self.item = item
        self.pipe.send(item)

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def _serve(function: Callable[[Any], Any], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        pipe.send(function(item))


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], n_workers: int
) -> Iterator[tuple[Item, Result | WorkerDied]]:
    """Apply `function` to each item in `n_workers` processes; yields in order of completion.

    `function` must be importable and catch its own expected errors. If its process dies, the item's result is a
    `WorkerDied` with the cause, a new process takes its place, and the rest goes on.
    """
    waiting = list(reversed(items))
    workers = [_Worker[Item](function) for _ in range(min(max(1, n_workers), len(items)))]
    try:
        for worker in workers:
            worker.give(waiting.pop())
        while busy := [w for w in workers if w.item is not None]:
            ready = wait([w.pipe for w in busy])
            for worker in busy:
                if worker.pipe not in ready:
                    continue
                item = worker.item
                assert item is not None
                worker.item = None
                try:
                    result = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    worker.process.join()
                    result = WorkerDied(
                        f"the process working on {getattr(item, 'name', item)} died",
                        found=_cause(worker.process.exitcode),
                        remedy="give it more memory or fewer workers (prepare.workers), or leave the case out",
                    )
                    workers[workers.index(worker)] = worker = _Worker(function)
                if waiting:
                    worker.give(waiting.pop())
                yield item, result
    finally:
        for worker in workers:
            worker.stop()


def _cause(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = ", most often the system's answer to too little memory" if name == "SIGKILL" else ""
        return f"signal {name}{hint}"
    return f"exit code {exit_code}"
