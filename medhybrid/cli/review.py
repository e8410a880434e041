"""Commands for results: evaluate, report, review, compare, promote."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from medhybrid.cli.context import call_of
from medhybrid.cli.options import (
    Deidentify,
    IgnoreValue,
    Mode,
    Overrides,
    Quiet,
    ReferenceConfig,
    References,
    Scans,
    StudyMode,
    TrackingUri,
    patient_files,
)
from medhybrid.errors import ConfigError

SHOWN = 10
"""Number of ranked scans that are printed."""

if TYPE_CHECKING:
    from medhybrid.progress import Reporter


def evaluate(
    context: typer.Context,
    references: Annotated[Path, typer.Argument(help="Folder with reference masks.")],
    predictions: Annotated[Path, typer.Argument(help="Folder with predicted masks, or output folder of predict.")],
    config: Annotated[
        str,
        typer.Option("--config", "-c", help="YAML file, or a packaged config. Default: the labels of run.json."),
    ] = "",
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for scores.csv, summary.json. Default: PREDICTIONS/evaluation.")
    ] = None,
    tolerance_mm: Annotated[float, typer.Option(help="Tolerance of surface Dice, in mm.")] = 1.0,
    run: Annotated[Path | None, typer.Option("--run", help="Run folder: add the scores to its record.")] = None,
    cases: Annotated[str | None, typer.Option(help="Comma-separated case names. Default: every reference.")] = None,
    predicted_only: Annotated[
        bool,
        typer.Option("--predicted-only", help="Omit references not given to predict; else they score as empty masks."),
    ] = False,
    other_values: Annotated[str, typer.Option(help="Mask values that are not labels: refuse or ignore.")] = "refuse",
    mode: StudyMode = "",
    quiet: Quiet = False,
) -> int:
    """Score masks against references.

    The scores are Dice, HD95, surface Dice, volume error (ml, %) and lesion-wise counts. For an output folder of predict, the
    labels are those of its model. Other masks need --config.
    """
    from medhybrid.config import load_config
    from medhybrid.data.mask_files import MAX_GAP_MM
    from medhybrid.data.segments import SegmentRules
    from medhybrid.steps.annotated import annotated_labels
    from medhybrid.steps.evaluate import evaluate as score
    from medhybrid.steps.evaluate import log_evaluation, shown_scores
    from medhybrid.steps.scored_output import labels_on_record, output_folder_of, refuse_other_run

    reporter = call_of(context).reporter(quiet)
    annotated: dict[str, tuple[str, ...]] = {}
    max_gap_mm = 0.0
    if other_values not in ("refuse", "ignore"):
        raise ConfigError(f"unknown --other-values {other_values!r}", expected="refuse or ignore")
    if config:
        study = load_config(config, overrides or [])
        labels, regions, ignore_value = study.data.labels, study.data.regions, study.data.ignore_value
        rules, permissions = SegmentRules.of(study.data), mode or study.output.mode
        annotated, max_gap_mm = annotated_labels(study.data, reporter), study.prepare.max_affine_error_mm
    elif overrides:
        raise ConfigError(f"override {overrides[0]!r} cannot be used", expected="--config with overrides, or neither")
    else:
        labels, regions = labels_on_record(predictions)
        ignore_value, rules, permissions = None, SegmentRules(labels), mode or "0600"
    target = out or (predictions / "evaluation")
    names = [n.strip() for n in cases.split(",") if n.strip()] if cases else None
    if run is not None:
        refuse_other_run(output_folder_of(predictions), run)
    with patient_files(permissions):
        result = score(
            references,
            predictions,
            labels=labels,
            regions=regions,
            ignore_value=ignore_value,
            annotated=annotated,
            rules=rules,
            cases=names,
            predicted_only=predicted_only,
            other_values=other_values,  # type: ignore[arg-type]
            out=target,
            tolerance_mm=tolerance_mm,
            max_gap_mm=max(max_gap_mm, MAX_GAP_MM),
            reporter=reporter,
        )
    title = "Scores of the voxels with a known label" if "labelled_share" in result.summary else "Scores"
    reporter.table(title, ["measure", "value"], shown_scores(result.summary))
    if result.problems:
        reporter.table("Problems", ["case", "problem"], list(result.problems.items()))
    reporter.message(f"scores of each case and label: {target / 'scores.csv'}")
    if run is not None:
        with patient_files(permissions):
            log_evaluation(run, target, result.summary)
    return 1 if result.problems else 0


def report(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Output folder of predict.")],
    scans: Scans = None,
    references: References = None,
    ignore_value: IgnoreValue = None,
    config: ReferenceConfig = "",
    layout: Annotated[str, typer.Option(help="single (one file), pages, or auto (by the number of scans).")] = "auto",
    unlabelled: Annotated[
        bool,
        typer.Option(
            "--unlabelled", help="Rank the unlabelled scans by what a reference mask would teach; needs --model."
        ),
    ] = False,
    model: Annotated[str, typer.Option("--model", help="The model of the predict call, for --unlabelled.")] = "",
    deidentify: Deidentify = None,
    mode: Mode = "0600",
    quiet: Quiet = False,
) -> int:
    """Write an HTML report for the output folder of predict.

    The file report.html in it shows the segmented structures, masks that need review, and scans without a mask. With
    --unlabelled, label_next.csv is written instead: the scans to label next, with --references without those that have one.
    """
    from medhybrid.steps.report import report as run

    if unlabelled != bool(model):
        raise ConfigError("--unlabelled and --model belong together", expected="both, or neither")
    if unlabelled:
        return _label_next(folder, model, scans, references, deidentify, mode, call_of(context).reporter(quiet))

    if layout not in ("auto", "single", "pages"):
        raise ConfigError(f"unknown --layout {layout!r}", expected="auto, single or pages")
    reporter = call_of(context).reporter(quiet)
    ignore_value, annotated = _about_references(config, ignore_value, reporter)
    with patient_files(mode):
        path = run(
            folder,
            scans=scans,
            references=references,
            ignore_value=ignore_value,
            annotated=annotated,
            deidentify=deidentify,
            layout=layout,  # type: ignore[arg-type]
            reporter=reporter,
        )
    reporter.message(f"{path}: open it in a browser, or medhybrid review {quote(str(folder))}")
    return 0


def _label_next(
    folder: Path,
    model: str,
    scans: Path | None,
    references: Path | None,
    deidentify: Path | None,
    mode: str,
    reporter: Reporter,
) -> int:
    from medhybrid.steps.label_next import TABLE, label_next

    with patient_files(mode):
        rows = label_next(folder, model, scans=scans, references=references, deidentify=deidentify, reporter=reporter)
    shown = [[str(n), r.case, f"{r.score:.3f}", f"{r.distance:.2f}"] for n, r in enumerate(rows[:SHOWN], start=1)]
    reporter.table("To label next", ["rank", "case", "expected Dice", "distance"], shown)
    reporter.message(f"{len(rows)} unlabelled scans: {folder / TABLE}")
    return 0


def _about_references(
    config: str, ignore_value: int | None, reporter: Reporter
) -> tuple[int | None, dict[str, tuple[str, ...]]]:
    """Return the ignored value of references, and the labels of partly labelled ones, by the config of their study."""
    if not config:
        return ignore_value, {}
    from medhybrid.config import load_config
    from medhybrid.steps.annotated import annotated_labels

    data = load_config(config).data
    return data.ignore_value if ignore_value is None else ignore_value, annotated_labels(data, reporter)


def review(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(help="Output folder of predict, to serve its report. Default: the MLflow UI.")
    ] = None,
    scans: Scans = None,
    references: References = None,
    ignore_value: IgnoreValue = None,
    config: ReferenceConfig = "",
    deidentify: Deidentify = None,
    runs: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
    host: Annotated[
        str, typer.Option(help="Address to serve on; loopback is reachable only from this host.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to serve on.")] = 5000,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    tracking_uri: TrackingUri = None,
    mode: Mode = "0600",
) -> int:
    """Review predicted masks, or trainings in the MLflow UI.

    With FOLDER, its report is served. Masks can be marked as accepted, to correct or rejected; the marks are saved in
    FOLDER/review.json, which preprocess reads for data.corrections. Without FOLDER, the MLflow UI shows the trainings.
    """
    reporter = call_of(context).reporter()
    if folder is not None:
        from medhybrid.steps.review_report import review_report

        ignore_value, annotated = _about_references(config, ignore_value, reporter)

        def on_start(url: str) -> None:
            reporter.message(f"report at {url}, marks saved in {folder / 'review.json'}  (stop with Ctrl-C)")

        with patient_files(mode):
            return review_report(
                folder,
                scans=scans,
                references=references,
                ignore_value=ignore_value,
                annotated=annotated,
                deidentify=deidentify,
                host=host,
                port=port,
                opens=browser,
                on_start=on_start,
                reporter=reporter,
            )
    from medhybrid.steps.review import review as run
    from medhybrid.steps.review import review_command

    review_command(runs, host=host, port=port, uri=tracking_uri)  # raises before anything is printed
    reporter.message(f"MLflow at http://{host}:{port}  (stop with Ctrl-C)")
    reporter.message("  Experiments > your study > a run: curves in Model metrics, figures and tables in Artifacts")
    reporter.message("  Overview: config, plan, code revision, data; Models: the registered versions and their aliases")
    return run(runs, host=host, port=port, uri=tracking_uri, opens=browser)


def compare(
    context: typer.Context,
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", help="Run folders of trainings, or outputs of predict with evaluation/."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.")] = Path("comparison"),
    mode: Mode = "0600",
    quiet: Quiet = False,
) -> int:
    """Compare two or more runs case by case.

    For two runs, the report has the difference with its confidence interval, the largest changes and the differing settings.
    More runs are compared with the first one, in a table with intervals and a figure. Two files review.json, the marks of two
    reviewers, are compared by Cohen's kappa, with the disputed cases first.
    """
    reporter = call_of(context).reporter(quiet)
    if len(folders) < 2:
        raise ConfigError(
            "compare needs two or more runs", found=f"{len(folders)}", remedy="name the folder of another run"
        )
    if len(folders) == 2 and all(f.suffix == ".json" for f in folders):
        return _compare_reviewers(folders[0], folders[1], reporter)
    with patient_files(mode):
        return (
            _compare_two(folders[0], folders[1], out, reporter)
            if len(folders) == 2
            else _compare_all(folders, out, reporter)
        )


def _compare_two(first: Path, second: Path, out: Path, reporter: Reporter) -> int:
    from medhybrid.steps.compare import compare as run

    result = run(first, second, out=out, reporter=reporter)
    d = result.difference
    rows = [["mean difference in Dice (95 % CI)", str(d.interval)], ["better, worse", f"{d.n_better}, {d.n_worse}"]]
    reporter.table(
        f"Difference ({result.names[1]} - {result.names[0]})",
        ["measure", "value"],
        [*rows, ["p (Wilcoxon)", f"{d.p:.3f}"]],
    )
    if result.settings:
        reporter.table("Differing settings", ["setting", "first", "second"], [list(row) for row in result.settings])
    reporter.message(f"{result.page}")
    return 0


def _compare_reviewers(first: Path, second: Path, reporter: Reporter) -> int:
    from medhybrid.review.reviewers import compare_reviewers, rows_of_reviewers

    result = compare_reviewers(first, second)
    kappa = result.kappa
    columns, rows = rows_of_reviewers(result)
    reporter.table(f"{kappa.n} masks that both marked, disputed ones first", columns, rows)
    interval = f"(95 % CI {kappa.low:.2f} to {kappa.high:.2f})"
    reporter.message(f"{kappa.agreed:.0%} of the decisions agree; Cohen's kappa {kappa.value:.2f} {interval}")
    if result.by_one:
        reporter.message(f"{len(result.by_one)} masks with a decision of one reviewer only are not compared")
    return 0


def _compare_all(folders: list[Path], out: Path, reporter: Reporter) -> int:
    from medhybrid.review.run_comparison import rows_of_runs
    from medhybrid.steps.compare_runs import compare_runs

    result = compare_runs(folders, out=out, reporter=reporter)
    columns, rows = rows_of_runs(result.runs)
    reporter.table(f"{len(result.cases)} cases that all runs have", columns, rows)
    if result.left_out:
        reporter.message(f"{len(result.left_out)} cases are not in every run and are not compared")
    reporter.message(f"{result.folder / 'runs.md'}, {result.folder / 'runs.png'}, {result.folder / 'runs.csv'}")
    reporter.message("settings that differ between two of them: medhybrid compare A B")
    return 0


def promote(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="Run folder of a finished training.")],
    force: Annotated[bool, typer.Option("--force", help="Promote regardless of the validation.")] = False,
    tracking_uri: TrackingUri = None,
) -> int:
    """Make a model the champion: the first, or a better one.

    Run and champion are compared on the same validation cases. A run that is not significantly better becomes the challenger.
    """
    from medhybrid.steps.promote import promote as move

    result, reporter = move(run, tracking_uri=tracking_uri, force=force), call_of(context).reporter()
    said = {
        "first": "is the first champion",
        "already": "is the champion already",
        "forced": f"replaces version {result.champion} as the champion (--force)",
        "better": f"replaces version {result.champion} as the champion",
        "not shown": f"is the challenger: not significantly better than version {result.champion}",
    }[result.outcome]
    reporter.message(f"models:/{result.model}, version {result.version} {said}")
    if result.difference is not None:
        d = result.difference
        reporter.message(
            f"  difference in Dice to the champion: {d.interval}; {d.n_better} cases better, {d.n_worse} worse"
        )
    return 0 if result.is_champion else 1
