"""`medhybrid tune`: hyperparameter search with Optuna on the inner validation split, with a budget in minutes.

RUNS/<study>/tune-<search>/
    trials.db                     state of the search, unless --storage names a database that several hosts share
    best.yaml                     config with the best values
    trials.csv                    values, score, minutes and run of every trial
    importance.png, slice.png     importance of the keys, and Dice over their values
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import psutil

from medhybrid.config import SearchConfig, StudyConfig, require_config, save_config, with_values
from medhybrid.config.renamed import rename_sections
from medhybrid.errors import ConfigError, MedHybridError
from medhybrid.files import held, make_folder, write_csv
from medhybrid.inference.records import MAX_ATTEMPTS
from medhybrid.interrupt import stop_on_signals
from medhybrid.progress import Reporter, Silent
from medhybrid.review.tuning import draw_search
from medhybrid.runs.leakage import check_leakage
from medhybrid.runs.record import without_places
from medhybrid.runs.resume import mark_part
from medhybrid.runs.run import Run
from medhybrid.runs.setup import RunSetup, require_validation, resolve_setup
from medhybrid.starts import read_weights
from medhybrid.steps.train import resume, train
from medhybrid.steps.train_all import InterruptedRunsError, nested_runs, run_beside
from medhybrid.tracking.mlflow_store import sqlite_url
from medhybrid.training.team import refuse_team

logger = logging.getLogger(__name__)

NOT_SEARCHED = (
    "name",
    "runs",
    "data.",
    "scans.",
    "prepare.",
    "tracking.",
    "training.fold",
    "training.inner_fold",
    "training.seed",
)
"""Keys that a search cannot change, since all trials share the prepared cases, the fold and the record."""

MAX_FAILURES = 3
"""Most consecutive failed trials, without misfits."""

MAX_MISFITS = 50
"""Most consecutive misfits: trials with incompatible values, which fail at once."""

FIXED = {"training.inner_fold": 0, "tracking.register_model": False}
"""Values of every trial: scores on the inner validation split, and no registered model."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Result of a search.

    Attributes
    ----------
    config : StudyConfig
        The study with the best values; also in `best.yaml`.
    """

    folder: Path
    config: StudyConfig
    values: dict[str, Any]
    dice: float
    n_trials: int


def tune(
    config: StudyConfig,
    search: SearchConfig,
    *,
    minutes: float,
    storage: str | None = None,
    reporter: Reporter | None = None,
) -> Tuning | None:
    """Run trials until their total time reaches the budget.

    A second call continues the search. Returns None if interrupted. The first trial has the values of `config`, where they lie
    in the search space, so that the result can be compared with them.

    Parameters
    ----------
    minutes : float
        Budget for training and validation, over all calls; the last trial is finished after it is spent.
    storage : str, optional
        URL of a database; calls with the same search on several hosts share its trials.

    Raises
    ------
    ConfigError
        If a key of the search does not exist, or no trial has a score.
    """
    refuse_team("tune")
    if not minutes > 0:
        raise ConfigError(f"invalid budget of {minutes:g} minutes", expected="minutes above 0")
    reporter, config = reporter or Silent(), require_config(config)
    require_validation(config, "tune")
    folder = Path(config.runs) / config.name / f"tune-{search.name}"
    make_folder(folder, remedy="choose another folder: runs=FOLDER")
    base = with_values(config, {**search.trial, **FIXED}, source=f"search {search.name}: trial")
    if stuck := [key for key in (*search.space, *search.trial) if key.startswith(NOT_SEARCHED)]:
        raise ConfigError(
            f"a search cannot change {', '.join(stuck)}",
            expected="keys of network, augment, training, inference",
            remedy="preprocess a study for each value and compare them",
        )
    for key, values in search.space.items():  # raises for an unknown key before the first trial
        with_values(
            base, {key: values.choices[0] if values.choices else values.low}, source=f"search {search.name}: space"
        )
    setup = resolve_setup(base)
    check_leakage(setup)  # raises before the first trial
    study = _open_study(config, search, folder, storage)
    _refuse_other_search(study, search, setup)
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(_own_values(base, search), skip_if_exists=True)
    text = f"**{config.name}**: search {search.name} over {', '.join(search.space)}; {minutes:g} minutes"
    with nested_runs(config, folder, text) as (parent, tracker), stop_on_signals() as should_stop:
        while (spent := _minutes_spent(study)) < minutes:
            if should_stop():
                raise InterruptedRunsError
            number = 1 + sum(t.state.name != "WAITING" for t in study.get_trials(deepcopy=False))
            reporter.message(f"trial {number}: {spent:.1f} of {minutes:g} minutes spent")
            if not _one_trial(study, base, search, folder, parent, reporter):
                raise InterruptedRunsError
            _write_trials(study, folder / "trials.csv")
            if _best(study) is not None:  # save the best so far: a later trial may fail or be killed
                _conclude(study, config, search, folder)
            _refuse_failures(study)
        tuning = _conclude(study, config, search, folder)
        pictures = draw_search(study, folder)
        if tracker is not None:
            tracker.log_metrics({"dice": tuning.dice, "trials": tuning.n_trials}, 0)
            for file in (folder / "best.yaml", folder / "trials.csv", *pictures):
                tracker.log_file(file, "")
        return tuning
    return None


# --- trials -----------------------------------------------------------------------------------------------------------


def _open_study(config: StudyConfig, search: SearchConfig, folder: Path, storage: str | None) -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("tune needs Optuna", remedy="pip install 'medhybrid[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            study_name=f"{config.name}-{search.name}",
            storage=storage or sqlite_url(folder / "trials.db"),
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
        )
    except Exception as error:  # Optuna, SQLAlchemy and database drivers raise different exceptions
        first_line = str(error).partition("\n")[0]
        raise ConfigError(
            f"the database of the search cannot be opened ({'--storage' if storage else folder / 'trials.db'})",
            found=f"{type(error).__name__}: {first_line[:200]}",
            expected="a URL such as sqlite:////shared/trials.db or postgresql://host/name, its driver installed",
        ) from error
    # with the same seed, a second call or a second host would sample the same values again
    seed = config.training.seed + len(study.trials) if storage is None else None
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=6)
    return study


def _one_trial(
    study: Any, base: StudyConfig, search: SearchConfig, folder: Path, parent: str, reporter: Reporter
) -> bool:
    """Run a new trial, or resume one that was killed on this host; returns False if interrupted."""
    from optuna.trial import Trial, TrialState

    orphan = next((t for t in study.get_trials(deepcopy=False) if _is_orphan(t, folder)), None)
    trial = study.ask() if orphan is None else Trial(study, orphan._trial_id)
    # a resumed trial counts its earlier minutes
    began = time.monotonic() - 60 * float(trial.user_attrs.get("minutes", 0))
    trial.set_user_attr("process", os.getpid())
    trial.set_user_attr("host", socket.gethostname())  # after this, other processes check whether this one is alive
    attempts = int(trial.user_attrs.get("attempts", 0)) + 1
    if attempts > MAX_ATTEMPTS:
        trial.set_user_attr("problem", f"its process died {MAX_ATTEMPTS} times")
        study.tell(trial.number, state=TrialState.FAIL)
        return True
    trial.set_user_attr("attempts", attempts)
    is_pruned = False

    def watch(number: int, dice: float) -> bool:
        nonlocal is_pruned
        trial.set_user_attr("minutes", (time.monotonic() - began) / 60)
        trial.report(dice, number)
        is_pruned = trial.should_prune()
        return is_pruned

    try:
        config = with_values(base, _suggest(trial, search), source=f"trial {trial.number}")
        run = _train(config, trial, folder, parent, watch, reporter)
    except Exception as error:  # such as out of memory or incompatible values: the search continues
        logger.warning("trial %d failed: %s", trial.number, error)
        trial.set_user_attr("is_misfit", isinstance(error, ConfigError))
        trial.set_user_attr("problem", error.what if isinstance(error, MedHybridError) else type(error).__name__)
        trial.set_user_attr("minutes", (time.monotonic() - began) / 60)
        study.tell(trial.number, state=TrialState.FAIL)
        return True
    trial.set_user_attr("minutes", (time.monotonic() - began) / 60)
    if run.is_interrupted and not is_pruned:
        return False
    if is_pruned:
        study.tell(trial.number, state=TrialState.PRUNED)
    else:
        study.tell(trial.number, run.metrics["val/dice"])
    return True


def _refuse_other_search(study: Any, search: SearchConfig, setup: RunSetup) -> None:
    """Raise `ConfigError` if an earlier search of this name had another config, space, fold, plan or other data."""
    base = setup.config
    shared = without_places(base)  # hosts of one search may differ in paths and cores
    for section, key in (("training", "workers"), ("training", "device"), ("prepare", "workers")):
        del shared[section][key]
    if base.training.pretrained is not None:  # by content, since names may differ between hosts
        shared["training"]["pretrained"] = read_weights(Path(base.training.pretrained)).sha256
    asked = rename_sections(shared, to_first=True) | {"search": search.model_dump(mode="json")}
    of = [
        setup.data_hash,
        setup.fold.model_dump(),
        setup.plan.values,
    ]
    sign = hashlib.sha256(json.dumps([asked, of], sort_keys=True).encode()).hexdigest()
    if study.user_attrs.get("asked", sign) != sign:
        raise ConfigError(
            f"search {search.name} was started with another config, space, fold or data",
            remedy="choose another name for the search, or delete its folder",
        )
    study.set_user_attr("asked", sign)


def _refuse_failures(study: Any) -> None:
    ended = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    row = list(takewhile(lambda t: t.state.name == "FAIL", reversed(ended)))
    n_misfits = sum(bool(t.user_attrs.get("is_misfit")) for t in row)
    if len(row) - n_misfits >= MAX_FAILURES or n_misfits >= MAX_MISFITS:
        raise ConfigError(
            f"the last {len(row)} trials failed",
            found=str(row[0].user_attrs.get("problem", "")),
            remedy="see the log; the best trial so far is in best.yaml" if _best(study) else "see the log",
        )


def _train(config: StudyConfig, trial: Any, folder: Path, parent: str, watch: Any, reporter: Reporter) -> Run:
    known = trial.user_attrs.get("run")
    if known and any((run_beside(folder, known) / "checkpoint").glob("*.pt")):
        return resume(run_beside(folder, known), watch=watch, reporter=reporter)

    def remember(run: Path) -> None:
        trial.set_user_attr("run", str(run))
        mark_part(run, folder)

    return train(config, parent_run_id=parent, on_start=remember, watch=watch, reporter=reporter)


def _is_orphan(trial: Any, folder: Path) -> bool:
    """Return whether a trial was running on this host in a process that has ended."""
    here = trial.user_attrs.get("host") == socket.gethostname()
    process = trial.user_attrs.get("process", 0)
    is_mine = process == os.getpid()
    if trial.state.name != "RUNNING" or not here or not (is_mine or not psutil.pid_exists(process)):
        return False
    run = run_beside(folder, trial.user_attrs.get("run", ""))
    if not (run / "config.yaml").is_file():
        return True
    with held(run / ".lock", wait=False) as is_free:  # process ids are not unique across containers
        return is_free


def _suggest(trial: Any, search: SearchConfig) -> dict[str, Any]:
    values = {}
    for key, r in search.space.items():
        if r.choices:
            values[key] = trial.suggest_categorical(key, [_stored(choice) for choice in r.choices])
        elif r.is_whole:
            values[key] = trial.suggest_int(key, r.low, r.high, log=r.log)
        else:
            values[key] = trial.suggest_float(key, r.low, r.high, log=r.log)
    return _read_back(values, search)


def _stored(choice: Any) -> Any:
    """Return a choice in a form that a database can store, with lists as text."""
    return json.dumps(choice) if isinstance(choice, list | tuple | dict) else choice


def _read_back(values: Mapping[str, Any], search: SearchConfig) -> dict[str, Any]:
    """Convert the stored values of a trial to config values."""
    known = {key: {_stored(choice): choice for choice in search.space[key].choices} for key in values}
    return {key: known[key].get(value, value) for key, value in values.items()}


def _own_values(base: StudyConfig, search: SearchConfig) -> dict[str, Any]:
    """Return the values of the config that lie in the search space; Optuna samples the others."""
    values: dict[str, Any] = {}
    for key, r in search.space.items():
        value: Any = base.model_dump(mode="json")  # lists, as a search file has them
        for part in key.split("."):
            value = value[part]
        if value in r.choices or (isinstance(value, int | float) and r.has(value)):
            values[key] = _stored(value)
    return values


def _minutes_spent(study: Any) -> float:
    return sum(float(t.user_attrs.get("minutes", 0)) for t in study.get_trials(deepcopy=False) if t.state.is_finished())


# --- the result -------------------------------------------------------------------------------------------------------


def _conclude(study: Any, config: StudyConfig, search: SearchConfig, folder: Path) -> Tuning:
    best = _best(study)
    if best is None:
        raise ConfigError("no trial has a score", remedy=f"see {folder / 'trials.csv'}, or give more minutes")
    values = _read_back(best.params, search)
    winner = with_values(config, values, source="the winner")
    save_config(winner, folder / "best.yaml")
    return Tuning(folder, winner, values, float(best.value), len(study.trials))


def _best(study: Any) -> Any | None:
    done = [t for t in study.get_trials(deepcopy=False) if t.value is not None and t.state.name == "COMPLETE"]
    return max(done, key=lambda t: t.value, default=None)


def _write_trials(study: Any, path: Path) -> None:
    trials = study.get_trials(deepcopy=False)
    keys = sorted({key for t in trials for key in t.params})
    rows: list[list[Any]] = [["trial", "state", "dice", "minutes", *keys, "run", "problem"]]
    for t in trials:
        attrs: Mapping[str, Any] = t.user_attrs
        dice = "" if t.value is None else f"{t.value:.4f}"
        row = [t.number, t.state.name.lower(), dice, f"{attrs.get('minutes', 0):.2f}"]
        name = Path(attrs["run"]).name if "run" in attrs else ""
        rows.append([*row, *(t.params.get(k, "") for k in keys), name, attrs.get("problem", "")])
    write_csv(path, rows)
