"""`medhybrid evaluate`: masks against references, by case and label, and the summary on the run's record."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import ConfigError, DataError, MedHybridError
from medhybrid.files import make_folder
from medhybrid.inference.folder_record import read_folder_record
from medhybrid.inference.records import Records
from medhybrid.metrics import LabelScore, score_case, summarise
from medhybrid.scans.reader import read_scan
from medhybrid.steps.mask_files import mask_on_grid, masks_in
from medhybrid.steps.progress import Reporter, Silent


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of every case and label, their summary, and the cases that could not be scored with the reason."""

    scores: tuple[LabelScore, ...]
    summary: dict[str, float]
    problems: dict[str, str]


def evaluate(
    references: str | Path,
    predictions: str | Path,
    *,
    labels: Mapping[str, int],
    cases: Sequence[str] | None = None,
    out: str | Path | None = None,
    tolerance_mm: float = 1.0,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Score predicted masks.

    Parameters
    ----------
    references, predictions : path
        Folders of masks with the same file names (`predictions` may be the output folder of predict).
    labels : mapping
        Label names and values.
    cases : sequence of str, optional
        Which cases; by default every reference that a mask was made of, or could not be made of. One without prediction is
        scored as empty, and named; one whose mask another model made than the folder's record says is named and not scored.
    out : path, optional
        Where `scores.csv` and `summary.json` go.

    Raises
    ------
    ConfigError
        If `labels` names no whole numbers.
    DataError
        If there is nothing to score.
    """
    reporter = reporter or Silent()
    _check_labels(labels)
    predicted = masks_in(Path(predictions) / "masks" if (Path(predictions) / "masks").is_dir() else Path(predictions))
    known = masks_in(Path(references))
    failed, foreign = _on_record(Path(predictions))
    names = list(cases) if cases is not None else sorted((set(predicted) | failed) & set(known))
    if cases is None and (others := sorted(set(predicted) - set(known))):
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        reporter.message(f"no reference, so not scored: {', '.join(others[:5])}{more}")
    if not names:
        raise DataError(
            "there is nothing to score",
            expected="masks with the same names in both folders",
            found=f"{len(known)} references, {len(predicted)} predictions",
        )
    scores: list[LabelScore] = []
    problems: dict[str, str] = {}
    reporter.begin("scoring", len(names))
    for n, case in enumerate(names, start=1):
        try:
            if case not in known:
                raise DataError(f"case {case} has no reference")
            if case in foreign:
                raise DataError(
                    f"the mask of {case} is of another model", remedy="run predict to its end, then evaluate"
                )
            scores += _score(case, known[case], predicted.get(case), labels, tolerance_mm, problems)
        except MedHybridError as error:
            problems[case] = str(error)
        reporter.advance(n, case)
    reporter.end()
    if not scores:
        raise DataError("no case could be scored", found=next(iter(problems.values())))
    evaluation = Evaluation(tuple(scores), summarise(scores), problems)
    if out is not None:
        write_evaluation(evaluation, Path(out))
    return evaluation


def _check_labels(labels: Mapping[str, int]) -> None:
    """A value of another kind is in no mask, and two empty masks agree."""
    wrong = {n: v for n, v in labels.items() if isinstance(v, bool) or not isinstance(v, int | np.integer) or v < 1}
    if wrong or not labels:
        raise ConfigError(
            "labels do not say which values are scored",
            expected="names and whole numbers above 0, such as {'tumour': 1}",
            found=", ".join(f"{n}: {v!r}" for n, v in wrong.items()) or "none",
        )


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """`scores.csv` (a row a case and label) and `summary.json`; raises `OutputError` where there can be no such folder."""
    make_folder(out)
    with (out / "scores.csv").open("w", newline="") as file:
        rows = [s.as_row() for s in evaluation.scores]
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (out / "summary.json").write_text(
        json.dumps({"summary": evaluation.summary, "problems": evaluation.problems}, indent=1)
    )


def _on_record(folder: Path) -> tuple[set[str], set[str]]:
    """Scans of an output folder of `predict` without mask, and those whose mask is not of the model that its record names."""
    try:
        made_by = read_folder_record(folder).made_by
    except DataError:  # a folder of masks from elsewhere
        return set(), set()
    failed = {p.stem for p in (folder / "failed").glob("[!.]*.json")}
    done = Records(folder).all([p.stem for p in (folder / "done").glob("[!.]*.json")])
    return failed, {p.case for p in done if p.status == "done" and p.made_by != made_by}


def log_evaluation(run: Path, out: Path, summary: Mapping[str, float]) -> None:
    """Add the summary and the tables to the record of a training run: its `log.jsonl`, and MLflow where it was used."""
    from medhybrid.steps.run_record import reopen_tracker

    tracker = reopen_tracker(run)
    tracker.log_metrics({f"evaluation/{k}": v for k, v in summary.items()}, 0)
    tracker.log_table(out / "scores.csv", "evaluation")
    tracker.log_file(out / "summary.json", "evaluation")
    tracker.finish("FINISHED")


def _score(
    case: str,
    reference_path: Path,
    prediction_path: Path | None,
    labels: Mapping[str, int],
    tolerance_mm: float,
    problems: dict[str, str],
) -> list[LabelScore]:
    reference = read_scan(reference_path, case=case)
    array: NDArray[np.generic] = np.zeros_like(reference.array[0])
    if prediction_path is None:
        problems[case] = "no prediction: scored as empty"
    elif (found := mask_on_grid(prediction_path, reference.grid)) is None:
        problems[case] = "prediction is not on the reference's grid: scored as empty"
    else:
        array = found
    return score_case(case, array, reference.array[0], labels, reference.grid, tolerance_mm=tolerance_mm)
