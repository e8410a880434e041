"""Survey of a dataset: its cases with their checks and folds, and its fingerprint, before a plan is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medhybrid.config import StudyConfig
from medhybrid.data.agreement import absent_labels_error, refuse_other_dataset
from medhybrid.data.case_check import CaseCheck, CheckTask, check_case, check_settings, load_check
from medhybrid.data.checks import Finding, from_error
from medhybrid.data.equal_scans import equal_scans, findings_on_equal_scans, join_subjects
from medhybrid.data.fingerprint import Fingerprint, combine
from medhybrid.data.layouts import Case, Note, list_dataset
from medhybrid.data.splits import Fold, are_folds_drawn, load_folds, notes_on_folds
from medhybrid.data.subjects import unify_subjects
from medhybrid.data.workers import Processes, WorkerDied
from medhybrid.errors import DataError
from medhybrid.files import write_atomically
from medhybrid.kept_tables import write_kept_table
from medhybrid.progress import Reporter
from medhybrid.review.corrections import Corrections, with_corrections, with_new_cases
from medhybrid.scans.dicom.frames import NO_PIXEL_SIZE, PIXEL_SIZES
from medhybrid.scans.raster import UNKNOWN_SIZE

NOTES_ON_SIZES = (UNKNOWN_SIZE, NO_PIXEL_SIZE, *filter(None, PIXEL_SIZES.values()))


@dataclass(frozen=True, slots=True)
class Survey:
    """Cases of a dataset with their checks.

    Attributes
    ----------
    usable : tuple of Case
        Cases without an error.
    folds_origin : str
        Where the folds come from.
    """

    cases: tuple[Case, ...]
    usable: tuple[Case, ...]
    checks: dict[str, CaseCheck]
    findings: tuple[Finding, ...]
    folds: list[Fold]
    folds_origin: str
    corrections: Corrections
    fingerprint: Fingerprint


def survey_dataset(config: StudyConfig, folder: Path, processes: Processes, reporter: Reporter) -> Survey:
    """List and check the cases of a dataset. Checks are kept in `folder`, and repeated only for changed files.

    Raises
    ------
    DataError
        If the config contradicts the dataset, or no case is usable; the findings are in `problems.csv`.
    """
    listing = list_dataset(config.data)
    cases = list(listing.cases)
    on_names = refuse_other_dataset(config.data, cases)
    folds, origin = load_folds(config.data, cases)
    on_folds = notes_on_folds(folds, cases, origin, config.data)
    notes = [_finding_of(note) for note in (*listing.notes, *on_names, *on_folds)]
    for note in notes:
        reporter.message(f"{note.where}: {note.message}" + (f": {note.found}" if note.found else ""))
    cases, corrections = with_corrections(cases, config.data, listing.testing)
    cases = list(unify_subjects(cases)[0])
    folds = with_new_cases(folds, cases, corrections.taken)
    checks = _check_all(config, cases, folder, processes, reporter)
    equal = equal_scans({c.name: checks[c.name].values_hash for c in cases})
    are_drawn = are_folds_drawn(config.data, cases)
    on_equal = findings_on_equal_scans(equal, {c.name: c.subject for c in cases}, folds, are_drawn=are_drawn)
    if on_equal and are_drawn:
        cases = join_subjects(cases, equal)
        listed = {c.name for c in listing.cases}
        drawn = load_folds(config.data, [c for c in cases if c.name in listed])[0]
        folds = with_new_cases(drawn, cases, corrections.taken)
    for finding in on_equal:
        reporter.message(f"{finding.where}: {finding.message}: {finding.found}")
    notes += on_equal
    usable = [c for c in cases if checks[c.name].is_usable]
    by_case = [f for c in cases for f in checks[c.name].findings]
    notes += _joined(by_case, reporter)
    findings = notes + [f for f in by_case if f.message not in NOTES_ON_SIZES]
    if not usable:
        write_problems(folder, findings)
        raise DataError(
            "the dataset has no usable case", found=_first(findings), remedy=f"see {folder / 'problems.csv'}"
        )
    fingerprint = combine([f for c in usable if (f := checks[c.name].fingerprint) is not None])
    if config.data.labelled and (error := absent_labels_error(_absent(config, usable, checks), config.data)):
        raise error
    return Survey(tuple(cases), tuple(usable), checks, tuple(findings), folds, origin, corrections, fingerprint)


def _joined(findings: Sequence[Finding], reporter: Reporter) -> list[Finding]:
    """Return one finding for each note on pixel sizes, which often holds for all cases of a dataset."""
    counts = Counter(f.message for f in findings if f.message in NOTES_ON_SIZES)
    found = []
    for note, n in counts.items():
        message = f"{n} cases: {note}"
        reporter.message(message)
        found.append(Finding(code="note", severity="warning", where="dataset", message=message))
    return found


def _absent(config: StudyConfig, usable: Sequence[Case], checks: dict[str, CaseCheck]) -> list[str]:
    """Return the labels that no case has, if other labels have voxels."""
    volumes = [f.foreground_ml for c in usable if (f := checks[c.name].fingerprint)]
    present = {name for by_label in volumes for name, ml in by_label.items() if ml > 0}
    return [name for name in config.data.labels if present and name not in present]


def write_problems(folder: Path, findings: Sequence[Finding]) -> None:
    """Write the table of findings."""
    rows = [list(f.model_dump().values()) for f in findings]
    write_kept_table(folder / "problems.csv", [list(Finding.model_fields), *rows])


def _check_all(
    config: StudyConfig, cases: Sequence[Case], folder: Path, processes: Processes, reporter: Reporter
) -> dict[str, CaseCheck]:
    checks: dict[str, CaseCheck] = {}
    for case in cases:
        earlier = load_check(folder / "checks" / f"{case.name}.json", case, config)
        if earlier is not None:
            checks[case.name] = earlier
    tasks = [CheckTask(case=c, config=config) for c in cases if c.name not in checks]
    reporter.begin("checking", len(tasks))
    for done, (task, result) in enumerate(processes.map(check_case, tasks), start=1):
        if isinstance(result, WorkerDied):
            finding = from_error(task.name, result, code="worker_died")
            result = CaseCheck(
                case=task.name,
                stamps=[],
                settings=check_settings(config, task.case),
                sources_hash="",
                findings=[finding],
                fingerprint=None,
            )
        write_atomically(folder / "checks" / f"{task.name}.json", result.model_dump_json())
        checks[task.name] = result
        reporter.advance(done, task.name)
    reporter.end()
    return checks


def _finding_of(note: Note) -> Finding:
    """Convert a note on the dataset to a finding with severity warning."""
    return Finding(
        code="dataset",
        severity="warning",
        where=note.where,
        message=note.message,
        found=note.found,
        remedy=note.remedy,
    )


def _first(findings: Sequence[Finding]) -> str:
    first = next((f for f in findings if f.severity == "error"), None)
    return f"{first.where}: {first.message}" if first else "no cases"
