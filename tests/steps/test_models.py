"""`medhybrid models` describes models for people and programs; records follow their JSON Schemas."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import medhybrid
from medhybrid.cli import main
from medhybrid.config import NetworkConfig
from medhybrid.errors import DataError
from medhybrid.inference.model_folder import save_model
from medhybrid.inference.network import network_for
from tests.inference.test_engines import load, write_scans
from tests.synthetic import make_test_plan, make_test_record

SCHEMAS = Path(__file__).parents[2] / "docs" / "reference" / "schemas"


def refuse_other(value: Any, name: str) -> None:
    """Raise `ValidationError` if a value does not follow a schema of the docs."""
    jsonschema.validate(value, json.loads((SCHEMAS / f"{name}.schema.json").read_text()))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return a folder of two runs, one with a damaged model."""
    plan, config = make_test_plan(), NetworkConfig(widths=(8, 16), blocks=(1, 1), token_width=24, depth=1, heads=2)
    folder = tmp_path / "runs" / "test" / "first" / "model"
    folder.mkdir(parents=True)
    save_model(folder, network_for(config, plan).state_dict(), make_test_record(plan, config), "# card")
    shutil.copytree(folder.parent, folder.parents[1] / "second")
    (folder.parents[1] / "second" / "model" / "model.json").write_text("{")
    return tmp_path / "runs"


def test_models_are_listed_for_programs_with_what_they_need_and_give(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", str(runs), str(runs / "test" / "first"), "--json"]) == 1, "one cannot be used"

    listed = json.loads(capsys.readouterr().out)
    refuse_other(listed, "models")
    (model,) = listed["models"]
    assert model["path"] == str(runs / "test" / "first"), "once, although it is in both folders"
    assert [(c["name"], c["optional"]) for c in model["channels"]] == [("T1", False)]
    assert model["labels"] == {"lesion": 255}
    assert model["weights_bytes"] == (runs / "test" / "first" / "model" / "model.safetensors").stat().st_size
    (problem,) = listed["problems"]
    assert problem["path"].endswith("second/model")
    assert "is invalid" in problem["reason"]


def test_models_are_listed_for_people(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(runs / "test" / "second")

    assert main(["models", str(runs)]) == 0

    shown = capsys.readouterr().out
    assert "T1" in shown
    assert "lesion" in shown
    assert main(["models", str(runs / "test" / "first" / "model")]) == 0


def test_folders_without_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", str(tmp_path)]) == 0
    assert "no models" in capsys.readouterr().out
    with pytest.raises(DataError, match="does not exist"):
        medhybrid.models([tmp_path / "nowhere"])


def test_the_records_of_a_folder_of_masks_follow_their_schemas(tmp_path: Path) -> None:
    scans, out = write_scans(tmp_path / "scans", 2), tmp_path / "out"
    (scans / "s1.nii.gz").write_bytes(b"x")

    medhybrid.predict(scans, model=load(), out=out)

    refuse_other(json.loads((out / "run.json").read_text()), "run")
    for path in (out / "done" / "s0.json", out / "failed" / "s1.json"):
        refuse_other(json.loads(path.read_text()), "scan")
