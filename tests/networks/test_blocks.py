"""The fast CPU paths of the blocks equal torch's layers and keep the channels-last format."""

import pytest
import torch
from torch import Tensor, nn

from medhybrid.networks.blocks import InstanceNorm, Shortcut, Stride, Upsample


def gradients(layer: nn.Module, x: Tensor, downstream: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(layer(x), (x, *layer.parameters()), downstream)


def assert_same_layer(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    theirs.load_state_dict(ours.state_dict())
    x = x.to(memory_format=torch.channels_last_3d).requires_grad_()
    y = ours(x)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(y, theirs(x.detach().contiguous()))
    downstream = torch.randn_like(y)
    # Torch's instance norm has a wrong gradient for channels last and one sample.
    plain = x.detach().contiguous().requires_grad_()
    for a, b in zip(gradients(ours, x, downstream), gradients(theirs, plain, downstream.contiguous()), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_instance_norm_equals_torchs(batch: int, mode: str) -> None:
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
def test_upsampling_equals_torchs_transposed_convolution(stride: Stride, batch: int) -> None:
    ours, theirs = Upsample(6, 5, stride).double(), nn.ConvTranspose3d(6, 5, stride, stride=stride).double()
    assert_same_layer(ours, theirs, torch.randn(batch, 6, 3, 4, 5, dtype=torch.float64))


@pytest.mark.parametrize("n_beside", [1, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_skip_connection_is_appended_to_the_channels_of_an_upsampled_map(n_beside: int, batch: int) -> None:
    ours = Upsample(6, 5, (2, 2, 1))
    x, beside = torch.randn(batch, 6, 3, 4, 5), torch.randn(batch, n_beside, 6, 8, 5)
    joined = ours(x, beside)
    assert joined.is_contiguous(
        memory_format=torch.channels_last_3d
    )  # torch.cat does not keep channels last for one channel
    torch.testing.assert_close(joined, torch.cat((ours(x), beside), dim=1))


@pytest.mark.parametrize("stride", [(2, 2, 1), (2, 2, 2), (1, 1, 1)])
def test_a_shortcut_equals_mean_pooling_and_a_convolution(stride: Stride) -> None:
    ours = Shortcut(6, 5, stride).double()
    plain = nn.Sequential(*ours).double()
    x = torch.randn(2, 6, 4, 8, 6, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(ours(x), plain(x))
    downstream = torch.randn_like(plain(x))
    for a, b in zip(gradients(ours, x, downstream), gradients(plain, x, downstream), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("size", [(16, 16, 8), (8, 16, 16), (8, 8, 8)])
def test_strided_bf16_convolutions_are_right_for_the_smallest_maps_of_a_plan(size: Stride, kernel: int) -> None:
    """On CPUs, torch 2.13 computes them wrongly if the output has one voxel along the last axis; plans leave at least four."""
    torch.manual_seed(0)
    layer = nn.Conv3d(32, 16, kernel, stride=2, padding=kernel // 2 if kernel == 3 else 0, bias=False)
    x = torch.randn(2, 32, *size).bfloat16().to(memory_format=torch.channels_last_3d)
    exact = nn.functional.conv3d(x.float(), layer.weight.bfloat16().float(), stride=2, padding=layer.padding)
    assert (layer.bfloat16()(x).float() - exact).abs().max() < 0.02 * exact.abs().max()
