"""`medhybrid predict`: a folder of scans to masks and measurements."""

from __future__ import annotations

import copy
import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import medhybrid
from medhybrid.config import change_scans
from medhybrid.data.dataset import write_atomically
from medhybrid.inference.folder import Prediction, fingerprint_of, predict_worklist
from medhybrid.inference.model import Model
from medhybrid.inference.worklist import make_worklist
from medhybrid.scans import ScanEntry, discover
from medhybrid.scans.dicom.deidentify import Deidentifier
from medhybrid.steps.models import load_models
from medhybrid.steps.progress import Reporter, Silent


@dataclass(frozen=True, slots=True)
class FolderResult:
    """What a folder gave."""

    out: Path
    predictions: tuple[Prediction, ...]
    n_skipped: int
    left_aside: tuple[ScanEntry, ...]

    @property
    def n_done(self) -> int:
        """Scans with a mask, the skipped ones among them."""
        return sum(p.status == "done" for p in self.predictions)

    @property
    def n_failed(self) -> int:
        """Scans without a mask."""
        return len(self.predictions) - self.n_done


def predict(
    scans: str | Path,
    *,
    model: str | Path | Model | Sequence[str | Path],
    out: str | Path,
    device: str = "auto",
    precision: str | None = None,
    tracking_uri: str | None = None,
    deidentify: Path | None = None,
    probabilities: bool = False,
    options: Mapping[str, Any] | None = None,
    max_memory: float | None = None,
    reporter: Reporter | None = None,
) -> FolderResult:
    """Predict every scan under `scans`; a bad one is reported and the others go on.

    Parameters
    ----------
    scans : str or Path
        A file, or a folder searched at any depth.
    model : str, Path, Model or sequence
        A run folder, a model folder, `models:/name@alias`, or a loaded model; of several the probabilities are averaged.
    precision : str, optional
        `auto`, `bf16` or `float32`; by default the model's `inference.precision`.
    deidentify : Path, optional
        File of a key (made where absent): outputs are named by keyed hash and DICOM headers cleaned.
    probabilities : bool
        Write the probabilities of the labels, too: NIfTI, and FRACTIONAL DICOM SEG.
    options : mapping, optional
        Changes of `ScansConfig` for this folder; by default scans are read as those the model was trained on.
    max_memory : float, optional
        GiB that a scan may need; one that needs more is refused with the figure. By default what is free.

    Raises
    ------
    MedHybridError
        If the model cannot be loaded or `scans` does not exist.
    """
    reporter, out = reporter or Silent(), Path(out)
    found = discover(Path(scans))
    if isinstance(model, Model):
        loaded = model
    else:
        paths = [model] if isinstance(model, (str, Path)) else model
        loaded = load_models(paths, device=device, precision=precision, tracking_uri=tracking_uri)
    if options:
        changed = change_scans(loaded.record.scans, options)
        loaded = copy.copy(loaded)
        loaded.record = loaded.record.model_copy(update={"scans": changed})
    channels = [(n.channel, n.optional) for n in loaded.plan.normalisation]
    work = make_worklist(found, channels, loaded.record.channel_map)
    deidentifier = None if deidentify is None else Deidentifier.from_file(deidentify)
    if deidentifier is not None:
        work = work.deidentified(deidentifier)

    n_skipped = 0

    def on_case(n: int, prediction: Prediction, is_skipped: bool) -> None:
        nonlocal n_skipped
        n_skipped += is_skipped
        reporter.advance(n, prediction.case if prediction.status == "done" else f"{prediction.case}: failed")

    reporter.begin(f"predicting on {loaded.device}", len(work.items))
    predictions = predict_worklist(
        loaded,
        work,
        out,
        deidentifier=deidentifier,
        with_probabilities=probabilities,
        on_case=on_case,
        max_memory=None if max_memory is None else int(max_memory * 2**30),
    )
    reporter.end()
    result = FolderResult(out, tuple(predictions), n_skipped, work.left_aside)
    _write_record(result, loaded, found.n_skipped, {i.case: i.reasons for i in work.items if i.reasons})
    return result


def fetch(source: str, out: Path) -> Path:
    """Fetch a study from a PACS into `out/fetched`; raises `PacsError`."""
    from medhybrid.scans.pacs import fetch_study, parse_endpoint

    endpoint = parse_endpoint(source)
    folder = out / "fetched" / hashlib.sha256(endpoint.study_uid.encode()).hexdigest()[:32]
    fetch_study(endpoint, folder)
    return folder


def send_results(result: FolderResult, target: str) -> int:
    """Send the SEGs and the report of every scan that is done to a PACS; returns how many. Raises `PacsError`."""
    from medhybrid.scans.pacs import parse_endpoint, send_files

    done = [p.case for p in result.predictions if p.status == "done"]
    paths = [result.out / kind / f"{case}.dcm" for case in done for kind in ("seg", "sr", "probabilities")]
    present = [p for p in paths if p.is_file()]
    send_files(parse_endpoint(target), present)
    return len(present)


def _write_record(result: FolderResult, model: Model, n_other_files: int, channels: dict[str, tuple[str, ...]]) -> None:
    record = {
        "medhybrid": medhybrid.__version__,
        "python": platform.python_version(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(model.device),
        "runtime": model.runtime,
        "precision": str(model.precision).removeprefix("torch."),
        "model_weights_sha256": model.record.weights_sha256,
        "made_by": fingerprint_of(model),
        "n_done": result.n_done,
        "n_unchanged": result.n_skipped,
        "n_failed": result.n_failed,
        "left_aside": [{"name": e.name, "reason": e.left_aside} for e in result.left_aside],
        "n_other_files": n_other_files,
        "channels": channels,
        "labels": dict(model.plan.labels),
    }
    write_atomically(result.out / "run.json", json.dumps(record, indent=1))
