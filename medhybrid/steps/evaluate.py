"""`medhybrid evaluate`: scores of masks against references by case and label, with a summary."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.label_values import unknown_values
from medhybrid.data.layouts.case import strip_suffix
from medhybrid.data.mask_files import MAX_GAP_MM, list_masks, mask_on_grid, read_mask, stated_grid
from medhybrid.data.missing_segments import missing_labels
from medhybrid.data.segments import SegmentRules
from medhybrid.errors import ConfigError, DataError, MedHybridError, item_error
from medhybrid.files import write_atomically
from medhybrid.geometry import Affine, Grid, extend_to, joint_grid, match_axes
from medhybrid.kept_tables import write_kept_table
from medhybrid.metrics import LabelScore, score_case, summarise
from medhybrid.names import printable_path
from medhybrid.owned import FolderKind, claim_folder
from medhybrid.progress import Reporter, Silent
from medhybrid.scans.image_files import read_geometry
from medhybrid.scans.raster import is_raster
from medhybrid.scans.slicer_segments import segments_of_nrrd
from medhybrid.steps.scored_output import (
    Structures,
    has_unknown_training,
    listed,
    nfc,
    output_folder_of,
    problems_on_record,
    refuse_other_labels,
)
from medhybrid.steps.scoring_names import by_predictions

MAX_JOINT = 1000
"""Largest size of the grid around two cropped masks, relative to that of the reference: others are misplaced."""

NUMBERED = re.compile(r"(.+)_\d+")
"""Name that `predict` gives a scan beside an earlier one of the same name."""

MAX_LOOKED_AT = 1000
"""Number of files that are looked at for the reason why there is no mask."""

NO_PREDICTION = "no prediction: scored as empty"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores by case and label, their summary, and the problem of each case with an invalid or missing mask."""

    scores: tuple[LabelScore, ...]
    summary: dict[str, float]
    problems: dict[str, str]


def evaluate(
    references: str | Path,
    predictions: str | Path,
    *,
    labels: Mapping[str, int],
    regions: Mapping[str, Sequence[int]] | None = None,
    ignore_value: int | None = None,
    annotated: Mapping[str, Collection[str]] | None = None,
    cases: Sequence[str] | None = None,
    predicted_only: bool = False,
    other_values: Literal["refuse", "ignore"] = "refuse",
    rules: SegmentRules | None = None,
    out: str | Path | None = None,
    tolerance_mm: float = 1.0,
    max_gap_mm: float = MAX_GAP_MM,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Score predicted masks.

    Parameters
    ----------
    references, predictions : path
        Folders of masks with the same file names (`predictions` may be the output folder of predict). A reference may be a
        folder with a file for each label: `references/case1/liver.nii.gz`, also in the only folder in `case1`.
    labels : mapping
        Label names and values.
    regions : mapping, optional
        Region names and their values, as in `data.regions`; they are scored instead of the labels.
    ignore_value : int, optional
        Value of voxels in the references whose label is unknown. They are not scored, so that surfaces, components and errors
        of volumes are not measured in these cases.
    annotated : mapping, optional
        For cases whose reference has only some of the labels, or regions: their names. The others are not scored.
    cases : sequence of str, optional
        Cases to score; by default every reference. A case without prediction is scored as an empty mask and listed in the
        problems; its labels get the worst score where the reference is empty, too. A case is listed and not scored if the model
        was trained on it, or its mask was edited or is of another model than the folder's record names.
    predicted_only : bool
        Score only references of scans that `predict` processed, with or without success.
    other_values : str
        Mask values that are not labels: `refuse` the mask, or `ignore` the values. A refused prediction is scored as empty; a
        case with a refused reference is not scored.
    rules : SegmentRules, optional
        Mapping of named segments to labels; by default each label has the segment of its name.
    out : path, optional
        Folder for `scores.csv` and `summary.json`.
    max_gap_mm : float
        Largest distance between corresponding corners of a prediction and its reference, as `prepare.max_affine_error_mm`.

    Raises
    ------
    ConfigError
        If a value of `labels` is not a positive integer, or a name of `annotated` is not a label.
    DataError
        If both folders have no case in common, or the labels differ from those in the record of the predictions.
    """
    reporter = reporter or Silent()
    _check_labels(labels)
    structures: Structures = {n: tuple(v) for n, v in regions.items()} if regions else labels
    annotated = {nfc(case): names for case, names in (annotated or {}).items()}
    cases = None if cases is None else [nfc(case) for case in cases]
    _check_annotated(annotated, structures)
    rules = replace(rules or SegmentRules(labels), other_values=other_values)
    if other_values == "ignore":
        rules = replace(rules, other_segments="ignore")
    options = _Options(structures, rules, tolerance_mm, ignore_value, max_gap_mm)
    for folder in (Path(references), Path(predictions)):
        if not folder.is_dir():
            raise DataError(f"{printable_path(folder)} does not exist or is not a folder", remedy="check the path")
    place = Path(predictions) / "masks" if (Path(predictions) / "masks").is_dir() else Path(predictions)
    if place.resolve() == Path(references).resolve():
        raise DataError(f"{printable_path(place)} is scored against itself", remedy="give the folder of the references")
    predicted, doubled = list_masks(place)
    known, doubled_references = list_masks(Path(references), labels=labels)
    doubled |= doubled_references
    if renamed := by_predictions(known, predicted):
        known = renamed
        reporter.message("references are matched by their names without words such as mask or image")
    refuse_other_labels(output_folder_of(Path(predictions)), structures, ignores=other_values == "ignore")
    failed, foreign = problems_on_record(output_folder_of(Path(predictions)))
    if has_unknown_training(output_folder_of(Path(predictions))):
        reporter.message("the scans that trained this model are not known: the scores hold only for scans that did not")
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
        reporter.message(f"not scored, since they have no reference: {', '.join(others[:5])}{more}")
        twins = [n for n in others if (m := NUMBERED.fullmatch(n)) and m[1] in known and m[1] in predicted]
        if twins and (output_folder_of(Path(predictions)) / "done").is_dir():
            reporter.message(
                f"{twins[0]} is another scan named {twins[0].rpartition('_')[0]}: check which of them the reference is of"
            )
    if not names:
        raise DataError(
            "no case to score",
            expected="masks with the same names in both folders",
            found=f"{len(known)} references, {len(predicted)} predictions",
            remedy=_remedy_for_folders_below([f for f, m in ((Path(references), known), (place, predicted)) if not m]),
        )
    scores: list[LabelScore] = []
    shares: list[float] = []
    problems: dict[str, str] = {}
    reporter.begin("scoring", len(names))
    for n, case in enumerate(names, start=1):
        try:
            if case in doubled:
                raise DataError(doubled[case], expected="one mask", remedy="keep the valid one")
            if case not in known:
                raise DataError(f"case {case} has no reference")
            if case in foreign:
                raise foreign[case]
            of_case = _annotated_of(case, known[case], annotated)
            made, share = _score(case, known[case], predicted.get(case), options.for_case(of_case), problems)
            scores += made
            shares.append(share)
        except Exception as error:
            problems[case] = str(item_error(error, f"case {case} cannot be scored", DataError))
        reporter.advance(n, case)
    reporter.end()
    if not scores:
        raise DataError("no case could be scored", found=next(iter(problems.values())))
    if any(is_raster(known[case]) for case in names if case in known):
        reporter.message(
            "references are image files: where neither they nor the predictions state a pixel size, 1 mm stands for a pixel"
        )
    if cases is None and (missing := [n for n in names if problems.get(n) == NO_PREDICTION]):
        reporter.message(
            f"{len(missing)} of {len(names)} references have no prediction and are scored as empty masks "
            "(exclude them with --predicted-only)"
        )
    lacking = {n: absent for n in names if n in known and (absent := missing_labels(known[n], rules))}
    if lacking := {n: absent for n, absent in lacking.items() if _annotated_of(n, known[n], annotated) is None}:
        first = next(iter(lacking))
        reporter.message(
            f"{len(lacking)} of {len(names)} references have no file or segment for a label, which counts as absent: {first} "
            f"({', '.join(lacking[first][:3])}). If it was not drawn, name the labels of each reference in the --config"
        )
    summary = summarise(scores)
    if min(shares) < 1:
        summary["labelled_share"] = float(np.mean(shares))
        reporter.message(
            f"Dice on labelled voxels only ({summary['labelled_share']:.2%} of the voxels), not of whole masks"
        )
    if partly := [n for n in names if n in annotated or (n in known and nfc(strip_suffix(known[n].name)) in annotated)]:
        reporter.message(
            f"{len(partly)} of {len(names)} references are partly labelled; their other labels are not scored"
        )
    evaluation = Evaluation(tuple(scores), summary, problems)
    if out is not None:
        write_evaluation(evaluation, Path(out))
    return evaluation


def _remedy_for_folders_below(folders: Sequence[Path]) -> str:
    """Return the remedy for folders without masks that contain other folders; empty otherwise."""
    names = [printable_path(f) for f in folders if any(p.is_dir() and not p.name.startswith(".") for p in f.iterdir())]
    if any(p.suffix.lower() == ".dcm" for f in folders for p in islice(f.rglob("*"), MAX_LOOKED_AT)):
        return "save DICOM masks as NIfTI or NRRD, for example in 3D Slicer: evaluate does not read SEG and RTSTRUCT"
    return f"put the masks of {' and '.join(names)} into one folder: folders below are not searched" if names else ""


def _annotated_of(case: str, path: Path, annotated: Mapping[str, Collection[str]]) -> Collection[str] | None:
    """Return the labels of a partly labelled reference, by the name of its case or of its file; None for all."""
    return annotated.get(case, annotated.get(nfc(strip_suffix(path.name))))


@dataclass(frozen=True, slots=True)
class _Options:
    """Scored structures of a case, and the way of scoring."""

    labels: Structures
    rules: SegmentRules
    tolerance_mm: float
    ignore_value: int | None
    max_gap_mm: float

    def for_case(self, annotated: Collection[str] | None) -> _Options:
        """Return the options of a case: only its annotated labels are scored."""
        if annotated is None:
            return self
        return replace(self, labels={n: v for n, v in self.labels.items() if n in annotated})


def shown_scores(summary: Mapping[str, float]) -> list[list[str]]:
    """Return rows of measure and value; counts (`n_...`) are integers."""
    return [[k, f"{v:.0f}" if k.startswith("n_") else f"{v:.4f}"] for k, v in summary.items()]


def _check_labels(labels: Mapping[str, int]) -> None:
    """Raise `ConfigError` unless all labels are positive integers: no mask has other values, so each Dice would be 1."""
    wrong = {n: v for n, v in labels.items() if isinstance(v, bool) or not isinstance(v, int | np.integer) or v < 1}
    if wrong or not labels:
        raise ConfigError(
            "invalid labels",
            expected="names and positive integers, such as {'tumour': 1}",
            found=", ".join(f"{n}: {v!r}" for n, v in wrong.items()) or "none",
        )


def _check_annotated(annotated: Mapping[str, Collection[str]], labels: Structures) -> None:
    """Raise `ConfigError` if a case has an unknown label, or none."""
    for case, names in annotated.items():
        unknown = [n for n in names if n not in labels]
        if unknown or not names:
            raise ConfigError(
                f"annotated: case {case} has {'an unknown label' if unknown else 'no label'}",
                expected=", ".join(labels),
                found=", ".join(unknown) or "no name",
            )


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Write `scores.csv` (a row for each case and label) and `summary.json`.

    Raises
    ------
    OutputError
        If the folder cannot be created, or has files of these names that medhybrid did not write.
    """
    claim_folder(out, EVALUATION, remedy="choose another folder for --out")
    rows = [s.as_row() for s in evaluation.scores]
    write_kept_table(out / "scores.csv", [list(rows[0]), *(list(row.values()) for row in rows)])
    summary = {k: int(v) if k.startswith("n_") else v for k, v in evaluation.summary.items()}
    text = json.dumps({"summary": summary, "problems": evaluation.problems}, indent=1)
    write_atomically(out / "summary.json", text)


def _is_earlier_evaluation(folder: Path) -> bool:
    """Return whether an earlier version of `evaluate` wrote a folder without marker, by its summary."""
    try:
        values = json.loads((folder / "summary.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.keys() == {"summary", "problems"}


EVALUATION = FolderKind("evaluate", {"scores.csv": (), "summary.json": ()}, _is_earlier_evaluation)
"""Output folder of `evaluate`."""


def log_evaluation(run: Path, out: Path, summary: Mapping[str, float]) -> None:
    """Add the summary and the tables to the record of a training run, in `log.jsonl` and MLflow if it was used."""
    from medhybrid.runs.record import reopen_tracker

    tracker = reopen_tracker(run)
    tracker.log_metrics({f"evaluation/{k}": v for k, v in summary.items()}, 0)
    tracker.log_table(out / "scores.csv", "evaluation")
    tracker.log_file(out / "summary.json", "evaluation")
    tracker.finish("FINISHED")


def _score(
    case: str, reference_path: Path, prediction_path: Path | None, options: _Options, problems: dict[str, str]
) -> tuple[list[LabelScore], float]:
    """Return the scores of a case, and the share of its voxels whose label is known."""
    rules, labels = options.rules, options.labels
    reference, grid = read_mask(reference_path, rules)
    if prediction_path is not None and segments_of_nrrd(
        reference_path
    ):  # 3D Slicer saves only the extent of the segments
        with suppress(MedHybridError):
            whole = Grid(*_shape_and_affine(prediction_path))
            turned, its = match_axes(reference, grid, whole)
            if segments_of_nrrd(prediction_path):  # two extents may overlap in part
                joint = joint_grid(whole, its)
                whole = joint if np.prod(joint.shape) <= MAX_JOINT * np.prod(its.shape) else whole
            extended, on_whole = extend_to(turned, its, whole)
            if on_whole.shape == whole.shape and its.shape != whole.shape:
                reference, grid = extended, on_whole
    if is_raster(reference_path) and prediction_path is not None:
        grid = stated_grid(prediction_path, grid)
    is_known = np.ones(reference.shape, bool) if options.ignore_value is None else reference != options.ignore_value
    if not is_known.any():
        raise DataError(
            f"the reference of {case} has no voxel of known label", found=f"the value {options.ignore_value} everywhere"
        )
    of_known = reference[is_known]
    if rules.other_values == "refuse" and (unknown := unknown_values(of_known, rules.labels.values())):
        raise DataError(
            f"the reference of {case} has values that are not labels",
            expected=listed(rules.labels),
            found=", ".join(unknown),
            remedy="add them to the labels, or use --other-values ignore",
        )
    array: NDArray[np.generic] = np.zeros_like(reference)
    if prediction_path is None:
        problems[case] = NO_PREDICTION
    else:
        try:
            array = _read_prediction(prediction_path, grid, rules, options.max_gap_mm)
        except Exception as error:  # excluding the case would raise the mean
            problem = item_error(error, f"the prediction of {case} cannot be read", DataError)
            problems[case] = f"scored as empty: {problem}"
    scores = score_case(case, array, reference, labels, grid, tolerance_mm=options.tolerance_mm, known=is_known)
    diagonal_mm = float(np.linalg.norm(np.array(grid.shape) * np.array(grid.spacing_mm)))
    scores = [_as_worst(s, diagonal_mm) if case in problems and not s.reference_ml else s for s in scores]
    return scores, float(is_known.mean())


def _shape_and_affine(path: Path) -> tuple[tuple[int, int, int], Affine]:
    shape, affine = read_geometry(path)
    return (shape[0], shape[1], shape[2]), affine


def _as_worst(score: LabelScore, diagonal_mm: float) -> LabelScore:
    """Return the worst score, for a label that is absent in the reference and has no valid prediction."""
    if np.isnan(score.hd95_mm):  # only some voxels have a known label
        return replace(score, dice=0.0)
    worst = replace(score, dice=0.0, surface_dice=0.0, lesion_precision=0.0, lesion_recall=0.0, lesion_f1=0.0)
    return replace(worst, hd95_mm=diagonal_mm)


def _read_prediction(path: Path, grid: Grid, rules: SegmentRules, max_gap_mm: float) -> NDArray[np.generic]:
    """Read a predicted mask (X, Y, Z) on the grid of the reference.

    Raises
    ------
    DataError
        If it has another grid, or values that are not labels and are refused.
    """
    found = mask_on_grid(path, grid, rules, max_gap_mm=max_gap_mm)
    if found is None:
        raise DataError(
            "the prediction has another grid than the reference",
            expected=f"the same voxels, corners within {max_gap_mm:g} mm",
            remedy="resample one of them, or set prepare.max_affine_error_mm in --config",
        )
    if rules.other_values == "refuse" and (unknown := unknown_values(found, rules.labels.values())):
        raise DataError(
            "the prediction has values that are not labels",
            expected=listed(rules.labels),
            found=", ".join(unknown),
            remedy="add them to the labels, or use --other-values ignore",
        )
    return found
