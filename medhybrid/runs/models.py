"""Loading of models from run folders, model folders and the MLflow registry."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from medhybrid.inference.model import Model, Segmenter
from medhybrid.inference.model_folder import load_model_folder


def load_models(
    paths: Sequence[str | Path],
    *,
    device: str = "auto",
    precision: str | None = None,
    mirror: bool | None = None,
    focus: bool | None = None,
    tracking_uri: str | None = None,
) -> Segmenter:
    """Load one model, or an ensemble whose probabilities are averaged; see `load_model`."""
    from medhybrid.inference.ensemble import Ensemble

    options = {"device": device, "precision": precision, "mirror": mirror, "focus": focus, "tracking_uri": tracking_uri}
    models = [load_model(p, **options) for p in paths]  # type: ignore[arg-type]
    return models[0] if len(models) == 1 else Ensemble(models)


def load_model(
    path: str | Path,
    *,
    device: str = "auto",
    precision: str | None = None,
    mirror: bool | None = None,
    focus: bool | None = None,
    tracking_uri: str | None = None,
) -> Model:
    """Load a model.

    Parameters
    ----------
    path : str or Path
        A run folder, a model folder, or `models:/name@alias`.
    device : str
        `auto`, `cpu`, `cuda` or `mps`; or `openvino`, the fast path on CPUs (extra `[openvino]`).
    precision : str, optional
        `auto`, `bf16`, `fp16`, `tf32` or `float32`; by default the model's `inference.precision`.
    mirror : bool, optional
        Use test-time mirroring; by default the model's `inference.tta_mirroring`. Without it, prediction takes at most half the
        time.
    focus : bool, optional
        Compute closely only near labels of a first pass; by default the model's `inference.focus`.
    tracking_uri : str, optional
        MLflow store of a `models:/` name; by default `MLFLOW_TRACKING_URI`, else `runs/mlflow.db`.

    Raises
    ------
    ModelError
        If the model does not exist or is damaged.
    """
    if not str(path).startswith("models:/"):
        return _load(path, device, precision, mirror, focus)
    from medhybrid.tracking.mlflow_model import fetch_model
    from medhybrid.tracking.mlflow_store import store_uri

    with tempfile.TemporaryDirectory() as folder:
        local = fetch_model(str(path), store_uri(tracking_uri, Path("runs")), Path(folder))
        return _load(local, device, precision, mirror, focus)


def _load(path: str | Path, device: str, precision: str | None, mirror: bool | None, focus: bool | None) -> Model:
    if device != "openvino":
        return load_model_folder(path, device=device, precision=precision, mirror=mirror, focus=focus)
    from medhybrid.inference.openvino import on_openvino

    return on_openvino(load_model_folder(path, device="cpu", precision=precision, mirror=mirror, focus=focus))
