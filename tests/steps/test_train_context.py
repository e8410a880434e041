"""Metadata conditioning: preparation, training and prediction with metadata, which no record contains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import medhybrid
from medhybrid.config import load_config
from medhybrid.errors import DataError
from tests.synthetic import StudyFolder, small_config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("blank_pictures", "in_this_process"),
    pytest.mark.filterwarnings("ignore"),  # warnings of MLflow and its store
]


def test_metadata_of_the_table_is_used_in_training_and_prediction(study: StudyFolder, tmp_path: Path) -> None:
    data = Path(shutil.copytree(study.folder / "data", tmp_path / "data"))
    small_config(tmp_path)
    names = sorted(p.name.removesuffix(".nii.gz") for p in (data / "imagesTr").iterdir())
    (data / "context.csv").write_text(
        "case,age_years\n" + "".join(f"{n},{30 + i}.4159\n" for i, n in enumerate(names[:-1]))
    )
    overrides = ["data.context=[slice_mm, age_years]", "training.iterations=2", "training.n_validations=1"]
    config = load_config(tmp_path / "small.yaml", [*overrides, f"data.root={data}"])

    medhybrid.preprocess(config)
    run = medhybrid.train(config)

    case = json.loads((Path(config.prepare.folder) / config.name / "cases" / names[1] / "case.json").read_text())
    assert case["context"] == {"slice_mm": pytest.approx(3.0), "age_years": 31.4159}
    model = medhybrid.load_model(run.folder)
    assert model.plan.context == ("slice_mm", "age_years")
    image = next((data / "imagesTr").glob(f"{names[0]}*"))
    scan = medhybrid.read_scan(image)
    assert np.isin(model.predict(scan), [0, *config.data.labels.values()]).all()
    records = "".join(p.read_text() for p in (run.folder / "log.jsonl", run.folder / "model" / "model.json"))
    assert ".4159" not in records


def test_cases_with_more_metadata_are_accepted_and_with_less_refused(study: StudyFolder, tmp_path: Path) -> None:
    places = f"prepare.folder={tmp_path / 'prepared'}", f"runs={tmp_path / 'runs'}", "tracking.kind=none"
    told = small_config(study.folder, "data.context=[slice_mm]", "training.iterations=1", *places)
    asks_more = small_config(study.folder, "data.context=[slice_mm, sex]", *places)
    medhybrid.preprocess(told)

    untold = medhybrid.train(small_config(study.folder, "training.iterations=1", *places))

    assert medhybrid.load_model(untold.folder).plan.context == ()
    with pytest.raises(DataError, match="prepared without sex"):
        medhybrid.train(asks_more)


def test_changed_metadata_prepares_and_predicts_again(study: StudyFolder, tmp_path: Path) -> None:
    data = Path(shutil.copytree(study.folder / "data", tmp_path / "data"))
    places = f"data.root={data}", f"prepare.folder={tmp_path / 'prepared'}", f"runs={tmp_path / 'runs'}"
    config = small_config(study.folder, "data.context=[sex]", "training.iterations=1", "tracking.kind=none", *places)
    scans = data / "imagesTr"

    def prepared_with(sex: str) -> dict[str, float]:
        names = sorted(p.name.removesuffix(".nii.gz") for p in scans.iterdir() if p.suffix == ".gz")
        (data / "context.csv").write_text("case,sex\n" + "".join(f"{n},{sex}\n" for n in names))
        medhybrid.preprocess(config)
        case = Path(config.prepare.folder) / config.name / "cases" / names[0] / "case.json"
        return dict(json.loads(case.read_text())["context"])

    assert [prepared_with("F"), prepared_with("M")] == [{"sex": 0.0}, {"sex": 1.0}]
    assert medhybrid.preprocess(config).n_prepared == 0
    run = medhybrid.train(config).folder
    medhybrid.predict(scans, model=run, out=tmp_path / "out")
    assert medhybrid.predict(scans, model=run, out=tmp_path / "out").n_skipped > 0
    (data / "context.csv").unlink()
    assert medhybrid.predict(scans, model=run, out=tmp_path / "out").n_skipped == 0
