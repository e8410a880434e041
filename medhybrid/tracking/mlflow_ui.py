"""Pages of the MLflow UI."""

from __future__ import annotations

from urllib.parse import urlencode

COLUMNS = (
    "attributes.`Duration`",
    "metrics.`final/val/dice`",
    "metrics.`final/val/dice_median`",
    "params.`network.kind`",
    "params.`training.max_minutes`",
    "tags.`medhybrid.fold`",
    "tags.`medhybrid.seed`",
    "tags.`medhybrid.code`",
)
"""What runs are compared by, beside their names."""


def experiment_page(uri: str) -> str:
    """The path of the experiment with the newest run, the best run on top; the list of experiments where there is none."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri)
    ids = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(ids, order_by=["attributes.start_time DESC"], max_results=1) if ids else []
    if not runs:
        return ""
    asked = {
        "orderByKey": "metrics.`final/val/dice`",
        "orderByAsc": "false",
        "selectedColumns": ",".join(COLUMNS),
    }
    return f"#/experiments/{runs[0].info.experiment_id}/runs?{urlencode(asked)}"
