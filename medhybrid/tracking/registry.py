"""Model registry of an MLflow store: versions, the champion alias, and validation results of a version."""

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
    """Version of a registered model, and the run that registered it."""

    name: str
    number: str
    run_id: str


class Registry:
    """Model registry of one store.

    Raises
    ------
    ModelError
        If the store does not exist or does not answer.
    TrackingError
        If the installed MLflow cannot use the store.
    """

    def __init__(self, uri: str) -> None:
        refuse_absent_store(uri)
        prepare_store(uri)
        import mlflow

        quiet_mlflow()
        forget_places()
        self._uri, self.address = uri, hide_password(uri)
        self._client: Any = mlflow.MlflowClient(tracking_uri=uri)

    def of_run(self, name: str, run_id: str) -> Version:
        """Return the version that a run registered; the newest if it registered several, as an extended run does."""
        found = self._ask(lambda: self._client.search_model_versions(f"run_id = '{run_id}'"))
        numbers = [int(v.version) for v in found if v.name == name]
        if not numbers:
            others = sorted({v.name for v in found})
            raise ModelError(
                f"the run has no registered version of the model {name} in {self.address}",
                expected="a finished training with tracking.register_model",
                found=f"its model with the name {', '.join(others)}: it was renamed" if others else "",
                remedy=f"rename it to {name} in the MLflow UI"
                if others
                else "finish the training, or set --tracking-uri",
            )
        return Version(name, str(max(numbers)), run_id)

    def champion(self, name: str) -> Version | None:
        """Return the version with the alias champion; None if no version has it yet."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_model_version_by_alias(name, CHAMPION)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise self._failure("does not answer", error) from error
        return Version(name, str(found.version), found.run_id)

    def validation(self, version: Version) -> str:
        """Return the text of `validation.csv` of the run of a version."""
        with tempfile.TemporaryDirectory() as folder:
            path = self._ask(lambda: self._client.download_artifacts(version.run_id, "validation.csv", folder))
            return Path(path).read_text()

    def set_alias(self, version: Version, alias: str) -> None:
        """Set an alias to a version; it is removed from the version that had it."""
        self._ask(lambda: self._client.set_registered_model_alias(version.name, alias, version.number))

    def drop_alias(self, name: str, alias: str) -> None:
        """Remove an alias, if a version has it."""
        self._ask(lambda: self._client.delete_registered_model_alias(name, alias))

    def note(self, version: Version, key: str, value: str) -> None:
        """Set a tag of a version."""
        self._ask(lambda: self._client.set_model_version_tag(version.name, version.number, key, value))

    def _ask(self, question: Any) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return question()
        except (MlflowException, OSError) as error:
            remedy = (
                "look the version up in the MLflow UI; where its run has no validation.csv, as with training.fold=all, compare "
                "both models on unseen scans and use --force"
            )
            raise self._failure("refused a request", error, remedy) from error

    def _failure(self, what: str, error: Exception, remedy: str = "") -> ModelError:
        """Return an error of the store, with its reason and without passwords."""
        problem = explain(error, self._uri)
        return ModelError(f"{self.address} {what}", found=problem.found[:200], remedy=problem.remedy or remedy)
