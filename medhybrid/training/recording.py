"""Recording of work on a GPU as a CUDA graph, and recovery of the process if the work cannot be recorded."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")

SYNCHRONISES = "synchronizing CUDA operation"
"""Words in torch's warning about an operation that waits for the GPU."""


@cache
def recording_stream() -> torch.cuda.Stream:
    """Return the stream of all recordings; autograd keeps the stream on which the gradient of a weight was first computed."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


def run_on_recording_stream(work: Callable[[], T]) -> T:
    """Run work on the recording stream, as CUDA graphs require of the steps before a recording."""
    stream = recording_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = work()
    torch.cuda.current_stream().wait_stream(stream)
    return result


@contextmanager
def synchronisations_noted() -> Iterator[list[str]]:
    """Collect the operations inside the context that wait for the GPU, which cannot be recorded.

    Torch does not know all of them. The list is filled at the end of the context; other warnings are passed on.
    """
    found: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            yield found
    finally:
        torch.cuda.set_sync_debug_mode(before)
    for warning in noted:
        if SYNCHRONISES in str(warning.message):
            found.append(f"{warning.filename}:{warning.lineno}")
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def record(work: Callable[[], T], device: torch.device) -> tuple[torch.cuda.CUDAGraph, T]:
    """Record work on the recording stream as a CUDA graph, without running it.

    Returns the graph and the tensors that each replay fills.

    Raises
    ------
    RuntimeError
        If the work cannot be recorded. The process remains usable: stream, random numbers and allocation of memory are as
        before. Torch itself leaves all three as they are during the recording.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    generator = torch.cuda.default_generators[index]
    state, stream = generator.clone_state(), torch.cuda.current_stream()
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    try:
        with torch.cuda.graph(graph, pool=pool, stream=recording_stream(), capture_error_mode="thread_local"):
            result = work()
    except RuntimeError:
        torch.cuda.set_stream(stream)
        generator.graphsafe_set_state(state)  # its own state still counts the recorded random numbers
        with suppress(RuntimeError):  # the allocator has ended the recording itself
            torch._C._cuda_endAllocateToPool(index, pool)
            torch._C._cuda_releasePool(index, pool)
        graph.reset()
        torch.cuda.empty_cache()
        raise
    return graph, result
