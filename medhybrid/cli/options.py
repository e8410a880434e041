"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medhybrid.errors import ConfigError

if TYPE_CHECKING:
    from medhybrid.inference.engines.pool import Pool

Config = Annotated[str, typer.Option("--config", "-c", help="YAML file, or a packaged config such as brain.yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Config overrides, such as training.max_minutes=10.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps; or openvino, a faster path on CPUs.")]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="auto, bf16, fp16, tf32 or float32 (exact, slower). Default: the model's inference.precision.",
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow store. Default: MLFLOW_TRACKING_URI, else mlflow.db in the folder of runs (runs/)."),
]
ResampleIrregular = Annotated[
    bool, typer.Option("--resample-irregular", help="Resample tilted or unevenly spaced series to a regular grid.")
]
KeepSheared = Annotated[
    bool,
    typer.Option(
        "--keep-sheared", help="Keep tilted series unchanged, with a sheared affine (axes not at right angles)."
    ),
]
OtherGrids = Annotated[
    str,
    typer.Option(
        help="Channels on other grids: refuse; resample; register (align, then resample); or same_frame (resample if the "
        "DICOM frame of reference is the same, else refuse). Default: as in training."
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        help="Training time in minutes, which the plan uses. Default: that of the config; 30 in a new config."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")]
ModelPaths = Annotated[
    list[str],
    typer.Option("--model", "-m", help="Run folder, model folder or models:/NAME@champion. Repeat for an ensemble."),
]
ModelPath = Annotated[str, typer.Option("--model", "-m", help="Run folder, model folder, or models:/NAME@champion.")]
Scans = Annotated[Path | None, typer.Option(help="Folder of the scans, if they were moved since predict.")]
References = Annotated[Path | None, typer.Option(help="Folder with reference masks, to draw and score.")]
IgnoreValue = Annotated[
    int | None, typer.Option(help="Value in reference masks of voxels whose label is unknown (data.ignore_value).")
]
ReferenceConfig = Annotated[
    str,
    typer.Option("--config", "-c", help="Config of the references: their ignore value and partly labelled cases."),
]
ResumedRun = Annotated[Path | None, typer.Option("--run", help="With --resume: the run folder to continue.")]
FromPacs = Annotated[
    str,
    typer.Option("--from", help="Study to fetch from a PACS: dicomweb://host/path?StudyInstanceUID=..., or dimse://."),
]
ToPacs = Annotated[
    str,
    typer.Option("--to", help="PACS to send SEG and reports to: dicomweb://host/path, or dimse://AET@host:port."),
]
Deidentify = Annotated[
    Path | None,
    typer.Option(
        help="Key file (created if absent; keep it secret). Codes made with it replace names of scans in outputs, and DICOM "
        "headers are de-identified."
    ),
]
Probabilities = Annotated[
    bool, typer.Option("--probabilities", help="Also write probability maps, as NIfTI and FRACTIONAL DICOM SEG.")
]
MaxMemory = Annotated[
    float | None,
    typer.Option(help="Memory limit for each scan in GiB; larger scans are refused. Default: the free memory."),
]
Mode = Annotated[
    str,
    typer.Option(
        help="File permissions of outputs with patient data, such as 0600 or 0640; folders get matching ones."
    ),
]
StudyMode = Annotated[
    str,
    typer.Option(
        "--mode", help="File permissions of outputs, such as 0600 or 0640. Default: output.mode of the config."
    ),
]
Engine = Annotated[str, typer.Option(help="local, or ray for workers on a Ray cluster.")]
Address = Annotated[str, typer.Option(help="Ray cluster: auto, ray://host:port, or local to start one here.")]


def patient_files(mode: str) -> AbstractContextManager[None]:
    """Set the permissions of files written within the context; raises `ConfigError` for an invalid mode."""
    from medhybrid.files import file_mode, read_mode

    try:
        return file_mode(read_mode(mode))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def check_workers(engine: str, workers: int, *, known: Sequence[str] = ("local", "ray")) -> None:
    """Raise `ConfigError` for an unknown engine or less than one worker."""
    if engine not in known:
        raise ConfigError(f"unknown engine {engine!r}", expected=f"{', '.join(known[:-1])} or {known[-1]}")
    if workers < 1:
        raise ConfigError(f"invalid number of workers {workers}", expected="--workers of 1 or more")


def open_pool(engine: str, workers: int, address: str, device: str) -> AbstractContextManager[Pool | None]:
    """Open a pool of worker processes or Ray actors; None for one local worker. Raises `ConfigError`."""
    check_workers(engine, workers)
    if engine == "ray":
        from medhybrid.inference.engines.ray import RayActors

        return RayActors(workers, address=address, device=device)
    from medhybrid.data.workers import Processes

    return nullcontext() if workers == 1 else Processes(workers)


def whole_numbers(text: str) -> list[int]:
    """Parse a comma-separated list of integers; raises `ConfigError`."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ConfigError(f"{text!r} is not a list of integers", expected="comma-separated, such as 0,1,2") from None
