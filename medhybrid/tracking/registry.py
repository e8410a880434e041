"""Registered models of an MLflow store: which version is the champion, and what it reached."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medhybrid.errors import ModelError
from medhybrid.tracking.mlflow_store import quiet_mlflow

CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a registered model, and the run that made it."""

    name: str
    number: str
    run_id: str


class Registry:
    """The models of one store; raises `ModelError` where it does not answer."""

    def __init__(self, uri: str) -> None:
        import mlflow

        quiet_mlflow()
        self.uri = uri
        self._client: Any = mlflow.MlflowClient(tracking_uri=uri)

    def of_run(self, name: str, run_id: str) -> Version:
        """The version that a run registered, the newest of one that was extended."""
        found = self._ask(lambda: self._client.search_model_versions(f"name = '{name}'"))
        numbers = [int(v.version) for v in found if v.run_id == run_id]
        if not numbers:
            raise ModelError(
                f"the run has no version of the model {name} in {self.uri}",
                expected="a training that ended, with tracking.register_model",
                remedy="let it end, or give --tracking-uri",
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
            raise ModelError(f"{self.uri} does not answer", found=str(error)[:200]) from error
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
            raise ModelError(
                f"{self.uri} does not give what was asked for",
                found=str(error)[:200],
                remedy="look the version up in the MLflow UI; where its run has no validation.csv, use --force",
            ) from error
