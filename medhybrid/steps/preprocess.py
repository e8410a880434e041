"""`medhybrid preprocess`: checks of all cases, fingerprint and plan of the dataset, and preparation of the cases."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medhybrid.config import StudyConfig, require_config, save_config
from medhybrid.data.case_check import CaseCheck, is_check
from medhybrid.data.checks import Finding, from_error
from medhybrid.data.dataset import CHOSEN, IN_USE, PLAN_ONLY, PREPARED, PrepareTask, is_prepared, prepare_case
from medhybrid.data.dataset_checks import ct_findings, removed_label_findings
from medhybrid.data.grid_loss import grid_findings
from medhybrid.data.layouts import Case
from medhybrid.data.missing_segments import missing_segment_findings
from medhybrid.data.palettes import palette_findings
from medhybrid.data.plan import Plan
from medhybrid.data.source import save_source
from medhybrid.data.store import load_record, remove_case
from medhybrid.data.workers import Processes, WorkerDied, default_workers
from medhybrid.errors import ConfigError, DataError, MedHybridError, OutputError
from medhybrid.files import held, write_atomically
from medhybrid.memory import free_memory
from medhybrid.names import printable_path
from medhybrid.owned import claim_folder
from medhybrid.progress import Reporter, Silent
from medhybrid.remote import is_remote
from medhybrid.review.corrections import write_corrections
from medhybrid.runs.prepared import refresh_prepared, send_prepared
from medhybrid.steps.plan import load_plan, plan_dataset
from medhybrid.steps.survey import survey_dataset, write_problems


@dataclass(frozen=True, slots=True)
class Preparation:
    """Result of a preparation."""

    folder: Path
    plan: Plan
    n_prepared: int
    n_unchanged: int
    findings: tuple[Finding, ...]
    left_out: tuple[str, ...]


def preprocess(config: StudyConfig, *, reporter: Reporter | None = None) -> Preparation:
    """Check and prepare the cases of a dataset; cases with errors are listed and excluded.

    Raises
    ------
    ConfigError
        If the folder of prepared cases is the dataset's folder.
    DataError
        If no case is usable, or the remote store of prepared cases does not respond.
    """
    reporter = reporter or Silent()
    require_config(config)
    _refuse_dataset_as_place(config)
    folder = claim_folder(refresh_prepared(config), PREPARED, remedy="choose another folder: prepare.folder=FOLDER")
    with held(folder / ".lock", wait=False) as is_free:
        if not is_free:
            reporter.message(f"waiting for another process that prepares {folder}")
    with held(folder / ".lock"), contextlib.ExitStack() as alone:
        return _preprocess(config, folder, reporter, alone)


def _refuse_dataset_as_place(config: StudyConfig) -> None:
    """Raise `ConfigError` if the prepared cases would be written among the files of the dataset."""
    root, place = config.data.root, f"{config.prepare.folder.rstrip('/')}/{config.name}"
    if not root:
        return
    if is_remote(root) or is_remote(place):
        is_inside = root.rstrip("/") == place
    else:
        dataset, prepared = Path(root).resolve(), Path(place).resolve()
        is_inside = dataset == prepared or any(dataset.is_relative_to(prepared / n) for n in ("cases", "checks"))
    if is_inside:
        raise ConfigError(
            "the prepared cases would be written into the folder of the dataset",
            expected="prepare.folder/name other than data.root",
            found=printable_path(place),
            remedy="choose another folder: prepare.folder=FOLDER, or another name of the study",
        )


def _preprocess(config: StudyConfig, folder: Path, reporter: Reporter, alone: contextlib.ExitStack) -> Preparation:
    memory = free_memory()  # before worker processes start, which use memory that a training will have
    with Processes(config.prepare.workers or default_workers()) as processes:
        survey = survey_dataset(config, folder, processes, reporter)
        checks, usable, corrections = survey.checks, survey.usable, survey.corrections
        earlier = load_plan(folder)
        plan = plan_dataset(config, survey.fingerprint, memory=memory, earlier=earlier, reporter=reporter)
        waiting = [c for c in usable if not is_prepared(folder / "cases" / c.name, c, checks[c.name], plan)]
        present = {p.parent.name for p in (folder / "cases").glob("[!.]*/case.json")}
        changing = (present & {c.name for c in waiting}) | (present - {c.name for c in usable})
        if changing or (present and _has_other_plan(folder, plan)):
            alone.enter_context(_alone(folder))
        _withdraw_other_plan(folder, plan)
        failed = _prepare_all(config, waiting, checks, plan, folder, processes, reporter)
    findings = [*survey.findings, *failed]
    failed_cases = {f.where for f in failed}
    measured = {c.name: f for c in usable if c.name not in failed_cases and (f := checks[c.name].fingerprint)}
    for name in measured:
        findings += grid_findings(load_record(folder / "cases" / name), plan)
    findings += ct_findings(measured, [c.name for c in config.data.channels if c.modality == "CT"])
    findings += removed_label_findings(folder / "cases", measured, plan)
    findings += missing_segment_findings([c for c in usable if c.name not in failed_cases], config.data)
    findings += palette_findings({c.name: c.mask.paths[0] for c in usable if c.mask is not None})
    left_out = sorted({f.where for f in findings if f.severity == "error"})

    write_atomically(folder / "fingerprint.json", survey.fingerprint.model_dump_json(indent=1))
    write_atomically(folder / "folds.json", json.dumps([f.model_dump() for f in survey.folds], indent=1))
    save_source(folder, config)
    write_atomically(folder / "plan.json", plan.model_dump_json(indent=1))
    write_problems(folder, findings)
    (folder / "corrections.csv").unlink(missing_ok=True)
    if corrections.taken:
        write_corrections(folder / "corrections.csv", corrections.taken, left_out)
    save_config(config, folder / "config.yaml")
    names = {c.name for c in survey.cases}
    _forget_others(folder, names - set(left_out), reporter)
    _forget_checks(folder, names)
    send_prepared(config)
    reporter.message(f"folds: {len(survey.folds)}, {survey.folds_origin}")
    if taken := [c for c in corrections.taken if c.case not in left_out]:
        n_new = sum(c.is_new for c in taken)
        reporter.message(f"corrected masks: {len(taken) - n_new} replace the dataset's masks, {n_new} add new cases")
    if earlier is not None and (changes := _changes(earlier, plan)):
        reporter.message(f"the plan has changed: {changes}")
    n_prepared = len(waiting) - len(failed)
    return Preparation(folder, plan, n_prepared, len(usable) - len(waiting), tuple(findings), tuple(left_out))


def _changes(earlier: Plan, plan: Plan) -> str:
    """Return the values of the plan that differ from those of an earlier one, as text."""
    keys = [*CHOSEN, "labels", "channels", *sorted(PLAN_ONLY - {*CHOSEN})]
    pairs = [(key, getattr(earlier, key), getattr(plan, key)) for key in keys]
    return "; ".join(f"{key} {then} to {now}" for key, then, now in pairs if then != now)


def _prepare_all(
    config: StudyConfig,
    cases: Sequence[Case],
    checks: dict[str, CaseCheck],
    plan: Plan,
    folder: Path,
    processes: Processes,
    reporter: Reporter,
) -> list[Finding]:
    tasks = [
        PrepareTask(case=c, config=config, plan=plan, sources_hash=checks[c.name].sources_hash, folder=folder / "cases")
        for c in cases
    ]
    failed = []
    reporter.begin("preparing", len(tasks))
    for done, (task, result) in enumerate(processes.map(prepare_case, tasks), start=1):
        if isinstance(result, WorkerDied):
            result = from_error(task.name, result, code="worker_died")
        if result is not None:
            failed.append(result)
        reporter.advance(done, task.name)
    reporter.end()
    return failed


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep trainings from starting while prepared cases change; raise `DataError` if one uses them now."""
    with held(folder / IN_USE, wait=False) as is_free:
        if not is_free:
            raise DataError(
                f"a training uses the prepared cases of {printable_path(folder)}, and they would change",
                remedy="wait until it ends, or prepare into another folder: prepare.folder=FOLDER",
            )
        yield


def _has_other_plan(folder: Path, plan: Plan) -> bool:
    with contextlib.suppress(OSError, MedHybridError):
        return Plan.load(folder / "plan.json").preparation_hash != plan.preparation_hash
    return True


def _withdraw_other_plan(folder: Path, plan: Plan) -> None:
    """Remove an earlier plan before preparing with another: an interruption would leave cases of two plans."""
    if _has_other_plan(folder, plan):
        (folder / "plan.json").unlink(missing_ok=True)


def _forget_others(folder: Path, keep: set[str], reporter: Reporter) -> None:
    """Remove prepared cases that left the dataset or now have errors, so that they do not train."""
    for path in sorted((folder / "cases").glob("[!.]*")):
        if path.name not in keep and (path / "case.json").is_file():
            try:
                remove_case(path)
            except OutputError as error:
                (path / "case.json").unlink()  # without its record it is not a case; the other files stay
                reporter.message(str(error))


def _forget_checks(folder: Path, keep: set[str]) -> None:
    """Remove the checks of cases that left the dataset."""
    for path in (folder / "checks").glob("[!.]*.json"):
        if path.name.removesuffix(".json") not in keep and is_check(path):
            path.unlink()
