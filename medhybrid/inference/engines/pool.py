"""Scans handed to workers that each load the model once; what a worker died on is given to another."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from medhybrid.data.workers import PLACE, WorkerDied
from medhybrid.errors import ConfigError, MedHybridError, ModelError
from medhybrid.inference.folder import FolderJob, Outcome, predict_items
from medhybrid.inference.kept_names import with_source
from medhybrid.inference.model import Model
from medhybrid.inference.records import MAX_ATTEMPTS, Prediction
from medhybrid.inference.worklist import WorkItem
from medhybrid.scans.dicom.deidentify import Deidentifier

AGAIN_AFTER_S = 1.0
"""Wait before scans that a worker died on are tried again; twice as long the next time."""

Item = TypeVar("Item")


class Pool(Protocol):
    """Workers; `medhybrid.data.workers.Processes` is one."""

    def map(self, function: Callable[[Item], Any], items: Sequence[Item]) -> Iterator[tuple[Item, Any]]:
        """Each item with its result, or with a `WorkerDied`, in order of completion."""


@dataclass(frozen=True)
class Recipe:
    """How a worker makes its `FolderJob`.

    Attributes
    ----------
    load : callable
        A function of a module, which gives the model from `arguments`; its `device` is that of the worker.
    made_by : str
        What `fingerprint_of` the model must be, for a name as `models:/x@newest` may stand for another one by now.
    threads : int
        Of torch, in each worker; 0 leaves them.
    """

    load: Callable[..., Model]
    arguments: tuple[tuple[str, Any], ...]
    device: str
    out: Path
    made_by: str
    key: Path | None = None
    with_probabilities: bool = False
    max_memory: int | None = None
    threads: int = 0


def predict_on(pool: Pool, recipe: Recipe, items: Sequence[WorkItem], job: FolderJob) -> Iterator[Outcome]:
    """Predict scans on a pool, in order of completion.

    Parameters
    ----------
    job : FolderJob
        The same folder's in this process, for the record of what no worker survived.

    A scan whose worker dies is tried `MAX_ATTEMPTS` times, then reported as failed; the others go on.

    Raises
    ------
    MedHybridError
        If a worker cannot load the model or write.
    """
    waiting, again_after = list(items), AGAIN_AFTER_S
    for attempt in range(1, MAX_ATTEMPTS + 1):
        died: list[tuple[WorkItem, WorkerDied]] = []
        together = [waiting] if attempt < MAX_ATTEMPTS else [[item] for item in waiting]  # alone, it has all the memory
        work = partial(_predict_one, recipe)
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
        message = f"{item.case}: set aside, {MAX_ATTEMPTS} workers died on it. Found {error.found}. "
        message += "Give it more memory or fewer workers"
        failed = Prediction(
            case=item.case, status="failed", message=message, attempts=MAX_ATTEMPTS, made_by=job.made_by
        )
        failed = with_source(failed, item, job.deidentifier)
        job.records.end(failed)
        yield failed, False


def _predict_one(recipe: Recipe, item: WorkItem) -> Outcome | MedHybridError:
    """In a worker: what became of a scan, or why no scan can be worked on."""
    try:
        job = _job(recipe)
    except MedHybridError as error:
        return error
    except Exception as error:  # the same for every scan: none is to blame
        return ModelError("a worker cannot load the model", found=f"{type(error).__name__}: {str(error)[:200]}")
    if job.made_by != recipe.made_by:
        return ModelError(
            "a worker has loaded another model than this process", remedy="run again, with a model that stays"
        )
    try:
        return next(predict_items(job, [item], at_once=False))
    except MedHybridError as error:
        return error


@lru_cache(maxsize=1)
def _job(recipe: Recipe) -> FolderJob:
    import torch

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # lets go of its scan, as of no attempt
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    if recipe.key is not None and not recipe.key.is_file():
        raise ConfigError(
            f"the key {recipe.key} is not there for this worker", remedy="keep it where all workers see it"
        )
    device = own_device(recipe.device, torch.cuda.device_count(), int(os.environ.get(PLACE, "0")))
    return FolderJob(
        recipe.load(**dict(recipe.arguments), device=device),
        recipe.out,
        deidentifier=None if recipe.key is None else Deidentifier.from_file(recipe.key),
        with_probabilities=recipe.with_probabilities,
        max_memory=recipe.max_memory,
    )


def own_device(device: str, n_gpus: int, place: int) -> str:
    """The device of a worker: GPUs are dealt out in turn."""
    return f"cuda:{place % n_gpus}" if device in ("auto", "cuda") and n_gpus > 1 else device
