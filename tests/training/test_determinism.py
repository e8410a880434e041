"""A deterministic training on a GPU: its setting is kept, its operations give the same values, and others are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medhybrid.data.fingerprint import UNKNOWN
from medhybrid.errors import DeviceError
from medhybrid.inference.device import choose_device
from medhybrid.networks import transunet
from medhybrid.networks.blocks import Shortcut
from medhybrid.training.determinism import deterministic
from medhybrid.training.loss_terms import deterministic_cross_entropy


def test_choosing_a_gpu_in_a_deterministic_training_keeps_the_kernels_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN would otherwise measure which convolution is fastest, and take another one in each run."""
    for name, value in {"is_available": True, "device_count": 1, "get_arch_list": []}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)

    with deterministic(True):
        choose_device("cuda")
        assert not torch.backends.cudnn.benchmark
    choose_device("cuda")
    assert torch.backends.cudnn.benchmark


def test_an_operation_without_a_deterministic_algorithm_ends_the_training() -> None:
    """The message is that of torch on CUDA."""

    def fail(message: str) -> None:
        with deterministic(True):
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
            raise RuntimeError(message)

    with pytest.raises(DeviceError, match=r"cannot be deterministic.*avg_pool3d_backward_cuda"):
        fail(
            "avg_pool3d_backward_cuda does not have a deterministic implementation, but you set 'torch.use_determin...'."
        )
    with pytest.raises(RuntimeError, match="other"):
        fail("other")
    assert not torch.are_deterministic_algorithms_enabled()


def assert_same_values_and_gradients(
    one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], x: Tensor
) -> None:
    results = []
    for compute in (one, other):
        leaf = x.clone().requires_grad_()
        y = compute(leaf)
        (y * torch.linspace(0.5, 1.5, y.numel()).view(y.shape)).sum().backward()  # type: ignore[no-untyped-call]
        results.append((y.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_the_deterministic_cross_entropy_equals_torchs() -> None:
    torch.manual_seed(0)
    target = torch.randint(0, 3, (2, 4, 4, 4))
    target[0, 0] = UNKNOWN

    assert_same_values_and_gradients(
        lambda logits: deterministic_cross_entropy(logits, target),
        lambda logits: F.cross_entropy(logits, target, ignore_index=UNKNOWN, reduction="none"),
        3 * torch.randn(2, 3, 4, 4, 4),
    )


def test_the_deterministic_means_and_interpolations_equal_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of TransUNet: pooled logits, and position embeddings for another size."""
    torch.manual_seed(0)
    monkeypatch.setattr(transunet, "_is_deterministic_on_gpu", lambda _: True)

    assert_same_values_and_gradients(transunet.halve, lambda x: F.avg_pool3d(x, (2, 2, 1)), torch.randn(2, 3, 8, 6, 2))

    def interpolated(positions: Tensor) -> Tensor:
        grid = positions.transpose(1, 2).reshape(1, 5, 14, 14)
        return F.interpolate(grid, size=(8, 20), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)

    assert_same_values_and_gradients(
        lambda positions: transunet.resize_positions(positions, 8, 20), interpolated, torch.randn(1, 196, 5)
    )


def test_the_deterministic_shortcut_equals_pooling_and_a_convolution() -> None:
    """On CPUs it is the one convolution that deterministic trainings use on GPUs."""
    torch.manual_seed(0)
    shortcut = Shortcut(3, 4, (2, 2, 1))

    assert_same_values_and_gradients(shortcut, lambda x: shortcut[1](shortcut[0](x)), torch.randn(2, 3, 4, 4, 3))
