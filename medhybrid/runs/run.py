"""Result of a training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medhybrid.runs.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Run:
    """Finished or interrupted run; for a pretraining with the scans that were excluded.

    Attributes
    ----------
    folder : Path
        Run folder, with `model`, which `load_model` loads.
    run_id : str or None
        Id of the run in MLflow; None if it is not tracked there.
    metrics : dict of str to float
        Results of the final validation; empty if every case trained (`training.fold: all`).
    verdict : Verdict, optional
        Why the model is not good enough; None if nothing speaks against it.
    """

    folder: Path
    run_id: str | None
    metrics: dict[str, float]
    n_steps: int
    is_interrupted: bool
    left_out: tuple[str, ...] = ()
    verdict: Verdict | None = None
