"""The learning rate warms up and falls along a cosine; the average follows the weights."""

import pytest
import torch
from torch import nn

from medhybrid.config import TrainingConfig
from medhybrid.training.optimiser import WeightAverage, learning_rate, make_optimiser

CONFIG = TrainingConfig(iterations=100, peak_rate=1e-2, warmup_steps=10, final_rate_share=0.01)


def test_the_rate_warms_up_then_falls_to_its_final_share() -> None:
    assert learning_rate(CONFIG, 0, 0.0) == pytest.approx(1e-3)
    assert learning_rate(CONFIG, 9, 0.0) == pytest.approx(1e-2)
    assert learning_rate(CONFIG, 500, 0.5) == pytest.approx(1e-2 * (0.01 + 0.99 / 2))
    assert learning_rate(CONFIG, 999, 1.0) == pytest.approx(1e-4)
    assert learning_rate(CONFIG, 999, 1.3) == pytest.approx(1e-4)


def test_norms_and_biases_do_not_decay() -> None:
    net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.InstanceNorm3d(2, affine=True))

    decayed, plain = make_optimiser(net, CONFIG).param_groups

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


def test_whole_numbers_are_not_averaged() -> None:
    """Tables of indices and counts, which other networks keep among their weights."""
    net = nn.Linear(1, 1, bias=False)
    net.register_buffer("index", torch.arange(3))
    average = WeightAverage(net, decay=0.9)

    average.update(net, 0)

    assert torch.equal(average.state["index"], torch.arange(3))
