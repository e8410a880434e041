"""What a training step does with a batch: gradients, then new weights; on a GPU both are recorded once and replayed.

A step of a network of this size is many hundred small kernels, which a GPU runs faster than Python can ask for them. A CUDA
graph asks for all of them at once. Sizes of the inputs, and which weights learn, must stay as they were when it was recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from medhybrid.training.losses import Loss
from medhybrid.training.optimiser import JointOptimiser
from medhybrid.training.team import ALONE, Team

logger = logging.getLogger(__name__)

T = TypeVar("T")

PLAIN_STEPS = 3
"""Steps before the recording: libraries choose their kernels in the first ones, which cannot be recorded."""


@cache
def recording_stream() -> torch.cuda.Stream:
    """One for all: autograd remembers the stream that a weight's gradient was first asked for on."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


class PlainStep:
    """Made anew each time.

    Parameters
    ----------
    compute : callable
        The loss of inputs on the device.
    clip : float
        Largest norm of all gradients together; longer ones are made shorter.
    """

    def __init__(
        self,
        compute: Callable[..., Loss],
        weights: Sequence[nn.Parameter],
        optimiser: JointOptimiser,
        clip: float,
        team: Team = ALONE,
    ) -> None:
        self.compute, self.weights, self.optimiser, self.clip, self.team = compute, weights, optimiser, clip, team

    def gradients(self, *inputs: Tensor) -> tuple[Loss, Tensor]:
        """Loss of the inputs, and the norm of its gradients, which the weights now have, before they were clipped."""
        self.optimiser.zero_grad(set_to_none=True)
        terms = self.compute(*inputs)
        terms.total.backward()  # type: ignore[no-untyped-call]
        self.team.add_gradients(self.weights)
        return terms, torch.nn.utils.clip_grad_norm_(self.weights, self.clip)

    def update(self) -> None:
        """New weights by the optimiser."""
        self.optimiser.step()


class RecordedStep(PlainStep):
    """By CUDA graphs, after a few plain steps; what `gradients` returns holds until it is called again.

    A loss in which a value passes to the CPU cannot be recorded: its steps are made plainly, and the log says so.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._stream = recording_stream()
        self._n_plain = 0
        self._is_recordable = True
        self._gradients: tuple[torch.cuda.CUDAGraph, tuple[Loss, Tensor]] | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._update: tuple[torch.cuda.CUDAGraph, None] | None = None
        self._rates: Tensor | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether steps are replayed by now."""
        return self._gradients is not None and self._update is not None

    def gradients(self, *inputs: Tensor) -> tuple[Loss, Tensor]:
        """As a plain step; the inputs are copied."""
        if self._gradients is None and self._is_recordable and self._n_plain >= PLAIN_STEPS:
            self._inputs = tuple(x.clone() for x in inputs)
            self.optimiser.zero_grad(set_to_none=True)  # gradients of the steps before are not of the graph's memory
            self._gradients = self._record(lambda: super(RecordedStep, self).gradients(*self._inputs))
        if self._gradients is None:
            self._n_plain += 1
            return self._beside(lambda: super(RecordedStep, self).gradients(*inputs))
        graph, told = self._gradients
        for held, new in zip(self._inputs, inputs, strict=True):
            held.copy_(new)
        graph.replay()
        return told

    def update(self) -> None:
        """As a plain step."""
        if self._update is None and self._is_recordable and self._gradients is not None:
            self._update = self._record(self._update_by_rates)
        if self._update is None:
            return self._beside(super().update)
        assert self._rates is not None
        self._rates.copy_(torch.tensor([group["lr"] for group in self.optimiser.param_groups]))
        self._update[0].replay()
        return None

    def _update_by_rates(self) -> None:
        """The optimiser's step with learning rates that it reads on the device, as they change from step to step."""
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
        """The graph of some work that is recorded, not done, and what replays will leave; None where it cannot be."""
        if self._rates is None:
            self._rates = torch.zeros(len(self.optimiser.param_groups), device=self.weights[0].device)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                result = work()
        except RuntimeError as error:
            logger.warning("the training step cannot be recorded and is made anew each time: %s", error)
            self._is_recordable = False
            return None
        return graph, result

    def _beside(self, work: Callable[[], T]) -> T:
        """Work on the stream that records, as recording asks of the steps before it."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = work()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result
