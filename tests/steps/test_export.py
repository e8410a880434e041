"""An exported network computes what the model computes, at any size, and its description is enough to use it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import medhybrid
from medhybrid.errors import ConfigError, DataError, ModelError
from medhybrid.inference import program
from medhybrid.inference.program import FORMATS, check_program, open_program
from tests.synthetic import StudyFolder

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the exporters warn of themselves


@pytest.mark.parametrize("format_", FORMATS)
def test_any_size_and_batch_gives_the_models_logits(
    trained: tuple[StudyFolder, Path], tmp_path: Path, format_: str
) -> None:
    path = medhybrid.export(trained[1], out=tmp_path / "out", format_=format_)

    run, model = open_program(path), medhybrid.load_model(trained[1], device="cpu")
    stride = np.prod(model.plan.strides, axis=0)
    image = torch.rand(3, len(model.plan.channels), *(int(s) * n for s, n in zip(stride, (5, 3, 4), strict=True)))
    with torch.inference_mode():
        expected = model.network(image).full.numpy()
    np.testing.assert_allclose(run(image.numpy()), expected, atol=1e-3 * np.abs(expected).max())
    description = json.loads((tmp_path / "out" / "description.json").read_text())
    assert description["program"] == path.name
    assert description["largest_difference"] < 1e-4
    assert (tmp_path / "out" / "card.md").is_file()


def test_the_description_is_enough_to_make_the_same_mask(trained: tuple[StudyFolder, Path], tmp_path: Path) -> None:
    """Of a scan that is a window on the network's grid already: what is left are intensities, mirroring and labels."""
    path = medhybrid.export(trained[1], out=tmp_path / "out", format_="pt2")
    told = json.loads((tmp_path / "out" / "description.json").read_text())
    steps = {s["step"]: s for s in told["before"]} | {f"after {s['step']}": s for s in told["after"]}
    size, spacing = told["input"]["size_trained_with"], steps["resample"]["spacing_mm"]
    values = np.random.default_rng(0).gamma(4, 100, size).astype(np.float32)
    file = tmp_path / "scan.nii.gz"
    medhybrid.write_nifti(file, values, np.diag([*spacing, 1.0]))

    assert steps["normalise"]["rule"] == "zscore_foreground"
    low, high = values.min(), np.percentile(values, 99.5)
    image = np.minimum((values - low) / values[values > low + 0.1 * (high - low)].std(), 12)[None, None]
    run, axes = open_program(path), [a + 2 for a in steps["after mirror"]["axes"]]
    logits = run(image.astype(np.float32))
    if axes:
        assert len(axes) == 1
        logits = (logits + np.flip(run(np.flip(image, axes).astype(np.float32).copy()), axes)) / 2
    codes = np.array(list(steps["after label"]["values"].values()))
    mask = codes[logits[0].argmax(0)]

    model = medhybrid.load_model(trained[1], device="cpu")
    model.precision = torch.float32
    assert steps["after components"]["min_component_ml"] == 0
    assert (model.predict(medhybrid.read_scan(file)) == mask).mean() > 0.999
    assert len(np.unique(mask)) > 1


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_program_that_differs_leaves_nothing(
    trained: tuple[StudyFolder, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    def other(image: np.ndarray) -> np.ndarray:
        return np.full((len(image), 3, *image.shape[2:]), value)

    monkeypatch.setattr(program, "open_program", lambda _: other)

    with pytest.raises(ModelError, match="does not compute what the model computes"):
        medhybrid.export(trained[1], out=tmp_path / "out", format_="pt2")

    assert not any(tmp_path.iterdir())


def test_what_cannot_be_done_is_refused(trained: tuple[StudyFolder, Path], tmp_path: Path) -> None:
    (tmp_path / "x").write_text("something")

    with pytest.raises(DataError, match="is not empty"):
        medhybrid.export(trained[1], out=tmp_path)
    with pytest.raises(ConfigError, match="unknown format tflite"):
        medhybrid.export(trained[1], out=tmp_path / "out", format_="tflite")


def test_the_check_is_of_the_exported_file(trained: tuple[StudyFolder, Path], tmp_path: Path) -> None:
    path = medhybrid.export(trained[1], out=tmp_path / "out", format_="pt2")
    other = medhybrid.load_model(trained[1], device="cpu")
    with torch.no_grad():
        next(other.network.parameters()).add_(1.0)

    with pytest.raises(ModelError, match="does not compute"):
        check_program(other, path)
