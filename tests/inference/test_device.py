"""bf16 is taken where it is asked for, and float32 where a thin patch would be computed wrongly in it."""

from __future__ import annotations

import pytest
import torch

from medhybrid.config import InferenceConfig, NetworkConfig
from medhybrid.inference.device import choose_precision
from medhybrid.inference.model import Model, network_for
from tests.synthetic import make_test_plan, make_test_record

CPU = torch.device("cpu")


def test_a_thin_patch_is_computed_in_float32_on_a_cpu_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_precision(CPU, "bf16") is torch.bfloat16
    assert not caplog.text

    assert choose_precision(CPU, "bf16", is_thin=True) is torch.float32
    assert "one token along Z" in caplog.text
    assert choose_precision(torch.device("cuda"), "bf16", is_thin=True) is torch.bfloat16


@pytest.mark.parametrize(("depth", "precision"), [(8, torch.float32), (32, torch.bfloat16)])
def test_a_model_of_either_depth_computes_nearly_what_float32_gives(depth: int, precision: torch.dtype) -> None:
    """In torch 2.13 bf16 gives no numbers for the thin one."""
    plan = make_test_plan(patch_size=(32, 32, depth), strides=((2, 2, 2),) * 3)
    config = NetworkConfig(widths=(16, 32, 64), blocks=(1, 1, 1), token_width=48, heads=3, depth=1)
    torch.manual_seed(0)
    network = network_for(config, plan)
    record, picture = make_test_record(plan, config), torch.rand(1, 32, 32, depth)
    exact, quick = (
        Model(network, record.model_copy(update={"inference": InferenceConfig(precision=wanted)}), CPU)
        for wanted in ("float32", "bf16")
    )

    assert quick.precision is precision
    torch.testing.assert_close(quick.logits(picture), exact.logits(picture), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("patch_size", "strides", "is_thin"),
    [((32, 32, 1), (2, 2, 1), False), ((32, 32, 8), (2, 2, 2), True), ((8, 8, 32), (2, 2, 2), False)],
)
def test_only_a_patch_that_halving_leaves_one_token_along_z_is_thin(
    patch_size: tuple[int, int, int], strides: tuple[int, int, int], is_thin: bool
) -> None:
    assert make_test_plan(patch_size=patch_size, strides=(strides,) * 3).is_thin is is_thin
