"""Comparison of settings: train each with every seed on the same cases, and compare them paired by case.

RUNS/<study>/<name>/comparison.md, comparison.png     table and figure
RUNS/<study>/<name>/cases.csv                         Dice of every validation case of every training
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medhybrid.config import StudyConfig
from medhybrid.data.dataset import PreparedDataset
from medhybrid.errors import ConfigError
from medhybrid.files import write_atomically
from medhybrid.inference.network import network_for
from medhybrid.progress import Reporter, Silent
from medhybrid.review.comparison import Setting, comparison_table, draw_comparison
from medhybrid.runs.prepared import prepared_folder
from medhybrid.runs.setup import require_validation
from medhybrid.steps.train_all import InterruptedRunsError, Training, curve_of, nested_runs, train_all
from medhybrid.tracking.jsonl import read_log


@dataclass(frozen=True, slots=True)
class SettingsComparison:
    """Scores of each setting; `table` is Markdown."""

    folder: Path
    settings: tuple[Setting, ...]
    table: str


def compare_settings(
    configs: Mapping[str, StudyConfig],
    *,
    seeds: Sequence[int],
    name: str,
    reporter: Reporter | None = None,
) -> SettingsComparison | None:
    """Train every setting with every seed and compare their scores.

    A second call continues where the first one stopped. Returns None if interrupted.

    Parameters
    ----------
    configs : mapping
        Setting to config, all of one prepared study. The first setting is the baseline.
    name : str
        Name of the result folder, in the study's folder of runs.

    Raises
    ------
    ConfigError
        If `configs` or `seeds` is empty, or the configs differ in study, preparation or fold, or have no validation.
    """
    if not configs or not seeds or len({c.name for c in configs.values()}) > 1:
        raise ConfigError("nothing to compare", expected="settings of one study and at least one seed")
    first = next(iter(configs.values()))
    require_validation(first, "a comparison of settings")
    for setting, config in configs.items():
        if _judged_by(config) != _judged_by(first):
            raise ConfigError(
                f"setting {setting} has other validation cases than {next(iter(configs))}",
                expected="the same training.fold and training.inner_fold",
                found=f"{_judged_by(config)} and {_judged_by(first)}",
            )
        if _preparation(config) != _preparation(first):
            raise ConfigError(
                f"setting {setting} has another preparation than {next(iter(configs))}",
                expected="the same data, scans and prepare, since settings share the prepared cases",
                remedy="compare values of network, augment, training or inference",
            )
    folder = Path(first.runs) / first.name / name
    trainings = {f"{setting}-seed{s}": with_seed(c, s) for s in seeds for setting, c in configs.items()}
    text = f"**{first.name}**: {', '.join(configs)}; seeds {', '.join(map(str, seeds))}"
    with nested_runs(first, folder, text) as (parent, tracker):
        done = train_all(trainings, folder, parent_run_id=parent, reporter=reporter or Silent())
        if done is None:
            raise InterruptedRunsError
        by_name = {t.name: t for t in done}
        settings = [_setting(s, [by_name[f"{s}-seed{seed}"] for seed in seeds]) for s in configs]
        table = comparison_table(settings)
        write_atomically(folder / "comparison.md", table)
        draw_comparison(settings, folder / "comparison.png", unit="minutes" if first.training.max_minutes else "steps")
        if tracker is not None:
            tracker.log_metrics({f"dice/{s.name}": float(np.mean(s.by_seed)) for s in settings}, 0)
            for file in ("comparison.md", "comparison.png", "cases.csv"):
                tracker.log_file(folder / file, "")
        return SettingsComparison(folder, tuple(settings), table)
    return None


def _judged_by(config: StudyConfig) -> tuple[int | str, int | None]:
    return config.training.fold, config.training.inner_fold


def _preparation(config: StudyConfig) -> object:
    """Return the config sections of preparation; a setting may use a part of the prepared context."""
    return config.data.model_dump(exclude={"context"}), config.scans, config.prepare


def with_seed(config: StudyConfig, seed: int) -> StudyConfig:
    """Return a config with another seed."""
    return config.model_copy(update={"training": config.training.model_copy(update={"seed": seed})})


def _setting(name: str, trainings: Sequence[Training]) -> Setting:
    cases = {c: float(np.mean([t.cases[c] for t in trainings])) for c in trainings[0].cases}
    config = trainings[0].config
    network = network_for(config.network, PreparedDataset(prepared_folder(config)).plan_for(config))
    return Setting(
        name,
        sum(p.numel() for p in network.parameters()),
        tuple(_n_steps(t.run.folder) for t in trainings),
        tuple(t.mean_dice for t in trainings),
        cases,
        tuple(curve_of(t) for t in trainings),
    )


def _n_steps(folder: Path) -> int:
    return max(int(e["step"]) for e in read_log(folder / "log.jsonl") if "step" in e)
