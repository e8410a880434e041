"""A model folder is used as it was made, or refused with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import medhybrid
from medhybrid.errors import ModelError
from tests.synthetic import StudyFolder

pytestmark = pytest.mark.slow


@pytest.fixture
def model(trained: tuple[StudyFolder, Path], tmp_path: Path) -> Path:
    """A copy of a model folder, to damage."""
    return Path(shutil.copytree(trained[1] / "model", tmp_path / "model"))


def test_weights_of_another_format_are_refused_though_they_would_fit(model: Path) -> None:
    record = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(record | {"format_version": 1}))

    with pytest.raises(
        ModelError, match=r"(?i)another version of medhybrid.*expected format 2, found format 1.*train it again"
    ):
        medhybrid.load_model(model)


def test_weights_that_are_not_those_of_the_record_are_refused(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")

    with pytest.raises(ModelError, match="not those of its record"):
        medhybrid.load_model(model)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_folder_with_a_part_missing_is_refused(model: Path, name: str) -> None:
    (model / name).unlink()

    with pytest.raises(ModelError):
        medhybrid.load_model(model)
