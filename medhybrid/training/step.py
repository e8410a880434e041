"""A training step: gradients and update of the weights, on a GPU recorded once as CUDA graphs and replayed.

A step of this network launches many hundred small kernels, and a GPU runs them faster than Python can launch them. A CUDA graph
launches all of them at once. The sizes of the inputs and the set of trained weights must not change after the recording.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from medhybrid.inference.device_memory import first_line
from medhybrid.training.loss_scale import LossScale
from medhybrid.training.losses import Loss
from medhybrid.training.optimiser import JointOptimiser
from medhybrid.training.recording import record, run_on_recording_stream, synchronisations_noted
from medhybrid.training.team import ALONE, Team

logger = logging.getLogger(__name__)

T = TypeVar("T")

PLAIN_STEPS = 3
"""Plain steps before the recording: libraries choose their kernels in the first steps, which cannot be recorded."""


class PlainStep:
    """Training step that launches every kernel from Python.

    Parameters
    ----------
    compute : callable
        Computes the loss from inputs on the device.
    clip : float
        Largest norm of all gradients together; larger gradients are scaled down to it.
    scale : LossScale, optional
        Factor on the loss, for fp16.
    """

    def __init__(
        self,
        compute: Callable[..., Loss],
        weights: Sequence[nn.Parameter],
        optimiser: JointOptimiser,
        clip: float,
        team: Team = ALONE,
        scale: LossScale | None = None,
    ) -> None:
        self.compute, self.weights, self.optimiser, self.clip, self.team = compute, weights, optimiser, clip, team
        self.scale = scale

    def gradients(self, *inputs: Tensor) -> tuple[Loss, Tensor]:
        """Compute and clip the gradients of all weights; return the loss and the gradient norm before clipping."""
        self.optimiser.zero_grad(set_to_none=True)
        terms = self.compute(*inputs)
        total = terms.total if self.scale is None else self.scale.scaled(terms.total)
        total.backward()  # type: ignore[no-untyped-call]
        self.team.add_gradients(self.weights)
        if self.scale is not None:
            self.scale.unscale(self.weights)
        return terms, torch.nn.utils.clip_grad_norm_(self.weights, self.clip)

    def update(self) -> None:
        """Update the weights by a step of the optimiser."""
        self.optimiser.step()


class RecordedStep(PlainStep):
    """Training step by CUDA graphs, after a few plain steps.

    The result of `gradients` is overwritten by its next call. A loss that copies a value to the CPU cannot be recorded: a
    warning is logged, and all steps are plain steps.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._n_plain = 0
        self._is_recordable = True
        self._gradients: tuple[torch.cuda.CUDAGraph, tuple[Loss, Tensor]] | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._update: tuple[torch.cuda.CUDAGraph, None] | None = None
        self._rates: Tensor | None = None

    @property
    def is_recorded(self) -> bool:
        """Return whether steps are replayed."""
        return self._gradients is not None and self._update is not None

    def gradients(self, *inputs: Tensor) -> tuple[Loss, Tensor]:
        """Compute the gradients as a plain step does; the inputs are copied to the memory of the graph."""
        if self._gradients is None and self._is_recordable and self._n_plain >= PLAIN_STEPS:
            self._inputs = tuple(x.clone() for x in inputs)
            self.optimiser.zero_grad(set_to_none=True)  # earlier gradients are outside the memory of the graph
            self._gradients = self._record(lambda: super(RecordedStep, self).gradients(*self._inputs))
        if self._gradients is None:
            self._n_plain += 1
            if self._n_plain == PLAIN_STEPS and self._is_recordable:
                return self._rehearse(*inputs)
            return run_on_recording_stream(lambda: super(RecordedStep, self).gradients(*inputs))
        graph, told = self._gradients
        for held, new in zip(self._inputs, inputs, strict=True):
            held.copy_(new)
        graph.replay()
        return told

    def _rehearse(self, *inputs: Tensor) -> tuple[Loss, Tensor]:
        """Compute the gradients as a plain step, and do not record them if an operation waits for the GPU.

        A recording that fails half way costs the memory that it has allocated.
        """
        with synchronisations_noted() as found:
            result = run_on_recording_stream(lambda: super(RecordedStep, self).gradients(*inputs))
        if found:
            self._stay_plain(f"it waits for the GPU at {', '.join(dict.fromkeys(found))}")
        return result

    def update(self) -> None:
        """Update the weights as a plain step does."""
        if self._update is None and self._is_recordable and self._gradients is not None:
            self._update = self._record(self._update_by_rates)
        if self._update is None:
            return run_on_recording_stream(super().update)
        assert self._rates is not None
        self._rates.copy_(torch.tensor([group["lr"] for group in self.optimiser.param_groups]))
        self._update[0].replay()
        return None

    def _update_by_rates(self) -> None:
        """Update the weights with learning rates in device memory: a replayed graph can read their changes only there."""
        groups = self.optimiser.param_groups
        before: list[dict[str, Any]] = [{k: group[k] for k in ("lr", "capturable") if k in group} for group in groups]
        for group, rate in zip(groups, self._rate_tensors(), strict=True):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = True
        try:
            super().update()
        finally:
            for group, kept in zip(groups, before, strict=True):
                group.update(kept)

    def _rate_tensors(self) -> tuple[Tensor, ...]:
        assert self._rates is not None
        return self._rates.unbind()

    def _record(self, work: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T] | None:
        """Record work as a CUDA graph without running it; returns None if it cannot be recorded."""
        if self._rates is None:
            self._rates = torch.zeros(len(self.optimiser.param_groups), device=self.weights[0].device)
        try:
            return record(work, self.weights[0].device)
        except RuntimeError as error:
            self._stay_plain(first_line(error))
            return None

    def _stay_plain(self, reason: str) -> None:
        logger.warning("the training step cannot be recorded as a CUDA graph, so training is slower: %s", reason)
        self._is_recordable = False
