"""`medhybrid compare` and `promote`: paired comparison of two runs, and the choice of the champion."""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

import medhybrid
from medhybrid.cli import main
from medhybrid.errors import DataError, OutputError
from medhybrid.files import write_csv
from medhybrid.runs.score_tables import dice_by_case, read_scores
from medhybrid.steps.compare import Judged, compare, judged, names_apart
from medhybrid.steps.compare_runs import compare_runs
from medhybrid.steps.promote import promote
from medhybrid.tracking.mlflow_store import default_uri
from medhybrid.tracking.registry import Registry, Version
from tests.brief import blank_pictures, small_program
from tests.synthetic import StudyFolder, blob_case, save_nifti

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def two(prepared: StudyFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a run of few steps and one of more steps, on the same fold, in a separate store."""
    config = prepared.config.model_copy(update={"runs": str(tmp_path_factory.mktemp("compared") / "runs")})
    training = config.training.model_copy(update={"iterations": 20})
    network = config.network.model_copy(update={"kind": "resnet"})
    with blank_pictures(), small_program():
        short = medhybrid.train(config.model_copy(update={"training": training, "network": network}))
        return short.folder, medhybrid.train(config).folder


def test_two_runs_are_paired_by_case_and_differing_settings_are_listed(two: tuple[Path, Path], tmp_path: Path) -> None:
    short, run = two

    result = compare(short, run, out=tmp_path)

    a, b = judged(short).dice, judged(run).dice
    assert {c: (x, y) for c, x, y in result.cases} == {c: (a[c], b[c]) for c in a}
    assert [y - x for _, x, y in result.cases] == sorted(y - x for _, x, y in result.cases)
    assert result.difference.interval.mean == pytest.approx(sum(b[c] - a[c] for c in a) / len(a))
    differing = {key: (x, y) for key, x, y in result.settings}
    assert differing["training.iterations"] == ("20", "120")
    assert differing["network.kind"] == ("resnet", "hybrid")
    assert "data (SHA-256)" not in differing
    page = result.page.read_text()
    assert page.count("<svg viewBox") == 6 * len([1 for _, x, y in result.cases if x != y]), "three planes of both"
    with (tmp_path / "comparison.csv").open() as file:
        assert [r["case"] for r in csv.DictReader(file)] == [c for c, _, _ in result.cases]


def test_a_run_against_itself_shows_no_difference(two: tuple[Path, Path], tmp_path: Path) -> None:
    assert main(["compare", str(two[1]), str(two[1]), "--out", str(tmp_path), "--quiet"]) == 0

    page = (tmp_path / "comparison.html").read_text()
    assert "No significant difference" in page
    assert "None in config, data, code and versions" in page


def test_more_runs_get_a_table_a_figure_and_a_parent_run(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short, run = two

    assert main(["compare", str(short), str(run), str(run), "--out", str(tmp_path)]) == 0

    assert "3 cases that all runs have" in capsys.readouterr().out
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["case"] for r in rows] == sorted(judged(run).dice)
    assert list(rows[0]) == ["case", short.name, run.name, f"{run.name} (again)"]
    assert (tmp_path / "runs.png").stat().st_size > 1000
    client = mlflow.MlflowClient(tracking_uri=default_uri(run.parents[1]))
    (parent,) = (r for r in _runs(client) if r.info.run_name.startswith("comparison of 3 runs"))
    nested = [r for r in _runs(client) if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    means = [sum(judged(f).dice.values()) / 3 for f in (short, run, run)]
    assert sorted(r.data.metrics["compared/dice"] for r in nested) == pytest.approx(sorted(means))
    assert {f.path for f in client.list_artifacts(parent.info.run_id)} >= {"runs.png", "runs.md", "runs.csv"}
    assert nested[0].data.tags["medhybrid.compared_run"]


def _runs(client: mlflow.MlflowClient) -> list[mlflow.entities.Run]:
    experiment = client.get_experiment_by_name("blobs")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("x/out", "y/out"), ("x/out", "y/out")),
        (("s/x/a/out", "s/y/a/out"), ("x/a/out", "y/a/out")),
        (("x/one", "y/two"), ("one", "two")),
        (("x/case", "y/difference"), ("x/case", "y/difference")),
    ],
)
def test_folders_with_the_same_name_get_distinct_names(
    tmp_path: Path, paths: tuple[str, str], names: tuple[str, str]
) -> None:
    assert names_apart(tmp_path / paths[0], tmp_path / paths[1]) == names


def test_scored_masks_are_compared_too(two: tuple[Path, Path], tmp_path: Path, prepared: StudyFolder) -> None:
    for n in (30, 31):
        image, mask = blob_case(n)
        save_nifti(tmp_path / "scans" / f"new_{n}.nii.gz", image)
        save_nifti(tmp_path / "references" / f"new_{n}.nii.gz", mask)
    labels = prepared.config.data.labels
    for name, run in zip(("a", "b"), two, strict=True):
        medhybrid.predict(tmp_path / "scans", model=run, out=tmp_path / name)
        medhybrid.evaluate(tmp_path / "references", tmp_path / name, labels=labels, out=tmp_path / name / "evaluation")

    result = compare(tmp_path / "a", tmp_path / "b", out=tmp_path / "compared")

    assert [c for c, _, _ in sorted(result.cases)] == ["new_30", "new_31"]
    assert any(key == "model" for key, _, _ in result.settings)


def test_masks_with_other_references_or_outdated_scores_are_refused(
    two: tuple[Path, Path], tmp_path: Path, prepared: StudyFolder
) -> None:
    image, mask = blob_case(30)
    save_nifti(tmp_path / "scans" / "new.nii.gz", image)
    for name in ("a", "b"):
        save_nifti(tmp_path / f"references_{name}" / "new.nii.gz", mask)
        medhybrid.predict(tmp_path / "scans", model=two[1], out=tmp_path / name)
    mask[mask == 1] = 0
    save_nifti(tmp_path / "references_b" / "new.nii.gz", mask)
    for name in ("a", "b"):
        medhybrid.evaluate(
            tmp_path / f"references_{name}",
            tmp_path / name,
            labels=prepared.config.data.labels,
            out=tmp_path / name / "evaluation",
        )

    with pytest.raises(DataError, match=r"scored with different references. Found new"):
        compare(tmp_path / "a", tmp_path / "b", out=tmp_path / "compared")
    os.utime(tmp_path / "b" / "masks" / "new.nii.gz")
    with pytest.raises(DataError, match="masks that are newer than its scores"):
        compare(tmp_path / "a", tmp_path / "b", out=tmp_path / "compared")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be created"):
        compare(two[0], two[1], out=tmp_path / "file")


def test_folders_that_were_scored_for_other_structures_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = {
        name: Judged(name, "masks", {"c": 0.9}, {}, {"whole_rest": 1, "core": 2}, lambda _: None, frozenset(scored))
        for name, scored in (("a", ["whole", "core"]), ("b", ["whole", "core"]), ("c", ["whole_rest", "core"]))
    }
    monkeypatch.setattr("medhybrid.steps.compare_runs.judged", lambda folder: sides[folder.name])

    with pytest.raises(DataError, match=r"a and c cannot be compared.*masks with core, whole_rest"):
        compare_runs([tmp_path / n for n in sides], out=tmp_path / "out")


def test_runs_without_common_cases_are_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(two[0], tmp_path / "other")
    table = (tmp_path / "other" / "validation.csv").read_text()
    (tmp_path / "other" / "validation.csv").write_text(table.replace("case_", "other_"))

    with pytest.raises(DataError, match="no case in common"):
        compare(two[0], tmp_path / "other", out=tmp_path)
    with pytest.raises(DataError, match="has no scores"):
        compare(two[0], tmp_path, out=tmp_path)


def test_trainings_with_other_references_are_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(two[0], other)
    with (other / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    rows[0]["reference ml " + next(iter(judged(two[0]).labels))] = "123.4"
    write_csv(other / "validation.csv", [list(rows[0]), *(list(r.values()) for r in rows)])

    with pytest.raises(DataError, match=rf"scored with different references. Found {rows[0]['case']}"):
        compare(two[0], other, out=tmp_path / "out")


@pytest.mark.parametrize("name", ["scores.csv", "validation.csv"])
def test_a_table_of_scores_is_read_as_a_spreadsheet_saved_it_and_refused_where_it_is_damaged(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_text("case;dice\na;0.5\nb;0.25\n", encoding="utf-8-sig")
    assert dice_by_case(read_scores(path)) == {"a": 0.5, "b": 0.25}

    for text in ("case;dice\na;0,5\n", "name;dice\na;0.5\n", "case,dice\n", "", "case,dice\na,nan\n"):
        path.write_text(text)
        with pytest.raises(DataError, match=name):
            read_scores(path)
    path.write_bytes(b"\x00\xff\xfe\x00" * 40)
    with pytest.raises(DataError, match=name):
        read_scores(path)


def test_the_champion_changes_only_for_a_significantly_better_model(
    two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    short, run = two
    client = mlflow.MlflowClient(tracking_uri=default_uri(run.parents[1]))

    def holder(alias: str) -> str:
        return client.get_run(client.get_model_version_by_alias("blobs", alias).run_id).data.tags["medhybrid.folder"]

    assert promote(run).outcome == "first"
    assert holder("champion") == run.name
    assert promote(run).outcome == "already"

    assert main(["promote", str(short)]) == 1, "a worse model is the challenger"
    assert "not significantly better" in capsys.readouterr().out
    assert (holder("champion"), holder("challenger")) == (run.name, short.name)

    assert promote(short, force=True).outcome == "forced"
    assert holder("champion") == short.name
    with pytest.raises(mlflow.MlflowException):
        client.get_model_version_by_alias("blobs", "challenger")
    outcome = promote(run)
    assert outcome.difference is not None
    assert outcome.difference.n_better == 3
    assert outcome.outcome == "not shown", "three cases are too few for significance"
    assert holder("champion") == short.name


def test_a_champion_whose_run_was_extended_cannot_be_compared(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    short, run = two
    promote(short, force=True)
    mine, of_run = Registry.of_run, (short / "mlflow_run_id").read_text().strip()

    def extended(self: Registry, model: str, run_id: str) -> Version:
        version = mine(self, model, run_id)
        return replace(version, number=f"{version.number}0") if run_id == of_run else version

    monkeypatch.setattr(Registry, "of_run", extended)
    with pytest.raises(DataError, match=r"the champion .* was extended"):
        promote(run)
