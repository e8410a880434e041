"""Commands for configs, scans and datasets: config, inspect, convert, preprocess, demo."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from medhybrid.addresses import without_passwords
from medhybrid.cli.context import call_of
from medhybrid.cli.options import (
    Config,
    KeepSheared,
    Mode,
    Overrides,
    Quiet,
    ResampleIrregular,
    StudyMode,
    patient_files,
)
from medhybrid.cli.study import show_plan


def show_config(
    name: Annotated[str, typer.Argument(help="YAML file, or the name of a packaged config.")],
    overrides: Overrides = None,
) -> None:
    """Print the resolved config with the source of each value."""
    import yaml

    from medhybrid.config import load_config_with_origins

    config, origins = load_config_with_origins(name, overrides or [])
    text = yaml.safe_dump(
        without_passwords(config.model_dump(mode="json")), sort_keys=False, allow_unicode=True, width=10**9
    )
    lines = text.splitlines()  # no value is folded over lines: a comment inside one would become part of it
    width = max(len(line) for line in lines) + 2
    path: list[str] = []
    for line in lines:
        stripped = line.lstrip()
        depth = (len(line) - len(stripped)) // 2
        key = stripped.split(":")[0] if not stripped.startswith("- ") else ""
        if key:
            path = [*path[:depth], key]
        origin = origins.get(".".join(path), "")
        print(f"{line:<{width}}# {origin}" if key and origin else line)


def inspect(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="Scan, or folder to search recursively.")],
    headers: Annotated[bool, typer.Option("--headers", help="Read headers only; faster.")] = False,
) -> int:
    """List the scans in a folder, and summarise a dataset.

    Refused and skipped files are listed with the reason. A folder of scans with reference masks is summarised: cases,
    channels, labels, spacing. Its masks are not listed as scans.
    """
    from medhybrid.steps.inspect import describe_dataset, recognise_dataset
    from medhybrid.steps.inspect import inspect as run

    draft = recognise_dataset(path)
    masks = frozenset(p.resolve() for p in draft.masks) if draft else frozenset()
    rows, n_other = run(path, read=not headers, without=masks)
    table = []
    for r in rows:
        spacing = " x ".join(f"{s:.3g}" for s in r.spacing_mm)
        remark = r.problem or "; ".join(r.notes)
        state = "ok" if not r.problem else "skipped" if not r.is_scan else "refused"
        shape = " x ".join(map(str, r.shape))
        table.append([r.entry.name, r.entry.kind, r.entry.modality, shape, spacing, r.orientation, state, remark])
    columns = ["scan", "kind", "modality", "shape", "spacing mm", "axes", "state", "remark"]
    reporter = call_of(context).reporter()
    reporter.table("", columns, table)
    n_refused = sum(bool(r.problem) and r.is_scan for r in rows)
    n_aside = sum(not r.is_scan for r in rows)
    n_ok = len(rows) - n_refused - n_aside
    counts = f"{n_ok} scans, {n_refused} refused, {n_aside} skipped, {n_other} other files"
    if draft is None:
        reporter.message(counts)
    else:
        reporter.message(f"{counts}, {len(masks)} reference masks")
        reporter.table(f"Dataset {draft.name}", ["property", "value"], describe_dataset(draft))
        reporter.message(
            f"next: medhybrid init {quote(str(path))}  or  medhybrid train {quote(str(path))} --minutes 30"
        )
    return 2 if not n_ok else 1 if n_refused else 0


def convert(
    context: typer.Context,
    scans: Annotated[Path, typer.Argument(help="Scan, or folder to search recursively.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder for NIfTI files.")],
    resample_irregular: ResampleIrregular = False,
    keep_sheared: KeepSheared = False,
    mode: Mode = "0600",
    quiet: Quiet = False,
) -> int:
    """Convert scans to NIfTI.

    Acquisition parameters are written as JSON beside each file. A table lists the refused and skipped files.
    """
    from medhybrid.config import ScansConfig
    from medhybrid.steps.convert import convert as run

    reporter = call_of(context).reporter(quiet)
    options = ScansConfig(resample_irregular=resample_irregular, keep_sheared=keep_sheared)
    with patient_files(mode):
        rows = run(scans, out=out, options=options, reporter=reporter)
    by_state = {state: [r for r in rows if r.state == state] for state in ("written", "refused", "skipped")}
    for state, title in (("refused", "Refused"), ("skipped", "Skipped, not scans")):
        if by_state[state]:
            reporter.table(title, ["scan", "code", "reason"], [[r.name, r.code, r.reason] for r in by_state[state]])
    counts = ", ".join(f"{len(v)} {k}" for k, v in by_state.items())
    reporter.message(f"{counts}: {out / 'table.csv'}")
    if not by_state["written"]:
        return 2
    return 1 if by_state["refused"] else 0


def preprocess(
    context: typer.Context, config: Config, overrides: Overrides = None, mode: StudyMode = "", quiet: Quiet = False
) -> int:
    """Check a dataset, choose a plan and prepare the cases.

    Errors and warnings are in problems.csv beside the prepared cases. A second call processes only changed cases.
    """
    from medhybrid.config import load_config
    from medhybrid.steps.preprocess import preprocess as run

    reporter = call_of(context).reporter(quiet)
    study = load_config(config, overrides or [])
    with patient_files(mode or study.output.mode):
        result = run(study, reporter=reporter)
    if result.findings:
        columns = ["case", "severity", "problem", "expected", "found", "remedy"]
        rows = [[f.where, f.severity, f.message, f.expected, f.found, f.remedy] for f in result.findings]
        reporter.table("Problems", columns, rows)
    show_plan(result.plan, reporter)
    reporter.message(
        f"{result.n_prepared} cases prepared, {result.n_unchanged} unchanged, {len(result.left_out)} excluded "
        f"in {result.folder}"
    )
    return 1 if result.left_out else 0


def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Option(help="Output folder.")] = Path("demo"),
    minutes: Annotated[
        float, typer.Option(help="Length of the training in minutes. Default: 600 steps, as long as they take.")
    ] = 0.0,
    quiet: Quiet = False,
) -> int:
    """Run the whole workflow on synthetic data.

    The data are brains with lesions. The steps lead from scans to scored masks and a report.
    """
    from medhybrid.steps.demo import demo as run

    return run(folder, minutes=minutes or None, reporter=call_of(context).reporter(quiet))
