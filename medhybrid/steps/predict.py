"""`medhybrid predict`: masks and measurements for the scans in a folder."""

from __future__ import annotations

import copy
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medhybrid.addresses import hide_password
from medhybrid.config import change_scans
from medhybrid.data.workers import Processes, available_cores
from medhybrid.errors import ConfigError, DataError, MedHybridError, ScanError, item_error
from medhybrid.files import held, write_atomically
from medhybrid.inference.collect import collect
from medhybrid.inference.engines.pool import Pool, WorkerArguments, predict_on
from medhybrid.inference.engines.ray import RayActors
from medhybrid.inference.folder import predict_items
from medhybrid.inference.folder_job import FolderJob
from medhybrid.inference.folder_record import OUTPUT, FolderRecord, SkippedFile, read_folder_record
from medhybrid.inference.kept_names import keep_names, others_on_record, tell_other_models, tell_renamed
from medhybrid.inference.model import Segmenter
from medhybrid.inference.outputs import FOLDERS, files_of
from medhybrid.inference.records import Prediction, Records
from medhybrid.inference.scan_places import FoundScans, find_scans, group_places
from medhybrid.inference.sharing import Share, hold_folder
from medhybrid.inference.weights_file import UNKNOWN
from medhybrid.inference.worklist import WorkItem, WorkList
from medhybrid.memory import free_memory
from medhybrid.names import printable_path
from medhybrid.owned import claim_folder
from medhybrid.progress import Reporter, Silent
from medhybrid.remote import Mirror, is_remote, local_copy
from medhybrid.runs.models import load_models
from medhybrid.scans import ScanEntry
from medhybrid.scans.dicom.deidentify import Deidentifier
from medhybrid.version import __version__, warn_renamed


@dataclass(frozen=True, slots=True)
class FolderResult:
    """Predictions of the scans of a call.

    Attributes
    ----------
    n_skipped : int
        Number of unchanged scans whose masks were kept.
    skipped_files : tuple of ScanEntry
        Series and files that are not scans; `skip_reason` has the reason of each.
    problems : tuple of (str, str)
        Files and folders that cannot be searched, with the reason.
    """

    out: Path
    predictions: tuple[Prediction, ...]
    n_skipped: int
    skipped_files: tuple[ScanEntry, ...]
    problems: tuple[tuple[str, str], ...] = ()

    @property
    def left_aside(self) -> tuple[ScanEntry, ...]:
        """Deprecated name of `skipped_files`."""
        warn_renamed("FolderResult.left_aside", "FolderResult.skipped_files", stacklevel=2)
        return self.skipped_files

    @property
    def n_done(self) -> int:
        """Number of scans with a mask, including the skipped ones."""
        return sum(p.status == "done" for p in self.predictions)

    @property
    def n_failed(self) -> int:
        """Number of scans without a mask."""
        return len(self.predictions) - self.n_done


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """Options of `predict`, which are its keyword arguments.

    Parameters
    ----------
    device : str
        `auto`, `cpu`, `cuda` or `mps`; or `openvino`, a faster path on CPUs.
    precision : str, optional
        `auto`, `bf16`, `fp16`, `tf32` or `float32`; by default the model's `inference.precision`.
    mirror : bool, optional
        Use test-time mirroring (TTA); by default the model's `inference.tta_mirroring`. A loaded model keeps its own mirroring
        and precision.
    focus : bool, optional
        Compute closely only near labels of a first pass; by default the model's `inference.focus`.
    tracking_uri : str, optional
        MLflow store of a `models:/` name; by default `MLFLOW_TRACKING_URI`, else `runs/mlflow.db`.
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
    ConfigError
        If a number is invalid.
    """

    device: str = "auto"
    precision: str | None = None
    mirror: bool | None = None
    focus: bool | None = None
    tracking_uri: str | None = None
    deidentify: str | Path | None = None
    probabilities: bool = False
    options: Mapping[str, Any] | None = None
    max_memory: float | None = None
    workers: int = 1
    ray_address: str = ""
    share: Share | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"invalid number of workers {self.workers}", expected="1 or more")
        if self.max_memory is not None and not self.max_memory > 0:
            raise ConfigError(f"invalid memory limit of {self.max_memory:g} GiB", expected="max_memory above 0")

    @property
    def is_pooled(self) -> bool:
        """Whether other processes than this one predict the scans."""
        return self.workers > 1 or bool(self.ray_address)

    @property
    def max_bytes(self) -> int | None:
        """Memory limit for each scan in bytes; None for the free memory. Workers on this computer share the free memory."""
        if self.max_memory is not None:
            return int(self.max_memory * 2**30)
        return free_memory() // self.workers if self.workers > 1 and not self.ray_address else None


@dataclass(frozen=True, slots=True)
class _FolderCall:
    """Call of `predict`: the scans that were found, and the job for those of this call.

    Attributes
    ----------
    mine : tuple of WorkItem
        Scans of this call; other calls may predict other parts of `work`.
    cases : tuple of str
        Cases of the tables: all of `work`, and those of earlier calls with the same model.
    load_arguments : dict, optional
        Arguments of `load_for_folder`; None for a model that was already loaded.
    """

    options: PredictOptions
    places: tuple[Path, ...]
    found: FoundScans
    work: WorkList
    mine: tuple[WorkItem, ...]
    cases: tuple[str, ...]
    job: FolderJob
    load_arguments: Mapping[str, Any] | None


def predict(
    scans: str | Path | Sequence[str | Path],
    *,
    model: str | Path | Segmenter | Sequence[str | Path],
    out: str | Path,
    reporter: Reporter | None = None,
    **options: Any,
) -> FolderResult:
    """Predict every scan under `scans`; a scan that fails is recorded and the others continue.

    Parameters
    ----------
    scans : str, Path or sequence
        A file, a folder that is searched recursively, or the URL of a folder, as s3://bucket/scans, which is copied first; or
        several of them. Files of one folder may be channels of one scan. Scans with the same name get numbers. One that does
        not exist is reported, and the others are predicted.
    model : str, Path, Segmenter or sequence
        A run folder, a model folder, `models:/name@alias`, or a model that `load_model` loaded. Several form an ensemble.
    out : str or Path
        Output folder for masks, records and tables, or its URL, to which each finished case is sent.
    options
        Fields of `PredictOptions`, such as `device`, `workers` or `probabilities`.

    Raises
    ------
    MedHybridError
        If the model cannot be loaded, nothing of `scans` exists, or another process uses `out`.
    """
    chosen = PredictOptions(**options)
    reporter = reporter or Silent()
    store = Mirror(str(out)) if is_remote(out) else None
    folder = Path(out) if store is None else store.fetch()
    places, absent = _existing(scans)
    claim_folder(folder, OUTPUT, remedy="choose another folder for --out")
    key = None if chosen.deidentify is None else Deidentifier.from_file(chosen.deidentify)
    with hold_folder(folder, chosen.share):
        loaded, load_arguments = _load(model, chosen)
        if not loaded.is_calibrated:
            reporter.message(
                "the confidence of this model is not calibrated, since no validation cases fitted it: review every mask"
            )
        call = _list_work(chosen, places, loaded, folder, key, load_arguments)
        known, n_skipped = _predict_scans(call, store, reporter)
        with held(folder / ".tables.lock"):
            if chosen.share is not None:  # other processes may have finished scans since
                known = [p for p in call.job.records.all(call.cases) if p.made_by == call.job.made_by]
            _write_record(call, known, n_skipped)
        if store is not None:
            store.send_changes([*FOLDERS, "."])
    names = {i.case for i in call.mine}
    predictions = tuple(p for p in known if p.case in names)
    return FolderResult(folder, predictions, n_skipped, call.work.skipped_files, (*absent, *call.found.problems))


def _existing(
    scans: str | Path | Sequence[str | Path],
) -> tuple[tuple[Path, ...], tuple[tuple[str, str], ...]]:
    """Return the local places that exist, and the others with the reason; raise the first error if none exists."""
    given = [scans] if isinstance(scans, str | Path) else list(scans)
    places: list[Path] = []
    problems: list[tuple[str, str]] = []
    first: MedHybridError | None = None
    for scan in given:
        name = printable_path(hide_password(str(scan)))
        try:
            place = local_copy(scan)
            if not place.exists():
                raise ScanError(f"{name} does not exist", remedy="check the path")
            places.append(place)
        except Exception as error:  # another place may exist
            problem = item_error(error, f"{name} cannot be read", ScanError)
            first = first or problem
            problems.append((name, str(problem)))
    if not places:
        raise first or ConfigError("no scans given", expected="at least one file or folder")
    return tuple(places), tuple(problems)


def _load(
    model: str | Path | Segmenter | Sequence[str | Path], options: PredictOptions
) -> tuple[Segmenter, dict[str, Any] | None]:
    """Load the model; return it with the arguments by which workers load it, None for a model that was already loaded."""
    if isinstance(model, Segmenter):
        if options.is_pooled:
            raise ConfigError("each worker loads the model", expected="the folder of the model", found="a loaded model")
        return with_options(model, options.options), None
    given = [model] if isinstance(model, (str, Path)) else list(model)
    paths = [str(p) for p in given]
    if not all(isinstance(p, (str, Path)) for p in given) or not paths:
        raise ConfigError(
            "invalid list of models",
            expected="one or more folders, or one loaded model",
            found="loaded models" if paths else "an empty list",
        )
    arguments: dict[str, Any] = {
        "precision": options.precision,
        "mirror": options.mirror,
        "focus": options.focus,
        "tracking_uri": options.tracking_uri,
        "paths": tuple(str(Path(p).resolve()) if Path(p).exists() else p for p in paths),
        "options": tuple((options.options or {}).items()),
    }
    return load_for_folder(**arguments, device="cpu" if options.is_pooled else options.device), arguments


def _list_work(
    options: PredictOptions,
    places: tuple[Path, ...],
    model: Segmenter,
    folder: Path,
    key: Deidentifier | None,
    load_arguments: Mapping[str, Any] | None,
) -> _FolderCall:
    """Assign the scans to channels and names, and choose those of this call."""
    channels = [(n.channel, n.optional) for n in model.plan.normalisation]
    searched = group_places([p.resolve() for p in places] if options.is_pooled else places)
    found = find_scans(searched, channels, model.record.channel_map, without=folder)
    work = found.work
    if key is not None:
        work = work.deidentified(key)
    max_bytes = options.max_bytes
    records = Records(folder)
    work = keep_names(work, records, key)
    tell_renamed(work, folder)
    others = others_on_record(work, records, key)
    mine = tuple(i for i in work.items if options.share is None or options.share.takes(i.case))
    job = FolderJob(model, folder, deidentifier=key, with_probabilities=options.probabilities, max_memory=max_bytes)
    tell_other_models(folder, [p.case for p in others if p.status == "done" and p.made_by != job.made_by])
    cases = sorted([*(i.case for i in work.items), *(p.case for p in others if p.made_by == job.made_by)])
    return _FolderCall(options, places, found, work, mine, tuple(cases), job, load_arguments)


def _predict_scans(call: _FolderCall, store: Mirror | None, reporter: Reporter) -> tuple[list[Prediction], int]:
    """Predict the scans of a call, here or on a pool; return the known results and the number of unchanged scans."""
    n_skipped = 0

    def on_case(n: int, prediction: Prediction, is_skipped: bool) -> None:
        nonlocal n_skipped
        n_skipped += is_skipped
        # the record is removed first and sent last, so that it never describes an incomplete case
        if store is not None and not is_skipped:
            store.withdraw([f"{kind}/{prediction.case}.json" for kind in ("done", "failed")])
            store.send(files_of(prediction.case))
        reporter.advance(n, prediction.case if prediction.status == "done" else f"{prediction.case}: failed")

    options = call.options
    with _open_pool(options) as pool:
        if pool is None:
            outcomes = predict_items(call.job, call.mine)
        else:
            outcomes = predict_on(pool, _worker_arguments(call), call.mine, call.job)
        by = str(call.job.model.device) if pool is None else f"{options.workers} workers"
        reporter.begin(f"predicting on {by}", len(call.mine))
        known = collect(outcomes, call.cases, call.job, on_case=on_case, shares_tables=options.share is not None)
        reporter.end()
    return known, n_skipped


def _open_pool(options: PredictOptions) -> AbstractContextManager[Pool | None]:
    """Open the pool of workers; None if this process predicts the scans."""
    if options.ray_address:
        return RayActors(options.workers, address=options.ray_address, device=options.device)
    return Processes(options.workers) if options.is_pooled else nullcontext()


def _worker_arguments(call: _FolderCall) -> WorkerArguments:
    assert call.load_arguments is not None
    options = call.options
    # Ray sets the threads of each actor by its cores; the user's environment has priority.
    keeps_threads = options.ray_address or "OMP_NUM_THREADS" in os.environ
    return WorkerArguments(
        load_for_folder,
        tuple(call.load_arguments.items()),
        options.device,
        call.job.out.resolve(),
        call.job.made_by,
        key=None if options.deidentify is None else Path(options.deidentify).resolve(),
        with_probabilities=options.probabilities,
        max_memory=call.job.max_memory,
        threads=0 if keeps_threads else max(1, available_cores() // options.workers),
    )


def load_for_folder(
    paths: Sequence[str],
    *,
    device: str,
    precision: str | None,
    mirror: bool | None,
    focus: bool | None = None,
    tracking_uri: str | None,
    options: Sequence[tuple[str, Any]] = (),
) -> Segmenter:
    """Load models with options for reading scans, in this process or in a worker."""
    loaded = load_models(
        paths, device=device, precision=precision, mirror=mirror, focus=focus, tracking_uri=tracking_uri
    )
    return with_options(loaded, dict(options))


def with_options(model: Segmenter, options: Mapping[str, Any] | None) -> Segmenter:
    """Return a model with other options for reading scans; raises `ConfigError`."""
    if not options:
        return model
    changed = copy.copy(model)
    changed.record = model.record.model_copy(update={"scans": change_scans(model.record.scans, options)})
    return changed


def _earlier_channels(out: Path, known: Sequence[Prediction]) -> dict[str, tuple[str, ...]]:
    """Return the reasons for the channel assignments of earlier calls, for scans that still have masks."""
    try:
        earlier = read_folder_record(out).channels
    except DataError:
        return {}
    cases = {p.case for p in known}
    return {case: reasons for case, reasons in earlier.items() if case in cases}


def _write_record(call: _FolderCall, known: Sequence[Prediction], n_skipped: int) -> None:
    """Write `run.json`, the record of a call."""
    options, model, work = call.options, call.job.model, call.work
    device, precision = str(model.device), str(model.precision)
    if options.is_pooled:
        device = f"{options.workers} workers, {options.ray_address or 'this machine'}, {options.device}"
        precision = options.precision or "auto"
    n_done = sum(p.status == "done" for p in known)
    scans = [str(p.resolve()) for p in call.places] if call.job.deidentifier is None else [""]
    record = FolderRecord(
        medhybrid=__version__,
        python=platform.python_version(),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        device=device,
        runtime=model.runtime,
        precision=precision,
        mirror=model.record.inference.tta_mirroring,
        model_weights_sha256=model.record.weights_sha256,
        member_weights_sha256=[m.record.weights_sha256 for m in getattr(model, "members", ())],
        made_by=call.job.made_by,
        n_done=n_done,
        n_unchanged=n_skipped,
        n_failed=len(known) - n_done,
        n_waiting=len(call.cases) - len(known),
        skipped_files=[SkippedFile(name=e.name, reason=e.skip_reason) for e in work.skipped_files],
        n_other_files=sum(searched.n_skipped for searched in call.found.found),
        channels=_earlier_channels(call.job.out, known) | {i.case: i.reasons for i in work.items if i.reasons},
        labels=dict(model.plan.labels),
        regions={n: model.plan.values_of(classes) for n, classes in model.plan.regions.items()},
        scans=scans[0],
        more_scans=scans[1:],
        is_calibrated=model.is_calibrated,
        knows_training_scans=UNKNOWN not in model.record.training_images,
        model_channels=[(n.channel, n.optional) for n in model.plan.normalisation],
        channel_map=dict(model.record.channel_map),
        scan_options=model.record.scans,
    )
    write_atomically(call.job.out / "run.json", record.model_dump_json(indent=1))
