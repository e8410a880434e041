"""`medhybrid promote RUN`: move of the alias `champion` to a run's model, if it is significantly better.

`predict --model models:/<study>@champion` loads the champion. Both models are compared on the same validation cases with the
same references. A run replaces the champion only if the whole 95 % confidence interval of the difference in Dice
(run - champion) is above 0, and Wilcoxon's test agrees (p below 0.05). Otherwise its model becomes the `challenger`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medhybrid.errors import DataError
from medhybrid.metrics import Difference, paired_difference
from medhybrid.runs.places import config_here
from medhybrid.runs.score_tables import dice_by_case, read_rows, rows_of_scores
from medhybrid.tracking.mlflow_store import store_uri
from medhybrid.tracking.registry import CHALLENGER, CHAMPION, Registry


@dataclass(frozen=True, slots=True)
class Promotion:
    """Result of `promote`.

    Attributes
    ----------
    outcome : str
        `first`: the study had no champion; `better` or `not shown`: by the difference; `forced`; `already`: the run's model is
        the champion.
    difference : Difference, optional
        Difference in Dice (run - champion), by case.
    """

    model: str
    version: str
    champion: str
    outcome: Literal["first", "better", "not shown", "forced", "already"]
    difference: Difference | None = None

    @property
    def is_champion(self) -> bool:
        """Return whether the run's model is now the champion."""
        return self.outcome != "not shown"


def promote(run: str | Path, *, tracking_uri: str | None = None, force: bool = False) -> Promotion:
    """Make a run's model the champion if it is significantly better, else the challenger.

    Parameters
    ----------
    run : str or Path
        Folder of a finished training.
    force : bool
        Make it the champion regardless of the difference; a tag of the version records this.

    Raises
    ------
    DataError
        If run and champion were validated on different cases.
    ModelError
        If the store does not have the run's model.
    """
    run = Path(run)
    config = config_here(run)
    id_file = run / "mlflow_run_id"
    if not id_file.is_file():
        raise DataError(f"{run} is not in MLflow", expected="a training with tracking.kind=mlflow")
    registry = Registry(store_uri(tracking_uri or config.tracking.uri, Path(config.runs)))
    version = registry.of_run(config.name, id_file.read_text().strip())
    champion = registry.champion(config.name)
    if champion is None:
        registry.set_alias(version, CHAMPION)
        return Promotion(config.name, version.number, "", "first")
    newest = registry.of_run(config.name, champion.run_id).number
    if champion.number != newest and champion.number != version.number and not force:
        raise DataError(
            f"the run of the champion (version {champion.number}) was extended, so that its validation is lost",
            remedy="compare both models on other scans, and use --force",
        )
    if champion == version:
        return Promotion(config.name, version.number, champion.number, "already")
    if not force and not config.training.has_validation:
        raise DataError(
            f"{run} has no validation to compare with the champion: every case trained (training.fold=all)",
            remedy="compare both models on unseen scans (medhybrid evaluate and compare), and use --force",
        )
    difference = (
        None if force else _difference(registry.validation(version), registry.validation(champion), champion.number)
    )
    is_better = force or (difference is not None and difference.is_shown and difference.interval.mean > 0)
    said = (
        "forced"
        if difference is None
        else f"{difference.interval}, {difference.n_better} better, {difference.n_worse} worse"
    )
    registry.note(version, "medhybrid.against_champion", f"version {champion.number}: {said}")
    registry.set_alias(version, CHAMPION if is_better else CHALLENGER)
    if is_better:
        registry.drop_alias(config.name, CHALLENGER)
    outcome = "forced" if force else "better" if is_better else "not shown"
    return Promotion(config.name, version.number, champion.number, outcome, difference)  # type: ignore[arg-type]


def _difference(ours: str, theirs: str, champion: str) -> Difference:
    a = dice_by_case(rows_of_scores(ours, "validation.csv of the run"))
    b = dice_by_case(rows_of_scores(theirs, f"validation.csv of the champion (version {champion})"))
    if _references(ours) != _references(theirs):
        raise DataError(
            f"the run and the champion (version {champion}) were validated on different cases, or with different references",
            expected="the same fold of the same data",
            found=f"{len(set(a) & set(b))} cases in common, {len(set(a) ^ set(b))} in only one of them",
            remedy="train on the champion's fold and data, or compare both on unseen scans and use --force",
        )
    cases = sorted(a)
    return paired_difference([a[c] for c in cases], [b[c] for c in cases])


def _references(table: str) -> dict[str, tuple[str, ...]]:
    """Return the volume of each label in each case's reference, which differs if the reference differs."""
    rows = read_rows(table)
    return {r["case"]: tuple(f"{k}={v}" for k, v in sorted(r.items()) if k.startswith("reference ml")) for r in rows}
