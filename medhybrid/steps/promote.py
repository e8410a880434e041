"""`medhybrid promote RUN`: the alias `champion` moves to a run's model if its validation says so.

The champion is what `predict --model models:/<study>@champion` loads. A run takes its place only if, on the same validation
cases with the same references, the whole 95 % interval of its Dice less the champion's lies above 0 and Wilcoxon's test agrees
(p below 0.05); else it becomes the `challenger`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medhybrid.errors import DataError
from medhybrid.metrics import Difference, paired_difference
from medhybrid.steps.run_places import config_here
from medhybrid.steps.score_tables import dice_by_case, read_rows, rows_of_scores
from medhybrid.tracking.mlflow_store import store_uri
from medhybrid.tracking.registry import CHALLENGER, CHAMPION, Registry


@dataclass(frozen=True, slots=True)
class Promotion:
    """What became of a run.

    Attributes
    ----------
    outcome : str
        `first`: there was no champion; `better`, `not shown`: the difference decided; `forced`; `already`: it is the champion.
    difference : Difference, optional
        Its Dice less the champion's, by case.
    """

    model: str
    version: str
    champion: str
    outcome: Literal["first", "better", "not shown", "forced", "already"]
    difference: Difference | None = None

    @property
    def is_champion(self) -> bool:
        """Whether the run's model has the alias now."""
        return self.outcome != "not shown"


def promote(run: str | Path, *, tracking_uri: str | None = None, force: bool = False) -> Promotion:
    """Move the alias, or not.

    Parameters
    ----------
    run : str or Path
        Folder of a finished training.
    force : bool
        Move it whatever the difference says; the version then says so.

    Raises
    ------
    DataError
        If the two were validated on different cases.
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
            f"the champion (version {champion.number}) is of a run that was extended since: its validation is gone",
            remedy="compare both models on other scans, and use --force",
        )
    if champion == version:
        return Promotion(config.name, version.number, champion.number, "already")
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
            f"the run and the champion (version {champion}) were validated on different cases, or by different references",
            expected="the same fold of the same data",
            found=f"{len(set(a) & set(b))} cases in common, {len(set(a) ^ set(b))} of one alone",
            remedy="train on the champion's fold and data, or compare both on scans that neither saw and use --force",
        )
    cases = sorted(a)
    return paired_difference([a[c] for c in cases], [b[c] for c in cases])


def _references(table: str) -> dict[str, tuple[str, ...]]:
    """By case, how much of each label its reference has: other masks have other volumes."""
    rows = read_rows(table)
    return {r["case"]: tuple(f"{k}={v}" for k, v in sorted(r.items()) if k.startswith("reference ml")) for r in rows}
