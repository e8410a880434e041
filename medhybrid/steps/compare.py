"""`medhybrid compare A B`: paired comparison of two runs on the same cases, with their differing settings.

A and B are run folders of trainings, compared by their validation cases, or output folders of `predict` with scores of
`medhybrid evaluate`.

OUT/comparison.html      difference with its interval, images of the largest changes, differing settings
OUT/comparison.csv       Dice of every case in both runs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.config import StudyConfig
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.plan import Plan
from medhybrid.data.prepare import inside_labels
from medhybrid.errors import DataError, MedHybridError, ModelError, OutputError
from medhybrid.geometry import resample_labels
from medhybrid.inference.folder_record import read_folder_record
from medhybrid.inference.model_record import ModelRecord, read_record
from medhybrid.kept_tables import write_kept_table
from medhybrid.metrics import Difference, paired_difference
from medhybrid.owned import FolderKind, claim_folder
from medhybrid.progress import Reporter, Silent
from medhybrid.review.report import VolumeView
from medhybrid.review.report.compared import ComparedCase, ComparisonInfo, write_comparison
from medhybrid.runs.places import config_here
from medhybrid.runs.prepared import prepared_folder
from medhybrid.runs.record import without_places
from medhybrid.runs.resume import run_config
from medhybrid.runs.score_tables import dice_by_case, read_scores, references_by_case
from medhybrid.scans.reader import read_scan
from medhybrid.steps.report import pictures_of, shown_channel
from medhybrid.version import __version__

N_SHOWN = 4
"""Number of cases with images, each for the largest gains and the largest losses."""

Draw = Callable[[str], VolumeView | None]


def _is_earlier_comparison(folder: Path) -> bool:
    """Return whether an earlier version of `compare` wrote a folder without marker, by the columns of its table."""
    try:
        with (folder / "comparison.csv").open() as file:
            columns = file.readline().strip().split(",")
    except (OSError, UnicodeDecodeError):
        return False
    return len(columns) == 4 and (columns[0], columns[-1]) == ("case", "difference")


COMPARISON = FolderKind("compare", {"comparison.csv": (), "comparison.html": ()}, _is_earlier_comparison)
"""Output folder of `compare`."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Scores and settings of one run in a comparison.

    Attributes
    ----------
    dice : dict
        Mean Dice by case.
    scored : set of str
        Labels or regions of which Dice is the mean.
    references_ml : dict
        Volume in ml of each label in each case's reference, where recorded.
    settings : dict
        Config, data hash, code and versions, with dotted keys.
    """

    name: str
    kind: str
    dice: Mapping[str, float]
    settings: Mapping[str, str]
    labels: Mapping[str, int]
    draw: Draw
    scored: frozenset[str] = frozenset()
    references_ml: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def in_order_of(self, other: Judged) -> Judged:
        """Return a training with its labels numbered as in another one, if both have the same labels in another order."""
        if self.kind != "training" or self.labels == other.labels or self.labels.keys() != other.labels.keys():
            return self
        numbers = np.zeros(len(self.labels) + 1, np.uint16)
        for name, value in self.labels.items():
            numbers[value] = other.labels[name]

        def draw(case: str) -> VolumeView | None:
            view = self.draw(case)
            if view is None:
                return None
            reference = None if view.reference is None else numbers[view.reference]
            return replace(view, prediction=numbers[view.prediction], reference=reference)

        return replace(self, labels=other.labels, draw=draw)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences of two runs (second - first), by case."""

    page: Path
    difference: Difference
    cases: tuple[tuple[str, float, float], ...]
    settings: tuple[tuple[str, str, str], ...]
    left_out: tuple[str, ...]
    names: tuple[str, str] = ("", "")


def compare(first: str | Path, second: str | Path, *, out: str | Path, reporter: Reporter | None = None) -> Comparison:
    """Compare two runs and write a report.

    Raises
    ------
    DataError
        If they have no case in common, have no scores, or were scored with different references.
    OutputError
        If `out` cannot be written.
    """
    reporter, out = reporter or Silent(), Path(out)
    names = names_apart(Path(first), Path(second))
    a, b = (replace(judged(Path(p)), name=n) for p, n in zip((first, second), names, strict=True))
    b = b.in_order_of(a)
    if a.kind != b.kind or a.labels != b.labels or a.scored != b.scored:
        raise DataError(
            f"{a.name} and {b.name} cannot be compared",
            expected="two trainings, or two folders of masks, with the same labels",
            found="; ".join(f"{x.kind} with {', '.join(sorted(x.scored) or x.labels)}" for x in (a, b)),
        )
    common = sorted(set(a.dice) & set(b.dice))
    if not common:
        raise DataError(
            f"{a.name} and {b.name} have no case in common",
            found=f"{len(a.dice)} and {len(b.dice)} cases",
            remedy="compare trainings of one fold, or predictions of the same scans",
        )
    refuse_other_references(a, b, common)
    difference = paired_difference([b.dice[c] for c in common], [a.dice[c] for c in common])
    rows = sorted(((c, a.dice[c], b.dice[c]) for c in common), key=lambda r: r[2] - r[1])
    left_out = tuple(sorted(set(a.dice) ^ set(b.dice)))
    settings = tuple(_differing(a.settings, b.settings))
    table = [["case", a.name, b.name, "difference"], *((c, x, y, y - x) for c, x, y in rows)]
    worse, better = rows[:N_SHOWN], rows[::-1][:N_SHOWN]
    shown = [r for r in worse if r[2] < r[1]] + [r for r in better if r[2] > r[1]]
    reporter.begin("drawing", len(shown))

    def drawn() -> Iterator[ComparedCase]:
        for n, (case, x, y) in enumerate(shown, start=1):
            yield ComparedCase(case, x, y, _drawn(a.draw, case), _drawn(b.draw, case))
            reporter.advance(n, case)

    info = ComparisonInfo(a.name, b.name, difference, tuple(rows), settings, left_out, a.labels, __version__)
    claim_folder(out, COMPARISON, remedy="choose another folder for --out")
    try:
        write_kept_table(out / "comparison.csv", table)
        page = write_comparison(out / "comparison.html", info, drawn())
    except OSError as error:
        raise OutputError(
            f"{out} cannot be written to", found=error.strerror or str(error), remedy="choose another folder"
        ) from error
    reporter.end()
    return Comparison(page, difference, tuple(rows), settings, left_out, names)


def refuse_other_references(a: Judged, b: Judged, cases: Sequence[str]) -> None:
    """Raise `DataError` if two runs were scored with different references of these cases."""
    known = [c for c in cases if c in a.references_ml and c in b.references_ml]
    both = _all_labels(a) & _all_labels(b)
    if partly := [c for c in known if a.references_ml[c].keys() & both != b.references_ml[c].keys() & both]:
        raise DataError(
            f"{a.name} and {b.name} were scored with different labels of the same cases",
            found=", ".join(partly[:5]),
            remedy="run medhybrid evaluate on both with the same --config",
        )
    if others := [c for c in known if not _are_close(a.references_ml[c], b.references_ml[c])]:
        raise DataError(
            f"{a.name} and {b.name} were scored with different references",
            found=", ".join(others[:5]),
            remedy="run medhybrid evaluate on both with the same references",
        )


def names_apart(first: Path, second: Path) -> tuple[str, str]:
    """Return the shortest ends of two paths that differ from each other and from the other columns of the table."""
    a, b = names_of([first, second])
    return a, b


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of some paths that differ from each other and from the other columns of the table.

    A folder that is given again gets `(again)` after its name.
    """
    parts = [folder.resolve().parts for folder in folders]
    distinct = list(dict.fromkeys(parts))
    ends = {p: p[-1] for p in distinct}
    for n in range(1, max(map(len, parts)) + 1):
        ends = {p: "/".join(p[-n:]) for p in distinct}
        if len(set(ends.values())) == len(distinct) and not {"case", "difference"} & set(ends.values()):
            break
    earlier = [parts[:i].count(p) for i, p in enumerate(parts)]
    return [
        ends[p] + (" (again)" if n == 1 else f" (again, {n})" if n else "") for p, n in zip(parts, earlier, strict=True)
    ]


def judged(folder: Path) -> Judged:
    """Read the scores and settings of a training or of a scored folder of masks; raises `DataError`."""
    if (folder / "validation.csv").is_file():
        return _training(folder)
    scores = folder / "evaluation" / "scores.csv"
    if scores.is_file():
        return _predictions(folder, scores)
    if (folder / "config.yaml").is_file() and not run_config(folder).training.has_validation:
        raise DataError(
            f"{folder} has no scores: every case trained (training.fold=all)",
            expected="a training with validation",
            remedy="compare masks of unseen scans: medhybrid predict and evaluate for both models, then compare the folders",
        )
    if not folder.is_dir():
        raise DataError(
            f"{folder} does not exist", remedy="give the folder of a run, below RUNS/STUDY/, or --out of predict"
        )
    raise DataError(
        f"{folder} has no scores",
        expected="a finished run of train (validation.csv), or an output of predict with scores (evaluation/scores.csv)",
        remedy="finish the training, or run medhybrid evaluate REFERENCES OUT",
    )


def _training(folder: Path) -> Judged:
    rows = read_scores(folder / "validation.csv")
    config = config_here(folder)
    plan = Plan.load(folder / "plan.json")
    try:
        _, record = read_record(folder)
    except ModelError:
        record = None
    channel = shown_channel([(n.channel, n.optional) for n in plan.normalisation])
    is_unchanged = cache(
        lambda: record is None or PreparedDataset(prepared_folder(config)).data_hash() == record.data_hash
    )
    settings = _flat(without_places(config)) | _made(record)
    labels = {n: v for v, n in enumerate(plan.labels, start=1)}
    return Judged(
        folder.name,
        "training",
        dice_by_case(rows),
        settings,
        labels,
        lambda case: _draw_validation(folder, config, plan, channel, case, is_unchanged),
        frozenset(plan.structures),
        references_by_case(rows),
    )


def _draw_validation(
    folder: Path, config: StudyConfig, plan: Plan, channel: int, case: str, is_unchanged: Callable[[], bool]
) -> VolumeView | None:
    prepared = prepared_folder(config)
    if not (prepared / "cases" / case).is_dir():
        return None
    if not is_unchanged() or list(PreparedDataset(prepared).plan.labels) != list(plan.labels):
        return None
    (opened,) = PreparedDataset(prepared).open([case])
    mask = inside_labels(read_scan(folder / "validation" / f"{case}.nii.gz").array[0], plan.labels)
    turned = opened.turn.grid(opened.source_grid)
    prediction: NDArray[np.generic] = resample_labels(opened.turn.apply(mask), turned, opened.grid, len(plan.labels))
    return VolumeView(opened.image()[channel], prediction, opened.labels(), opened.grid)


def _predictions(folder: Path, scores: Path) -> Judged:
    by_case: dict[str, list[float]] = {}
    of_none: dict[str, list[float]] = {}
    references: dict[str, dict[str, float]] = {}
    for row in read_scores(scores, ("case", "label", "dice", "reference_ml", "predicted_ml")):
        held = by_case.setdefault(row["case"], [])
        references.setdefault(row["case"], {})[row["label"]] = float(row["reference_ml"])
        is_held = bool(float(row["reference_ml"]) or float(row["predicted_ml"]))
        (held if is_held else of_none.setdefault(row["case"], [])).append(float(row["dice"]))
    record = read_folder_record(folder)
    newest = max((p.stat().st_mtime_ns for p in (folder / "masks").glob("[!.]*.nii.gz")), default=0)
    if scores.stat().st_mtime_ns < newest:
        raise DataError(f"{folder} has masks that are newer than its scores", remedy="run medhybrid evaluate again")
    dice = {c: float(np.mean(v or of_none[c])) for c, v in by_case.items()}
    told = {"medhybrid", "python", "device", "precision", "runtime", "channel_map", "scan_options", "model_channels"}
    settings = _flat(record.model_dump(mode="json", include=told)) | {"model": record.model_weights_sha256[:12]}
    scored = frozenset(name for of_case in references.values() for name in of_case)
    return Judged(folder.name, "masks", dice, settings, record.labels, pictures_of(folder, record), scored, references)


def _all_labels(judged: Judged) -> set[str]:
    return {name for of_case in judged.references_ml.values() for name in of_case}


def _are_close(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    """Return whether two references have the same volume of each label that both sides recorded."""
    return all(isclose(a[name], b[name], rel_tol=1e-3, abs_tol=1e-9) for name in a.keys() & b.keys())


def _drawn(draw: Draw, case: str) -> VolumeView | None:
    try:
        return draw(case)
    except (MedHybridError, OSError, ValueError, IndexError):
        return None  # the report is complete without images


def _made(record: ModelRecord | None) -> dict[str, str]:
    if record is None:
        return {}
    software = record.training.software if record.training is not None else {}
    told = {"data (SHA-256)": record.data_hash, "steps": str(record.training.n_steps if record.training else "")}
    return told | {f"software.{k}": str(v) for k, v in software.items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _differing(a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for key in [*a, *(k for k in b if k not in a)]:
        if a.get(key, "") != b.get(key, ""):
            yield key, a.get(key, ""), b.get(key, "")
