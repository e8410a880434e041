"""Muon, AdamW, their joint state and the moving average of the weights agree with independent computations."""

import pytest
import torch
from torch import nn

from medhybrid.config import TrainingConfig
from medhybrid.errors import ModelError
from medhybrid.training.muon import MOMENTUM, N_ITERATIONS, Muon, orthogonalise
from medhybrid.training.optimiser import JointOptimiser, WeightAverage, make_optimiser

CONFIG = TrainingConfig(iterations=100, peak_rate=1e-2, warmup_steps=10, final_rate_share=0.01)


def test_norms_and_biases_do_not_decay() -> None:
    net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.InstanceNorm3d(2, affine=True))

    decayed, plain = make_optimiser(net, CONFIG.model_copy(update={"optimiser": "adamw"})).param_groups

    assert decayed["weight_decay"] == CONFIG.weight_decay
    assert [p.ndim for p in decayed["params"]] == [5]
    assert plain["weight_decay"] == 0
    assert len(plain["params"]) == 3


def test_the_average_agrees_with_its_formula() -> None:
    net = nn.Linear(1, 1, bias=False)
    average = WeightAverage(net, decay=0.9)
    expected = net.weight.detach().clone()
    for step in range(200):
        with torch.no_grad():
            net.weight.add_(1)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net.weight.detach()
        average.update(net, step)

    torch.testing.assert_close(average.state["weight"], expected)


def test_integer_buffers_are_not_averaged() -> None:
    """Other networks have integer buffers in their state dict, such as index tables and counts."""
    net = nn.Linear(1, 1, bias=False)
    net.register_buffer("index", torch.arange(3))
    average = WeightAverage(net, decay=0.9)

    average.update(net, 0)

    assert torch.equal(average.state["index"], torch.arange(3))


def test_muon_trains_the_hidden_matrices_and_adamw_the_rest() -> None:
    net = nn.Sequential(nn.Conv3d(2, 32, 3), nn.Conv3d(32, 4, 1), nn.Linear(16, 32), nn.Linear(8, 32))

    matrices, others, plain = make_optimiser(net, CONFIG).param_groups

    assert [p.shape for p in matrices["params"]] == [net[0].weight.shape, net[2].weight.shape]
    assert [p.shape for p in others["params"]] == [net[1].weight.shape, net[3].weight.shape]
    assert all(p.ndim == 1 for p in plain["params"])


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_a_matrix_is_updated_as_by_torchs_muon(shape: tuple[int, int]) -> None:
    start, steps = torch.randn(shape), torch.randn(4, *shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    muon = Muon([ours], lr=0.01, weight_decay=0.1, precision=torch.bfloat16)
    reference = torch.optim.Muon(
        [theirs], lr=0.01, weight_decay=0.1, momentum=MOMENTUM, ns_steps=N_ITERATIONS, adjust_lr_fn="match_rms_adamw"
    )
    for gradient in steps:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        muon.step()
        reference.step()

    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # bf16 rounds in another order


def test_a_kernel_is_updated_as_a_matrix_of_outputs_by_inputs_and_positions() -> None:
    kernel, gradient = torch.randn(16, 4, 3, 3, 3), torch.randn(16, 4, 3, 3, 3)
    kernels = [nn.Parameter(kernel.clone()), nn.Parameter(kernel.flatten(1).clone())]
    kernels[0].grad, kernels[1].grad = gradient.clone(), gradient.flatten(1).clone()
    for p in kernels:
        Muon([p], lr=0.01, weight_decay=0.0, precision=torch.float32).step()

    torch.testing.assert_close(kernels[0].flatten(1), kernels[1])


def test_orthogonalisation_moves_singular_values_towards_one() -> None:
    matrices = torch.randn(3, 32, 64)
    before, after = (torch.linalg.svdvals(m) for m in (matrices, orthogonalise(matrices, torch.float32)))

    assert after.max() < 1.3
    assert (after.amin(1) / after.amax(1) > 1.5 * before.amin(1) / before.amax(1)).all()


def test_the_state_of_both_optimisers_is_restored() -> None:
    def trained(state: dict[str, object] | None) -> tuple[JointOptimiser, nn.Linear]:
        torch.manual_seed(0)
        net = nn.Linear(16, 16)
        optimiser = make_optimiser(net, CONFIG)
        if state is not None:
            optimiser.load_state_dict(state)
        for p in net.parameters():
            p.grad = torch.ones_like(p)
        optimiser.step()
        return optimiser, net

    first, _ = trained(None)
    again, net = trained(first.state_dict())
    _, fresh = trained(None)

    assert all(s["step"] == 2 for s in again.parts[1].state.values())
    assert not torch.equal(net.bias, fresh.bias) or not torch.equal(net.weight, fresh.weight)


def test_the_state_of_another_optimiser_is_refused() -> None:
    net = nn.Linear(16, 16)
    alone = make_optimiser(net, CONFIG.model_copy(update={"optimiser": "adamw"}))

    with pytest.raises(ModelError, match="written with another optimiser"):
        make_optimiser(net, CONFIG).load_state_dict(alone.state_dict())
