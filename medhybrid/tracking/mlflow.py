"""Tracking of runs in MLflow.

By default the store is `runs/mlflow.db` (SQLite), with artifacts in `runs/mlartifacts`. Every call becomes an event of a
`Spool`, so that a training does not wait for a server that does not answer.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medhybrid.files import read_cell
from medhybrid.tracking.artifact_places import forget_places
from medhybrid.tracking.mlflow_store import ARTIFACT_FOLDER, is_default_store, pointed_at, quiet_mlflow, store_uri
from medhybrid.tracking.names import image_name, metric_name
from medhybrid.tracking.problems import explain
from medhybrid.tracking.setup import prepare_store
from medhybrid.tracking.spool import ClosedStoreError, Event, GoneFileError, NotYetError, Spool, now_ms

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 120.0
"""Time for which the end of a run waits for the last events, among them the model, in seconds."""

RUN_ID_FILE = "mlflow_run_id"
"""File in a run folder with MLflow's id of the run."""

TEXT_COLUMNS = {"case", "training", "picture"}
"""Columns of tables with names, not numbers."""

OF_CASE = "val_case/"
"""Metrics of single cases, which are in the table `validation.json` and in the run's `log.jsonl`."""

STATUS = {"FINISHED": "FINISHED", "KILLED": "KILLED", "FAILED": "FAILED"}


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Name, parameters and data of a run.

    Attributes
    ----------
    params : dict
        Parameters, by which runs are compared.
    tags : dict
        Code revision, data hash, fold, seed.
    datasets : dict
        Name, hash and cases for each context (`train`, `validation`).
    model : str
        Name of the logged model.
    """

    experiment: str
    name: str
    description: str
    params: dict[str, str]
    tags: dict[str, str]
    datasets: dict[str, dict[str, Any]]
    model: str = "model"


class MlflowTracker:
    """Tracker that records a run in MLflow; see `medhybrid.training.tracker.Tracker`.

    Parameters
    ----------
    folder : Path
        Run folder. It stores MLflow's run id, so that a resumed run continues in the same record, and events not sent yet.
    parent : callable, optional
        Returns the id of the parent run, which also logs system metrics; None until that run is open.
    """

    def __init__(
        self,
        uri: str | None,
        runs: Path,
        info: RunInfo,
        *,
        folder: Path,
        parent: Callable[[], str | None] | None = None,
    ) -> None:
        quiet_mlflow()
        self.uri, self._runs = store_uri(uri, runs), runs
        is_ours = is_default_store(uri, runs)
        self.artifacts = (runs / ARTIFACT_FOLDER).resolve().as_uri() if is_ours else None
        self.info, self._parent = info, parent
        self._id_file = folder / RUN_ID_FILE
        self._run_id = self._id_file.read_text().strip() if self._id_file.exists() else None
        self._client: Any = None
        self._monitor: Any = None
        if is_ours:
            runs.mkdir(parents=True, exist_ok=True)
        self._spool = Spool(self._send, folder / "unsent.jsonl", is_alive=self._takes_others, explain=self._reason_of)
        self._spool.put({"call": "open"})

    @property
    def run_id(self) -> str | None:
        """Return MLflow's run id; None until the store has answered."""
        return self._run_id

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics of a step, without NaN and infinite values, and without cases: the UI would draw a chart for each."""
        finite = {k: v for k, v in values.items() if math.isfinite(v) and not k.startswith(OF_CASE)}
        self._spool.put({"call": "metrics", "values": finite, "step": step, "time": now_ms()})

    def log_image(self, path: Path, key: str, step: int) -> None:
        """Log a figure with key and step; the UI shows figures of one key with a slider over steps."""
        self._spool.put({"call": "image", "path": str(path.resolve()), "key": key, "step": step, "time": now_ms()})

    def log_file(self, path: Path, folder: str) -> None:
        """Log a file or folder as artifact."""
        self._spool.put({"call": "file", "path": str(path.resolve()), "folder": folder})

    def log_table(self, path: Path, name: str) -> None:
        """Log a CSV table as MLflow table; it shows the figures whose paths are in a column `picture`."""
        self._spool.put({"call": "table", "path": str(path.resolve()), "name": name})

    def describe(self, text: str) -> None:
        """Set the description of the run, which its overview page shows."""
        self._spool.put({"call": "description", "text": text})

    def log_model(self, folder: Path, *, register_as: str | None, alias: str) -> None:
        """Log the model folder and its exported program, and register a version."""
        self._spool.put({"call": "model", "path": str(folder.resolve()), "register_as": register_as, "alias": alias})

    def finish(self, status: str) -> None:
        """Close the run; wait for the last events for at most `CLOSE_TIMEOUT_S`."""
        self._spool.put({"call": "finish", "status": STATUS[status], "time": now_ms()})
        self._spool.close(CLOSE_TIMEOUT_S)

    # --- sending, in the spool's thread ------------------------------------------------------------------------------

    def _send(self, event: Event) -> None:
        if "path" in event and not Path(event["path"]).exists():
            raise GoneFileError(event["path"])
        try:
            self._open_run()
        except NotYetError:
            raise
        except Exception as error:  # after any error here, no event can be sent
            reason, is_lasting = self._reason_of(error)
            raise ClosedStoreError(reason, is_lasting=is_lasting) from error
        if event["call"] != "open":
            getattr(self, f"_send_{event['call']}")(event)

    def _reason_of(self, error: Exception) -> tuple[str, bool]:
        """Return the reason and remedy of an error in one line, and whether it lasts until a person fixes it."""
        problem = explain(error, self.uri)
        return "; ".join(part for part in (problem.what, problem.found, problem.remedy) if part), problem.is_lasting

    def _takes_others(self) -> bool:
        """Return whether the store accepts other records of the run: it answers, is writable, and has the run."""
        import mlflow

        try:
            mlflow.MlflowClient(tracking_uri=self.uri).set_tag(self._run_id, "medhybrid.has_refused", "true")
        except Exception:  # any error means that it does not
            return False
        return True

    def _open_run(self) -> None:
        if self._client is not None:
            return
        prepare_store(self.uri, lock=self._runs)
        import mlflow

        quiet_mlflow()  # again, because the import configures MLflow's loggers
        forget_places()
        client: Any = mlflow.MlflowClient(tracking_uri=self.uri)
        if self._run_id is None:
            experiment_id = self._experiment(client)
            tags = {**self.info.tags, **self._nesting(), "mlflow.note.content": self.info.description}
            run = client.create_run(experiment_id, run_name=self.info.name, tags=tags)
            self._run_id = str(run.info.run_id)
            self._id_file.write_text(self._run_id + "\n")
            from mlflow.entities import Param

            params = [Param(k, v[:6000]) for k, v in self.info.params.items()]
            for first in range(0, len(params), 100):
                client.log_batch(self._run_id, params=params[first : first + 100])
            self._log_datasets(client)
        else:
            client.update_run(self._run_id, status="RUNNING")
        if self._parent is None:
            self._start_monitor()
        self._client = client

    def _experiment(self, client: Any) -> str:
        """Return the id of the experiment, and create it if needed; another run that starts now may create it first."""
        from mlflow.exceptions import MlflowException

        name = self.info.experiment
        if (found := client.get_experiment_by_name(name)) is None:
            try:
                return str(client.create_experiment(name, artifact_location=self.artifacts))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(name)
        return str(found.experiment_id)

    def _nesting(self) -> dict[str, str]:
        if self._parent is None:
            return {}
        if (parent := self._parent()) is None:
            raise NotYetError("the parent run is not open")
        return {"mlflow.parentRunId": parent}

    def _log_datasets(self, client: Any) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for context, data in self.info.datasets.items():
            dataset = Dataset(
                name=data["name"],
                digest=data["hash"][:36],
                source_type="local",
                source=json.dumps({"prepared": data["name"]}),
                schema=json.dumps({"cases": data["cases"]})[:60_000],
                profile=json.dumps({"n_cases": len(data["cases"])}),
            )
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
        client.log_inputs(self._run_id, inputs)

    def _start_monitor(self) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        try:
            self._monitor = SystemMetricsMonitor(self._run_id, resume_logging=True, tracking_uri=self.uri)
            self._monitor.start()
        except Exception as error:  # system metrics are optional
            logger.debug("no system metrics", exc_info=error)

    def _send_metrics(self, event: Event) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(metric_name(k), float(v), event["time"], event["step"]) for k, v in event["values"].items()]
        for first in range(0, len(metrics), 500):
            self._client.log_batch(self._run_id, metrics=metrics[first : first + 500])

    def _send_image(self, event: Event) -> None:
        import mlflow

        self._client.log_image(
            self._run_id,
            mlflow.Image(event["path"]),
            key=image_name(event["key"]),
            step=event["step"],
            timestamp=event["time"],
            synchronous=True,
        )

    def _send_file(self, event: Event) -> None:
        path = Path(event["path"])
        send = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        send(self._run_id, str(path), event["folder"] or None)

    def _send_table(self, event: Event) -> None:
        import mlflow
        import numpy as np
        import pandas as pd

        path = Path(event["path"])
        numbers = set(pd.read_csv(path, nrows=0).columns) - TEXT_COLUMNS
        missing = {key: ["", "nan"] for key in numbers}  # a case may have the name NA
        table = pd.read_csv(path, dtype={"case": str}, keep_default_na=False, na_values=missing)
        for key in {"case", "label"} & set(table.columns):
            table[key] = table[key].map(read_cell)
        if "picture" in table:
            files = [path.parent / str(name) for name in table["picture"]]
            blank = np.zeros((1, 1, 3), np.uint8)  # MLflow needs an image in every cell of the column
            inside = path.parent.resolve()
            are_here = [f.is_file() and f.resolve().is_relative_to(inside) for f in files]
            shown = [mlflow.Image(str(f) if is_here else blank) for f, is_here in zip(files, are_here, strict=True)]
            table["picture"] = pd.Series(shown, dtype=object)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's search for images uses a deprecated function of pandas
            self._client.log_table(self._run_id, table, f"{event['name']}.json")

    def _send_description(self, event: Event) -> None:
        self._client.set_tag(self._run_id, "mlflow.note.content", event["text"])

    def _send_model(self, event: Event) -> None:
        from medhybrid.tracking.mlflow_model import log_model

        folder = Path(event["path"])
        prepare_store(self.uri)  # updates artifact locations, if the project was moved during the training
        self._client.log_artifacts(self._run_id, str(folder), "model")
        with pointed_at(self.uri):
            log_model(
                self._client,
                self._run_id or "",
                folder,
                name=self.info.model,
                register_as=event["register_as"],
                alias=event["alias"],
            )

    def _send_finish(self, event: Event) -> None:
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        self._client.set_terminated(self._run_id, status=event["status"], end_time=event["time"])
        self._client = None  # an event after the end would open the run again
