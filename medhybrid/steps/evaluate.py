"""`medhybrid evaluate`: masks against references, by case and label, and the summary on the run's record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.label_values import unknown_values
from medhybrid.data.segments import SegmentRules
from medhybrid.errors import ConfigError, DataError, item_error
from medhybrid.files import write_atomically
from medhybrid.geometry import Grid
from medhybrid.inference.folder_record import read_folder_record
from medhybrid.inference.foreign_files import is_edited
from medhybrid.inference.records import Records
from medhybrid.kept_tables import write_kept_table
from medhybrid.metrics import LabelScore, score_case, summarise
from medhybrid.names import printable_path
from medhybrid.owned import FolderKind, claim_folder
from medhybrid.steps.mask_files import list_masks, mask_on_grid, read_mask
from medhybrid.steps.progress import Reporter, Silent

NO_PREDICTION = "no prediction: scored as empty"


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
    predicted_only: bool = False,
    other_values: Literal["refuse", "ignore"] = "refuse",
    rules: SegmentRules | None = None,
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
        Cases to score, each once; by default every reference. A case without prediction is scored as empty, at worst also where
        the reference is, and named in the problems. A case whose mask another model made than the folder's record says, or
        that was edited, is named, and not scored.
    predicted_only : bool
        Score only references that a mask was made of, or could not be made of.
    other_values : str
        Values in a mask that are no label: `refuse` the mask, or `ignore` them. A refused prediction is scored as empty; a
        case with a refused reference is not scored.
    rules : SegmentRules, optional
        How named segments become labels; by default each label takes the segment of its name.
    out : path, optional
        Where `scores.csv` and `summary.json` go.

    Raises
    ------
    ConfigError
        If `labels` names no whole numbers.
    DataError
        If there is nothing to score, or the record of the predictions gives a label another value, or none.
    """
    reporter = reporter or Silent()
    _check_labels(labels)
    rules = replace(rules or SegmentRules(labels), other_values=other_values)
    place = Path(predictions) / "masks" if (Path(predictions) / "masks").is_dir() else Path(predictions)
    if place.resolve() == Path(references).resolve():
        raise DataError(f"{printable_path(place)} is scored against itself", remedy="name the folder of the references")
    predicted, doubled = list_masks(place)
    known, doubled_references = list_masks(Path(references))
    doubled |= doubled_references
    _refuse_other_labels(_output_folder(Path(predictions)), labels)
    failed, foreign = _on_record(_output_folder(Path(predictions)))
    predicted = {case: path for case, path in predicted.items() if case not in failed}
    predicted_names = sorted((set(predicted) | failed | set(doubled)) & (set(known) | set(doubled_references)))
    names = (
        list(dict.fromkeys(cases))
        if cases is not None
        else predicted_names
        if predicted_only
        else sorted(set(known) | set(doubled_references))
    )
    if cases is None and not predicted_names:
        names = []
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
            if case in doubled:
                raise DataError(doubled[case], expected="one", remedy="leave the one that counts")
            if case not in known:
                raise DataError(f"case {case} has no reference")
            if case in foreign:
                raise foreign[case]
            scores += _score(case, known[case], predicted.get(case), rules, tolerance_mm, problems, other_values)
        except Exception as error:
            problems[case] = str(item_error(error, f"case {case} cannot be scored", DataError))
        reporter.advance(n, case)
    reporter.end()
    if not scores:
        raise DataError("no case could be scored", found=next(iter(problems.values())))
    if cases is None and (missing := [n for n in names if problems.get(n) == NO_PREDICTION]):
        reporter.message(
            f"{len(missing)} of {len(names)} references have no prediction and are scored as empty "
            "(--predicted-only leaves them out)"
        )
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


def _refuse_other_labels(folder: Path, labels: Mapping[str, int]) -> None:
    """Raise `DataError` where the record of an output folder of `predict` gives a label another value, or none."""
    try:
        made = read_folder_record(folder).labels
    except DataError:  # a folder of masks from elsewhere
        return
    if any(made.get(name) != value for name, value in labels.items()):
        raise DataError(
            f"the masks of {printable_path(folder)} have other labels",
            expected=_listed(made),
            found=_listed(labels),
            remedy="give the config that the model was trained with; bring references with other values to these",
        )


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Write `scores.csv` (a row a case and label) and `summary.json`.

    Raises
    ------
    OutputError
        If the folder cannot be made, or holds files of these names from elsewhere.
    """
    claim_folder(out, EVALUATION, remedy="choose another folder for --out")
    rows = [s.as_row() for s in evaluation.scores]
    write_kept_table(out / "scores.csv", [list(rows[0]), *(list(row.values()) for row in rows)])
    text = json.dumps({"summary": evaluation.summary, "problems": evaluation.problems}, indent=1)
    write_atomically(out / "summary.json", text)


def _is_earlier_evaluation(folder: Path) -> bool:
    """Whether a folder without marker was written by `evaluate`, by its summary."""
    try:
        values = json.loads((folder / "summary.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.keys() == {"summary", "problems"}


EVALUATION = FolderKind("evaluate", {"scores.csv": (), "summary.json": ()}, _is_earlier_evaluation)
"""The folder of scores."""


def _output_folder(predictions: Path) -> Path:
    """Return the output folder of `predict` of which this is the folder of masks, else the folder itself."""
    return predictions.parent if predictions.name == "masks" and not (predictions / "masks").is_dir() else predictions


def _on_record(folder: Path) -> tuple[set[str], dict[str, DataError]]:
    """Return the scans of an output folder of `predict` without mask, and those whose mask is not what its model made."""
    try:
        made_by = read_folder_record(folder).made_by
    except DataError:  # a folder of masks from elsewhere
        return set(), {}
    records = Records(folder)
    failed = {p.stem for p in (folder / "failed").glob("[!.]*.json")}
    foreign = {}
    for done in records.all([p.stem for p in (folder / "done").glob("[!.]*.json")]):
        if done.status == "done" and done.made_by != made_by:
            foreign[done.case] = DataError(
                f"the mask of {done.case} is of another model", remedy="run predict to its end, then evaluate"
            )
        elif done.status == "done" and is_edited(folder, records, done.case):
            foreign[done.case] = DataError(
                f"the mask of {done.case} was changed after predict wrote it, so it is not the model's",
                remedy="move it into corrected/ and run predict again, or copy the masks elsewhere to score them as they are",
            )
    return failed - {p.stem for p in (folder / "done").glob("[!.]*.json")}, foreign


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
    rules: SegmentRules,
    tolerance_mm: float,
    problems: dict[str, str],
    other_values: str,
) -> list[LabelScore]:
    labels = rules.labels
    known, grid = read_mask(reference_path, rules)
    if other_values == "refuse" and (unknown := unknown_values(known, labels.values())):
        raise DataError(
            f"the reference of {case} holds values that are no label",
            expected=_listed(labels),
            found=", ".join(unknown),
            remedy="add them to labels, or --other-values ignore",
        )
    array: NDArray[np.generic] = np.zeros_like(known)
    if prediction_path is None:
        problems[case] = NO_PREDICTION
    else:
        try:
            array = _read_prediction(prediction_path, grid, rules, other_values)
        except Exception as error:  # a prediction that is left out would raise the mean
            problem = item_error(error, f"the prediction of {case} cannot be read", DataError)
            problems[case] = f"scored as empty: {problem}"
    scores = score_case(case, array, known, labels, grid, tolerance_mm=tolerance_mm)
    diagonal_mm = float(np.linalg.norm(np.array(grid.shape) * np.array(grid.spacing_mm)))
    return [_as_worst(s, diagonal_mm) if case in problems and not s.reference_ml else s for s in scores]


def _as_worst(score: LabelScore, diagonal_mm: float) -> LabelScore:
    """Return the score of a label that the reference lacks and that nothing was predicted for: no agreement."""
    worst = replace(score, dice=0.0, surface_dice=0.0, lesion_precision=0.0, lesion_recall=0.0, lesion_f1=0.0)
    return replace(worst, hd95_mm=diagonal_mm)


def _read_prediction(path: Path, grid: Grid, rules: SegmentRules, other_values: str) -> NDArray[np.generic]:
    """Read a predicted mask (X, Y, Z) on the reference's grid.

    Raises
    ------
    DataError
        If it lies elsewhere, or holds values that are no label and that are refused.
    """
    found = mask_on_grid(path, grid, rules)
    if found is None:
        raise DataError("the prediction is not on the reference's grid")
    if other_values == "refuse" and (unknown := unknown_values(found, rules.labels.values())):
        raise DataError(
            "the prediction holds values that are no label",
            expected=_listed(rules.labels),
            found=", ".join(unknown),
            remedy="add them to labels, or --other-values ignore",
        )
    return found


def _listed(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{v} ({n})" for n, v in labels.items())
