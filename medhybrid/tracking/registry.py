"""Registered models of an MLflow store: which version is the champion, and what it reached."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medhybrid.addresses import hide_password
from medhybrid.errors import ModelError
from medhybrid.tracking.artifact_places import forget_places
from medhybrid.tracking.mlflow_store import quiet_mlflow, refuse_absent_store
from medhybrid.tracking.problems import explain
from medhybrid.tracking.setup import prepare_store

CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a registered model, and the run that made it."""

    name: str
    number: str
    run_id: str


class Registry:
    """The models of one store; raises `ModelError` where it does not answer, `TrackingError` where it cannot be used."""

    def __init__(self, uri: str) -> None:
        refuse_absent_store(uri)
        prepare_store(uri)
        import mlflow

        quiet_mlflow()
        forget_places()
        self._uri, self.address = uri, hide_password(uri)
        self._client: Any = mlflow.MlflowClient(tracking_uri=uri)

    def of_run(self, name: str, run_id: str) -> Version:
        """The version that a run registered, the newest of one that was extended."""
        found = self._ask(lambda: self._client.search_model_versions(f"run_id = '{run_id}'"))
        numbers = [int(v.version) for v in found if v.name == name]
        if not numbers:
            others = sorted({v.name for v in found})
            raise ModelError(
                f"the run has no version of the model {name} in {self.address}",
                expected="a training that ended, with tracking.register_model",
                found=f"its model under the name {', '.join(others)}: it was renamed" if others else "",
                remedy=f"rename it to {name} in the MLflow UI" if others else "let it end, or give --tracking-uri",
            )
        return Version(name, str(max(numbers)), run_id)

    def champion(self, name: str) -> Version | None:
        """The version with the alias; None where none has it yet."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_model_version_by_alias(name, CHAMPION)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise self._failure("does not answer", error) from error
        return Version(name, str(found.version), found.run_id)

    def validation(self, version: Version) -> str:
        """The text of its run's `validation.csv`."""
        with tempfile.TemporaryDirectory() as folder:
            path = self._ask(lambda: self._client.download_artifacts(version.run_id, "validation.csv", folder))
            return Path(path).read_text()

    def set_alias(self, version: Version, alias: str) -> None:
        """Give a version an alias; the one that had it loses it."""
        self._ask(lambda: self._client.set_registered_model_alias(version.name, alias, version.number))

    def drop_alias(self, name: str, alias: str) -> None:
        """Take an alias away, where it is given."""
        self._ask(lambda: self._client.delete_registered_model_alias(name, alias))

    def note(self, version: Version, key: str, value: str) -> None:
        """A tag on a version."""
        self._ask(lambda: self._client.set_model_version_tag(version.name, version.number, key, value))

    def _ask(self, question: Any) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return question()
        except (MlflowException, OSError) as error:
            remedy = "look the version up in the MLflow UI; where its run has no validation.csv, use --force"
            raise self._failure("does not give what was asked for", error, remedy) from error

    def _failure(self, what: str, error: Exception, remedy: str = "") -> ModelError:
        """An error of the store, with its reason and without passwords."""
        problem = explain(error, self._uri)
        return ModelError(f"{self.address} {what}", found=problem.found[:200], remedy=problem.remedy or remedy)
