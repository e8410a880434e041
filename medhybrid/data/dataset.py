"""Prepared dataset on disk: the folder that `preprocess` writes and `train` reads.

prepared/<study>/
    plan.json           plan, with the reasons of its values
    fingerprint.json    statistics of the dataset that the plan is derived from
    folds.json          training and validation cases of each fold
    problems.csv        findings, by case
    checks/<case>.json  result of checking a case, valid until its files change
    cases/<case>/       prepared arrays (see `store`)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from medhybrid.config import StudyConfig
from medhybrid.config.regions import class_indices
from medhybrid.data.annotation import keep_annotated, scored
from medhybrid.data.case_check import CaseCheck, is_check
from medhybrid.data.checks import Finding, from_error
from medhybrid.data.fingerprint import UNKNOWN, Fingerprint, SeenRange
from medhybrid.data.grid_loss import measure_on_grid
from medhybrid.data.layouts import Case
from medhybrid.data.load import load_image, load_mask
from medhybrid.data.pictures import picture_hashes
from medhybrid.data.plan import Plan
from medhybrid.data.prepare import network_grid, prepare_image, prepare_labels, reference_labels
from medhybrid.data.scribbles import fill_beyond
from medhybrid.data.splits import Fold, kinds_of_subjects
from medhybrid.data.store import CASE_FILES, CaseRecord, PreparedCase, save_case
from medhybrid.errors import DataError, MedHybridError, item_error, reason_of
from medhybrid.geometry import Grid, turn_to_ras
from medhybrid.memory import free_memory
from medhybrid.names import printable_path
from medhybrid.owned import FolderKind
from medhybrid.scans.context import read_context
from medhybrid.tables import read_table
from medhybrid.two_columns import two_columns

CHOSEN = ("spacing_mm", "patch_size", "batch_size", "mirror_axes")
"""Settings of preprocessing that the plan's rules choose if they are null in the config."""

PLAN_ONLY = {"patch_size", "batch_size", "mirror_axes", "keep_largest", "min_component_ml"}
"""Settings of the plan that do not affect prepared cases."""


def _is_earlier_dataset(folder: Path) -> bool:
    """Return whether a folder without marker was written by `preprocess`, judged by its plan or its checks."""
    if (folder / "plan.json").is_file():
        try:
            Plan.load(folder / "plan.json")
        except DataError:
            return False
        return True
    checks = list((folder / "checks").glob("[!.]*.json"))
    return bool(checks) and all(is_check(p) for p in checks)


IN_USE = ".in_use"
"""File in a prepared folder that trainings lock while they read it."""

PREPARED = FolderKind(
    "preprocess",
    {
        "plan.json": (),
        "fingerprint.json": (),
        "folds.json": (),
        "problems.csv": (),
        "corrections.csv": (),
        "config.yaml": (),
        "source.json": (),
        "checks": ("*.json",),
        "cases": CASE_FILES,
    },
    _is_earlier_dataset,
)
"""Folder of a prepared dataset: its files, by which it is recognised."""


class PrepareTask(BaseModel):
    """Case to prepare, as sent to a worker process."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    case: Case
    config: StudyConfig
    plan: Plan
    sources_hash: str
    folder: Path

    @property
    def name(self) -> str:
        """Return the case's name."""
        return self.case.name


def prepare_case(task: PrepareTask) -> Finding | None:
    """Prepare a case and write it; return a finding if this fails."""
    case, plan, config = task.case, task.plan, task.config
    try:
        scan = load_image(case, config.data, config.scans)
        mask = reference_labels(load_mask(case, scan, config.data, config.scans).array[0], config.data)
        mask, _ = keep_annotated(mask, config.data, case.annotated)
        drawn = mask
        if config.data.beyond_scribbles == "background" and case.annotated is None:
            mask = fill_beyond(drawn, scan.grid.spacing_mm, plan.n_labels)
        refuse_too_large(case.name, scan.grid, plan)
        prepared = prepare_image(scan.array, scan.grid, plan)
        labels = prepare_labels(mask, prepared, plan)
        structures = scored(plan.structures, case.annotated)
        ml, counts = scan.grid.voxel_ml, np.bincount(mask.ravel(), minlength=plan.n_labels + 1)
        record = CaseRecord(
            case=case.name,
            subject=case.subject,
            is_labelled=case.is_labelled,
            sources_hash=task.sources_hash,
            preparation_hash=plan.preparation_hash,
            source_shape=scan.grid.shape,
            source_affine=scan.affine.tolist(),
            affine=prepared.grid.affine.tolist(),
            axes=prepared.turn.axes,
            flips=prepared.turn.flips,
            pictures=picture_hashes(prepared.turn.apply(scan.array)),
            context=read_context(scan, plan.context),
            reference_ml={n: float(counts[list(classes)].sum()) * ml for n, classes in structures.items()},
            **measure_on_grid(drawn, labels, prepared, plan, structures),
            annotated=case.annotated,
            known_share=float(np.count_nonzero(mask != UNKNOWN) / mask.size),
            n_outliers=prepared.n_outliers,
        )
        save_case(task.folder / case.name, record, prepared.image, labels, source_mask=mask, n_labels=plan.n_labels)
    except Exception as error:
        return from_error(case.name, item_error(error, "the case cannot be prepared", DataError))
    return None


def refuse_too_large(case: str, grid: Grid, plan: Plan) -> None:
    """Raise `DataError` if a scan does not fit into free memory on the network's grid."""
    target = network_grid(turn_to_ras(grid.affine).grid(grid), plan)
    n_bytes = int(np.prod(target.shape, dtype=object)) * 4 * (2 * len(plan.channels) + 1)
    if n_bytes > free_memory():
        raise DataError(
            f"case {case}: the scan is too large on the network's grid",
            expected=f"at most {free_memory() / 2**30:.1f} GiB, the free memory",
            found=f"{n_bytes / 2**30:.1f} GiB for {' x '.join(map(str, target.shape))} voxels",
            remedy="check the spacing in the scan's header",
        )


def is_prepared(folder: Path, case: Case, check: CaseCheck, plan: Plan) -> bool:
    """Return whether a case is already prepared from the same files, with the same plan and the same subject."""
    try:
        record = CaseRecord.model_validate_json((folder / "case.json").read_bytes())
    except (OSError, ValidationError, ValueError):
        return False
    is_same = (record.subject, record.is_labelled, record.annotated) == (case.subject, case.is_labelled, case.annotated)
    has_outliers = any(f.code == "outliers" for f in check.findings)
    if has_outliers and not record.n_outliers:  # prepared by a version that did not replace outliers
        return False
    return is_same and record.sources_hash == check.sources_hash and record.preparation_hash == plan.preparation_hash


class PreparedDataset:
    """Prepared dataset of a study, opened for reading.

    Raises
    ------
    DataError
        If the folder does not exist or is incomplete.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "plan.json").is_file():
            raise DataError(f"{folder} is not a prepared dataset", remedy="run medhybrid preprocess first")
        self.plan = Plan.load(folder / "plan.json")
        try:
            self.folds = [Fold.model_validate(f) for f in json.loads((folder / "folds.json").read_text())]
        except (OSError, ValueError, ValidationError) as error:
            raise DataError(f"{folder / 'folds.json'} cannot be used", found=reason_of(error)) from error

    def names(self) -> list[str]:
        """Return the names of the prepared cases, sorted."""
        return sorted(p.parent.name for p in (self.folder / "cases").glob("*/case.json") if p.parent.name[0] != ".")

    def refuse_lost(self, names: Sequence[str], present: Container[str]) -> None:
        """Raise `DataError` for cases that `preprocess` could use, and whose prepared files are absent."""
        with_errors: set[str] = set()
        with suppress(OSError, MedHybridError):
            rows = read_table(self.folder / "problems.csv").rows
            with_errors = {row.get("where", "") for _, row in rows if row.get("severity") == "error"}
        lost = []
        for name in (n for n in names if n not in present and n not in with_errors):
            with suppress(OSError, ValidationError):
                check = CaseCheck.model_validate_json((self.folder / "checks" / f"{name}.json").read_bytes())
                lost += [name] if check.is_usable else []
        if lost:
            raise DataError(
                f"{len(lost)} prepared cases are missing in {printable_path(self.folder)}",
                found=", ".join(lost[:5]),
                remedy="run medhybrid preprocess again, or copy the whole folder again",
            )

    def open(self, names: Sequence[str]) -> list[PreparedCase]:
        """Open those of `names` that are prepared. The others were skipped, with a finding, by `preprocess`.

        Raises
        ------
        DataError
            If a case is damaged, or was prepared with another plan.
        """
        present = set(self.names())
        cases = [PreparedCase(self.folder / "cases" / n) for n in names if n in present]
        if others := [c.name for c in cases if c.record.preparation_hash != self.plan.preparation_hash]:
            raise DataError(
                f"{len(others)} cases were prepared with another plan",
                found=", ".join(others[:5]),
                remedy="run medhybrid preprocess again",
            )
        return cases

    def fold(self, k: int) -> Fold:
        """Return fold `k`; raise `DataError` if it does not exist."""
        if not 0 <= k < len(self.folds):
            raise DataError(f"fold {k} does not exist", expected=f"0 to {len(self.folds) - 1}")
        return self.folds[k]

    def every_case(self) -> Fold:
        """Return a fold in which the cases of all folds train and none validates. Cases kept for testing are in no fold."""
        names = (name for fold in self.folds for name in (*fold.train, *fold.validation))
        return Fold(train=tuple(dict.fromkeys(names)), validation=())

    def plan_for(self, config: StudyConfig) -> Plan:
        """Return the plan, with the metadata fields of the config, which may be fewer than those of the cases.

        Raises
        ------
        DataError
            If the cases were prepared without one of these fields, or with other settings than those of the config.
        """
        asked: dict[str, object] = {
            "labels": config.data.labels,
            "regions": list(class_indices(config.data.regions, config.data.labels).items()),
            "channels": tuple(c.name for c in config.data.channels),
            **config.prepare.model_dump(include=set(CHOSEN), exclude_none=True),
            **config.prepare.model_dump(include={"keep_largest", "min_component_ml"}),
        }
        found = {key: getattr(self.plan, key) for key in asked} | {"regions": list(self.plan.regions.items())}
        for key in CHOSEN:  # set in the config then, and chosen by the plan's rules now
            if getattr(config.prepare, key) is None and self.plan.reasons.get(key) == f"config: prepare.{key}":
                asked[key], found[key] = "by the plan's rules (null)", getattr(self.plan, key)
        if others := [key for key, value in asked.items() if found[key] != value]:
            is_plan_only = set(others) <= PLAN_ONLY
            raise DataError(
                f"the {'plan' if is_plan_only else 'cases'} in {self.folder} {'has' if is_plan_only else 'were prepared with'}"
                " other settings",
                table=two_columns([(key, str(found[key]), str(asked[key])) for key in others], "prepared", "config"),
                remedy="run medhybrid preprocess with this config"
                + ": it writes the plan again, and keeps cases that fit it" * is_plan_only,
            )
        if unknown := [field for field in config.data.context if field not in self.plan.context]:
            raise DataError(
                f"the cases in {self.folder} were prepared without {', '.join(unknown)} of data.context",
                remedy="run medhybrid preprocess with this config",
            )
        return self.plan.model_copy(update={"context": config.data.context})

    def fold_for(self, config: StudyConfig, records: Mapping[str, CaseRecord] | None = None) -> Fold:
        """Return the training and validation cases of a config, after inner validation split and limit of cases.

        With `records` of all prepared cases, no case is opened.
        """
        training = config.training
        fold = self.fold(training.fold) if isinstance(training.fold, int) else self.every_case()
        if training.inner_fold is not None:
            if records is None:
                records = {case.name: case.record for case in self.open(fold.train)}
            inner = [records[name] for name in fold.train if name in records]
            labelled = {r.case: r.subject for r in inner if r.is_labelled} or {r.case: r.subject for r in inner}
            others = {r.case: r.subject for r in inner if r.case not in labelled}
            kinds = kinds_of_subjects({r.case: (r.subject, r.annotated) for r in inner})
            fold = fold.inner(training.inner_fold, labelled, config.data.n_folds, config.data.split_seed, others, kinds)
        if training.max_cases is not None:
            present = set(self.names())
            fold = Fold(train=tuple(n for n in fold.train if n in present), validation=fold.validation)
            fold = fold.limited(training.max_cases, config.data.split_seed)
        return fold

    def seen_range(self) -> SeenRange | None:
        """Return the range of the dataset's scans; None for a folder of an earlier version, which did not measure it."""
        try:
            return Fingerprint.model_validate_json((self.folder / "fingerprint.json").read_bytes()).seen
        except (OSError, ValidationError):
            return None

    def data_hash(self, records: Mapping[str, CaseRecord] | None = None) -> str:
        """Return a hash over the sources of all prepared cases; with their `records`, no case is opened."""
        if records is None:
            records = {case.name: case.record for case in self.open(self.names())}
        digest = hashlib.sha256()
        for name, record in records.items():
            digest.update(f"{name}:{record.sources_hash};".encode())
        return digest.hexdigest()
