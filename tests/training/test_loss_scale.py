"""Training in fp16: the loss is scaled, and a step whose gradients overflow is skipped for every optimiser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medhybrid.errors import TrainingError
from medhybrid.training.loss_scale import GROWTH_INTERVAL, LossScale
from medhybrid.training.losses import LossTerms
from tests.synthetic import StudyFolder
from tests.training.trainers import every_loss, trainer


def test_the_factor_is_that_of_grad_scaler() -> None:
    """Compare with torch's own class over overflows and good steps."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimiser = torch.optim.SGD([weight], lr=0.0)
    theirs = torch.amp.GradScaler("cpu")
    ours = LossScale(torch.device("cpu"))
    for is_finite in [False, True, False, *[True] * (GROWTH_INTERVAL + 1), False, *[True] * 3]:
        weight.grad = None
        loss = (weight * (1.0 if is_finite else torch.inf)).sum()
        theirs.scale(loss).backward()
        theirs.step(optimiser)
        theirs.update()
        if is_finite:
            ours.grow()
        else:
            assert ours.shrink()
        assert float(ours.factor) == theirs.get_scale()


def test_scaling_does_not_change_the_gradients() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    scale = LossScale(torch.device("cpu"))

    scale.scaled((weight**2).sum()).backward()
    scale.unscale([weight])

    torch.testing.assert_close(weight.grad, torch.tensor([2.0, 4.0]), rtol=0, atol=0)


def test_a_training_in_fp16_has_the_losses_of_float32(prepared: StudyFolder, tmp_path: Path) -> None:
    losses = {}
    for precision in ("float32", "fp16"):
        made = trainer(prepared, tmp_path / precision, precision=precision, iterations=4)
        losses[precision] = every_loss(made)
        made._learn()
        for _ in range(4):
            made.train_step(made.sampler.batch(made.step))
            made.step += 1

    assert made.loss_scale is not None
    assert made.loss_scale.n_good == 4
    np.testing.assert_allclose(losses["fp16"], losses["float32"], rtol=5e-3)


def test_a_step_whose_gradients_overflow_is_skipped_for_all_weights(prepared: StudyFolder, tmp_path: Path) -> None:
    made = trainer(prepared, tmp_path, precision="fp16")
    assert made.loss_scale is not None
    made.loss_scale.factor.fill_(2.0**126)
    before = {k: v.clone() for k, v in made.network.state_dict().items()}
    average = {k: v.clone() for k, v in made.average.state.items()}

    made.train_step(made.sampler.batch(0))

    assert float(made.loss_scale.factor) == 2.0**125
    assert all(torch.equal(before[k], v) for k, v in made.network.state_dict().items())
    assert all(torch.equal(average[k], v) for k, v in made.average.state.items())
    assert not any(part.state for part in made.optimiser.parts)


@pytest.mark.parametrize("value", ["loss", "gradient"])
def test_a_loss_or_an_unscaled_gradient_that_is_not_finite_ends_the_training(
    prepared: StudyFolder, tmp_path: Path, value: str
) -> None:
    made = trainer(prepared, tmp_path, precision="fp16")
    assert made.loss_scale is not None
    real = made.objective.loss

    def broken(network: torch.nn.Module, *inputs: torch.Tensor) -> LossTerms:
        total = real(network, *inputs).total
        # the derivative of a square root at zero is infinite
        total = total * torch.nan if value == "loss" else total + (total - total.detach()).abs().sqrt()
        return LossTerms(total, {})

    made.objective.loss = broken  # type: ignore[method-assign]
    made.loss_scale.factor.fill_(1.0)

    with pytest.raises(TrainingError, match=r"diverged at step 0.*training\.precision=float32"):
        made.train_step(made.sampler.batch(0))


def test_a_resumed_run_has_the_factor_of_its_checkpoint(prepared: StudyFolder, tmp_path: Path) -> None:
    first = trainer(prepared, tmp_path, precision="fp16")
    assert first.loss_scale is not None
    first.loss_scale.factor.fill_(512.0)
    first.loss_scale.n_good = 7
    first.save()

    second = trainer(prepared, tmp_path, precision="fp16")
    second.restore()

    assert second.loss_scale is not None
    assert second.loss_scale.state_dict() == {"factor": 512.0, "n_good": 7}
