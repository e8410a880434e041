"""The check of a device at its first use finds convolutions that are wrong, and no others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from medhybrid.errors import DeviceError
from medhybrid.inference import device, self_check
from medhybrid.inference.precision import Precision
from medhybrid.inference.self_check import LARGEST_ERROR, checked_precision, convolution_error

CPU, CUDA, SIZE = torch.device("cpu"), torch.device("cuda"), (12, 10, 8)
CONV = torch.nn.functional.conv3d


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    convolution_error.cache_clear()
    device.say_once.cache_clear()
    yield
    convolution_error.cache_clear()


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.BF16, Precision.FP16])
def test_rounding_alone_is_far_below_the_limit(precision: Precision) -> None:
    """The CPU computes in each precision."""
    assert convolution_error(CPU, precision, SIZE) < LARGEST_ERROR[precision] / 3


@pytest.mark.parametrize("fault", ["last rows are zero", "one value is infinite", "neighbours are exchanged"])
def test_a_wrong_convolution_is_found(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def wrong(x: torch.Tensor, weight: torch.Tensor, padding: int) -> torch.Tensor:
        result = CONV(x, weight, padding=padding).clone()
        if fault == "last rows are zero":
            result[:, :, -1] = 0
        elif fault == "one value is infinite":
            result[0, 3, 2, 2, 2] = torch.inf
        else:
            result = result.roll(1, dims=4)
        return result

    monkeypatch.setattr(self_check.F, "conv3d", wrong)

    assert convolution_error(CPU, Precision.BF16, SIZE) > 10 * LARGEST_ERROR[Precision.BF16]


def test_a_device_without_memory_for_the_check_is_left_to_the_policy_for_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_large(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(self_check.F, "conv3d", too_large)

    assert convolution_error(CPU, Precision.BF16, SIZE) == 0


def use(monkeypatch: pytest.MonkeyPatch, errors: dict[Precision, float]) -> None:
    """Let a GPU with bf16 have these errors."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(self_check, "convolution_error", lambda _device, precision, _size: errors[precision])


def test_auto_is_float32_where_bf16_is_wrong(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    use(monkeypatch, {Precision.BF16: 0.4, Precision.FLOAT32: 1e-6})

    assert [checked_precision(CUDA, "auto", patch_size=SIZE) for _ in range(2)] == 2 * [Precision.FLOAT32]
    assert caplog.text.count("wrong convolutions in bfloat16") == 1


@pytest.mark.parametrize(
    ("wanted", "errors"),
    [("bf16", {Precision.BF16: 0.4}), ("auto", {Precision.BF16: 0.4, Precision.FLOAT32: 1.0})],
)
def test_a_precision_that_is_wrong_is_refused(
    monkeypatch: pytest.MonkeyPatch, wanted: str, errors: dict[Precision, float]
) -> None:
    use(monkeypatch, errors)

    with pytest.raises(DeviceError, match="wrong convolutions in bfloat16"):
        checked_precision(CUDA, wanted, patch_size=SIZE)


def test_a_right_precision_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, {Precision.BF16: 2e-3})

    assert checked_precision(CUDA, "auto", patch_size=SIZE) is Precision.BF16
