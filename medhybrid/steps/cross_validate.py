"""`medhybrid cross-validate`: every fold, with every seed, and what it amounts to over all cases.

RUNS/<study>/<name>/cases.csv        Dice of every validation case of every training
RUNS/<study>/<name>/summary.json     mean over all cases with its interval, by fold and seed
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medhybrid.config import StudyConfig
from medhybrid.data.dataset import PreparedDataset, write_atomically
from medhybrid.errors import ConfigError
from medhybrid.metrics import Interval, mean_interval
from medhybrid.steps.preprocess import prepared_folder
from medhybrid.steps.progress import Reporter, Silent
from medhybrid.steps.train_all import Training, nested_runs, train_all


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """What every case got when it was not trained on.

    Attributes
    ----------
    dice : Interval
        Mean over cases (each the mean of its seeds).
    median : float
        Over cases.
    """

    folder: Path
    trainings: tuple[Training, ...]
    dice: Interval
    median: float


def cross_validate(
    config: StudyConfig,
    *,
    folds: Sequence[int] = (),
    seeds: Sequence[int] = (0,),
    name: str = "cross-validation",
    reporter: Reporter | None = None,
) -> CrossValidation | None:
    """Train every fold with every seed; a second call goes on where the first one stopped. None if interrupted.

    Parameters
    ----------
    folds : sequence of int
        All by default.
    name : str
        Folder of the result, in the study's folder of runs.

    Raises
    ------
    DataError
        If the dataset is not prepared, or a fold does not exist.
    """
    if not seeds:
        raise ConfigError("no seed to train with", expected="at least one")
    dataset = PreparedDataset(prepared_folder(config))
    chosen = list(folds) or list(range(len(dataset.folds)))
    for k in chosen:
        dataset.fold(k)
    folder = Path(config.runs) / config.name / name
    configs = {f"fold{k}-seed{s}": _of(config, k, s) for s in seeds for k in chosen}
    length = config.training.max_minutes
    text = f"folds {chosen}, seeds {list(seeds)}" + (f", {length:g} minutes each" if length else "")
    with nested_runs(config, folder, f"**{config.name}**: cross-validation, {text}") as (parent, tracker):
        trainings = train_all(configs, folder, parent_run_id=parent, reporter=reporter or Silent())
        if trainings is None:
            return None
        result = _summarise(folder, trainings)
        if tracker is not None:
            tracker.log_metrics({"dice": result.dice.mean, "dice_median": result.median}, 0)
            for path in (folder / "cases.csv", folder / "summary.json"):
                tracker.log_file(path, "")
            tracker.log_table(folder / "cases.csv", "cases")
    return result


def _of(config: StudyConfig, fold: int, seed: int) -> StudyConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"fold": fold, "seed": seed})})


def _summarise(folder: Path, trainings: list[Training]) -> CrossValidation:
    by_case: dict[str, list[float]] = {}
    for t in trainings:
        for case, of_case in t.cases.items():
            by_case.setdefault(case, []).append(of_case)
    values = [float(np.mean(v)) for v in by_case.values()]
    dice, median = mean_interval(values), float(np.median(values))
    record = {
        "dice": {"mean": round(dice.mean, 4), "low": round(dice.low, 4), "high": round(dice.high, 4)},
        "dice_median": round(median, 4),
        "n_cases": len(values),
        "trainings": {t.name: {"dice": round(t.mean_dice, 4), "run": t.run.folder.name} for t in trainings},
    }
    write_atomically(folder / "summary.json", json.dumps(record, indent=1) + "\n")
    return CrossValidation(folder, tuple(trainings), dice, median)
