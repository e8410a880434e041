"""An exported network has the outputs of the model at any size, and its description suffices to use it."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

import medhybrid
from medhybrid.config import NetworkConfig
from medhybrid.data.plan import Normalisation, Plan
from medhybrid.errors import ConfigError, DataError, ModelError
from medhybrid.inference import program
from medhybrid.inference.description import describe
from medhybrid.inference.model import Model
from medhybrid.inference.network import network_for
from medhybrid.inference.precision import Precision
from medhybrid.inference.program import FORMATS, check_program, open_program, write_program
from tests.synthetic import StudyFolder, make_test_plan, make_test_record

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings of the exporters


class Once:
    """Cache a step of the export that the formats share."""

    def __init__(self, take: Callable[..., Any]) -> None:
        self.take, self.result, self.file = take, None, b""

    def export(self, *arguments: Any) -> Any:
        self.result = self.result or self.take(*arguments)
        return self.result

    def save(self, made: Any, example: Any, path: Path) -> None:
        if not self.file:
            self.take(made, example, path)
            self.file = path.read_bytes()
        path.write_bytes(self.file)


@pytest.fixture(scope="module")
def as_program() -> Once:
    """Return the trained network as exported by `torch.export`."""
    return Once(program.export_program)


@pytest.fixture(scope="module")
def exported(
    trained: tuple[StudyFolder, Path], as_program: Once, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Return the exported network in each format. Do not write into its folder."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(program, "export_program", as_program.export)
        patch.setattr(program, "save_onnx", Once(program.save_onnx).save)
        return {name: medhybrid.export(trained[1], out=folder / name, format_=name) for name in FORMATS}


@pytest.mark.parametrize("format_", FORMATS)
def test_any_size_and_batch_gives_the_models_logits(
    trained: tuple[StudyFolder, Path], exported: dict[str, Path], format_: str
) -> None:
    path = exported[format_]

    run, model = open_program(path), medhybrid.load_model(trained[1], device="cpu")
    stride = np.prod(model.plan.strides, axis=0)
    image = torch.rand(3, len(model.plan.channels), *(int(s) * n for s, n in zip(stride, (5, 3, 4), strict=True)))
    with torch.inference_mode():
        expected = model.network(image).full.numpy()
    np.testing.assert_allclose(run(image.numpy()), expected, atol=1e-3 * np.abs(expected).max())
    description = json.loads((path.parent / "description.json").read_text())
    assert description["program"] == path.name
    assert description["largest_difference"] < 1e-4
    assert (path.parent / "card.md").is_file()


def test_the_description_suffices_to_compute_the_same_mask(
    trained: tuple[StudyFolder, Path], exported: dict[str, Path], tmp_path: Path
) -> None:
    """For a scan of one window on the network's grid, the steps are intensities, mirroring and labels."""
    path = exported["pt2"]
    told = json.loads((path.parent / "description.json").read_text())
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
    model.precision = Precision.FLOAT32
    assert steps["after components"]["min_component_ml"] == 0
    assert (model.predict(medhybrid.read_scan(file)) == mask).mean() > 0.999
    assert len(np.unique(mask)) > 1


def untrained(plan: Plan, config: NetworkConfig) -> Model:
    """Return an untrained model of a plan."""
    torch.manual_seed(0)
    record = make_test_record(plan, config)
    return Model(network_for(config, plan), record, torch.device("cpu"))


def test_the_description_suffices_for_windows_air_blank_channels_and_components(tmp_path: Path) -> None:
    """Follow only the description, for a scan on the network's grid that is larger than a window."""
    channels = Normalisation(channel="T1", rule="zscore"), Normalisation(channel="T2", rule="zscore", optional=True)
    plan = make_test_plan(normalisation=channels, min_component_ml=0.05)
    model = untrained(plan, NetworkConfig(widths=(8, 16), blocks=(1, 1), token_width=24, depth=1, heads=2))
    model.precision = Precision.FLOAT32
    values = np.random.default_rng(0).gamma(4, 100, (40, 22, 6)).astype(np.float32)
    values[22:] = 0
    medhybrid.write_nifti(tmp_path / "scan.nii.gz", np.stack([values, values]), np.diag([*plan.spacing_mm, 1.0]))
    told = describe(model)
    steps = {s["step"]: s for s in told["before"]} | {f"after {s['step']}": s for s in told["after"]}
    assert "air" in steps

    image = np.stack([np.minimum((values - values.min()) / values.std(), 12)] * 2)
    assert steps["blank"]["copies"]
    image[1] = 0  # the later of two copies, and optional
    size = steps["windows"]["size"]
    missing = [max(0, w - n) for n, w in zip(values.shape, size, strict=True)]
    padded = np.pad(image, [(0, 0), *((m // 2, m - m // 2) for m in missing)])
    starts = []
    for n, w in zip(padded.shape[1:], size, strict=True):
        count = int(np.ceil((n - w) / max(1, int(w * (1 - steps["windows"]["overlap"]))))) + 1 if n > w else 1
        starts.append(np.round(np.linspace(0, n - w, count)).astype(int))
    d = [(np.arange(n) - (n - 1) / 2) / (n / 8) for n in size]
    bell = np.exp(-(d[0][:, None, None] ** 2 + d[1][None, :, None] ** 2 + d[2] ** 2) / 2)
    bell = np.maximum(bell / bell.max(), 0.05)
    total, weight = np.zeros((2, *padded.shape[1:])), np.zeros(padded.shape[1:])
    was_run = np.zeros(weight.shape, bool)
    for x, y, z in itertools.product(*starts):
        box = slice(x, x + size[0]), slice(y, y + size[1]), slice(z, z + size[2])
        window = padded[(slice(None), *box)]
        weight[box] += bell
        if not window.any():
            continue
        assert steps["after mirror"]["axes"] == [0]
        logits = (run_network(model, window) + run_network(model, window[:, ::-1])[:, ::-1]) / 2
        total[(slice(None), *box)] += logits * bell
        was_run[box] = True
    labels = (total / weight).argmax(0) * was_run
    low = [m // 2 for m in missing]
    labels = labels[tuple(slice(b, b + n) for b, n in zip(low, values.shape, strict=True))]
    parts, _ = ndimage.label(labels, np.ones((3, 3, 3)))
    ml = np.bincount(parts.ravel()) * np.prod(plan.spacing_mm) / 1000
    mask = np.where(ml[parts] >= steps["after components"]["min_component_ml"], labels, 0) * 255

    assert not was_run[34:].any()
    assert (ml < 0.05).any()
    assert 0 < (mask > 0).mean() < 0.9
    assert (model.predict(medhybrid.read_scan(tmp_path / "scan.nii.gz")) == mask).mean() > 0.999


def run_network(model: Model, window: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        logits: np.ndarray = model.network(torch.from_numpy(window[None].astype(np.float32).copy())).full[0].numpy()
    return logits


def test_a_network_of_slices_is_exported_for_its_window(tmp_path: Path) -> None:
    config = NetworkConfig(
        kind="transunet", widths=(32, 128, 256), blocks=(1, 1, 1), token_width=48, depth=1, heads=4, head_width=8
    )
    plan = make_test_plan(patch_size=(32, 32, 1), strides=((2, 2, 1),) * 3)
    model = untrained(plan, config)

    path = write_program(model, tmp_path, "pt2")

    assert check_program(model, path) < 1e-4
    assert describe(model)["input"]["size_fixed"] == {"x": 32, "y": 32, "z": 1}


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_program_with_other_outputs_is_not_written(
    trained: tuple[StudyFolder, Path],
    as_program: Once,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
) -> None:
    def other(image: np.ndarray) -> np.ndarray:
        return np.full((len(image), 3, *image.shape[2:]), value)

    monkeypatch.setattr(program, "export_program", as_program.export)
    monkeypatch.setattr(program, "open_program", lambda _: other)

    with pytest.raises(ModelError, match="does not give the logits of the model"):
        medhybrid.export(trained[1], out=tmp_path / "out", format_="pt2")

    assert not any(tmp_path.iterdir())


def test_invalid_exports_are_refused(trained: tuple[StudyFolder, Path], tmp_path: Path) -> None:
    (tmp_path / "x").write_text("something")

    with pytest.raises(DataError, match="is not an empty folder"):
        medhybrid.export(trained[1], out=tmp_path)
    with pytest.raises(ConfigError, match="unknown format tflite"):
        medhybrid.export(trained[1], out=tmp_path / "out", format_="tflite")


def test_the_exported_file_is_compared_with_the_model(
    trained: tuple[StudyFolder, Path], exported: dict[str, Path]
) -> None:
    other = medhybrid.load_model(trained[1], device="cpu")
    with torch.no_grad():
        next(other.network.parameters()).add_(1.0)

    with pytest.raises(ModelError, match="does not give the logits"):
        check_program(other, exported["pt2"])
