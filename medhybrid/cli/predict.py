"""Commands that use a trained model: predict, listen, serve, export, import, models."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from medhybrid.cli.context import Call, call_of
from medhybrid.cli.options import (
    Address,
    Deidentify,
    Device,
    FromPacs,
    KeepSheared,
    MaxMemory,
    Mode,
    ModelPath,
    ModelPaths,
    OtherGrids,
    PrecisionOption,
    Probabilities,
    Quiet,
    ResampleIrregular,
    ToPacs,
    TrackingUri,
    check_workers,
    patient_files,
)
from medhybrid.errors import ConfigError

if TYPE_CHECKING:
    from medhybrid.progress import Reporter
    from medhybrid.steps.predict import FolderResult

SHOWN = 5
"""Number of scans that are named in a message."""

Workers = Annotated[int, typer.Option(help="Number of processes, Ray actors or Slurm jobs; each loads the model.")]
Shard = Annotated[
    str, typer.Option(help="Predict part i of n, such as 0/8 (i from 0). Start a call for each i, with one --out.")
]


def predict(
    context: typer.Context,
    model: ModelPaths,
    out: Annotated[
        str, typer.Option("--out", "-o", help="Output folder for masks and tables, or its URL, such as s3://...")
    ],
    scans: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SCANS",
            help="Scans, folders to search recursively, or URLs of folders, such as s3://... Omit only with --from.",
        ),
    ] = None,
    source: FromPacs = "",
    target: ToPacs = "",
    deidentify: Deidentify = None,
    probabilities: Probabilities = False,
    resample_irregular: ResampleIrregular = False,
    keep_sheared: KeepSheared = False,
    other_grids: OtherGrids = "",
    device: Device = "auto",
    precision: PrecisionOption = None,
    mirror: Annotated[
        bool | None,
        typer.Option(
            "--mirror/--no-mirror",
            help="Use test-time mirroring (slower), or not. Default: the model's inference.tta_mirroring.",
        ),
    ] = None,
    focus: Annotated[
        bool | None,
        typer.Option(
            "--focus/--no-focus",
            help="Compute large scans without overlap, and closely only near labels. Default: the model's inference.focus.",
        ),
    ] = None,
    max_memory: MaxMemory = None,
    tracking_uri: TrackingUri = None,
    engine: Annotated[
        str, typer.Option(help="local; ray for workers on a Ray cluster; slurm to write the script of a job array.")
    ] = "local",
    workers: Workers = 1,
    address: Address = "auto",
    shard: Shard = "",
    mode: Mode = "0600",
    quiet: Quiet = False,
) -> int:
    """Predict masks and measurements for scans.

    Unchanged scans that have a result of this model and these settings are skipped; with another model, they are predicted
    again. A scan or folder that cannot be read does not stop the others.
    """
    from medhybrid.inference.sharing import Share
    from medhybrid.interrupt import end_on_sigterm
    from medhybrid.remote import is_remote
    from medhybrid.scans.dicom.deidentify import Deidentifier
    from medhybrid.steps.predict import predict as run
    from medhybrid.steps.predict_pacs import fetch, send_results

    reporter = call_of(context).reporter(quiet)
    if bool(scans) == bool(source):
        raise ConfigError("predict needs scans", expected="either a path or --from")
    check_workers(engine, workers, known=("local", "ray", "slurm"))
    if engine == "slurm":
        if source or is_remote(out):
            raise ConfigError(
                "a Slurm job array needs folders that every job can access", expected="paths for SCANS and --out"
            )
        if deidentify is not None:
            Deidentifier.from_file(deidentify)  # all jobs share one key: create it before they start
        return _write_array(Path(out), workers, call_of(context), reporter)
    end_on_sigterm()
    if source and is_remote(out):
        raise ConfigError("--from stores the study in the output folder", expected="a local path for --out", found=out)
    with patient_files(mode):
        places = scans or [str(fetch(source, Path(out)))]
    ways = {"resample_irregular": resample_irregular, "keep_sheared": keep_sheared, "other_grids": other_grids}
    with patient_files(mode):
        result = run(
            places,
            model=model,
            out=out,
            device=device,
            precision=precision,
            mirror=mirror,
            focus=focus,
            tracking_uri=tracking_uri,
            deidentify=deidentify,
            probabilities=probabilities,
            options={name: value for name, value in ways.items() if value},
            max_memory=max_memory,
            workers=workers,
            ray_address=address if engine == "ray" else "",
            share=Share.parse(shard) if shard else None,
            reporter=reporter,
        )
    if target:
        reporter.message(f"{send_results(result, target)} DICOM objects sent to {target}")
    failed = [[p.case, p.message] for p in result.predictions if p.status == "failed"]
    failed += [list(problem) for problem in result.problems]
    if failed:
        reporter.table("Failed", ["scan", "reason"], failed)
    if result.skipped_files:
        rows = [[e.name, e.skip_reason] for e in result.skipped_files]
        reporter.table("Skipped, not scans", ["series", "reason"], rows)
    reporter.message(
        f"{result.n_done} masks ({result.n_skipped} unchanged), {result.n_failed} failed: {out}/results.csv"
    )
    if result.n_done:
        _report_review(result, out, reporter)
    if shard and not result.predictions and not result.problems:
        return 0  # this part has no scan
    if not result.predictions or result.n_done == 0:
        return 2
    return 1 if failed else 0


def _report_review(result: FolderResult, out: str, reporter: Reporter) -> None:
    """Show how many masks need review, and the next command."""
    from medhybrid.remote import is_remote

    names = [p.case for p in result.predictions if p.verdict == "needs review"]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    which = f": {', '.join(names[:SHOWN])}{more}" if names else ""
    reporter.message(f"{len(names)} of {result.n_done} masks need review{which}")
    reporter.message(
        f"next: medhybrid review {f'FOLDER, a local copy of {out}' if is_remote(out) else quote(str(out))}"
    )


def listen(
    context: typer.Context,
    config: Annotated[
        Path,
        typer.Option(
            "--config",
            "-c",
            help="YAML file of the listener: senders, destination, and spool (folder for incoming files).",
        ),
    ],
    model: ModelPath,
    device: Device = "auto",
    tracking_uri: TrackingUri = None,
) -> int:
    """Predict DICOM studies that a PACS sends.

    A study is predicted when no file of it has arrived for wait_s seconds (in the config; default 30). SEG and report are sent
    to the destination in the config.
    """
    from medhybrid.config import load_listen_config
    from medhybrid.runs.models import load_model
    from medhybrid.steps.listen import listen as run

    settings = load_listen_config(config)
    reporter = call_of(context).reporter()
    loaded = load_model(model, device=device, tracking_uri=tracking_uri)
    reporter.message(f"listening as {settings.ae_title} on {settings.host}:{settings.port}  (stop with Ctrl-C)")
    run(settings, loaded, on_event=lambda study, state: reporter.message(f"study {study[:8]}: {state}"))
    return 0


def export(
    context: typer.Context,
    model: ModelPath,
    out: Annotated[Path, typer.Option(help="Output folder; must be new or empty.")],
    format_: Annotated[str, typer.Option("--format", help="pt2, onnx, openvino, or bundle (MONAI Bundle).")] = "onnx",
    tracking_uri: TrackingUri = None,
) -> int:
    """Export the network for other software.

    description.json describes the pre- and post-processing.
    """
    from medhybrid.steps.export import export as run

    path = run(model, out=out, format_=format_, tracking_uri=tracking_uri)
    call_of(context).reporter().message(f"{path}; description.json has the pre- and post-processing")
    return 0


def import_model(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="nnunet", help="Kind of the model: nnunet (version 2).")],
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="Folder with plans.json, dataset.json and fold_0 of the model.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder to write.")],
    folds: Annotated[
        str, typer.Option(help="Comma-separated folds, such as 0,1,2. Default: all with a checkpoint.")
    ] = "",
    checkpoint: Annotated[str, typer.Option(help="final or best.")] = "final",
    orientation: Annotated[
        str,
        typer.Option(help="stored: axes as in the file; RAS: turned to RAS; auto: as nnU-Net's reader in the plans."),
    ] = "auto",
    quiet: Quiet = False,
) -> int:
    """Import a trained model of nnU-Net.

    The model folder works with predict, listen, export and report. It needs the extra [nnunet].
    """
    from medhybrid.steps.import_nnunet import import_nnunet

    if kind != "nnunet":
        raise ConfigError(f"models of kind {kind!r} cannot be imported", expected="nnunet")
    reporter = call_of(context).reporter(quiet)
    names = [f.strip() for f in folds.split(",") if f.strip()]
    place = import_nnunet(
        results,
        out=out,
        folds=names,
        checkpoint=checkpoint,  # type: ignore[arg-type]
        orientation=orientation,  # type: ignore[arg-type]
        reporter=reporter,
    )
    reporter.message(f"next: medhybrid predict SCANS --model {quote(str(place))} --out OUT")
    return 0


def serve(
    context: typer.Context,
    models: Annotated[
        list[str], typer.Option("--model", "-m", help="NAME=FOLDER of a model; repeat it for several models.")
    ],
    spool: Annotated[Path, typer.Option(help="Folder of the jobs. It is kept over a restart.")] = Path("serve"),
    host: Annotated[str, typer.Option(help="Address to listen on. Others than this computer need MEDHYBRID_TOKEN.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8090,
    device: Device = "auto",
    dicomweb: Annotated[
        str, typer.Option(help="DICOMweb server whose studies clients may name, such as dicomwebs://pacs/dicom-web.")
    ] = "",
    max_upload_mb: Annotated[int, typer.Option(help="Largest upload in MB.")] = 4096,
    max_queued: Annotated[int, typer.Option(help="Highest number of waiting jobs.")] = 100,
    keep_hours: Annotated[float, typer.Option(help="Ended jobs are removed after this time.")] = 24.0,
    mode: Mode = "0600",
) -> int:
    """Serve models over HTTP: scans in, masks out.

    Clients send the token in the environment variable MEDHYBRID_TOKEN. It needs the extra [serve].
    """
    import os

    from medhybrid.inference.program import import_for
    from medhybrid.runs.models import load_model
    from medhybrid.steps.models import models as list_models
    from medhybrid.steps.serve import Jobs, ServeOptions

    import_for("serve", "fastapi")
    import_for("serve", "uvicorn")
    from medhybrid.steps.serve_http import check_start, make_app, run_server

    named = dict(_named_model(text) for text in models)
    if len(named) < len(models):
        raise ConfigError("two models have one name", expected="--model NAME=FOLDER with different names")
    listed = {}
    for name, folder in named.items():
        found = list_models([folder])
        if len(found.models) != 1:
            reasons = [p.reason for p in found.problems]
            raise ConfigError(
                f"--model {name}: {folder} has {len(found.models)} models",
                expected="a run folder or a model folder",
                found="; ".join(reasons)[:300] or "none",
            )
        listed[name] = found.models[0]
    loaders = {name: partial(load_model, folder, device=device) for name, folder in named.items()}
    options = ServeOptions(max_upload_mb=max_upload_mb, max_queued=max_queued, keep_hours=keep_hours, dicomweb=dicomweb)
    token = os.environ.get("MEDHYBRID_TOKEN", "")
    with patient_files(mode):
        jobs = Jobs(spool, loaders, options)
        check_start(jobs, host=host, token=token)
        app = make_app(jobs, listed, token=token)
        call_of(context).reporter().message(f"serving {', '.join(named)} on http://{host}:{port}  (stop with Ctrl-C)")
        run_server(app, host=host, port=port)
    return 0


def _named_model(text: str) -> tuple[str, str]:
    """Return the name and the folder of `NAME=FOLDER`; raises `ConfigError`."""
    name, separator, folder = text.partition("=")
    if not separator or not folder or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ConfigError(f"invalid --model {text!r}", expected="NAME=FOLDER, with a name of letters, digits and . - _")
    return name, folder


def _write_array(out: Path, n: int, call: Call, reporter: Reporter) -> int:
    """Write a Slurm script that runs this command, with one part of the scans for each job."""
    from medhybrid.inference.engines.slurm import write_array_script
    from medhybrid.inference.folder_record import OUTPUT
    from medhybrid.owned import claim_folder

    claim_folder(out, OUTPUT, remedy="choose another folder for --out")
    command = [sys.executable, "-m", "medhybrid", *call.arguments_without("--engine", "--workers")]
    path = write_array_script(out / "predict.sbatch", command, n)
    reporter.message(f"{n} jobs; submit them from this folder:  sbatch {path}")
    return 0


def models(
    context: typer.Context,
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders of runs, run folders or model folders. Default: runs.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document (docs: models.schema.json).")
    ] = False,
) -> int:
    """List models with their channels, labels and scores.

    The exit code is 1 if a model cannot be used; the others are listed.
    """
    from medhybrid.steps.models import models as find

    found = find(folders or [Path("runs")])
    if as_json or call_of(context).as_json:
        typer.echo(found.model_dump_json())
        return int(bool(found.problems))
    rows = []
    for m in found.models:
        channels = ", ".join(f"{c.name}{' (optional)' if c.optional else ''}" for c in m.channels)
        dice = m.metrics.get("val/dice")
        spacing = " x ".join(f"{s:.3g}" for s in m.spacing_mm)
        score = "" if dice is None else f"{dice:.3f}"
        rows.append([m.name, channels, ", ".join(m.regions or m.labels), spacing, score, m.path])
    reporter = call_of(context).reporter()
    reporter.table("", ["dataset", "channels", "labels", "spacing mm", "Dice", "path"], rows)
    for problem in found.problems:
        reporter.message(f"{problem.path}: {problem.reason}")
    if not rows and not found.problems:
        reporter.message("no models: train first, or name the folder of runs")
    return int(bool(found.problems))
