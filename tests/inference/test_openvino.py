"""OpenVINO gives the masks of torch; a network is converted once, and a damaged cache is converted again."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import medhybrid
from medhybrid.config import InferenceConfig, NetworkConfig
from medhybrid.errors import ConfigError, ModelError
from medhybrid.inference import openvino as module
from medhybrid.inference.model import Model
from medhybrid.inference.model_record import ModelRecord
from medhybrid.inference.network import network_for
from medhybrid.inference.precision import Precision
from medhybrid.inference.program import FILES
from tests.synthetic import StudyFolder, blob_case, make_test_plan, make_test_record, save_nifti

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the exporters warn about their own internals
    pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed"),
]


@pytest.fixture(scope="module")
def converted(trained: tuple[StudyFolder, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache with the converted network; tests must not write into it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        medhybrid.load_model(trained[1], device="openvino")
    return folder


@pytest.fixture(autouse=True)
def cache(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a separate copy of the cache for each test."""
    folder = Path(shutil.copytree(converted, tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def conversions(converted: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the folders of all conversions; instead of a new conversion, the files of the first one are copied."""
    made: list[Path] = []
    (written,) = (converted / "medhybrid").iterdir()

    def noted(_: medhybrid.Model, folder: Path) -> None:
        made.append(folder)
        shutil.copytree(written, folder, dirs_exist_ok=True)

    monkeypatch.setattr(module, "write_programs", noted)
    return made


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[medhybrid.Scan]:
    folder = tmp_path_factory.mktemp("scans")
    paths = [save_nifti(folder / f"{seed}.nii.gz", blob_case(seed)[0]) for seed in range(3)]
    return [medhybrid.read_scan(path) for path in paths]


def test_models_of_the_same_weights_and_another_network_have_their_own_programs() -> None:
    plan = make_test_plan()
    networks = [NetworkConfig(), NetworkConfig(heads=2 * NetworkConfig().heads)]
    plans = [plan, plan.model_copy(update={"spacing_mm": (3.0, 3.0, 3.0)}), plan.model_copy(update={"strides": ()})]
    models: list[Any] = [SimpleNamespace(record=make_test_record(p, n), plan=p) for p in plans for n in networks]
    assert len({module._key(model) for model in models}) == 6

    rules = plan.model_copy(update={"min_component_ml": plan.min_component_ml + 1})
    with_rules: Any = SimpleNamespace(record=make_test_record(rules), plan=rules)
    assert module._key(with_rules) == module._key(models[0]), "rules for the mask do not change the network"


def test_masks_in_float32_are_those_of_torch(trained: tuple[StudyFolder, Path], scans: list[medhybrid.Scan]) -> None:
    plain = medhybrid.load_model(trained[1], device="cpu", precision="float32")
    quick = medhybrid.load_model(trained[1], device="openvino", precision="float32")

    for scan in scans:
        expected, mask = plain.predict(scan) > 0, quick.predict(scan) > 0
        assert 2 * (expected & mask).sum() >= 0.999 * (expected.sum() + mask.sum()) > 0
    assert quick.runtime.startswith("OpenVINO")


def test_logits_in_bf16_are_as_close_to_float32_as_those_of_torch(trained: tuple[StudyFolder, Path]) -> None:
    exact, torchs, ours = (
        medhybrid.load_model(trained[1], device=device, precision=precision)
        for device, precision in (("cpu", "float32"), ("cpu", "bf16"), ("openvino", "bf16"))
    )
    image = torch.rand((1, *exact.plan.patch_size), generator=torch.Generator().manual_seed(0))

    expected = exact.logits(image)

    errors = [float((m.logits(image) - expected).abs().mean()) for m in (torchs, ours)]
    assert errors[1] < 1.2 * errors[0]
    assert errors[1] < 0.01 * float(expected.abs().max())


@pytest.mark.parametrize("name", [FILES["openvino"], module.STEM])
def test_a_network_is_converted_once_and_again_if_the_cache_was_altered(
    name: str, trained: tuple[StudyFolder, Path], conversions: list[Path], cache: Path, scans: list[medhybrid.Scan]
) -> None:
    expected = medhybrid.load_model(trained[1], device="openvino").predict(scans[0])
    assert not conversions

    (folder,) = (cache / "medhybrid").iterdir()
    program = folder / name
    program.write_bytes(program.read_bytes()[:1000])
    assert np.array_equal(medhybrid.load_model(trained[1], device="openvino").predict(scans[0]), expected)
    assert len(conversions) == 1

    weights = program.with_suffix(".bin")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 0x40  # changes a weight without making the file invalid
    weights.write_bytes(content)
    assert np.array_equal(medhybrid.load_model(trained[1], device="openvino").predict(scans[0]), expected)
    assert len(conversions) == 2
    assert [p.name for p in (cache / "medhybrid").iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("patch_size", "strides", "kind"),
    [
        ((16, 16, 4), ((2, 2, 2),) * 2, "interleave"),  # 16 tokens, one along Z
        ((16, 16, 1), ((2, 2, 1),) * 2, "transformer"),
        ((16, 16, 8), ((2, 2, 1), (2, 2, 2)), "resnet"),
    ],
)
def test_networks_of_every_kind_and_of_few_tokens_are_run(
    patch_size: tuple[int, int, int], strides: tuple[tuple[int, int, int], ...], kind: Any
) -> None:
    plan = make_test_plan(patch_size=patch_size, strides=strides)
    config = NetworkConfig(kind=kind, widths=(8, 16), blocks=(1, 1), token_width=24, depth=1, heads=2)
    network, image = network_for(config, plan), torch.rand(3, 1, *patch_size)
    record = make_test_record(plan, config).model_copy(update={"weights_sha256": f"{kind} {patch_size}"})
    exact, quick = (Model(network, _in_float32(record), torch.device("cpu")) for _ in range(2))

    module.on_openvino(quick)

    with torch.inference_mode():
        torch.testing.assert_close(quick.run(image).full, exact.run(image).full, atol=1e-4, rtol=1e-3)


def test_a_thin_patch_is_computed_in_float32_on_openvino() -> None:
    plan = make_test_plan(patch_size=(24, 24, 4), strides=((2, 2, 2),) * 2)
    config = NetworkConfig(widths=(16, 32), blocks=(1, 1), token_width=48, depth=1, heads=3)
    record = make_test_record(plan, config).model_copy(update={"inference": InferenceConfig(precision="bf16")})
    network, image = network_for(config, plan), torch.rand(1, 24, 24, 4)
    exact, quick = (Model(network, record, torch.device("cpu")) for _ in range(2))

    module.on_openvino(quick)

    assert (exact.precision, quick.precision) == (Precision.FLOAT32, Precision.FLOAT32)
    torch.testing.assert_close(quick.logits(image), exact.logits(image), atol=1e-3, rtol=1e-3)


def _in_float32(record: ModelRecord) -> ModelRecord:
    return record.model_copy(update={"inference": InferenceConfig(precision="float32")})


def test_prediction_works_without_a_writable_cache(
    trained: tuple[StudyFolder, Path],
    conversions: list[Path],
    scans: list[medhybrid.Scan],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path / "temporary"))

    model = medhybrid.load_model(trained[1], device="openvino")

    assert model.predict(scans[0]).any()
    assert len(conversions) == 1
    assert "cannot be cached" in caplog.text
    assert not any((tmp_path / "temporary").iterdir())


def test_a_program_that_differs_from_torch_is_not_cached(
    trained: tuple[StudyFolder, Path], conversions: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    model = medhybrid.load_model(trained[1], device="cpu")
    torch.nn.init.ones_(model.network.decoder.logits.weight)

    with pytest.raises(ModelError, match="does not give the logits of the model"):
        module.on_openvino(model)

    assert len(conversions) == 1
    assert not any((tmp_path / "empty" / "medhybrid").iterdir())


def test_an_ensemble_runs_on_openvino(trained: tuple[StudyFolder, Path], scans: list[medhybrid.Scan]) -> None:
    from medhybrid.runs.models import load_models

    one, both = (load_models([trained[1]] * n, device="openvino") for n in (1, 2))

    assert (one.predict(scans[0]) == both.predict(scans[0])).mean() > 0.999
    assert both.runtime == one.runtime


def test_a_model_with_metadata_conditioning_is_refused(trained: tuple[StudyFolder, Path]) -> None:
    model = medhybrid.load_model(trained[1], device="cpu")
    told = model.plan.model_copy(update={"context": ("sex",)})
    model.record = model.record.model_copy(update={"plan": told})

    with pytest.raises(ConfigError, match=r"OpenVINO cannot run this model.*data\.context"):
        module.on_openvino(model)
