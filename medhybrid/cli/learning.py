"""Commands for training: train, cross-validate, pretrain, tune, reproduce."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from medhybrid.cli.context import call_of
from medhybrid.cli.launch import LAUNCHED, launch
from medhybrid.cli.options import (
    Address,
    Config,
    Engine,
    Minutes,
    Overrides,
    Quiet,
    ResumedRun,
    StudyMode,
    open_pool,
    patient_files,
    whole_numbers,
)
from medhybrid.cli.study import checked_minutes, show_plan
from medhybrid.data.workers import end_with_parent
from medhybrid.errors import ConfigError

if TYPE_CHECKING:
    from medhybrid.config import StudyConfig
    from medhybrid.progress import Reporter


def train(
    context: typer.Context,
    config: Config = "",
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA | KEY=VALUE", help="Folder of a dataset, instead of --config; overrides of the config."
        ),
    ] = None,
    minutes: Minutes = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the newest run of the config, or that of --run.")
    ] = False,
    run: ResumedRun = None,
    processes: Annotated[int, typer.Option(help="Processes on this host that train together, one GPU each.")] = 1,
    own_loss: Annotated[
        str | None,
        typer.Option(help="FILE.py:FUNCTION, a loss of your own. The file is run: give only one that you trust."),
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="Bit-identical weights when trained again on this host; slower on a GPU."),
    ] = False,
    mode: StudyMode = "",
    quiet: Quiet = False,
) -> int:
    """Train a model on prepared cases or a dataset's folder.

    With --config, run preprocess first. For a folder, the config NAME.yaml is written in the current folder (or used again),
    and the cases are prepared. Ctrl-C saves the state, and --resume continues the run. To extend a run by its own unit of
    length: --resume training.iterations=+N or training.max_minutes=+M. The run folder has report.html.
    """
    from medhybrid.runs.resume import find_run, run_config
    from medhybrid.steps.train import resume as go_on
    from medhybrid.steps.train import train as start
    from medhybrid.training.own_loss import load_own_loss

    if processes != 1:
        return launch(call_of(context).arguments_without("--processes"), processes)
    if LAUNCHED in os.environ:
        end_with_parent()
    is_first = os.environ.get("RANK", "0") == "0"
    loss = None if own_loss is None else load_own_loss(own_loss)
    reporter = call_of(context).reporter(quiet or not is_first)
    if resume and deterministic:
        raise ConfigError("--deterministic cannot change on --resume", remedy="omit it: a run keeps its setting")
    if resume:
        folder, length = find_run(config, overrides or [], run)
        with patient_files(mode or run_config(folder).output.mode):
            result = go_on(folder, length, loss=loss, reporter=reporter)
    else:
        changes = [*(["training.deterministic=true"] if deterministic else [])]
        study, must_prepare = _study_of(config, [*(overrides or []), *changes], checked_minutes(minutes), reporter)
        with patient_files(mode or study.output.mode):
            if must_prepare and is_first:
                _prepare(study, reporter)
            result = start(study, loss=loss, reporter=reporter)
    if result.is_interrupted:
        reporter.message(
            f"interrupted after step {result.n_steps}; the state and the best model are in {result.folder}"
        )
        again = "" if own_loss is None else f" --own-loss {quote(own_loss)}"
        reporter.message(f"continue with: medhybrid train --resume --run {quote(str(result.folder))}{again}")
        return 130
    rows = [[k.removeprefix("val/").removeprefix("val_label/"), f"{v:.4f}"] for k, v in result.metrics.items()]
    share = result.metrics.get("val/labelled_share")
    basis = "" if share is None else f", on labelled voxels only ({share:.2%} of the voxels)"
    if rows:
        reporter.table(f"Validation, all cases of the fold{basis}", ["measure", "value"], rows)
    else:
        reporter.message("no validation: every case trained, so the model has no scores and is not calibrated")
    if pictures := sorted((result.folder / "pictures").glob(f"*_{result.n_steps:06d}.png")):
        reporter.picture(pictures[0])
    reporter.message(f"run and model: {result.folder}")
    if result.verdict is not None:
        for line in result.verdict.lines:
            reporter.message(line)
    else:
        reporter.message(f"next: medhybrid predict SCANS --model {quote(str(result.folder))} --out OUT")
    return 0


def _study_of(config: str, arguments: list[str], minutes: float | None, reporter: Reporter) -> tuple[StudyConfig, bool]:
    """Return the config, and whether its dataset must be prepared: if it was given as a folder."""
    from medhybrid.config import load_config

    data = [a for a in arguments if "=" not in a and Path(a).is_dir()]
    overrides = [a for a in arguments if a not in data]
    if config and not data:
        return load_config(config, [*overrides, *(f"training.max_minutes={m:g}" for m in (minutes,) if m)]), False
    if config or len(data) != 1:
        unknown = [a for a in overrides if "=" not in a]
        files = [a for a in unknown if a.endswith((".yaml", ".yml"))]
        raise ConfigError(
            "train needs --config or the folder of a dataset",
            expected="a YAML file, a packaged config such as brain.yaml, or one folder of scans with masks",
            found="both" if config else ", ".join([*data, *unknown]) or "neither",
            remedy=f"give the config as an option: medhybrid train --config {quote(str(files[0]))}"
            if files
            else f"check the path: {unknown[0]} is not a folder"
            if unknown
            else "",
        )
    from medhybrid.steps.init import config_for_data

    return config_for_data(Path(data[0]), overrides, minutes=minutes, reporter=reporter), True


def _prepare(study: StudyConfig, reporter: Reporter) -> None:
    from medhybrid.steps.preprocess import preprocess

    made = preprocess(study, reporter=reporter)
    show_plan(made.plan, reporter)
    for finding in made.findings:
        if finding.severity == "error":
            reporter.message(f"{finding.where} is excluded: {finding.message}")


def cross_validate(
    context: typer.Context,
    config: Config,
    overrides: Overrides = None,
    folds: Annotated[str, typer.Option(help="Comma-separated folds. Default: all.")] = "",
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds.")] = "0",
    name: Annotated[str, typer.Option(help="Name of the result folder, beside the run folders.")] = "cross-validation",
    engine: Engine = "local",
    workers: Annotated[
        int, typer.Option(help="Trainings that run in parallel, one GPU each if there are several.")
    ] = 1,
    address: Address = "auto",
    mode: StudyMode = "",
    quiet: Quiet = False,
) -> int:
    """Train all folds and report the mean Dice over all cases.

    Run preprocess first. Every fold is trained with every seed, each for the length in the config. Scores are in cases.csv
    and summary.json in runs/NAME/cross-validation/. After an interruption, the same command continues.
    """
    from medhybrid.config import load_config
    from medhybrid.steps.cross_validate import cross_validate as run

    reporter = call_of(context).reporter(quiet)
    study, numbers = load_config(config, overrides or []), [whole_numbers(text) for text in (folds, seeds)]
    try:
        with (
            patient_files(mode or study.output.mode),
            open_pool(engine, workers, address, study.training.device) as pool,
        ):
            result = run(study, folds=numbers[0], seeds=numbers[1], name=name, pool=pool, reporter=reporter)
    except KeyboardInterrupt:  # the workers have saved their states
        result = None
    if result is None:
        reporter.message("interrupted; the same command continues")
        return 130
    rows = [[t.name, f"{t.mean_dice:.4f}", t.run.folder.name] for t in result.trainings]
    reporter.table("Cross-validation", ["training", "mean Dice", "run"], rows)
    basis = " on labelled voxels" if study.data.ignore_value is not None else ""
    reporter.message(
        f"all cases: mean Dice{basis} {result.dice}, median {result.median:.4f}; results in {result.folder}"
    )
    rules, models = result.rules, " ".join(f"--model {quote(str(t.run.folder))}" for t in result.trainings)
    chosen = ", ".join(
        [*(f"keep the largest of {n}" for n in rules.keep_largest), f"minimum volume {rules.min_component_ml:g} ml"]
    )
    reporter.message(f"component rules: {chosen}; gain in mean Dice {rules.gain}")
    reporter.message(f"predict with the ensemble: medhybrid predict SCANS --out OUT {models}")
    return 0


def pretrain(
    context: typer.Context,
    config: Config = "",
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run of --run.")] = False,
    run: ResumedRun = None,
    mode: StudyMode = "",
    quiet: Quiet = False,
) -> int:
    """Pretrain on scans without masks (self-supervised).

    The network reconstructs masked tokens. Then train with training.pretrained=RUN.
    """
    from medhybrid.runs.resume import run_config
    from medhybrid.steps.pretrain import pretrain as start
    from medhybrid.steps.pretrain import resume_pretraining

    reporter = call_of(context).reporter(quiet)
    if resume:
        if run is None:
            raise ConfigError("pretrain --resume needs --run FOLDER")
        with patient_files(mode or run_config(run).output.mode):
            result = resume_pretraining(run, overrides or [], reporter=reporter)
    else:
        from medhybrid.config import load_config

        if not config:
            raise ConfigError("pretrain needs --config", expected="a YAML file or a packaged config such as brain.yaml")
        study = load_config(config, overrides or [])
        with patient_files(mode or study.output.mode):
            result = start(study, reporter=reporter)
    if result.is_interrupted:
        reporter.message(f"interrupted after step {result.n_steps}; the state is in {result.folder}")
        reporter.message(f"continue with: medhybrid pretrain --resume --run {quote(str(result.folder))}")
        return 130
    rows = [[k, f"{v:.4f}"] for k, v in result.metrics.items()]
    if rows:
        reporter.table("Reconstruction of masked tokens", ["measure", "value"], rows)
    else:
        reporter.message(
            "every scan was used for pretraining (training.fold=all), so the reconstruction is not measured"
        )
    reporter.message(
        f"initialise a training from it: medhybrid train ... training.pretrained={quote(str(result.folder))}"
    )
    return 1 if result.left_out else 0


def tune(
    context: typer.Context,
    config: Config,
    minutes: Annotated[float, typer.Option(help="Time in minutes, for all trials of all calls.")],
    search: Annotated[
        str, typer.Option(help="YAML file with keys and their ranges or choices, or the name of a packaged one.")
    ] = "search_hybrid.yaml",
    storage: Annotated[
        str | None,
        typer.Option(help="URL of a database that several hosts share. Default: a file in runs/NAME/."),
    ] = None,
    overrides: Overrides = None,
    mode: StudyMode = "",
    quiet: Quiet = False,
) -> int:
    """Search for hyperparameters within a time budget.

    Trials are scored on the inner validation split, not on the validation cases of the fold. After an interruption, the same
    command continues. The best config is written to best.yaml.
    """
    from medhybrid.config import load_config, load_search
    from medhybrid.steps.tune import tune as run

    reporter = call_of(context).reporter(quiet)
    study = load_config(config, overrides or [])
    with patient_files(mode or study.output.mode):
        result = run(study, load_search(search), minutes=minutes, storage=storage, reporter=reporter)
    if result is None:
        reporter.message("interrupted; the same command continues")
        return 130
    rows = [[k, f"{v:.4g}" if isinstance(v, float) else str(v)] for k, v in result.values.items()]
    reporter.table("Best values", ["key", "value"], rows)
    basis = " on labelled voxels" if study.data.ignore_value is not None else ""
    reporter.message(
        f"mean Dice{basis} {result.dice:.4f} on the inner validation split, best of {result.n_trials} trials: {result.folder}"
    )
    reporter.message(f"train with it: medhybrid train --config {quote(str(result.folder / 'best.yaml'))}")
    return 0


def reproduce(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="Run folder or model folder.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Local paths, such as data.root=... runs=...")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output file for the config.")] = Path("reproduce.yaml"),
    run: Annotated[bool, typer.Option("--run", help="Train it again now and compare the weights.")] = False,
    quiet: Quiet = False,
) -> int:
    """Reproduce the training of a model.

    Writes the config, prints the commands and lists the differences of this host. With --run, trains the model again.
    """
    from medhybrid.inference.model_record import read_record
    from medhybrid.steps.reproduce import recipe_of
    from medhybrid.steps.reproduce import reproduce as make_again

    reporter = call_of(context).reporter(quiet)
    recipe = recipe_of(read_record(model)[1], overrides or [])
    for line in recipe.save(out):
        reporter.message(line)
    if recipe.differences:
        reporter.table("Differences", ["property", "then", "here"], recipe.differences)
    if not run:
        return 0
    with patient_files(recipe.config.output.mode):
        made, is_same = make_again(recipe, reporter=reporter)
    if made.is_interrupted:
        return 130
    reporter.message(f"{made.folder}: the weights are {'bit-identical' if is_same else 'different'}")
    return 0 if is_same else 1
