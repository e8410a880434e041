"""`medhybrid compare A B C ...`: several runs on the same cases, each compared with the first.

OUT/runs.md      table with intervals
OUT/runs.png     figure: Dice of all cases, and differences to the first run
OUT/runs.csv     Dice of every case in every run

Trainings that are recorded in MLflow get a parent run with table and figure, and a nested run for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medhybrid.errors import DataError, OutputError, TrackingError
from medhybrid.files import write_atomically
from medhybrid.kept_tables import write_kept_table
from medhybrid.owned import FolderKind, claim_folder, remove_tree
from medhybrid.progress import Reporter, Silent
from medhybrid.review.run_comparison import RunScores, draw_runs, markdown_of_runs, score_runs
from medhybrid.runs.places import config_here
from medhybrid.runs.record import check_tracking, experiment_of
from medhybrid.steps.compare import Judged, judged, names_of, refuse_other_references
from medhybrid.tracking.mlflow import RUN_ID_FILE, MlflowTracker, RunInfo
from medhybrid.version import __version__

RECORD = "mlflow"
"""Folder with the ids of the runs in MLflow, and the events that were not sent yet."""

RUNS = FolderKind(
    "compare-runs", {"runs.md": (), "runs.png": (), "runs.csv": (), RECORD: (RUN_ID_FILE, "unsent.jsonl*")}
)
"""Output folder of a comparison of several runs."""


@dataclass(frozen=True, slots=True)
class RunsComparison:
    """Scores of the runs on their common cases.

    Attributes
    ----------
    left_out : tuple of str
        Cases that not every run has.
    """

    folder: Path
    runs: tuple[RunScores, ...]
    cases: tuple[str, ...]
    left_out: tuple[str, ...]


def compare_runs(folders: Sequence[str | Path], *, out: str | Path, reporter: Reporter | None = None) -> RunsComparison:
    """Compare several runs with the first one, and write a table and a figure.

    Parameters
    ----------
    folders : sequence of path
        Run folders of trainings, or output folders of predict with scores. The first one is the baseline.

    Raises
    ------
    DataError
        If they have no case in common, have no scores, or were scored with different labels or references.
    OutputError
        If `out` cannot be written.
    """
    reporter, out = reporter or Silent(), Path(out)
    names = names_of([Path(f) for f in folders])
    sides = [replace(judged(Path(f)), name=n) for f, n in zip(folders, names, strict=True)]
    _refuse_other_kinds(sides)
    common = sorted(set.intersection(*(set(s.dice) for s in sides)))
    if not common:
        raise DataError(
            "the runs have no case in common",
            found=", ".join(f"{s.name}: {len(s.dice)} cases" for s in sides),
            remedy="compare trainings of one fold, or predictions of the same scans",
        )
    for side in sides[1:]:
        refuse_other_references(sides[0], side, common)
    runs = score_runs(names, [[s.dice[c] for c in common] for s in sides])
    claim_folder(out, RUNS, remedy="choose another folder for --out")
    try:
        rows = [[c, *(f"{s.dice[c]:.4f}" for s in sides)] for c in common]
        write_kept_table(out / "runs.csv", [["case", *names], *rows])
        write_atomically(out / "runs.md", markdown_of_runs(runs))
        draw_runs(out / "runs.png", runs)
    except OSError as error:
        raise OutputError(
            f"{out} cannot be written to", found=error.strerror or str(error), remedy="choose another folder"
        ) from error
    left_out = tuple(sorted(set().union(*(set(s.dice) for s in sides)) - set(common)))
    result = RunsComparison(out, runs, tuple(common), left_out)
    if all(s.kind == "training" for s in sides):
        try:
            _record(result, [Path(f) for f in folders], reporter)
        except TrackingError as error:
            reporter.message(f"not recorded in MLflow: {error}")
    return result


def _refuse_other_kinds(sides: Sequence[Judged]) -> None:
    first = sides[0]
    for other in (side.in_order_of(first) for side in sides[1:]):
        if other.kind != first.kind or other.labels != first.labels or other.scored != first.scored:
            raise DataError(
                f"{first.name} and {other.name} cannot be compared",
                expected="only trainings, or only folders of masks, with the same labels",
                found="; ".join(f"{x.kind} with {', '.join(sorted(x.scored) or x.labels)}" for x in (first, other)),
            )


def _record(result: RunsComparison, folders: Sequence[Path], reporter: Reporter) -> None:
    """Record the comparison in the store of the first run, if that is in MLflow."""
    config = config_here(folders[0])
    if config.tracking.kind != "mlflow" or not (folders[0] / RUN_ID_FILE).is_file():
        return
    check_tracking(config)
    place = result.folder / RECORD
    remove_tree(place, owner=result.folder)  # a new comparison is a new run

    def tracker(
        name: str, text: str, folder: Path, parent: MlflowTracker | None, tags: dict[str, str]
    ) -> MlflowTracker:
        folder.mkdir(parents=True, exist_ok=True)
        info = RunInfo(
            experiment=experiment_of(config),
            name=name,
            description=text,
            params={},
            tags={"medhybrid.version": __version__, "medhybrid.kind": "comparison", **tags},
            datasets={},
        )
        above = None if parent is None else (lambda: parent.run_id)
        return MlflowTracker(config.tracking.uri, Path(config.runs), info, folder=folder, parent=above)

    title = f"comparison of {len(result.runs)} runs with {result.runs[0].name}"
    whole = tracker(title, markdown_of_runs(result.runs), place, None, {})
    for n, (run, folder) in enumerate(zip(result.runs, folders, strict=True), start=1):
        id_file = folder / RUN_ID_FILE
        tags = {"medhybrid.compared_run": id_file.read_text().strip()} if id_file.is_file() else {}
        nested = tracker(f"compared {run.name}", f"Scores of {run.name}", place / str(n), whole, tags)
        values = {
            "compared/dice": run.mean.mean,
            "compared/dice_low": run.mean.low,
            "compared/dice_high": run.mean.high,
        }
        if run.difference is not None:
            d = run.difference.interval
            values |= {"compared/gain": d.mean, "compared/gain_low": d.low, "compared/gain_high": d.high}
            values |= {"compared/p": run.p or 0.0}
        nested.log_metrics(values, 0)
        nested.finish("FINISHED")
    for name in ("runs.png", "runs.md", "runs.csv"):
        whole.log_file(result.folder / name, "")
    whole.log_table(result.folder / "runs.csv", "runs")
    whole.finish("FINISHED")
    reporter.message(f"recorded in MLflow as {title!r}")
