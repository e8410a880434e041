"""`medhybrid predict`: masks and measurements for the scans in a folder."""

from __future__ import annotations

import copy
import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medhybrid.config import change_scans
from medhybrid.data.workers import Processes, available_cores
from medhybrid.errors import ConfigError, DataError, ScanError
from medhybrid.files import held, write_atomically
from medhybrid.inference.engines.pool import Pool, WorkerArguments, predict_on
from medhybrid.inference.engines.ray import RayActors
from medhybrid.inference.folder import FolderJob, collect, fingerprint_of, predict_items
from medhybrid.inference.folder_record import OUTPUT, FolderRecord, LeftAside, read_folder_record
from medhybrid.inference.kept_names import keep_names, others_on_record, tell_other_models, tell_renamed
from medhybrid.inference.model import Model
from medhybrid.inference.outputs import FOLDERS, files_of
from medhybrid.inference.records import Prediction, Records
from medhybrid.inference.sharing import Share, hold_folder
from medhybrid.inference.worklist import WorkList, make_worklist
from medhybrid.memory import free_memory
from medhybrid.names import printable_path
from medhybrid.owned import claim_folder
from medhybrid.progress import Reporter, Silent
from medhybrid.remote import Mirror, is_remote, local_copy
from medhybrid.runs.models import load_models
from medhybrid.scans import ScanEntry, discover
from medhybrid.scans.dicom.deidentify import Deidentifier
from medhybrid.version import __version__


@dataclass(frozen=True, slots=True)
class FolderResult:
    """Predictions of the scans in a folder."""

    out: Path
    predictions: tuple[Prediction, ...]
    n_skipped: int
    left_aside: tuple[ScanEntry, ...]

    @property
    def n_done(self) -> int:
        """Number of scans with a mask, including the skipped ones."""
        return sum(p.status == "done" for p in self.predictions)

    @property
    def n_failed(self) -> int:
        """Number of scans without a mask."""
        return len(self.predictions) - self.n_done


def predict(
    scans: str | Path,
    *,
    model: str | Path | Model | Sequence[str | Path],
    out: str | Path,
    device: str = "auto",
    precision: str | None = None,
    mirror: bool | None = None,
    tracking_uri: str | None = None,
    deidentify: str | Path | None = None,
    probabilities: bool = False,
    options: Mapping[str, Any] | None = None,
    max_memory: float | None = None,
    workers: int = 1,
    ray_address: str = "",
    share: Share | None = None,
    reporter: Reporter | None = None,
) -> FolderResult:
    """Predict every scan under `scans`; a scan that fails is recorded and the others continue.

    Parameters
    ----------
    scans : str or Path
        A file, a folder that is searched recursively, or the URL of a folder, as s3://bucket/scans, which is copied first.
    out : str or Path
        Output folder for masks, records and tables, or its URL, to which each finished case is sent.
    model : str, Path, Model or sequence
        A run folder, a model folder, `models:/name@alias`, or a loaded model. Several form an ensemble.
    precision : str, optional
        `auto`, `bf16` or `float32`; by default the model's `inference.precision`.
    mirror : bool, optional
        Use test-time mirroring (TTA); by default the model's `inference.tta_mirroring`. A loaded model keeps its own mirroring
        and precision.
    deidentify : str or Path, optional
        Key file (created if absent): outputs are named by keyed hash and DICOM headers are deidentified.
    probabilities : bool
        Also write the probabilities of the labels, as NIfTI and FRACTIONAL DICOM SEG.
    options : mapping, optional
        Changes of `ScansConfig` for this folder; by default scans are read as in training.
    max_memory : float, optional
        Memory limit for each scan in GiB; by default the free memory. A scan that needs more is refused.
    workers : int
        Number of processes, each with the model; with 1, this process. GPUs are distributed among them.
    ray_address : str
        Run the workers on the Ray cluster at this address (`auto` or `local`). It needs access to the same paths.
    share : Share, optional
        Predict only this part of the scans; the tables have all finished scans.

    Raises
    ------
    MedHybridError
        If the model cannot be loaded, `scans` does not exist, or another process uses `out`.
    """
    if workers < 1:
        raise ConfigError(f"invalid number of workers {workers}", expected="1 or more")
    if max_memory is not None and not max_memory > 0:
        raise ConfigError(f"invalid memory limit of {max_memory:g} GiB", expected="max_memory above 0")
    reporter, is_pooled = reporter or Silent(), workers > 1 or bool(ray_address)
    there = Mirror(str(out)) if is_remote(out) else None
    out = Path(out) if there is None else there.fetch()
    place = local_copy(scans)
    if not place.exists():
        raise ScanError(f"{printable_path(place)} does not exist", remedy="check the path")
    claim_folder(out, OUTPUT, remedy="choose another folder for --out")
    found = discover(place.resolve() if is_pooled else place, without=out)
    key = None if deidentify is None else Deidentifier.from_file(deidentify)
    with hold_folder(out, share), ExitStack() as stack:
        arguments: dict[str, Any] = {"precision": precision, "mirror": mirror, "tracking_uri": tracking_uri}
        if isinstance(model, Model):
            if is_pooled:
                raise ConfigError(
                    "each worker loads the model", expected="the folder of the model", found="a loaded model"
                )
            loaded = with_options(model, options)
        else:
            given = [model] if isinstance(model, (str, Path)) else list(model)
            paths = [str(p) for p in given]
            if not all(isinstance(p, (str, Path)) for p in given) or not paths:
                raise ConfigError(
                    "invalid list of models",
                    expected="one or more folders, or one loaded model",
                    found="loaded models" if paths else "an empty list",
                )
            arguments["paths"] = tuple(str(Path(p).resolve()) if Path(p).exists() else p for p in paths)
            arguments["options"] = tuple((options or {}).items())
            loaded = load_for_folder(**arguments, device="cpu" if is_pooled else device)
        channels = [(n.channel, n.optional) for n in loaded.plan.normalisation]
        work = make_worklist(found, channels, loaded.record.channel_map)
        if key is not None:
            work = work.deidentified(key)
        memory = None if max_memory is None else int(max_memory * 2**30)
        if memory is None and workers > 1 and not ray_address:
            memory = free_memory() // workers  # the workers share the free memory
        records = Records(out)
        work = keep_names(work, records, key)
        tell_renamed(work, out)
        others = others_on_record(work, records, key)
        mine = [i for i in work.items if share is None or share.takes(i.case)]
        job = FolderJob(loaded, out, deidentifier=key, with_probabilities=probabilities, max_memory=memory)
        if is_pooled:
            recipe = WorkerArguments(
                load_for_folder,
                tuple(arguments.items()),
                device,
                out.resolve(),
                job.made_by,
                key=None if deidentify is None else Path(deidentify).resolve(),
                with_probabilities=probabilities,
                max_memory=memory,
                # Ray sets the threads of each actor by its cores; the user's environment has priority.
                threads=0 if ray_address or "OMP_NUM_THREADS" in os.environ else max(1, available_cores() // workers),
            )
            pool: Pool
            if ray_address:
                pool = stack.enter_context(RayActors(workers, address=ray_address, device=device))
            else:
                pool = stack.enter_context(Processes(workers))
            outcomes = predict_on(pool, recipe, mine, job)
        else:
            outcomes = predict_items(job, mine)

        n_skipped = 0

        def on_case(n: int, prediction: Prediction, is_skipped: bool) -> None:
            nonlocal n_skipped
            n_skipped += is_skipped
            # the record is removed first and sent last, so that it never describes an incomplete case
            if there is not None and not is_skipped:
                there.withdraw([f"{kind}/{prediction.case}.json" for kind in ("done", "failed")])
                there.send(files_of(prediction.case))
            reporter.advance(n, prediction.case if prediction.status == "done" else f"{prediction.case}: failed")

        by = f"{workers} workers" if is_pooled else str(loaded.device)
        reporter.begin(f"predicting on {by}", len(mine))
        tell_other_models(out, [p.case for p in others if p.status == "done" and p.made_by != job.made_by])
        cases = sorted([*(i.case for i in work.items), *(p.case for p in others if p.made_by == job.made_by)])
        known = collect(outcomes, cases, job, on_case=on_case, shares_tables=share is not None)
        reporter.end()
        computed_in = (precision or "auto") if is_pooled else str(loaded.precision).removeprefix("torch.")
        device_told = (
            f"{workers} workers, {ray_address or 'this machine'}, {device}" if is_pooled else str(loaded.device)
        )
        with held(out / ".tables.lock"):
            if share is not None:  # other processes may have finished scans since
                known = [p for p in job.records.all(cases) if p.made_by == job.made_by]
            where = str(place.resolve()) if key is None else ""
            n_waiting = len(cases) - len(known)
            _write_record(
                out, known, n_skipped, n_waiting, work, loaded, device_told, computed_in, found.n_skipped, where
            )
        if there is not None:
            there.send_changes([*FOLDERS, "."])
    names = {i.case for i in mine}
    return FolderResult(out, tuple(p for p in known if p.case in names), n_skipped, work.left_aside)


def load_for_folder(
    paths: Sequence[str],
    *,
    device: str,
    precision: str | None,
    mirror: bool | None,
    tracking_uri: str | None,
    options: Sequence[tuple[str, Any]] = (),
) -> Model:
    """Load models with options for reading scans, in this process or in a worker."""
    loaded = load_models(paths, device=device, precision=precision, mirror=mirror, tracking_uri=tracking_uri)
    return with_options(loaded, dict(options))


def with_options(model: Model, options: Mapping[str, Any] | None) -> Model:
    """Return a model with other options for reading scans; raises `ConfigError`."""
    if not options:
        return model
    changed = copy.copy(model)
    changed.record = model.record.model_copy(update={"scans": change_scans(model.record.scans, options)})
    return changed


def fetch(source: str, out: Path) -> Path:
    """Fetch a study from a PACS into `out/fetched`; raises `PacsError`."""
    from medhybrid.scans.pacs import fetch_study, parse_endpoint

    endpoint = parse_endpoint(source)
    folder = out / "fetched" / hashlib.sha256(endpoint.study_uid.encode()).hexdigest()[:32]
    fetch_study(endpoint, folder)
    return folder


def send_results(result: FolderResult, target: str) -> int:
    """Send the SEGs and reports of all finished scans to a PACS; returns their number. Raises `PacsError`."""
    from medhybrid.scans.pacs import parse_endpoint, send_files

    done = [p.case for p in result.predictions if p.status == "done"]
    paths = [result.out / kind / f"{case}.dcm" for case in done for kind in ("seg", "sr", "probabilities")]
    present = [p for p in paths if p.is_file()]
    send_files(parse_endpoint(target), present)
    return len(present)


def _earlier_channels(out: Path, known: Sequence[Prediction]) -> dict[str, tuple[str, ...]]:
    """Return the reasons for the channel assignments of earlier calls, for scans that still have masks."""
    try:
        earlier = read_folder_record(out).channels
    except DataError:
        return {}
    cases = {p.case for p in known}
    return {case: reasons for case, reasons in earlier.items() if case in cases}


def _write_record(
    out: Path,
    known: Sequence[Prediction],
    n_skipped: int,
    n_waiting: int,
    work: WorkList,
    model: Model,
    place: str,
    precision: str,
    n_other_files: int,
    scans: str,
) -> None:
    n_done = sum(p.status == "done" for p in known)
    record = FolderRecord(
        medhybrid=__version__,
        python=platform.python_version(),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        device=place,
        runtime=model.runtime,
        precision=precision,
        mirror=model.record.inference.tta_mirroring,
        model_weights_sha256=model.record.weights_sha256,
        made_by=fingerprint_of(model),
        n_done=n_done,
        n_unchanged=n_skipped,
        n_failed=len(known) - n_done,
        n_waiting=n_waiting,
        left_aside=[LeftAside(name=e.name, reason=e.left_aside) for e in work.left_aside],
        n_other_files=n_other_files,
        channels=_earlier_channels(out, known) | {i.case: i.reasons for i in work.items if i.reasons},
        labels=dict(model.plan.labels),
        scans=scans,
        model_channels=[(n.channel, n.optional) for n in model.plan.normalisation],
        channel_map=dict(model.record.channel_map),
        scan_options=model.record.scans,
    )
    write_atomically(out / "run.json", record.model_dump_json(indent=1))
