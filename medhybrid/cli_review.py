"""`medhybrid report`, `review`, `compare` and `promote`: looking at what was made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medhybrid.cli_options import Deidentify, Mode, Quiet, TrackingUri, make_reporter, patient_files
from medhybrid.errors import ConfigError

Scans = Annotated[Path | None, typer.Option(help="Where the scans are, if not where they were.")]
References = Annotated[Path | None, typer.Option(help="Folder of reference masks, drawn and scored beside.")]


def report(
    folder: Annotated[Path, typer.Argument(help="The output folder of predict.")],
    scans: Scans = None,
    references: References = None,
    layout: Annotated[str, typer.Option(help="single file, pages, or auto: by the number of scans.")] = "auto",
    deidentify: Deidentify = None,
    mode: Mode = "0600",
    quiet: Quiet = False,
) -> int:
    """Write report.html into a folder of masks: what was found, where to look first, what went wrong."""
    from medhybrid.steps.report import report as run

    if layout not in ("auto", "single", "pages"):
        raise ConfigError(f"unknown layout {layout!r}", expected="auto, single or pages")
    reporter = make_reporter(quiet)
    with patient_files(mode):
        path = run(
            folder,
            scans=scans,
            references=references,
            deidentify=deidentify,
            layout=layout,  # type: ignore[arg-type]
            reporter=reporter,
        )
    reporter.message(f"{path}: open it in a browser, or medhybrid review {folder}")
    return 0


def review(
    folder: Annotated[
        Path | None, typer.Argument(help="Output folder of predict; without it, the recorded trainings in MLflow.")
    ] = None,
    scans: Scans = None,
    references: References = None,
    deidentify: Deidentify = None,
    runs: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="Address to serve on; loopback unless you say otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.")] = 5000,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    tracking_uri: TrackingUri = None,
    mode: Mode = "0600",
) -> int:
    """Look at recorded trainings in the MLflow UI, or at a folder of masks, and mark what is to be corrected."""
    reporter = make_reporter()
    if folder is not None:
        from medhybrid.steps.review_report import review_report

        def on_start(url: str) -> None:
            reporter.message(f"the report at {url}, marks go to {folder / 'review.json'}  (Ctrl-C ends it)")

        with patient_files(mode):
            return review_report(
                folder,
                scans=scans,
                references=references,
                deidentify=deidentify,
                host=host,
                port=port,
                opens=browser,
                on_start=on_start,
                reporter=reporter,
            )
    from medhybrid.steps.review import review as run
    from medhybrid.steps.review import review_command

    review_command(runs, host=host, port=port, uri=tracking_uri)  # refuses before anything is printed
    reporter.message(f"MLflow at http://{host}:{port}  (Ctrl-C ends it)")
    reporter.message(
        "  Experiments > your study > a run: Model metrics has the curves, Artifacts the pictures and tables"
    )
    reporter.message("  Overview: config, plan, code revision, data; Models: the registered versions and their alias")
    return run(runs, host=host, port=port, uri=tracking_uri, opens=browser)


def compare(
    first: Annotated[Path, typer.Argument(help="Run folder of a training, or a folder of masks with evaluation/.")],
    second: Annotated[Path, typer.Argument(help="Another, on the same cases.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where comparison.html goes.")] = Path("comparison"),
    mode: Mode = "0600",
    quiet: Quiet = False,
) -> int:
    """Compare two runs case by case: the difference with its interval, what changed most, and what differs between them."""
    from medhybrid.steps.compare_runs import compare_runs

    reporter = make_reporter(quiet)
    with patient_files(mode):
        result = compare_runs(first, second, out=out, reporter=reporter)
    d = result.difference
    rows = [["mean difference of Dice (95 %)", str(d.interval)], ["better, worse", f"{d.n_better}, {d.n_worse}"]]
    reporter.table(
        f"{result.names[1]} less {result.names[0]}", ["what", "value"], [*rows, ["p (Wilcoxon)", f"{d.p:.3f}"]]
    )
    if result.settings:
        reporter.table("What differs", ["setting", "first", "second"], [list(row) for row in result.settings])
    reporter.message(f"{result.page}")
    return 0


def promote(
    run: Annotated[Path, typer.Argument(help="Run folder of a finished training.")],
    force: Annotated[bool, typer.Option("--force", help="Whatever the validation says.")] = False,
    tracking_uri: TrackingUri = None,
) -> int:
    """Make a run's model the champion, if on the same validation cases it is better by more than chance."""
    from medhybrid.steps.promote import promote as move

    result, reporter = move(run, tracking_uri=tracking_uri, force=force), make_reporter()
    said = {
        "first": "is the champion: there was none",
        "already": "is the champion already",
        "forced": f"is the champion in place of version {result.champion}, as told",
        "better": f"is the champion in place of version {result.champion}",
        "not shown": f"is the challenger: it is not shown to be better than version {result.champion}",
    }[result.outcome]
    reporter.message(f"models:/{result.model}, version {result.version} {said}")
    if result.difference is not None:
        d = result.difference
        reporter.message(f"  Dice less the champion's: {d.interval}; {d.n_better} cases better, {d.n_worse} worse")
    return 0 if result.is_champion else 1
