"""`medhybrid cross-validate`: training of every fold with every seed, and scores over all cases.

RUNS/<study>/<name>/cases.csv        Dice of every validation case of every training
RUNS/<study>/<name>/curves.png       Dice during training, a line for each fold
RUNS/<study>/<name>/summary.json     mean over all cases with its interval, by fold and seed; component rules

Component rules (keep the largest, remove the small) are chosen on the validation masks of all trainings and written into the
models. A rule is chosen only if the whole confidence interval of its gain, over at least 6 cases, is above 0. The reported
Dice is without the rules, since they were chosen on the same cases.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from medhybrid.config import StudyConfig, require_config
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.prepare import inside_labels
from medhybrid.errors import ConfigError
from medhybrid.files import write_atomically
from medhybrid.inference.engines.pool import Pool
from medhybrid.inference.model_folder import set_component_rules
from medhybrid.inference.rule_search import ComponentRules, JudgedCase, choose_rules
from medhybrid.metrics import Interval, mean_interval
from medhybrid.progress import Reporter, Silent
from medhybrid.review.plots import learning_curves
from medhybrid.runs.prepared import prepared_folder
from medhybrid.runs.record import reopen_tracker
from medhybrid.scans.reader import read_scan
from medhybrid.steps.train_all import InterruptedRunsError, Training, curve_of, nested_runs, train_all


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """Validation scores of all cases.

    Attributes
    ----------
    dice : Interval
        Mean over cases; each case is the mean of its seeds.
    median : float
        Median over cases.
    rules : ComponentRules
        Component rules written into the models.
    """

    folder: Path
    trainings: tuple[Training, ...]
    dice: Interval
    median: float
    rules: ComponentRules


def cross_validate(
    config: StudyConfig,
    *,
    folds: Sequence[int] = (),
    seeds: Sequence[int] = (0,),
    name: str = "cross-validation",
    pool: Pool | None = None,
    reporter: Reporter | None = None,
) -> CrossValidation | None:
    """Train every fold with every seed and score all validation cases.

    A second call continues where the first one stopped. Returns None if interrupted.

    Parameters
    ----------
    folds : sequence of int
        Folds to train; all by default.
    name : str
        Name of the result folder, in the study's folder of runs.
    pool : Pool, optional
        Workers for parallel trainings; by default the trainings run one after the other.

    Raises
    ------
    DataError
        If the dataset is not prepared, or a fold does not exist.
    """
    if not seeds:
        raise ConfigError("no seeds given", expected="at least one seed")
    reporter = reporter or Silent()
    dataset = PreparedDataset(prepared_folder(require_config(config)))
    if not config.training.has_validation:
        reporter.message("training.fold=all does not apply: each fold is trained without its validation cases")
    chosen = list(folds) or list(range(len(dataset.folds)))
    for k in chosen:
        dataset.fold(k)
    folder = Path(config.runs) / config.name / name
    configs = {f"fold{k}-seed{s}": _of(config, k, s) for s in seeds for k in chosen}
    length = config.training.max_minutes
    text = f"folds {chosen}, seeds {list(seeds)}" + (f", {length:g} minutes each" if length else "")
    with nested_runs(config, folder, f"**{config.name}**: cross-validation, {text}") as (parent, tracker):
        trainings = train_all(configs, folder, parent_run_id=parent, pool=pool, reporter=reporter)
        if trainings is None:
            raise InterruptedRunsError
        rules = _choose_rules(trainings, dataset)
        result = _summarise(folder, trainings, rules)
        unit = "minutes" if length else "steps"
        curves = learning_curves(folder / "curves.png", {t.name: curve_of(t) for t in trainings}, unit=unit)
        if tracker is not None:
            tracker.log_metrics({"dice": result.dice.mean, "dice_median": result.median}, 0)
            for path in (folder / "cases.csv", folder / "summary.json", curves):
                tracker.log_file(path, "")
            tracker.log_table(folder / "cases.csv", "cases")
        return result
    return None


def _of(config: StudyConfig, fold: int, seed: int) -> StudyConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"fold": fold, "seed": seed})})


def _choose_rules(trainings: list[Training], dataset: PreparedDataset) -> ComponentRules:
    """Choose component rules on the validation masks, and write them into the models; keep those of the config."""
    plan, judged = dataset.plan, []
    if plan.keep_largest or plan.min_component_ml:
        return ComponentRules(plan.keep_largest, plan.min_component_ml)
    for t in trainings:
        for case in dataset.open(sorted(t.cases)):
            mask = read_scan(t.run.folder / "validation" / f"{case.name}.nii.gz").array[0]
            inside = inside_labels(mask, plan.labels)
            reference, annotated = case.source_mask_with_unknown(), case.record.annotated
            judged.append(JudgedCase(inside, reference, case.source_grid.voxel_ml, case.name, annotated))
    rules = choose_rules(judged, plan.structures)
    for t in trainings:
        is_changed = set_component_rules(t.run.folder, rules)
        if is_changed and t.config.tracking.register_model:
            tracker = reopen_tracker(t.run.folder)  # the version registered by the training has no rules
            tracker.log_model(t.run.folder / "model", register_as=t.config.name, alias=t.config.tracking.alias)
            tracker.finish("FINISHED")
    return rules


def _summarise(folder: Path, trainings: list[Training], rules: ComponentRules) -> CrossValidation:
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
        "component_rules": asdict(rules),
        "trainings": {t.name: {"dice": round(t.mean_dice, 4), "run": t.run.folder.name} for t in trainings},
    }
    write_atomically(folder / "summary.json", json.dumps(record, indent=1) + "\n")
    return CrossValidation(folder, tuple(trainings), dice, median, rules)
