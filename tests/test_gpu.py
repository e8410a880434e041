"""Agreement of GPU and CPU. Skipped without a GPU; needs neither MLflow nor SimpleITK."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from medhybrid.inference.precision import Precision, choose_precision, in_precision
from medhybrid.inference.windows import BatchSize, predict_windows, to_tensor
from medhybrid.metrics import dice
from medhybrid.training.loop import Trainer
from medhybrid.training.step import PlainStep, RecordedStep
from medhybrid.training.validation import Validation, validate
from tests.synthetic import StudyFolder
from tests.training.trainers import every_loss
from tests.training.trainers import trainer as small_trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

N_STEPS = 12


def trainer(
    study: StudyFolder, folder: Path, device: str, *, stop_at: int | None = None, **training: object
) -> Trainer:
    """Return a trainer without augmentation and stochastic depth, whose random numbers differ between devices."""
    config = study.config.model_copy(
        update={
            "augment": study.config.augment.model_copy(update={"enabled": False}),
            "network": study.config.network.model_copy(update={"drop_path": 0.0}),
        }
    )
    settings = {"iterations": N_STEPS, "device": device, "workers": 2, **training}
    return small_trainer(StudyFolder(study.folder, config), folder, stop_at=stop_at, **settings)


def test_float32_is_exact_and_tf32_is_not() -> None:
    """Compare a convolution with that of the CPU, in the settings that a user gets."""
    device, x, weight = torch.device("cuda"), torch.randn(1, 32, 24, 24, 24), torch.randn(32, 32, 3, 3, 3)
    expected = torch.nn.functional.conv3d(x.double(), weight.double())
    errors = {}
    for precision in (Precision.FLOAT32, Precision.TF32):
        with in_precision(device, precision):
            result = torch.nn.functional.conv3d(x.to(device), weight.to(device)).cpu()
        errors[precision] = float((result - expected).abs().max() / expected.abs().max())

    assert errors[Precision.FLOAT32] < 1e-5
    assert choose_precision(device, "tf32") is not Precision.TF32 or 1e-5 < errors[Precision.TF32] < 1e-2


def test_training_on_the_gpu_agrees_with_the_cpu(prepared: StudyFolder, tmp_path: Path) -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        made = trainer(prepared, tmp_path / device, device)
        losses[device] = every_loss(made)
        made.fit()
    assert len(losses["cuda"]) == N_STEPS
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=5e-3)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_steps_in_a_cuda_graph_equal_plain_steps(
    prepared: StudyFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorded = trainer(prepared, tmp_path / "recorded", "cuda", precision=precision)
    recorded_losses = every_loss(recorded)
    recorded.fit()
    assert isinstance(recorded.maker, RecordedStep)
    assert recorded.maker.is_recorded, caplog.text
    monkeypatch.setattr("medhybrid.training.loop.RecordedStep", PlainStep)
    plain = trainer(prepared, tmp_path / "plain", "cuda", precision=precision)
    plain_losses = every_loss(plain)
    plain.fit()
    np.testing.assert_allclose(recorded_losses, plain_losses, rtol=1e-3 if precision == "float32" else 2e-2)
    assert len(set(recorded_losses)) == N_STEPS  # each step has another image


def test_steps_in_a_cuda_graph_equal_plain_steps_with_augmentation_and_stochastic_depth(
    prepared: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []
    for name in ("recorded", "plain"):
        if name == "plain":
            monkeypatch.setattr("medhybrid.training.loop.RecordedStep", PlainStep)
        made = trainer(prepared, tmp_path / name, "cuda")
        made.config = made.config.model_copy(update={"augment": prepared.config.augment})
        for module in made.network.modules():
            if hasattr(module, "drop_path"):
                module.drop_path.rate = 0.5
        losses.append(every_loss(made))
        made.fit()
    np.testing.assert_allclose(losses[0], losses[1], rtol=5e-3)


def test_a_resumed_run_equals_an_uninterrupted_one(prepared: StudyFolder, tmp_path: Path) -> None:
    whole = trainer(prepared, tmp_path / "whole", "cuda")
    expected = every_loss(whole)
    whole.fit()
    first = trainer(prepared, tmp_path / "broken", "cuda", stop_at=5)
    losses = every_loss(first)
    assert first.fit().is_interrupted
    second = trainer(prepared, tmp_path / "broken", "cuda")
    second.restore()
    rest = every_loss(second)
    second.fit()
    np.testing.assert_allclose(losses + rest, expected, rtol=2e-3)


def test_a_stage_with_other_trainable_weights_captures_a_new_cuda_graph(prepared: StudyFolder, tmp_path: Path) -> None:
    from medhybrid.config import StageConfig

    stages = (StageConfig(train=("decoder",), share=1), StageConfig(train=("all",), share=1))
    made = trainer(prepared, tmp_path, "cuda", stages=stages)
    before = {k: v.detach().clone() for k, v in made.network.named_parameters()}
    still: list[bool] = []

    def watch(_: object) -> None:
        still.append(
            all(torch.equal(before[k], v) for k, v in made.network.named_parameters() if k.startswith("encoder"))
        )

    made.on_stage = watch
    made.fit()
    assert still == [True, True]  # the encoder is frozen in the first stage, which ends when the second starts
    watch(None)
    assert not still[-1]


def masks_of(made: Trainer, device: str, precision: Precision) -> Validation:
    network = made.network.to(device).eval()
    settings = {"step": 0, "is_complete": True, "device": torch.device(device), "precision": precision}
    return validate(network, made.validation_cases, made.plan, made.config.inference, **settings)


def test_masks_equal_those_of_the_cpu(prepared: StudyFolder, tmp_path: Path) -> None:
    made = trainer(prepared, tmp_path, "cuda", iterations=400, n_validations=1)
    made.fit()
    made.config = made.config.model_copy(
        update={"inference": made.config.inference.model_copy(update={"tta_mirroring": True, "overlap": 0.5})}
    )
    plain = masks_of(made, "cpu", Precision.FLOAT32)
    assert plain.mean_dice > 0.6
    for precision, least in (
        (Precision.FLOAT32, 0.999),
        (Precision.TF32, 0.99),
        (Precision.FP16, 0.98),
        (Precision.BF16, 0.98),
    ):
        gpu = masks_of(made, "cuda", precision)
        for a, b in zip(plain.results, gpu.results, strict=True):
            for value in (1, 2):
                assert dice(a.prediction == value, b.prediction == value) >= least
    quick, exact = (masks_of(made, "cuda", p).calibration() for p in (Precision.BF16, Precision.FLOAT32))
    assert abs(quick.temperature - exact.temperature) < 0.1


def test_too_little_memory_reduces_the_batch_size(caplog: pytest.LogCaptureFixture) -> None:
    """Allocate memory so that only one window at a time fits."""
    _, total = torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    limit = 2 << 30
    torch.cuda.set_per_process_memory_fraction(limit / total)

    def greedy(batch: torch.Tensor) -> torch.Tensor:
        held = torch.empty((len(batch), 900 << 20), dtype=torch.uint8, device=batch.device)
        held[:, 0] = 1
        return torch.cat((batch, 2 * batch), dim=1)

    try:
        image = to_tensor(np.random.default_rng(0).random((1, 40, 40, 40), dtype=np.float32), torch.device("cpu"))
        size = BatchSize(8)
        settings = {"window": (16, 16, 16), "n_classes": 2, "overlap": 0.5, "device": torch.device("cuda")}
        with caplog.at_level(logging.WARNING):
            logits = predict_windows(image, greedy, window_batch=size, **settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert size.n in (1, 2)
    assert "too little memory" in caplog.text
    torch.testing.assert_close(logits, torch.cat((image, 2 * image)), rtol=1e-4, atol=1e-4)
