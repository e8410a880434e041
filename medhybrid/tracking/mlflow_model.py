"""Models in MLflow: the model folder, an exported program with signature, and a registered version.

The program is written by `torch.export` (pt2) and loads without running pickled code. Its input is one window, normalised as
`model.json` describes. `medhybrid predict --model models:/name@alias` loads the model folder beside it.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medhybrid.addresses import hide_password
from medhybrid.errors import ModelError, TrackingError
from medhybrid.tracking.artifact_places import follow_artifacts, forget_places, local_path
from medhybrid.tracking.mlflow_store import (
    ARTIFACT_FOLDER,
    pointed_at,
    quiet_mlflow,
    refuse_absent_store,
    root_logger_kept,
    sqlite_path,
    sqlite_url,
)
from medhybrid.tracking.problems import explain
from medhybrid.tracking.schema import read_schema
from medhybrid.tracking.setup import prepare_store

CARD_LENGTH = 5000
"""Maximum length of a description in a store, in characters."""

logging.getLogger("torch._export.non_strict_utils").setLevel(logging.ERROR)


def log_model(client: Any, run_id: str, folder: Path, *, name: str, register_as: str | None, alias: str) -> None:
    """Log the exported program with the model folder beside it, register it and set its alias; MLflow must use the store.

    Parameters
    ----------
    name : str
        Name of the logged model, in which MLflow accepts no dot.
    """
    with root_logger_kept():
        import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import infer_signature

    from medhybrid.inference.model_folder import load_model_folder
    from medhybrid.inference.program import FullLogits

    model = load_model_folder(folder, device="cpu")
    x, y, z = model.plan.patch_size
    example = np.zeros((2, len(model.plan.channels), x, y, z), np.float32)  # torch.export would fix a batch size of 1

    program = FullLogits(model.network).eval()
    with torch.inference_mode():
        output = program(torch.from_numpy(example)).numpy()
    with _experiment_unset(), mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the exporter about its internals
        info = mlflow.pytorch.log_model(
            program,
            name=name.replace(".", "_"),
            serialization_format="pt2",
            signature=infer_signature(example, output),
            input_example=example,
            extra_files=[str(p) for p in sorted(folder.iterdir()) if not p.name.startswith(".")],
            pip_requirements=["torch", "medhybrid"],
        )
    if register_as:
        card = folder / "card.md"
        _register(client, register_as, info, run_id, alias, card.read_text() if card.is_file() else "")


@contextmanager
def _experiment_unset() -> Iterator[None]:
    """Reset MLflow's active experiment inside the context: if the caller has set one, MLflow refuses runs of others."""
    from mlflow.tracking import fluent

    before = getattr(fluent, "_active_experiment_id", None)
    fluent._active_experiment_id = None
    try:
        yield
    finally:
        fluent._active_experiment_id = before


def _register(client: Any, name: str, info: Any, run_id: str, alias: str, card: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        name, info.model_uri, run_id=run_id, model_id=info.model_id, description=card[:CARD_LENGTH]
    )
    client.set_registered_model_alias(name, alias, version.version)


def fetch_model(uri: str, tracking_uri: str, destination: Path) -> Path:
    """Download the model folder of `models:/name@alias`.

    Raises
    ------
    ModelError
        If the store does not have it, or its artifacts are absent.
    TrackingError
        If the store was written by another version of MLflow.
    """
    refuse_absent_store(tracking_uri)
    store = _readable_store(tracking_uri, destination)
    import mlflow
    from mlflow.exceptions import MlflowException

    quiet_mlflow()
    forget_places()
    address = hide_password(tracking_uri)
    try:
        with pointed_at(store):  # the tracking_uri argument of download_artifacts does not reach all of its calls
            local = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(destination / "files")))
    except (MlflowException, OSError, ImportError) as error:
        if (place := _place_of(uri, store)) is not None and not place.exists():
            raise _absent_files(uri, place, address) from error
        problem = explain(error, tracking_uri)
        raise ModelError(
            f"{uri} is not in the MLflow store {address}",
            found=problem.found[:200],
            remedy="look up registered models in the MLflow UI (medhybrid review), or set another store with --tracking-uri",
        ) from error
    found = next(iter(local.rglob("model.json")), None)
    if found is None:
        if (place := _place_of(uri, store)) is not None and not any(place.glob("*")):
            raise _absent_files(uri, place, address)
        raise ModelError(
            f"{uri} is not a medhybrid model",
            expected="model.json among its artifacts",
            remedy="use a model that medhybrid train registered",
        )
    return found.parent


def _readable_store(uri: str, destination: Path) -> str:
    """Return a store with current artifact locations: the store itself, or an updated copy of a read-only store."""
    try:
        prepare_store(uri)
        return uri
    except TrackingError as error:
        path = sqlite_path(uri)
        if path is None or not isinstance(error.__cause__, sqlite3.Error) or read_schema(path).state != "ready":
            raise
    destination.mkdir(parents=True, exist_ok=True)
    copy = destination / "store.db"
    shutil.copyfile(path, copy)
    follow_artifacts(copy, beside=path)
    return sqlite_url(copy)


def _place_of(uri: str, store: str) -> Path | None:
    """Return the folder in which the artifacts of a model are recorded; None if that is not a local folder."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository

    try:
        with pointed_at(store):
            return local_path(ModelsArtifactRepository.get_underlying_uri(uri))
    except (MlflowException, OSError, ImportError):
        return None


def _absent_files(uri: str, place: Path, address: str) -> ModelError:
    return ModelError(
        f"the artifacts of {uri} are missing from the MLflow store {address}",
        expected=f"a model in {place}",
        found="no file",
        remedy=f"copy the folder {ARTIFACT_FOLDER} of the store to the expected place, or use another store: --tracking-uri",
    )
