"""Commands that start a study: init and plan."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from medhybrid.cli.context import call_of
from medhybrid.cli.options import Config, Minutes, Overrides, Quiet
from medhybrid.errors import ConfigError

if TYPE_CHECKING:
    from medhybrid.data.plan import Plan
    from medhybrid.progress import Reporter


def init(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="Folder of scans with reference masks.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File for the config. Default: NAME.yaml.")] = None,
    name: Annotated[str, typer.Option(help="Name of the config, used for folders. Default: that of the dataset.")] = "",
    minutes: Minutes = None,
    quiet: Quiet = False,
) -> int:
    """Write a config for a dataset.

    Finds layout, channels, labels and subjects: dataset.json of the Decathlon and of nnU-Net, CSV tables, DICOM studies
    with SEG or RTSTRUCT, and folders of images and masks. The dataset is not changed.
    """
    from medhybrid.steps.init import DEFAULT_MINUTES, describe, init_study

    reporter = call_of(context).reporter(quiet)
    made = init_study(data, out, name=name, minutes=checked_minutes(minutes) or DEFAULT_MINUTES, reporter=reporter)
    reporter.message(f"{made.path}: {describe(made.draft)}")
    reporter.message(f"next: medhybrid preprocess --config {quote(str(made.path))}")
    return 0


def plan(
    context: typer.Context,
    config: Config,
    overrides: Overrides = None,
    minutes: Minutes = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps. Default: training.device of the config.")] = "",
    rates: Annotated[
        Path | None, typer.Option(help="plan.json (or JSON file of rates) with a measured speed, instead of measuring.")
    ] = None,
    quiet: Quiet = False,
) -> int:
    """Show the plan for a training time, with its reasons.

    The plan has the spacing, patch size and network that preprocess would choose, and the rejected alternatives. Nothing is
    prepared or trained. If the choice depends on the speed of this machine, training steps are measured for some seconds.
    """
    from medhybrid.config import load_config
    from medhybrid.steps.plan import plan_study, read_rates

    reporter = call_of(context).reporter(quiet)
    changes = [*(overrides or [])]
    if checked_minutes(minutes):
        changes.append(f"training.max_minutes={minutes:g}")
    if device:
        changes.append(f"training.device={device}")
    study = load_config(config, changes)
    known = None if rates is None else read_rates(rates)
    show_plan(plan_study(study, rates=known, reporter=reporter), reporter)
    return 0


def show_plan(plan: Plan, reporter: Reporter) -> None:
    """Show a plan and its alternatives as tables."""
    from medhybrid.steps.plan import plan_rows

    chosen, others = plan_rows(plan)
    reporter.table("Plan", ["setting", "value", "reason"], chosen)
    if others:
        columns = ["spacing mm", "patch", "preset", "steps", "GiB", "rejected because"]
        reporter.table("Alternatives", columns, others)


def checked_minutes(minutes: float | None) -> float | None:
    """Return the minutes; raise `ConfigError` unless they are positive and finite."""
    if minutes is not None and not 0 < minutes < 1e6:
        raise ConfigError(f"invalid --minutes {minutes:g}", expected="a positive number of minutes")
    return minutes
