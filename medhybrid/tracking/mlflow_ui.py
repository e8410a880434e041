"""Links to pages of the MLflow UI."""

from __future__ import annotations

import json
import logging
from urllib.parse import urlencode

logger = logging.getLogger(__name__)

COLUMNS = (
    "attributes.`Duration`",
    "metrics.`final/val/dice`",
    "metrics.`final/val/dice_low`",
    "metrics.`final/val/dice_high`",
    "metrics.`final/val/dice_median`",
    "params.`network.kind`",
    "params.`training.max_minutes`",
    "tags.`medhybrid.fold`",
    "tags.`medhybrid.seed`",
)
"""Columns of the table of runs, beside their names."""

MODEL_TRAINING = {"workflowType": "machine_learning"}
"""Parameter of a page that selects the UI for model training, with the models in its sidebar."""

VIEW = "medhybrid"
"""Name of the shared view that is stored with the experiment."""


def experiment_page(uri: str) -> str:
    """Return the path of the experiment with the newest run, sorted with the best run first; without runs an empty path."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient(tracking_uri=uri)
    ids = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(ids, order_by=["attributes.start_time DESC"], max_results=1) if ids else []
    if not runs:
        return ""
    experiment, asked = runs[0].info.experiment_id, {**MODEL_TRAINING, "viewStateShareKey": VIEW}
    view = {
        "orderByKey": "metrics.`final/val/dice`",
        "orderByAsc": False,
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": list(COLUMNS),
    }
    try:
        client.set_experiment_tag(experiment, f"mlflow.sharedViewState.{VIEW}", json.dumps(view))
    except MlflowException as error:  # a read-only store
        logger.debug("no view is kept", exc_info=error)
        asked = {**MODEL_TRAINING, "orderByKey": "metrics.`final/val/dice`", "orderByAsc": "false"}
    return f"#/experiments/{experiment}/runs?{urlencode(asked)}"
