"""A device with too little memory: a training step is computed in less memory, and validation collects logits on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medhybrid.errors import TrainingError
from medhybrid.inference.network import network_for
from medhybrid.inference.precision import Precision
from medhybrid.networks.logits import Logits
from medhybrid.steps.plan import GPU_SHARE, MEMORY_SHARE, _memory
from medhybrid.training.loop import Trainer
from medhybrid.training.recomputation import recompute_activations
from medhybrid.training.step import PlainStep
from medhybrid.training.validation import validate
from tests.synthetic import StudyFolder
from tests.training.trainers import trainer


def fail_at_first(made: Trainer, n_failures: int) -> None:
    """Let the device of a trainer have too little memory at its first losses, after it drew random numbers."""
    real, left = made.objective.loss, [n_failures]

    def loss(network: Any, *inputs: Tensor) -> Any:
        if left[0]:
            left[0] -= 1
            torch.rand(3)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nadvice")
        return real(network, *inputs)

    made.objective.loss = loss  # type: ignore[method-assign]


def test_a_step_without_enough_memory_is_repeated_with_recomputation_and_the_same_weights(
    prepared: StudyFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = [trainer(prepared, tmp_path / name) for name in ("plenty", "little")]
    for one in made:
        for block in one.network.bottleneck.transformer.blocks:  # type: ignore[union-attr]
            block.drop_path.rate = 0.5
    fail_at_first(made[1], n_failures=1)

    losses = []
    for one in made:
        one._learn()
        losses.append([float(one.train_step(one.sampler.batch(n)).total.detach()) for n in range(2)])

    assert made[1].is_recomputing
    assert isinstance(made[1].maker, PlainStep)
    assert losses[0] == losses[1]
    plenty, little = (one.network.state_dict() for one in made)
    assert all(torch.equal(plenty[name], little[name]) for name in plenty)
    assert caplog.text.count("too little memory for a training step") == 1


def test_a_step_that_does_not_fit_at_all_is_an_error_with_a_remedy(prepared: StudyFolder, tmp_path: Path) -> None:
    made = trainer(prepared, tmp_path)
    fail_at_first(made, n_failures=2)

    with pytest.raises(TrainingError, match=r"(?s)too little memory for a training step.*prepare\.batch_size") as error:
        made.train_step(made.sampler.batch(0))
    assert "advice" not in str(error.value)


def test_recomputation_keeps_fewer_activations_and_the_same_gradients(prepared: StudyFolder, tmp_path: Path) -> None:
    kept, gradients = [], []
    for is_recomputing in (False, True):
        made = trainer(prepared, tmp_path / str(is_recomputing))
        made.network.train()
        if is_recomputing:
            recompute_activations(made.network)
        sizes: dict[int, int] = {}

        def pack(x: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        inputs = made.inputs(made.sampler.batch(0))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            terms = made.objective.loss(made.network, *inputs)
        kept.append(sum(sizes.values()))
        terms.total.backward()  # type: ignore[no-untyped-call]
        gradients.append({k: p.grad for k, p in made.network.named_parameters()})

    assert kept[1] < 0.75 * kept[0]
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])  # type: ignore[arg-type]


def test_a_training_is_planned_for_the_free_memory_of_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program has three quarters of the GPU; the host has a lot."""
    answers = {"mem_get_info": (2 << 30, 8 << 30), "memory_reserved": 0, "memory_allocated": 0}
    for name, value in (answers | {"get_per_process_memory_fraction": 1.0}).items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)

    assert _memory(torch.device("cuda"), free=100 << 30) == int((2 << 30) * GPU_SHARE)
    assert _memory(torch.device("cpu"), free=100 << 30) == int((100 << 30) * MEMORY_SHARE)


class Failing:
    """Network whose device has too little memory for its first windows."""

    def __init__(self, network: Any, n_failures: int) -> None:
        self.network, self.left = network, n_failures

    def __call__(self, image: Tensor) -> Logits:
        if self.left:
            self.left -= 1
            raise torch.OutOfMemoryError("out of memory")
        logits: Logits = self.network(image)
        return logits


def test_a_validation_case_that_does_not_fit_is_collected_on_the_cpu(
    prepared: StudyFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = trainer(prepared, tmp_path)
    network = network_for(made.config.network, made.plan).eval()
    settings: dict[str, Any] = {
        "step": 0,
        "is_complete": True,
        "device": torch.device("cpu"),
        "precision": Precision.FLOAT32,
    }
    case = made.validation_cases[:1]
    expected = validate(network, case, made.plan, made.config.inference, **settings)

    failing: Any = Failing(network, n_failures=2)  # a batch of two windows, and of one
    result = validate(failing, case, made.plan, made.config.inference, **settings)

    assert np.array_equal(result.results[0].prediction, expected.results[0].prediction)
    assert f"too little memory for {case[0].name}; its logits are collected on the CPU" in caplog.text
