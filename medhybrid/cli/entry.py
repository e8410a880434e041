"""Command line of medhybrid: parses arguments, loads the config, runs a step and returns an exit code.

Exit codes: 0 success; 1 some cases failed, the others are done; 2 nothing could be done; 130 interrupted, state saved.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from medhybrid.addresses import hide_password, without_passwords
from medhybrid.cli import learning, review
from medhybrid.cli import predict as prediction
from medhybrid.cli.options import (
    Config,
    Device,
    KeepSheared,
    Mode,
    Overrides,
    Quiet,
    ResampleIrregular,
    Shown,
    StudyMode,
    TrackingUri,
    called_with,
    make_reporter,
    patient_files,
)
from medhybrid.errors import ConfigError, MedHybridError, SafeFormatter, printable
from medhybrid.names import printable_path

app = typer.Typer(
    name="medhybrid",
    help="Train, apply and review 3D segmentation models for MR and CT scans.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class _Settings:
    """Settings of the options that precede the command."""

    debug = False


@app.callback()
def _common(
    debug: Annotated[
        bool, typer.Option("--debug", help="Print debug messages, and the traceback of an error.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print progress, tables and errors as JSON lines on stdout.")
    ] = False,
) -> None:
    _Settings.debug, Shown.as_json = debug, as_json
    level = logging.DEBUG if debug else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("medhybrid").setLevel(level)


@app.command("config")
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


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="Scan, or folder to search recursively.")],
    headers: Annotated[bool, typer.Option("--headers", help="Read headers only; faster.")] = False,
) -> int:
    """List the scans in a folder.

    Refused and skipped files are listed with the reason.
    """
    from medhybrid.steps.inspect import inspect as run

    rows, n_other = run(path, read=not headers)
    table = []
    for r in rows:
        spacing = " x ".join(f"{s:.3g}" for s in r.spacing_mm)
        remark = r.problem or "; ".join(r.notes)
        state = "ok" if not r.problem else "skipped" if not r.is_scan else "refused"
        shape = " x ".join(map(str, r.shape))
        table.append([r.entry.name, r.entry.kind, r.entry.modality, shape, spacing, r.orientation, state, remark])
    columns = ["scan", "kind", "modality", "shape", "spacing mm", "axes", "state", "remark"]
    reporter = make_reporter()
    reporter.table("", columns, table)
    n_refused = sum(bool(r.problem) and r.is_scan for r in rows)
    n_aside = sum(not r.is_scan for r in rows)
    n_ok = len(rows) - n_refused - n_aside
    reporter.message(f"{n_ok} scans, {n_refused} refused, {n_aside} skipped, {n_other} other files")
    return 2 if not n_ok else 1 if n_refused else 0


@app.command()
def convert(
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

    reporter = make_reporter(quiet)
    options = ScansConfig(resample_irregular=resample_irregular, keep_sheared=keep_sheared)
    with patient_files(mode):
        rows = run(scans, out=out, options=options, reporter=reporter)
    by_state = {state: [r for r in rows if r.state == state] for state in ("written", "refused", "left aside")}
    for state, title in (("refused", "Refused"), ("left aside", "Skipped, not scans")):
        if by_state[state]:
            reporter.table(title, ["scan", "code", "reason"], [[r.name, r.code, r.reason] for r in by_state[state]])
    counts = ", ".join(f"{len(v)} {k}" for k, v in by_state.items())
    reporter.message(f"{counts}: {out / 'table.csv'}")
    if not by_state["written"]:
        return 2
    return 1 if by_state["refused"] else 0


@app.command()
def preprocess(config: Config, overrides: Overrides = None, mode: StudyMode = "", quiet: Quiet = False) -> int:
    """Check a dataset, choose a plan and prepare the cases.

    A second call processes only changed cases.
    """
    from medhybrid.config import load_config
    from medhybrid.steps.preprocess import preprocess as run

    reporter = make_reporter(quiet)
    study = load_config(config, overrides or [])
    with patient_files(mode or study.output.mode):
        result = run(study, reporter=reporter)
    if result.findings:
        columns = ["case", "severity", "problem", "expected", "found", "remedy"]
        rows = [[f.where, f.severity, f.message, f.expected, f.found, f.remedy] for f in result.findings]
        reporter.table("Problems", columns, rows)
    plan = result.plan
    chosen = ["spacing_mm", "patch_size", "strides", "batch_size"]
    reporter.table(
        "Plan", ["setting", "value", "reason"], [[k, str(getattr(plan, k)), plan.reasons[k]] for k in chosen]
    )
    reporter.message(
        f"{result.n_prepared} cases prepared, {result.n_unchanged} unchanged, {len(result.left_out)} excluded "
        f"in {result.folder}"
    )
    return 1 if result.left_out else 0


app.command()(learning.train)
app.command("cross-validate")(learning.cross_validate)
app.command()(learning.pretrain)
app.command()(learning.tune)
app.command()(learning.reproduce)


@app.command()
def evaluate(
    references: Annotated[Path, typer.Argument(help="Folder with reference masks.")],
    predictions: Annotated[Path, typer.Argument(help="Folder with predicted masks, or output folder of predict.")],
    config: Config,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Output folder for scores.csv and summary.json.")] = None,
    tolerance_mm: Annotated[float, typer.Option(help="Tolerance of surface Dice, in mm.")] = 1.0,
    run: Annotated[Path | None, typer.Option("--run", help="Run folder: add the scores to its record.")] = None,
    cases: Annotated[str | None, typer.Option(help="Comma-separated case names. Default: every reference.")] = None,
    predicted_only: Annotated[
        bool, typer.Option("--predicted-only", help="Score only references of scans that predict processed.")
    ] = False,
    other_values: Annotated[str, typer.Option(help="Mask values that are not labels: refuse or ignore.")] = "refuse",
    mode: StudyMode = "",
    quiet: Quiet = False,
) -> int:
    """Score masks against references.

    The scores are Dice, HD95, surface Dice, volume error and lesion-wise counts.
    """
    from medhybrid.config import load_config
    from medhybrid.data.segments import SegmentRules
    from medhybrid.steps.evaluate import evaluate as score
    from medhybrid.steps.evaluate import log_evaluation

    reporter = make_reporter(quiet)
    if other_values not in ("refuse", "ignore"):
        raise ConfigError(f"unknown --other-values {other_values!r}", expected="refuse or ignore")
    study = load_config(config, overrides or [])
    data, permissions = study.data, mode or study.output.mode
    target = out or (predictions / "evaluation")
    names = [n.strip() for n in cases.split(",") if n.strip()] if cases else None
    with patient_files(permissions):
        result = score(
            references,
            predictions,
            labels=data.labels,
            rules=SegmentRules.of(data),
            cases=names,
            predicted_only=predicted_only,
            other_values=other_values,  # type: ignore[arg-type]
            out=target,
            tolerance_mm=tolerance_mm,
            reporter=reporter,
        )
    reporter.table("Scores", ["measure", "value"], [[k, f"{v:.4f}"] for k, v in result.summary.items()])
    if result.problems:
        reporter.table("Problems", ["case", "problem"], list(result.problems.items()))
    reporter.message(f"scores of each case and label: {target / 'scores.csv'}")
    if run is not None:
        with patient_files(permissions):
            log_evaluation(run, target, result.summary)
    return 1 if result.problems else 0


app.command()(prediction.predict)


@app.command()
def listen(
    config: Annotated[
        Path,
        typer.Option(
            "--config", "-c", help="YAML file with senders, destination and spool (docs/how-to/dicom-and-pacs.md)."
        ),
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="Run folder, model folder, or models:/name@alias.")],
    device: Device = "auto",
    tracking_uri: TrackingUri = None,
) -> int:
    """Predict studies that a PACS sends.

    A study is predicted when it is complete. SEG and report are sent to the destination in the config.
    """
    from medhybrid.config import load_listen_config
    from medhybrid.steps.listen import listen as run
    from medhybrid.steps.models import load_model

    settings = load_listen_config(config)
    reporter = make_reporter()
    loaded = load_model(model, device=device, tracking_uri=tracking_uri)
    reporter.message(f"listening as {settings.ae_title} on {settings.host}:{settings.port}  (stop with Ctrl-C)")
    run(settings, loaded, on_event=lambda study, state: reporter.message(f"study {study[:8]}: {state}"))
    return 0


@app.command()
def export(
    model: Annotated[str, typer.Option("--model", "-m", help="Run folder, model folder, or models:/name@alias.")],
    out: Annotated[Path, typer.Option(help="Output folder; must be new or empty.")],
    format_: Annotated[str, typer.Option("--format", help="File format: pt2, onnx or openvino.")] = "onnx",
    tracking_uri: TrackingUri = None,
) -> int:
    """Export the network for other software.

    description.json describes the pre- and post-processing.
    """
    from medhybrid.steps.export import export as run

    path = run(model, out=out, format_=format_, tracking_uri=tracking_uri)
    make_reporter().message(f"{path}; description.json has the pre- and post-processing")
    return 0


app.command()(review.report)
app.command()(review.review)
app.command()(review.compare)
app.command()(review.promote)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Output folder.")] = Path("demo"),
    minutes: Annotated[float, typer.Option(help="Length of the training in minutes; 0 for that of demo.yaml.")] = 0.0,
    quiet: Quiet = False,
) -> int:
    """Run the whole workflow on synthetic data.

    The data are brains with lesions. The steps lead from scans to scored masks and a report.
    """
    from medhybrid.steps.demo import demo as run

    return run(folder, minutes=minutes or None, reporter=make_reporter(quiet))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    # changed in place, since other modules import the list
    called_with[:] = sys.argv[1:] if arguments is None else arguments
    try:
        result = app(args=list(called_with), standalone_mode=False)
    except MedHybridError as error:
        if _Settings.debug:
            print(printable(hide_password(traceback.format_exc())), file=sys.stderr)
        if Shown.as_json:
            print(json.dumps({"event": "error", "kind": type(error).__name__, "text": str(error)}), flush=True)
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # a usage error, such as an unknown option
            context = getattr(error, "ctx", None)
            if context is not None:
                print(context.get_usage(), file=sys.stderr)
            print(f"error: {printable(hide_password(error.format_message()))}", file=sys.stderr)
            return 2
        if _Settings.debug:
            print(printable(hide_password(traceback.format_exc())), file=sys.stderr)
        if isinstance(error, OSError):  # of the system: a full disk, a removed folder
            where = f"{printable_path(error.filename)}: " if isinstance(error.filename, str) else ""
            print(f"error: {where}{printable(error.strerror or str(error))}", file=sys.stderr)
            return 2
        logging.getLogger(__name__).debug("unexpected", exc_info=error)
        print(f"error: unexpected {type(error).__name__}: {printable(hide_password(str(error)))}", file=sys.stderr)
        print("This is a bug in medhybrid. Run with --debug for the traceback.", file=sys.stderr)
        return 2
    return result if isinstance(result, int) else 0
