"""A model in MLflow: the folder that `predict` reads, an exported program with signature, a registered version.

The program is what `torch.export` makes (pt2): it loads without unpickling code. Its input is one window, normalised as
`model.json` says; the folder beside it is what `medhybrid predict --model models:/name@alias` loads.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from medhybrid.errors import ModelError
from medhybrid.tracking.mlflow_store import pointed_at, quiet_mlflow, refuse_absent_store, root_logger_kept

CARD_LENGTH = 5000
"""Characters of a description that a store takes."""

logging.getLogger("torch._export.non_strict_utils").setLevel(logging.ERROR)


def log_model(client: Any, run_id: str, folder: Path, *, register_as: str | None, alias: str) -> None:
    """Log the exported program with our files beside it, register it and set its alias; MLflow must point at the store."""
    with root_logger_kept():
        import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import infer_signature

    from medhybrid.inference.model import load_model
    from medhybrid.inference.program import FullLogits

    model = load_model(folder, device="cpu")
    x, y, z = model.plan.patch_size
    example = np.zeros((2, len(model.plan.channels), x, y, z), np.float32)  # a batch of 1 would be taken as fixed

    program = FullLogits(model.network).eval()
    with torch.inference_mode():
        output = program(torch.from_numpy(example)).numpy()
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks of the exporter on its own internals
        info = mlflow.pytorch.log_model(
            program,
            name="exported",
            serialization_format="pt2",
            signature=infer_signature(example, output),
            input_example=example,
            extra_files=[str(p) for p in sorted(folder.iterdir()) if not p.name.startswith(".")],
            pip_requirements=["torch", "medhybrid"],
        )
    if register_as:
        card = folder / "card.md"
        _register(client, register_as, info, run_id, alias, card.read_text() if card.is_file() else "")


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
        If the store does not have it.
    """
    refuse_absent_store(tracking_uri)
    import mlflow
    from mlflow.exceptions import MlflowException

    quiet_mlflow()
    try:
        with pointed_at(tracking_uri):  # its argument for this reaches a part of it alone
            local = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(destination)))
    except (MlflowException, OSError) as error:
        raise ModelError(
            f"{uri} is not in the MLflow store {tracking_uri}",
            found=str(error)[:200],
            remedy="list registered models in the MLflow UI (medhybrid review), or give --tracking-uri",
        ) from error
    found = next(iter(local.rglob("model.json")), None)
    if found is None:
        raise ModelError(f"{uri} holds no medhybrid model", expected="model.json among its files")
    return found.parent
