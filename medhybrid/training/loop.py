"""The training loop, from the first step to the final weights and their validation.

Each step depends on (state, seed, step) only: patches, augmentation and stochastic depth use generators seeded by (seed, step).
So a resumed run gives the results of an uninterrupted one, with any number of workers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medhybrid.config import StudyConfig
from medhybrid.data.augment import apply, centre_crop, draw_parameters
from medhybrid.data.plan import Plan
from medhybrid.data.sampling import Batch, PatchSampler, Prefetcher
from medhybrid.data.store import PreparedCase
from medhybrid.errors import OutputError, TrainingError
from medhybrid.inference.device import choose_device
from medhybrid.inference.device_memory import first_line, free_cache, is_out_of_memory
from medhybrid.inference.network import config_of_network, network_for
from medhybrid.inference.precision import Precision, stated_float32
from medhybrid.inference.self_check import checked_precision
from medhybrid.inference.weights_file import About
from medhybrid.training.checkpoint import load_checkpoint, save_checkpoint, to_cpu
from medhybrid.training.loss_scale import LossScale
from medhybrid.training.losses import Loss
from medhybrid.training.objective import MakeObjective, SegmentationObjective
from medhybrid.training.optimiser import WeightAverage, make_optimiser
from medhybrid.training.recomputation import recompute_activations
from medhybrid.training.stages import Stage, check_stage, learning_rate, plan_stages, rate_factors, stage_at
from medhybrid.training.step import PlainStep, RecordedStep
from medhybrid.training.team import ALONE, Team, draw_for_all, own_gpu
from medhybrid.training.tracker import Tracker
from medhybrid.training.validation import Validation

logger = logging.getLogger(__name__)

MAX_VALIDATING_SHARE = 0.08
"""Largest share of a time-limited training that validations during the run may take."""

LOG_EVERY = 10
"""Steps between two records of the loss."""

AUGMENT_STREAM = 1
"""Seed that separates the generator of augmentation from that of patch sampling."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a run."""

    step: int
    fraction: float
    loss: float
    dice: float | None
    elapsed_s: float
    left_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a run: the weights of the model and their validation."""

    weights: dict[str, Tensor]
    validation: Validation | None
    step: int
    elapsed_s: float
    is_interrupted: bool


class Trainer:
    """Training of one network on one device.

    Parameters
    ----------
    should_stop : callable
        Called after each step; if it returns True, the run saves a checkpoint and ends.
    on_step : callable
        Called after each step, with the number of steps and the share of the run that is done.
    on_validation : callable
        Called with each validation, for example for figures and tables.
    on_stage : callable
        Called with each stage when it starts or resumes.
    network : Module, optional
        Network to train instead of the config's, for the objective.
    training_images : sequence of str
        Hashes of the training images, which checkpoints record for the data leakage check.
    team : Team
        Processes that train together. Only the first one writes files and returns the validation.
    device : torch.device, optional
        Device of this process, instead of the config's.
    objective : callable
        Returns the loss and the validation; by default those of the masks.
    """

    def __init__(
        self,
        config: StudyConfig,
        plan: Plan,
        train_cases: Sequence[PreparedCase],
        validation_cases: Sequence[PreparedCase],
        *,
        folder: Path,
        tracker: Tracker,
        should_stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[Progress], None] = lambda _: None,
        on_step: Callable[[int, float], None] = lambda _step, _fraction: None,
        on_validation: Callable[[Validation], None] = lambda _: None,
        on_stage: Callable[[Stage], None] = lambda _: None,
        network: Any = None,
        training_images: Sequence[str] = (),
        team: Team = ALONE,
        device: torch.device | None = None,
        objective: MakeObjective = SegmentationObjective,
    ) -> None:
        if not train_cases:
            raise TrainingError("no training cases", remedy="run medhybrid preprocess and read its table of findings")
        self.config, self.plan, self.tracker, self.folder, self.team = config, plan, tracker, folder, team
        self.training = config.training
        self.validation_cases = list(validation_cases)
        self.should_stop, self.on_progress, self.on_step = should_stop, on_progress, on_step
        self.on_validation, self.on_stage = on_validation, on_stage
        self.device = device or choose_device(own_gpu(self.training.device))
        self.precision = checked_precision(
            self.device, self.training.precision, patch_size=plan.patch_size, is_thin=plan.is_thin
        )
        torch.manual_seed(self.training.seed)
        architecture = config_of_network(config.network, plan)
        network = network or network_for(architecture, plan)
        self.network = network.to(self.device).to(memory_format=torch.channels_last_3d)
        self.optimiser = make_optimiser(self.network, self.training, self.precision.dtype)
        self.loss_scale = LossScale(self.device) if self.precision is Precision.FP16 else None
        self.average = WeightAverage(self.network, self.training.ema)
        draw_for_all(self.network, team)
        self.own = team.part(plan.batch_size)
        self.objective = objective(config, plan, self.device, self.precision, team)
        self.sampler = PatchSampler(
            train_cases,
            patch_size=plan.patch_size,
            batch_size=plan.batch_size,
            foreground_share=self.training.foreground_share,
            seed=self.training.seed,
            context=plan.context,
            places=team.places(plan.batch_size, pastes=config.augment.paste_probability > 0),
            structures=tuple(plan.structures),
        )
        self.about = About(
            channels=plan.channels,
            labels=tuple(plan.labels),
            heads=architecture.heads,
            training_images=tuple(training_images),
        )
        self.is_recomputing = False
        self.step = 0
        self.gradient_norm: Tensor | float = 0.0
        self.elapsed_s = 0.0
        self.stages = plan_stages(self.training)
        for stage in self.stages:  # an error in a later stage must show now, not after hours of training
            check_stage((name for name, _ in self.network.named_parameters()), stage)
        self._begin_stage(self.stages[0])
        self.validations_done = 0
        self.validating_s = self.last_validation_s = 0.0
        self.best_dice = -1.0
        self.best_weights: dict[str, Tensor] | None = None
        self.last_dice: float | None = None

    # --- training loop -----------------------------------------------------------------------------------------------

    def fit(self) -> Outcome:
        """Train to the end of the schedule, or until `should_stop` returns True."""
        self._learn()
        self.on_stage(self.stage)
        source = Prefetcher(self.sampler, self.training.workers)
        started = time.monotonic() - self.elapsed_s
        saved_at = time.monotonic()
        interval_started, interval_steps, waited_s = time.monotonic(), 0, 0.0
        is_interrupted = False
        try:
            while self.progress < 1.0:
                self._change_stage()
                asked = time.monotonic()
                batch = source.batch(self.step)
                waited_s += time.monotonic() - asked
                terms = self.train_step(batch)
                self.step += 1
                interval_steps += 1
                self.elapsed_s, stop = self.team.agree(time.monotonic() - started, self.should_stop(), self.device)
                self.on_step(self.step, min(1.0, self.progress))
                if self.step % LOG_EVERY == 0:
                    seconds = time.monotonic() - interval_started
                    self._log_interval(terms, interval_steps / seconds, waited_s / seconds)
                    interval_started, interval_steps, waited_s = time.monotonic(), 0, 0.0
                if self._is_validation_due():
                    before = self.elapsed_s
                    self._validate_some()
                    self.elapsed_s, _ = self.team.agree(time.monotonic() - started, False, self.device)
                    self.last_validation_s = self.elapsed_s - before
                    self.validating_s += self.last_validation_s
                    interval_started, interval_steps, waited_s = time.monotonic(), 0, 0.0
                if time.monotonic() - saved_at > self.training.checkpoint_minutes * 60:
                    self._save_if_there_is_room()
                    saved_at = time.monotonic()
                if stop:
                    is_interrupted = self.progress < 1.0
                    break
        finally:
            source.close()
        self.save()
        return self._interrupted_outcome() if is_interrupted else self._final_outcome()

    @property
    def progress(self) -> float:
        """Return the share of the run that is done, by steps or by time."""
        if self.training.iterations is not None:
            return self.step / self.training.iterations
        assert self.training.max_minutes is not None
        return self.elapsed_s / (self.training.max_minutes * 60)

    def _change_stage(self) -> None:
        """Start the next stage if it is due; never return to an earlier one, even if a resumed run was made longer."""
        due = stage_at(self.stages, self.progress)
        if due.number > self.stage.number:
            self._begin_stage(due)
            self.on_stage(due)

    def _begin_stage(self, stage: Stage) -> None:
        self.stage, self.stage_began_at = stage, self.step
        weights = dict(self.network.named_parameters())
        factors = rate_factors(weights, stage.config)
        self.optimiser.set_factors({weights[name]: factor for name, factor in factors.items()})
        self._make_steps()
        self._learn()

    def _make_steps(self) -> None:
        """Create the training step: recorded on a GPU, unless random numbers must be drawn again in the backward pass."""
        is_recorded = self.device.type == "cuda" and self.team.size == 1 and not self.is_recomputing
        made = RecordedStep if is_recorded else PlainStep
        learning = list(self.network.parameters())
        objective, network = self.objective, self.network

        def compute(
            *inputs: Tensor,
        ) -> Loss:  # without a reference to the trainer, which would keep it and its GPU memory
            return objective.loss(network, *inputs)

        settings = self.training.gradient_clip, self.team, self.loss_scale
        self.maker = made(compute, learning, self.optimiser, *settings)

    def _learn(self) -> None:
        """Set training mode, except for frozen batch norms, whose running statistics must stay as they are."""
        self.network.train()
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm3d | nn.BatchNorm2d):
                module.train(any(p.requires_grad for p in module.parameters()))

    def train_step(self, batch: Batch) -> Loss:
        """Train on a batch; raise `TrainingError` if the loss or the gradient is not finite.

        In fp16, gradients that overflow because of the factor on the loss lower this factor, and the weights stay as they are.
        """
        stage, since = self.stage, self.step - self.stage_began_at
        self.optimiser.set_rate(learning_rate(self.training, stage, since, stage.progress(self.progress)))
        with stated_float32(self.precision):
            return self._train_on(batch)

    def _train_on(self, batch: Batch) -> Loss:
        terms, norm = self._gradients(batch)
        if not torch.isfinite(terms.total + norm):  # one check for both: each one synchronises the GPU
            if self.loss_scale is not None and torch.isfinite(terms.total) and self.loss_scale.shrink():
                return terms
            self.save()
            raise TrainingError(
                f"the training diverged at step {self.step}, in a batch of cases {', '.join(batch.cases)}",
                expected="a finite loss and gradient norm",
                found=f"loss {float(terms.total.detach()):g}, gradient norm {float(norm):g}",
                remedy="check these cases (medhybrid inspect), or lower training.peak_rate"
                + ("" if self.precision is Precision.FLOAT32 else ", or set training.precision=float32")
                + "; a checkpoint is saved",
            )
        self.gradient_norm = norm
        self.maker.update()
        if self.loss_scale is not None:
            self.loss_scale.grow()
        self.average.update(self.network, self.step)
        return terms

    def _gradients(self, batch: Batch) -> tuple[Loss, Tensor]:
        """Compute the gradients of a batch; if the device has too little memory, in a way that needs less.

        Raises
        ------
        TrainingError
            If the device has too little memory nevertheless. In a team this ends the training at once: the other processes
            wait for this one.
        """
        try:
            torch.manual_seed(int(np.random.SeedSequence((self.training.seed, batch.step)).generate_state(1)[0]))
            return self.maker.gradients(*self.inputs(batch))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            found = first_line(error)
        self.optimiser.zero_grad(set_to_none=True)
        if self.is_recomputing or self.team.size > 1:
            raise TrainingError(
                f"{self.device} has too little memory for a training step",
                expected=f"memory for {self.plan.batch_size} patches of {' x '.join(map(str, self.plan.patch_size))} voxels",
                found=found,
                remedy="set a smaller prepare.batch_size or prepare.patch_size and call medhybrid preprocess again, or close "
                "other programs that use the device",
            )
        logger.warning(
            "%s has too little memory for a training step (%s); activations are computed again in the backward pass, "
            "which gives the same losses and takes about a third longer",
            self.device,
            found,
        )
        self.is_recomputing = True
        recompute_activations(self.network)
        self._make_steps()
        free_cache(self.device)
        return self._gradients(batch)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the arguments of the loss, on the device, with all random choices of a step except the network's."""
        return self.objective.inputs(batch, *self._to_device(batch))

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return augmented patches (B, C, X, Y, Z) and targets (B, X, Y, Z) on the device."""
        image = torch.from_numpy(batch.image).to(self.device, non_blocking=True)
        labels = torch.from_numpy(batch.labels).to(self.device, non_blocking=True)
        plan = self.plan
        if self.config.augment.enabled:
            optional = tuple(n.optional for n in plan.normalisation)
            parameters = [
                draw_parameters(
                    self.config.augment,
                    np.random.default_rng((self.training.seed, batch.step, index, AUGMENT_STREAM)),
                    spacing_mm=plan.spacing_mm,
                    mirror_axes=plan.mirror_axes,
                    optional=optional,
                    patch_size=plan.patch_size,
                )
                for index in self.sampler.places
            ]
            image, target = apply(
                image,
                labels,
                parameters,
                patch_size=plan.patch_size,
                spacing_mm=plan.spacing_mm,
                exchange=plan.exchange,
                has_unknown=self.config.data.ignore_value is not None,
                annotated=batch.annotated,
            )
        else:
            image, target = centre_crop(image, plan.patch_size), centre_crop(labels, plan.patch_size).long()
        image, target = image[: len(self.own)], target[: len(self.own)]
        return image.contiguous(memory_format=torch.channels_last_3d), target

    # --- records ------------------------------------------------------------------------------------------------------

    def _log_interval(self, terms: Loss, steps_per_s: float, waiting_share: float) -> None:
        loss = float(terms.total.detach())
        self.tracker.log_metrics(
            {
                **terms.metrics(),
                **({} if self.loss_scale is None else {"train/loss_scale": float(self.loss_scale.factor)}),
                "train/gradient_norm": float(self.gradient_norm),
                "train/learning_rate": self.optimiser.param_groups[0]["lr"],
                "train/samples_per_second": steps_per_s * self.plan.batch_size,
                "train/waiting_for_data": waiting_share,
            },
            self.step,
        )
        fraction = min(1.0, self.progress)
        left = self.elapsed_s * (1 - fraction) / max(fraction, 1e-6)
        self.on_progress(Progress(self.step, fraction, loss, self.last_dice, self.elapsed_s, left))

    def _is_validation_due(self) -> bool:
        """Return whether a validation during the run is due; they have equal intervals, and the final one is separate."""
        if not self.validation_cases or self.progress >= 1.0:
            return False
        is_due = int(self.progress * self.training.n_validations) > self.validations_done
        return is_due and not self._validation_is_too_long()

    def _validation_is_too_long(self) -> bool:
        """Return whether another validation would take too large a share of a training that is limited by time.

        On a slow machine, the validations of a short run would otherwise take most of it.
        """
        if self.training.iterations is not None:
            return False
        return self.validating_s + self.last_validation_s > MAX_VALIDATING_SHARE * self.elapsed_s

    def _validate_some(self) -> None:
        self.validations_done = int(self.progress * self.training.n_validations)
        chosen = self.objective.cases_during(self.validation_cases)
        self._validate(self.average.state, chosen, is_complete=False)
        if self.last_dice is not None and self.last_dice > self.best_dice:
            self.best_dice, self.best_weights = self.last_dice, to_cpu(self.average.state)

    def _validate(
        self, weights: dict[str, Tensor], cases: Sequence[PreparedCase], *, is_complete: bool
    ) -> Validation | None:
        """Validate weights; only the first process returns the result."""
        current = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(weights)
        self.network.eval()
        metrics, result = self.objective.validate(self.network, cases, step=self.step, is_complete=is_complete)
        self.network.load_state_dict(current)
        self._learn()
        self.last_dice = self.team.tell(None if result is None else result.mean_dice)
        if metrics:
            self.tracker.log_metrics(metrics, self.step)
        if result is not None:
            self.on_validation(result)
        return result

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _final_outcome(self) -> Outcome:
        weights = to_cpu(self.average.state)
        if self.training.keep == "best" and self.best_weights is not None:
            self._validate_some()  # the last weights may be the best
            weights = self.best_weights
        validation = None
        if self.validation_cases:
            validation = self._validate(weights, self.validation_cases, is_complete=True)
        return Outcome(weights, validation, self.step, self.elapsed_s, is_interrupted=False)

    def _interrupted_outcome(self) -> Outcome:
        weights = self.best_weights or to_cpu(self.average.state)
        return Outcome(weights, None, self.step, self.elapsed_s, is_interrupted=True)

    # --- checkpoint ----------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Save a checkpoint, in the first process of the team only."""
        if self.team.is_first:
            save_checkpoint(self.folder / "checkpoint", self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "about": self.about.model_dump_json(),
            "network": self.network.state_dict(),
            "average": self.average.state,
            "optimiser": self.optimiser.state_dict(),
            "loss_scale": None if self.loss_scale is None else self.loss_scale.state_dict(),
            "torch_random": torch.get_rng_state(),
            "stage": self.stage.number,
            "stage_began_at": self.stage_began_at,
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "validations_done": self.validations_done,
            "best_dice": self.best_dice,
            "best_weights": self.best_weights,
            "last_dice": self.last_dice,
        }

    def _save_if_there_is_room(self) -> None:
        """Save a checkpoint; on a full disk log a warning and continue, as the next attempt may succeed."""
        try:
            self.save()
        except OutputError as error:
            logger.warning("%s", error)

    def restore(self) -> None:
        """Restore the state of the latest checkpoint."""
        state = load_checkpoint(self.folder / "checkpoint")  # independent of the number of processes
        self.network.load_state_dict(state["network"])
        self.average.state = {k: v.to(self.device) for k, v in state["average"].items()}
        self._begin_stage(self.stages[state["stage"] - 1])
        self.stage_began_at = state["stage_began_at"]
        self.optimiser.load_state_dict(state["optimiser"])
        if (
            self.loss_scale is not None and state.get("loss_scale") is not None
        ):  # None: the run began in another precision
            self.loss_scale.load_state_dict(state["loss_scale"])
        torch.set_rng_state(state["torch_random"])
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.validations_done = int(min(state["validations_done"], self.progress * self.training.n_validations))
        self.best_dice, self.best_weights = state["best_dice"], state["best_weights"]
        self.last_dice = state["last_dice"]
