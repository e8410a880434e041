"""A run can be reproduced, interrupted, resumed and extended, and stops at errors in its data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medhybrid.data.dataset import PreparedDataset
from medhybrid.errors import TrainingError
from medhybrid.inference.precision import Precision
from medhybrid.runs.prepared import prepared_folder
from medhybrid.tracking.jsonl import JsonlTracker
from medhybrid.training.loop import Trainer
from medhybrid.training.validation import Validation, validate
from tests.golden.make_golden import training_losses
from tests.synthetic import StudyFolder
from tests.training.trainers import every_loss, trainer

GOLDEN = Path(__file__).parents[1] / "golden" / "training.json"


def test_a_resumed_run_equals_an_uninterrupted_one(prepared: StudyFolder, tmp_path: Path) -> None:
    whole = trainer(prepared, tmp_path / "whole")
    expected = every_loss(whole)
    expected_weights = whole.fit().weights

    first = trainer(prepared, tmp_path / "broken", stop_at=5)
    losses = every_loss(first)
    assert first.fit().is_interrupted
    second = trainer(prepared, tmp_path / "broken")
    second.restore()
    losses_after = every_loss(second)
    weights = second.fit().weights

    assert losses + losses_after == expected
    for name, tensor in expected_weights.items():
        assert torch.equal(weights[name], tensor), name


@pytest.mark.parametrize("workers", [0, 3])
def test_losses_do_not_depend_on_the_number_of_workers(prepared: StudyFolder, tmp_path: Path, workers: int) -> None:
    runs = [trainer(prepared, tmp_path / str(n), workers=n, iterations=6) for n in (1, workers)]
    losses = [every_loss(run) for run in runs]
    for run in runs:
        run.fit()

    assert losses[0] == losses[1]


def test_another_seed_gives_other_losses(prepared: StudyFolder, tmp_path: Path) -> None:
    runs = [trainer(prepared, tmp_path / str(seed), seed=seed, iterations=2) for seed in (0, 1)]
    losses = [every_loss(run) for run in runs]
    for run in runs:
        run.fit()

    assert losses[0] != losses[1]


def test_a_finished_run_can_be_extended(prepared: StudyFolder, tmp_path: Path) -> None:
    trainer(prepared, tmp_path, iterations=6).fit()

    longer = trainer(prepared, tmp_path, iterations=10)
    longer.restore()
    losses = every_loss(longer)
    outcome = longer.fit()

    assert outcome.step == 10
    assert len(losses) == 4


def test_a_loss_that_is_not_finite_stops_the_training_and_lists_the_cases(
    prepared: StudyFolder, tmp_path: Path
) -> None:
    made = trainer(prepared, tmp_path)
    batch = made.sampler.batch(0)
    poisoned = replace(batch, image=np.full_like(batch.image, np.nan), cases=("case_03", "case_05"))

    with pytest.raises(TrainingError, match=r"diverged at step 0.*case_03, case_05"):
        made.train_step(poisoned)
    assert (tmp_path / "checkpoint" / "last.pt").exists()


def test_an_interrupted_run_keeps_its_best_validated_weights(prepared: StudyFolder, tmp_path: Path) -> None:
    made = trainer(prepared, tmp_path, stop_at=8, n_validations=6)

    outcome = made.fit()

    assert made.best_weights is not None
    assert all(torch.equal(outcome.weights[k], v) for k, v in made.best_weights.items())


@pytest.mark.parametrize("keep", ["final", "best"])
def test_the_best_validated_weights_are_kept_with_keep_best(prepared: StudyFolder, tmp_path: Path, keep: str) -> None:
    made = trainer(prepared, tmp_path, iterations=4, keep=keep)
    best = {name: weight.clone() for name, weight in made.network.state_dict().items()}
    made.best_dice, made.best_weights = 2.0, best  # no validation reaches this Dice

    outcome = made.fit()

    assert all(torch.equal(outcome.weights[k], v) for k, v in best.items()) is (keep == "best")


def test_a_training_without_cases_is_refused(prepared: StudyFolder, tmp_path: Path) -> None:
    dataset = PreparedDataset(prepared_folder(prepared.config))

    with pytest.raises(TrainingError, match="no training cases"):
        Trainer(prepared.config, dataset.plan, [], [], folder=tmp_path, tracker=JsonlTracker(tmp_path / "log.jsonl"))


def test_validation_uses_every_case_at_the_end_and_only_then_mirrors(prepared: StudyFolder, tmp_path: Path) -> None:
    trainer(prepared, tmp_path, iterations=10, n_validations=2, validation_cases=1).fit()

    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    counts = [sum(k.startswith("val_case/") for k in e["values"]) for e in events if "val/dice" in e.get("values", {})]
    assert counts == [1, 3]


def test_a_training_with_a_budget_in_minutes_ends_in_time(prepared: StudyFolder, tmp_path: Path) -> None:
    made = trainer(prepared, tmp_path, iterations=None, max_minutes=0.03, n_validations=1)

    outcome = made.fit()

    assert outcome.step > 0
    assert outcome.elapsed_s == pytest.approx(1.8, abs=3.0)


@pytest.mark.parametrize(
    ("validating_s", "elapsed_s", "is_too_long"), [(0.0, 10.0, False), (0.4, 10.0, False), (0.5, 10.0, True)]
)
def test_validations_take_at_most_a_share_of_a_training_limited_by_time(
    prepared: StudyFolder, tmp_path: Path, validating_s: float, elapsed_s: float, is_too_long: bool
) -> None:
    """The next validation is expected to take as long as the last one: 0.4 s of 10 s are below the half of 8 %."""
    limited = trainer(prepared, tmp_path, iterations=None, max_minutes=1.0, n_validations=60)
    by_steps = trainer(prepared, tmp_path, iterations=100, n_validations=60)
    by_steps.step = 20
    for made in (limited, by_steps):
        made.elapsed_s, made.validating_s, made.last_validation_s = elapsed_s, validating_s, validating_s

    assert limited._is_validation_due() is not is_too_long
    assert by_steps._is_validation_due(), "a number of steps has no limit of time"


@pytest.mark.slow
def test_the_losses_of_a_small_training_are_the_golden_ones(tmp_path: Path) -> None:
    """Processors cause small differences; a change of the training recipe causes much larger ones."""
    assert training_losses(tmp_path) == pytest.approx(json.loads(GOLDEN.read_text()), rel=0.02)


@pytest.mark.parametrize("precision", [Precision.TF32, Precision.FLOAT32])
def test_a_step_rounds_float32_products_on_a_gpu_only_in_tf32(
    prepared: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    """In gradients and in the update of the weights."""
    made, seen = trainer(prepared, tmp_path), []
    made.precision = precision
    for name in ("gradients", "update"):
        real = getattr(made.maker, name)

        def watched(*inputs: torch.Tensor, real=real) -> object:  # type: ignore[no-untyped-def]
            seen.append(torch.backends.cudnn.conv.fp32_precision)
            return real(*inputs)

        monkeypatch.setattr(made.maker, name, watched)

    made.train_step(made.sampler.batch(0))

    assert seen == 2 * ["tf32" if precision is Precision.TF32 else "ieee"]


def test_masks_are_validated_in_the_precision_of_predict(
    prepared: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    def watched(*args: object, **settings: object) -> Validation:
        used.append(settings["precision"])
        return validate(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("medhybrid.training.objective.validate", watched)

    trainer(prepared, tmp_path, iterations=2, precision="bf16").fit()

    assert prepared.config.inference.precision == "float32"
    assert set(used) == {Precision.FLOAT32}
