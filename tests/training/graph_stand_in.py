"""A stand-in for CUDA graphs on CPUs: it records the operations of some work, and replays them on the same memory.

It has the rules of CUDA graphs that a training step can break:

- recording does not run the work: tensors and random numbers are as before;
- a replay runs the recorded operations only, so values that Python computed stay those of the recording;
- a replay writes its results to the memory of the recording;
- memory from outside the recording is not kept alive; a replay that reads released memory is an error;
- an operation that copies a value to Python cannot be recorded. Then stream, generator and allocator stay in the recording,
  until they are put back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from medhybrid.training import recording

READS_A_VALUE = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


class Outside:
    """A tensor whose memory is not part of the recording, and is not kept alive by it."""

    def __init__(self, x: Tensor) -> None:
        self.storage = StorageWeakRef(x.untyped_storage())
        self.dtype, self.place = x.dtype, (x.storage_offset(), x.size(), x.stride())

    def tensor(self) -> Tensor:
        """Return the tensor, or raise RuntimeError if its memory was released."""
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        if storage is None:
            raise RuntimeError("a replay reads memory that was released")
        return torch.empty(0, dtype=self.dtype).set_(storage, *self.place)


class Graph(TorchDispatchMode):
    """Recorded operations; a stand-in for `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.memory: set[int] = set()
        self.written: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS_A_VALUE:
            raise RuntimeError(f"{func} is not permitted when a stream is capturing")
        given = (args, kwargs or {})
        before = {x.untyped_storage().data_ptr() for x in _tensors(given)}
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.written += [(x.detach(), x.detach().clone()) for x in _tensors(value) if not self._is_inside(x)]
        result = func(*args, **(kwargs or {}))
        new = [x.detach() for x in _tensors(result) if x.untyped_storage().data_ptr() not in before]
        self.memory |= {x.untyped_storage().data_ptr() for x in new}
        if new or func._schema.is_mutable:  # a view needs no replay: its memory is that of its input
            kept = tree_map_only(Tensor, lambda x: x.detach() if self._is_inside(x) else Outside(x), given)
            self.calls.append((func, *kept, new))
        return result

    def _is_inside(self, x: Tensor) -> bool:
        return x.untyped_storage().data_ptr() in self.memory

    def undo(self) -> None:
        """Restore the memory outside the recording that the work has changed."""
        for x, value in reversed(self.written):
            x.copy_(value)
        self.written.clear()

    @torch.no_grad()
    def replay(self) -> None:
        """Run the recorded operations on their memory."""
        for func, args, kwargs, results in self.calls:
            given = tree_map_only(Outside, Outside.tensor, (args, kwargs))
            again = func(*given[0], **given[1])
            if results:
                for held, new in zip(results, _tensors(again), strict=True):
                    held.copy_(new)

    def reset(self) -> None:
        """Release the memory of the recording."""
        self.calls.clear()


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, values)
    return found


class Stream:
    """A stream of a GPU."""

    def wait_stream(self, other: Stream) -> None:
        """Do nothing: the CPU runs everything in order."""


@dataclass
class Cuda:
    """State of a process that torch's own recording changes."""

    stream: Stream = field(default_factory=Stream)
    is_drawing_for_a_recording: bool = False
    pools: set[int] = field(default_factory=set)
    n_recordings: int = 0
    graphs: list[Graph] = field(default_factory=list)

    def clone_state(self) -> bool:
        """Return the state of the random numbers."""
        return self.is_drawing_for_a_recording

    def graphsafe_set_state(self, state: bool) -> None:
        """Set the state of the random numbers."""
        self.is_drawing_for_a_recording = state

    def set_stream(self, stream: Stream) -> None:
        """Set the current stream."""
        self.stream = stream

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        """Run on a stream."""
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    def end_pool(self, _device: int, pool: int) -> None:
        """Stop to allocate in a pool of memory."""
        if pool not in self.pools:
            raise RuntimeError("not recording to this pool")
        self.pools.remove(pool)

    @contextmanager
    def record(self, graph: Graph, *, pool: int, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        """Record the operations inside the context; if one cannot be recorded, leave the process in the recording."""
        assert capture_error_mode == "thread_local"
        self.n_recordings += 1
        before, random = self.stream, torch.get_rng_state()
        self.stream, self.is_drawing_for_a_recording = stream, True
        self.pools.add(pool)
        try:
            with graph:
                yield
        finally:
            graph.undo()
            torch.set_rng_state(random)
        self.stream, self.is_drawing_for_a_recording = before, False
        self.pools.remove(pool)
        self.graphs.append(graph)

    @property
    def is_usable(self) -> bool:
        """Return whether the process is in no recording."""
        return not self.pools and not self.is_drawing_for_a_recording


def install(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """Replace the recording of torch by the stand-in."""
    cuda, beside = Cuda(), Stream()
    replaced = {
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": cuda.record,
        "stream": cuda.on,
        "current_stream": lambda: cuda.stream,
        "set_stream": cuda.set_stream,
        "current_device": lambda: 0,
        "default_generators": (cuda,),
        "graph_pool_handle": lambda: len(cuda.graphs),
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": lambda _mode: None,
        "empty_cache": lambda: None,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", cuda.end_pool)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda _device, _pool: None)
    monkeypatch.setattr(recording, "recording_stream", lambda: beside)
    return cuda
