"""The quick ways of the blocks on a CPU are torch's own layers, and keep channels last."""

import pytest
import torch
from torch import Tensor, nn

from medhybrid.networks.blocks import InstanceNorm, Stride, Upsample


def gradients(layer: nn.Module, x: Tensor, downstream: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(layer(x), (x, *layer.parameters()), downstream)


def assert_same_layer(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    theirs.load_state_dict(ours.state_dict())
    x = x.to(memory_format=torch.channels_last_3d).requires_grad_()
    y = ours(x)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(y, theirs(x.detach().contiguous()))
    downstream = torch.randn_like(y)
    plain = x.detach().contiguous().requires_grad_()  # torch's own instance norm errs with channels last and one sample
    for a, b in zip(gradients(ours, x, downstream), gradients(theirs, plain, downstream.contiguous()), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_instance_norm_is_torchs(batch: int, mode: str) -> None:
    ours, theirs = InstanceNorm(8).double(), nn.InstanceNorm3d(8, affine=True).double()
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    ours.train(mode == "train")
    assert_same_layer(ours, theirs, 3 * torch.randn(batch, 8, 5, 6, 4, dtype=torch.float64) + 7)


def test_instance_norm_of_bf16_sums_in_float32() -> None:
    x = 3 * torch.randn(2, 8, 40, 40, 16) + 7
    ours = InstanceNorm(8)(x.bfloat16().to(memory_format=torch.channels_last_3d))
    exact = nn.InstanceNorm3d(8)(x.bfloat16().double())
    assert (ours.double() - exact).abs().max() < 0.02  # half a step of bf16 between 2 and 4 is 0.008


@pytest.mark.parametrize("stride", [(2, 2, 1), (2, 2, 2), (4, 4, 2), (1, 1, 1)])
@pytest.mark.parametrize("batch", [1, 3])
def test_upsampling_is_torchs_transposed_convolution(stride: Stride, batch: int) -> None:
    ours, theirs = Upsample(6, 5, stride).double(), nn.ConvTranspose3d(6, 5, stride, stride=stride).double()
    assert_same_layer(ours, theirs, torch.randn(batch, 6, 3, 4, 5, dtype=torch.float64))
