"""Options of the command line that several commands share, or that are too long to stand in one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medhybrid.errors import ConfigError

if TYPE_CHECKING:
    from medhybrid.inference.engines.pool import Pool
    from medhybrid.steps.progress import Reporter

Config = Annotated[str, typer.Option("--config", "-c", help="A YAML file, or a packaged config such as brain.yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value overrides, as training.max_minutes=10.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps; openvino: the CPU, quicker, by OpenVINO.")]
PrecisionOption = Annotated[
    str | None,
    typer.Option("--precision", help="auto, bf16 or float32, exact and slower; else the model's inference.precision."),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow store; by default MLFLOW_TRACKING_URI, else the sqlite file of the runs folder."),
]
ResampleIrregular = Annotated[
    bool, typer.Option("--resample-irregular", help="Resample tilted and unevenly spaced series to a regular grid.")
]
KeepSheared = Annotated[
    bool, typer.Option("--keep-sheared", help="Keep tilted series as they are, with a sheared affine.")
]
OtherGrids = Annotated[
    str,
    typer.Option(
        help="Channels on another grid than the first: same_frame, refuse, resample or register; else as in training."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")]
ModelPaths = Annotated[
    list[str],
    typer.Option("--model", "-m", help="Run folder, model folder, or models:/name@alias; several are averaged."),
]
FromPacs = Annotated[
    str, typer.Option("--from", help="A study of a PACS: dicomweb://host/path?StudyInstanceUID=..., or dimse://.")
]
ToPacs = Annotated[
    str,
    typer.Option("--to", help="A PACS that gets SEG and reports: dicomweb://host/path, or dimse://AET@host:port."),
]
Deidentify = Annotated[
    Path | None,
    typer.Option(help="Key file (made if absent): name outputs by keyed hash and clean DICOM headers."),
]
Probabilities = Annotated[
    bool, typer.Option("--probabilities", help="Also write probabilities: NIfTI, and FRACTIONAL DICOM SEG.")
]

MaxMemory = Annotated[
    float | None, typer.Option(help="GiB that a scan may need; larger ones are refused. By default what is free.")
]


Mode = Annotated[
    str,
    typer.Option(
        help="Permissions of files that hold patient data, as 0600 or 0640; folders can be entered by the same."
    ),
]

StudyMode = Annotated[
    str,
    typer.Option("--mode", help="Permissions of files that hold patient data; by default output.mode of the config."),
]

Engine = Annotated[str, typer.Option(help="local, or ray: workers on a cluster.")]
Address = Annotated[str, typer.Option(help="Of the Ray cluster: auto, ray://host:port, or local for one made here.")]


def patient_files(mode: str) -> AbstractContextManager[None]:
    """Make files with these permissions meanwhile; raises `ConfigError` for a mode that is none."""
    from medhybrid.files import file_mode, read_mode

    try:
        return file_mode(read_mode(mode))
    except ValueError as error:
        raise ConfigError(str(error)) from None


called_with: list[str] = []
"""The arguments of this call, as they were given."""


def called_without(*options: str) -> list[str]:
    """The arguments of this call but for options with a value."""
    left: list[str] = []
    skip = False
    for argument in called_with:
        if not (skip or argument.split("=")[0] in options):
            left.append(argument)
        skip = argument in options
    return left


def open_pool(engine: str, workers: int, address: str, device: str) -> AbstractContextManager[Pool | None]:
    """Workers, where several or a cluster are asked for; raises `ConfigError`."""
    if engine not in ("local", "ray"):
        raise ConfigError(f"unknown engine {engine!r}", expected="local or ray")
    if workers < 1:
        raise ConfigError(f"{workers} workers cannot work", expected="--workers of 1 or more")
    if engine == "ray":
        from medhybrid.inference.engines.ray import RayActors

        return RayActors(workers, address=address, device=device)
    from medhybrid.data.workers import Processes

    return nullcontext() if workers == 1 else Processes(workers)


class Shown:
    """How commands tell what they do; set by the options before the command."""

    as_json = False


def make_reporter(quiet: bool = False) -> Reporter:
    """What a person or a program sees."""
    from medhybrid.terminal import JsonReporter, TerminalReporter

    return JsonReporter(quiet=quiet) if Shown.as_json else TerminalReporter(quiet=quiet)


def whole_numbers(text: str) -> list[int]:
    """The numbers of a comma list; raises `ConfigError`."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ConfigError(f"{text!r} is no comma list of whole numbers", expected="for example 0,1,2") from None
