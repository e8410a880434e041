"""Recorded training steps equal plain ones, by a stand-in for CUDA graphs on the CPU; a failed recording leaves no trace."""

from __future__ import annotations

import functools
import gc
import logging
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medhybrid.config import StageConfig
from medhybrid.data.dataset import PreparedDataset
from medhybrid.networks import SegmentationNetwork
from medhybrid.networks.transformer import Transformer
from medhybrid.runs.prepared import prepared_folder
from medhybrid.tracking.several import SeveralTrackers
from medhybrid.training import loop, recording
from medhybrid.training.loop import Trainer
from medhybrid.training.losses import LossTerms
from medhybrid.training.pretraining import MaskedAutoencoder, Pretrainer
from medhybrid.training.step import PLAIN_STEPS, PlainStep, RecordedStep
from tests.synthetic import StudyFolder
from tests.training import graph_stand_in
from tests.training.trainers import every_loss, make_trainer, trainer

N_STEPS = PLAIN_STEPS + 4


@pytest.fixture(autouse=True)
def _optimiser_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the AdamW that GPUs use, which reads learning rates from memory."""
    fused = functools.partial(torch.optim.AdamW, fused=True)
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, **settings: fused(groups, **(settings | {"fused": True})))


def study_of(prepared: StudyFolder, **training: object) -> StudyFolder:
    """Return the study with settings of the training, and with stochastic depth."""
    config = prepared.config
    settings = config.training.model_copy(update={"iterations": N_STEPS, "n_validations": 2, "workers": 0, **training})
    network = config.network.model_copy(update={"drop_path": 0.5, "depth": 2})
    return StudyFolder(prepared.folder, config.model_copy(update={"training": settings, "network": network}))


def losses_and_weights(made: Trainer, *, validates: bool = False) -> tuple[list[float], dict[str, Tensor]]:
    if not validates:
        made.validation_cases = []
    losses = every_loss(made)
    made.fit()
    return losses, {k: v.clone() for k, v in made.network.state_dict().items()}


def assert_recorded_equals_plain(
    monkeypatch: pytest.MonkeyPatch, make: Any, *, n_recordings: int = 2, validates: bool = False
) -> None:
    """Compare a training by recorded steps with one by plain steps; a recorded learning rate has the rounding of float32."""
    plain = losses_and_weights(make("plain"), validates=validates)
    cuda = graph_stand_in.install(monkeypatch)
    monkeypatch.setattr(loop, "PlainStep", RecordedStep)

    made = make("recorded")
    recorded = losses_and_weights(made, validates=validates)

    assert isinstance(made.maker, RecordedStep)
    assert made.maker.is_recorded
    assert cuda.n_recordings == n_recordings, "gradients and update are recorded once"
    assert recorded[0] == pytest.approx(plain[0], rel=1e-6)
    assert len(set(recorded[0])) == len(recorded[0]), "each step has another batch"
    for name, value in recorded[1].items():
        torch.testing.assert_close(value, plain[1][name], rtol=1e-5, atol=1e-7)


def test_recorded_steps_equal_plain_ones_with_augmentation_stochastic_depth_and_validation(
    prepared: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(prepared)

    assert_recorded_equals_plain(
        monkeypatch, lambda name: make_trainer(Trainer, study.config, tmp_path / name), validates=True
    )


def test_recorded_steps_equal_plain_ones_in_every_stage(
    prepared: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second stage trains other weights, so it is recorded again, after its own plain steps."""
    stages = (StageConfig(train=("decoder",), share=1), StageConfig(train=("all",), share=1))
    study = study_of(prepared, stages=stages, iterations=2 * (PLAIN_STEPS + 2))

    assert_recorded_equals_plain(
        monkeypatch, lambda name: make_trainer(Trainer, study.config, tmp_path / name), n_recordings=4
    )


def test_recorded_steps_of_a_pretraining_equal_plain_ones(
    prepared: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(prepared)
    plan = PreparedDataset(prepared_folder(study.config)).plan

    def make(name: str) -> Pretrainer:
        torch.manual_seed(0)
        network = loop.network_for(study.config.network, plan)
        assert isinstance(network, SegmentationNetwork)
        encoder = MaskedAutoencoder(network, n_channels=1)
        return make_trainer(Pretrainer, study.config, tmp_path / name, network=encoder)

    assert_recorded_equals_plain(monkeypatch, make)


def test_recorded_steps_in_fp16_skip_a_step_and_continue(
    prepared: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The factor on the loss changes between replays."""
    graph_stand_in.install(monkeypatch)
    monkeypatch.setattr(loop, "PlainStep", RecordedStep)
    made = make_trainer(Trainer, study_of(prepared, precision="fp16").config, tmp_path)
    assert made.loss_scale is not None
    made._learn()
    for n in range(PLAIN_STEPS + 2):
        made.train_step(made.sampler.batch(n))
    before = {k: v.clone() for k, v in made.network.state_dict().items()}
    made.loss_scale.factor.fill_(2.0**126)

    made.train_step(made.sampler.batch(6))

    assert isinstance(made.maker, RecordedStep)
    assert made.maker.is_recorded
    assert float(made.loss_scale.factor) == 2.0**125
    assert all(torch.equal(before[k], v) for k, v in made.network.state_dict().items())
    made.loss_scale.factor.fill_(2.0**16)
    made.train_step(made.sampler.batch(7))
    assert not all(torch.equal(before[k], v) for k, v in made.network.state_dict().items())


def test_other_sizes_do_not_release_the_bias_that_a_recording_reads(
    prepared: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation, other models and other types of numbers use biases of their own."""
    graph_stand_in.install(monkeypatch)
    monkeypatch.setattr(loop, "PlainStep", RecordedStep)
    made = make_trainer(Trainer, study_of(prepared).config, tmp_path)
    made._learn()
    for n in range(PLAIN_STEPS + 1):
        made.train_step(made.sampler.batch(n))
    other = Transformer(24, 1, 2, drop_path=0.0, token_mm=(1.0, 1.0, 1.0)).eval()
    with torch.no_grad():
        for n in range(1, 9):
            other(torch.rand(1, 24, n, 1, 1))

    made.train_step(made.sampler.batch(9))

    assert isinstance(made.maker, RecordedStep)
    assert made.maker.is_recorded


# --- work that cannot be recorded -------------------------------------------------------------------------------------


def let_the_loss_read_a_value(made: Trainer, *, warns: bool) -> None:
    """Let the loss copy a value to Python; torch warns about it in the step before the recording, or does not know it."""
    real = made.objective.loss

    def loss(network: Any, *inputs: Tensor) -> Any:
        terms = real(network, *inputs)
        if warns:
            warnings.warn(f"called a {recording.SYNCHRONISES}", stacklevel=1)
        assert float(terms.total.detach()) > 0
        return LossTerms(terms.total, {})

    made.objective.loss = loss  # type: ignore[method-assign]


@pytest.mark.parametrize("warns", [True, False])
def test_a_step_that_cannot_be_recorded_stays_plain_and_the_process_usable(
    prepared: StudyFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    warns: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    study = study_of(prepared)
    expected = losses_and_weights(make_trainer(Trainer, study.config, tmp_path / "plain"))
    cuda = graph_stand_in.install(monkeypatch)
    monkeypatch.setattr(loop, "PlainStep", RecordedStep)
    stream = cuda.stream
    made = make_trainer(Trainer, study.config, tmp_path / "recorded")
    let_the_loss_read_a_value(made, warns=False)
    if warns:
        monkeypatch.setattr(
            "medhybrid.training.step.synchronisations_noted", lambda: _Noted(["losses.py:7", "losses.py:7"])
        )

    with caplog.at_level(logging.WARNING):
        losses, weights = losses_and_weights(made)

    assert cuda.n_recordings == (0 if warns else 1), "an operation that torch knows is not recorded at all"
    assert cuda.is_usable
    assert cuda.stream is stream
    assert caplog.text.count("cannot be recorded") == 1
    assert losses == expected[0]
    assert all(torch.equal(expected[1][name], value) for name, value in weights.items())
    assert not made.maker.is_recorded  # type: ignore[attr-defined]


class _Noted(list[str]):
    def __enter__(self) -> _Noted:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_warnings_about_waiting_for_the_gpu_are_collected_and_others_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    graph_stand_in.install(monkeypatch)

    with warnings.catch_warnings(record=True) as passed_on:
        warnings.simplefilter("always")
        with recording.synchronisations_noted() as found:
            warnings.warn(f"called a {recording.SYNCHRONISES}", stacklevel=1)
            warnings.warn("something else", stacklevel=1)

    assert [str(w.message) for w in passed_on] == ["something else"]
    assert len(found) == 1
    assert Path(found[0].rpartition(":")[0]).name == "test_recording.py"


# --- the end of a training --------------------------------------------------------------------------------------------


def test_a_finished_trainer_releases_its_memory_without_garbage_collection(
    prepared: StudyFolder, tmp_path: Path
) -> None:
    """A search makes many trainings in one process."""
    config = study_of(prepared, iterations=1, n_validations=1).config
    dataset = PreparedDataset(prepared_folder(config))
    cases = dataset.open(dataset.fold(0).train)
    made = Trainer(config, dataset.plan, cases, [], folder=tmp_path, tracker=SeveralTrackers([]))
    made.fit()
    watched = [weakref.ref(made), weakref.ref(made.maker), weakref.ref(made.network)]
    gc.collect()
    gc.disable()
    try:
        del made
        assert [ref() for ref in watched] == [None, None, None]
    finally:
        gc.enable()


def test_a_plain_step_is_used_on_a_cpu(prepared: StudyFolder, tmp_path: Path) -> None:
    assert type(trainer(prepared, tmp_path).maker) is PlainStep
