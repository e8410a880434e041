"""Records and weights with impossible values are refused before a network is built."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import medhybrid
from medhybrid.config import NetworkConfig
from medhybrid.errors import ModelError
from medhybrid.inference.model_folder import save_model
from medhybrid.inference.network import network_for
from medhybrid.inference.record_bounds import BOUNDS
from tests.synthetic import make_test_plan, make_test_record

NETWORK = NetworkConfig(widths=(8, 16), blocks=(1, 1), token_width=24, depth=1, heads=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    plan = make_test_plan()
    save_model(folder, network_for(NETWORK, plan).state_dict(), make_test_record(plan, NETWORK), "card")
    return folder


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def change(folder: Path, key: str, value: Any) -> None:
    values = json.loads((folder / "model.json").read_text())
    section, name = key.split(".")
    values[section][name] = value
    (folder / "model.json").write_text(json.dumps(values))


def test_a_valid_record_is_accepted(model: Path) -> None:
    assert medhybrid.load_model(model, device="cpu").plan == make_test_plan()


@pytest.mark.parametrize("beyond", ["below", "above", "nan", "infinite"])
@pytest.mark.parametrize("key", sorted(BOUNDS))
def test_a_number_out_of_range_is_refused_with_its_key(model: Path, key: str, beyond: str) -> None:
    low, high = BOUNDS[key]
    wrong = {"below": low - 1, "above": high + 1, "nan": float("nan"), "infinite": float("inf")}[beyond]
    section, name = key.split(".")
    before = json.loads((model / "model.json").read_text())[section][name]
    value: Any = wrong
    if name == "labels":
        value = dict.fromkeys(before, wrong)
    elif name in ("strides", "kernels"):
        value = [[wrong] * 3] * 2
    elif isinstance(before, list):
        value = [wrong for _ in before]
    change(model, key, value)

    with pytest.raises(ModelError) as caught:
        medhybrid.load_model(model, device="cpu")
    assert "model.json" in str(caught.value)


def test_a_network_of_a_million_blocks_is_refused_at_once(model: Path) -> None:
    change(model, "network.depth", 10**6)

    with pytest.raises(ModelError, match=r"network\.depth is out of range.*0 to 128.*found 1e\+06"):
        medhybrid.load_model(model, device="cpu")


def test_a_network_that_does_not_fit_its_weights_allocates_no_memory(model: Path) -> None:
    change(model, "network.widths", [16_384, 16_384])

    with pytest.raises(ModelError, match=r"tensors differ, for example"):
        medhybrid.load_model(model, device="cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_or_infinite_weights_are_refused(model: Path, value: float) -> None:
    tensors = load_file(model / "model.safetensors")
    name = next(n for n, t in tensors.items() if t.is_floating_point())
    tensors[name].view(-1)[0] = value
    record = medhybrid.load_model(model, device="cpu").record
    shutil.rmtree(model)
    save_model(model, tensors, record, "card")

    with pytest.raises(ModelError, match=rf"NaN or infinite weights.*{name}"):
        medhybrid.load_model(model, device="cpu")


def test_loading_does_not_change_the_callers_random_state(model: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    medhybrid.load_model(model, device="cpu")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("classes", [[2], [0], [-1], [10**9], []])
def test_a_region_of_classes_that_the_model_does_not_have_is_refused(model: Path, classes: list[int]) -> None:
    change(model, "plan.regions", {"whole": classes})

    with pytest.raises(ModelError, match=r"plan\.regions is out of range"):
        medhybrid.load_model(model, device="cpu")


@pytest.mark.parametrize("pairs", [[["lesion", "other"]], [["lesion", "lesion"]]])
def test_pairs_of_sides_that_are_no_labels_of_the_model_are_refused(model: Path, pairs: list[list[str]]) -> None:
    change(model, "plan.mirror_pairs", pairs)

    with pytest.raises(ModelError, match=r"plan\.mirror_pairs is out of range"):
        medhybrid.load_model(model, device="cpu")
