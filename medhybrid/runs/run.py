"""Result of a training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
    """

    folder: Path
    run_id: str | None
    metrics: dict[str, float]
    n_steps: int
    is_interrupted: bool
    left_out: tuple[str, ...] = ()
