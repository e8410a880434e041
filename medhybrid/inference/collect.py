"""Collection of the outcomes of a folder, and its tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from medhybrid.files import held
from medhybrid.inference.folder_job import FolderJob, ScanOutcome, unwritable
from medhybrid.inference.records import Prediction

TABLES_EVERY_S = 2.0
"""Least time between two versions of the tables: each version writes all rows again."""

TABLES_SHARE = 0.05
"""Largest share of the time that writing the tables may take."""


def collect(
    outcomes: Iterable[ScanOutcome],
    cases: Sequence[str],
    job: FolderJob,
    *,
    on_case: Callable[[int, Prediction, bool], None] = lambda *_: None,
    shares_tables: bool = False,
) -> list[Prediction]:
    """Collect outcomes in any order, update the tables of the folder, and return the known results in the order of `cases`.

    Parameters
    ----------
    cases : sequence of str
        All cases of the folder.
    on_case : callable
        Called after each outcome with its number, the prediction, and whether the scan was skipped as unchanged.
    shares_tables : bool
        Other processes predict other cases: the tables are written once, at the end, from the records of all processes.
    """
    records, labels = job.records, job.model.plan.measured

    def on_record() -> dict[str, Prediction]:
        return {p.case: p for p in records.all(cases) if p.made_by == job.made_by}

    known = on_record()

    def in_order() -> list[Prediction]:
        return [known[c] for c in cases if c in known]

    def write_last() -> None:
        nonlocal known
        with held(job.out / ".tables.lock"):
            known = on_record() if shares_tables else known
            records.write_tables(cases, in_order(), labels)

    written_at, took = time.monotonic(), 0.0
    try:
        for n, (prediction, is_skipped) in enumerate(outcomes, start=1):
            known[prediction.case] = prediction
            on_case(n, prediction, is_skipped)
            began = time.monotonic()
            if not shares_tables and began - written_at > max(TABLES_EVERY_S, took / TABLES_SHARE):
                with suppress(OSError):  # the final tables are written below in any case, and an error there is raised
                    records.write_tables(cases, in_order(), labels)
                written_at = time.monotonic()
                took = written_at - began
    except BaseException:
        with suppress(OSError):
            write_last()
        raise
    try:
        write_last()
    except OSError as error:
        raise unwritable(job.out, error) from error
    return in_order()
