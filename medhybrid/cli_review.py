"""`medhybrid report` and `review`: looking at what was made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medhybrid.cli_options import Deidentify, Quiet, TrackingUri, make_reporter
from medhybrid.errors import ConfigError


def report(
    folder: Annotated[Path, typer.Argument(help="The output folder of predict.")],
    scans: Annotated[Path | None, typer.Option(help="Where the scans are, if not where they were.")] = None,
    references: Annotated[Path | None, typer.Option(help="Folder of reference masks, drawn and scored beside.")] = None,
    layout: Annotated[str, typer.Option(help="single file, pages, or auto: by the number of scans.")] = "auto",
    deidentify: Deidentify = None,
    quiet: Quiet = False,
) -> int:
    """Write report.html into a folder of masks: what was found, where to look first, what went wrong."""
    from medhybrid.steps.report import report as run

    if layout not in ("auto", "single", "pages"):
        raise ConfigError(f"unknown layout {layout!r}", expected="auto, single or pages")
    reporter = make_reporter(quiet)
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
    runs: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="Address to serve on; loopback unless you say otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.")] = 5000,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    tracking_uri: TrackingUri = None,
) -> int:
    """Look at recorded trainings in the MLflow UI, or at a folder of masks, and mark what is to be corrected."""
    reporter = make_reporter()
    if folder is not None:
        from medhybrid.steps.review_report import review_report

        def on_start(url: str) -> None:
            reporter.message(f"the report at {url}, marks go to {folder / 'review.json'}  (Ctrl-C ends it)")

        return review_report(folder, host=host, port=port, opens=browser, on_start=on_start, reporter=reporter)
    from medhybrid.steps.review import review as run
    from medhybrid.steps.review import review_command

    review_command(runs, host=host, port=port, uri=tracking_uri)  # refuses before anything is printed
    reporter.message(f"MLflow at http://{host}:{port}  (Ctrl-C ends it)")
    reporter.message(
        "  Experiments > your study > a run: Model metrics has the curves, Artifacts the pictures and tables"
    )
    reporter.message("  Overview: config, plan, code revision, data; Models: the registered versions and their alias")
    return run(runs, host=host, port=port, uri=tracking_uri, opens=browser)
