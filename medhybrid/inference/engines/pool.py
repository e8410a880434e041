"""Pool of workers that load the model once and predict scans. If a worker dies, another worker repeats its scan."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from medhybrid.data.workers import PLACE, WorkerDied
from medhybrid.errors import ConfigError, MedHybridError, ModelError
from medhybrid.inference.folder import predict_items
from medhybrid.inference.folder_job import FolderJob, ScanOutcome
from medhybrid.inference.kept_names import with_source
from medhybrid.inference.model import Segmenter
from medhybrid.inference.records import MAX_ATTEMPTS, Prediction
from medhybrid.inference.worklist import WorkItem
from medhybrid.scans.dicom.deidentify import Deidentifier

AGAIN_AFTER_S = 1.0
"""Wait before scans whose worker died are repeated; it is doubled after each round."""

Item = TypeVar("Item")

_jobs: dict[WorkerArguments, FolderJob] = {}
"""The job of this process, if it is a worker that has predicted a scan; at most one."""


class Pool(Protocol):
    """Pool of workers, such as `medhybrid.data.workers.Processes`."""

    def map(self, function: Callable[[Item], Any], items: Sequence[Item]) -> Iterator[tuple[Item, Any]]:
        """Yield each item with its result, or with a `WorkerDied`, in order of completion."""


@dataclass(frozen=True)
class WorkerArguments:
    """Arguments with which a worker creates its `FolderJob`; they are pickled.

    Attributes
    ----------
    load : callable
        Function of a module (so that it can be pickled) that loads the model from `load_arguments` on the worker's `device`.
    made_by : str
        Expected `fingerprint_of` the model: a name such as `models:/x@newest` may mean another model by now.
    threads : int
        Number of torch threads in each worker; 0 keeps torch's default.
    """

    load: Callable[..., Segmenter]
    load_arguments: tuple[tuple[str, Any], ...]
    device: str
    out: Path
    made_by: str
    key: Path | None = None
    with_probabilities: bool = False
    max_memory: int | None = None
    threads: int = 0


def predict_on(
    pool: Pool, arguments: WorkerArguments, items: Sequence[WorkItem], job: FolderJob
) -> Iterator[ScanOutcome]:
    """Predict scans on a pool; yield the outcomes in order of completion.

    If the worker of a scan dies, the scan is repeated, with `MAX_ATTEMPTS` attempts in all, and then reported as failed. The
    other scans are not affected.

    Parameters
    ----------
    job : FolderJob
        Job of the same folder in this process, to record scans on which every worker died.

    Raises
    ------
    MedHybridError
        If a worker cannot load the model or write.
    """
    waiting, again_after = list(items), AGAIN_AFTER_S
    for attempt in range(1, MAX_ATTEMPTS + 1):
        died: list[tuple[WorkItem, WorkerDied]] = []
        together = (
            [waiting] if attempt < MAX_ATTEMPTS else [[item] for item in waiting]
        )  # last attempt: one at a time, with all of the memory
        work = partial(_predict_one, arguments)
        for item, result in (pair for some in together for pair in pool.map(work, some)):
            if isinstance(result, WorkerDied):
                died.append((item, result))
            elif isinstance(result, MedHybridError):
                raise result
            else:
                yield result
        if not died:
            return
        if attempt < MAX_ATTEMPTS:
            time.sleep(again_after)
            waiting, again_after = [item for item, _ in died], 2 * again_after
    for item, error in died:
        message = f"{item.case}: failed because {MAX_ATTEMPTS} workers died on it. Found {error.found}. "
        message += "Use more memory or fewer workers"
        failed = Prediction(
            case=item.case, status="failed", message=message, attempts=MAX_ATTEMPTS, made_by=job.made_by
        )
        failed = with_source(failed, item, job.deidentifier)
        job.records.end(failed)
        yield failed, False


def _predict_one(arguments: WorkerArguments, item: WorkItem) -> ScanOutcome | MedHybridError:
    """Predict a scan in a worker; return its outcome, or the error for which this worker cannot predict any scan."""
    try:
        if arguments not in _jobs:
            _jobs.clear()  # frees the model of an earlier call before the next one is loaded
            _jobs[arguments] = init_worker(arguments)
        job = _jobs[arguments]
    except MedHybridError as error:
        return error
    except Exception as error:  # every scan would fail in the same way, so it ends the work
        return ModelError("a worker cannot load the model", found=f"{type(error).__name__}: {str(error)[:200]}")
    if job.made_by != arguments.made_by:
        return ModelError(
            "a worker has loaded another model than this process",
            remedy="run again with a fixed version of the model",
        )
    try:
        return next(predict_items(job, [item], at_once=False))
    except MedHybridError as error:
        return error


def init_worker(arguments: WorkerArguments) -> FolderJob:
    """Make this process a worker: handle SIGTERM, set the threads of torch, and load the model.

    Raises
    ------
    MedHybridError
        If the key or the model cannot be read.
    """
    import torch

    # SystemExit releases the scan without counting an attempt
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.key is not None and not arguments.key.is_file():
        raise ConfigError(
            f"a worker cannot read the key {arguments.key}", remedy="move it to a path that all workers can read"
        )
    device = own_device(arguments.device, torch.cuda.device_count(), int(os.environ.get(PLACE, "0")))
    return FolderJob(
        arguments.load(**dict(arguments.load_arguments), device=device),
        arguments.out,
        deidentifier=None if arguments.key is None else Deidentifier.from_file(arguments.key),
        with_probabilities=arguments.with_probabilities,
        max_memory=arguments.max_memory,
    )


def own_device(device: str, n_gpus: int, place: int) -> str:
    """Return the device of a worker: GPUs are assigned to workers in turn."""
    return f"cuda:{place % n_gpus}" if device in ("auto", "cuda") and n_gpus > 1 else device
