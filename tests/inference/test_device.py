"""Choice of precision: bf16 on request, and float32 for thin patches, whose results in bf16 are wrong on CPUs."""

from __future__ import annotations

import pytest
import torch

from medhybrid.config import InferenceConfig, NetworkConfig
from medhybrid.inference import device
from medhybrid.inference.device import choose_precision
from medhybrid.inference.model import Model
from medhybrid.inference.network import network_for
from tests.synthetic import make_test_plan, make_test_record

CPU = torch.device("cpu")


def test_a_thin_patch_is_computed_in_float32_on_a_cpu_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    device._say_once.cache_clear()
    assert choose_precision(CPU, "bf16") is torch.bfloat16
    assert not caplog.text

    assert [choose_precision(CPU, "bf16", is_thin=True) for _ in range(2)] == [torch.float32] * 2
    assert caplog.text.count("one token along Z") == 1
    assert choose_precision(torch.device("cuda"), "bf16", is_thin=True) is torch.bfloat16


@pytest.mark.parametrize(("depth", "precision"), [(8, torch.float32), (32, torch.bfloat16)])
def test_a_model_of_a_thin_plan_computes_in_float32(depth: int, precision: torch.dtype) -> None:
    plan = make_test_plan(patch_size=(32, 32, depth), strides=((2, 2, 2),) * 3)
    config = NetworkConfig(widths=(8, 8, 8), blocks=(1, 1, 1), token_width=24, heads=2, depth=1)
    asked = {"inference": InferenceConfig(precision="bf16")}
    record = make_test_record(plan, config).model_copy(update=asked)

    assert Model(network_for(config, plan), record, CPU).precision is precision


@pytest.mark.parametrize(
    ("patch_size", "strides", "is_thin"),
    [((32, 32, 1), (2, 2, 1), False), ((32, 32, 8), (2, 2, 2), True), ((8, 8, 32), (2, 2, 2), False)],
)
def test_only_a_patch_that_halving_leaves_one_token_along_z_is_thin(
    patch_size: tuple[int, int, int], strides: tuple[int, int, int], is_thin: bool
) -> None:
    assert make_test_plan(patch_size=patch_size, strides=(strides,) * 3).is_thin is is_thin
