"""A GPU without values: torch's fake tensors on a device of their own, whose operations are watched. It needs no GPU.

    python -m tests.fake_gpu          # prints the notes of each scenario as JSON

Tensors have sizes, types, places and memory formats. An operation between a tensor on the GPU and one on the CPU is an error,
as on a GPU. What a GPU does without an error, but slowly, is noted with its place in the package. Torch takes a device of
its own for the whole process, so the scenarios run in a separate one.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import medhybrid
from medhybrid.config import StudyConfig
from medhybrid.data.plan import Normalisation, Plan
from medhybrid.inference import precision, self_check
from medhybrid.inference.network import network_for, predictor_of, window_settings
from medhybrid.inference.precision import Precision
from medhybrid.inference.windows import predict_slabs
from medhybrid.networks import SegmentationNetwork
from medhybrid.tracking.several import SeveralTrackers
from medhybrid.training.determinism import deterministic
from medhybrid.training.loop import Trainer
from medhybrid.training.pretraining import MaskedAutoencoder, Pretrainer
from tests.synthetic import make_test_plan, small_values

PACKAGE = str(Path(medhybrid.__file__).parent)

NAME = "fakegpu"

KINDS = ("hybrid", "resnet", "identity", "interleave", "transformer", "transunet")

aten = torch.ops.aten

CONVOLUTIONS = {aten.convolution.default, aten.conv3d.default, aten.conv3d.padding}

READ = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.bincount.default}
"""Operations that wait for the GPU, because Python or the size of their result needs a value."""


class Watch(TorchDispatchMode):
    """Notes of the operations on the GPU.

    Attributes
    ----------
    waits : list of str
        Place of each operation that waits for the GPU: a value that Python reads, or a blocking copy.
    other_layouts : list of str
        Place of each convolution whose input is not channels-last: the GPU copies it first.
    operations : Counter
        Number of each operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.other_layouts: list[str] = []
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args and isinstance(args[0], Tensor) else None
        is_on_gpu = first is not None and first.device.type == NAME
        self.operations[str(func)] += 1
        if func is aten._local_scalar_dense.default:
            if is_on_gpu:
                self.waits.append(f"{_place()} {func}")
            elif first.constant is not None:  # type: ignore[union-attr]
                return func(*args, **kwargs)
            return True if first.dtype is torch.bool else 1.0 if first.is_floating_point() else 1  # type: ignore[union-attr]
        if is_on_gpu and func in READ:
            self.waits.append(f"{_place()} {func}")
            if func is aten.bincount.default:
                return first.new_zeros(kwargs.get("minlength", args[-1]))
        if func is aten._to_copy.default:
            self._note_copy(first.device, kwargs.get("device"), is_free=bool(kwargs.get("non_blocking")))
        if func is aten.copy_.default:
            self._note_copy(args[1].device, args[0].device, is_free=len(args) > 2 and bool(args[2]))
        if func in CONVOLUTIONS and is_on_gpu:
            return self._convolve(func, args, kwargs)
        return func(*args, **kwargs)

    def _convolve(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        """Return the output in cuDNN's memory format: channels-last if input or kernel are; it copies the others to it."""
        is_last = [x.is_contiguous(memory_format=torch.channels_last_3d) for x in args[:2]]
        if not is_last[0] and args[0].shape[1] > 1:
            self.other_layouts.append(_place())
        result: Tensor = func(*args, **kwargs)
        return result.contiguous(memory_format=torch.channels_last_3d) if any(is_last) else result

    def _note_copy(self, source: torch.device, target: torch.device | None, *, is_free: bool) -> None:
        if target is not None and source.type != target.type and not is_free:
            self.waits.append(f"{_place()} copy to {target.type}")

    def clear(self) -> None:
        """Forget all notes."""
        self.waits.clear()
        self.other_layouts.clear()
        self.operations.clear()

    def notes(self) -> dict[str, Any]:
        """Return the notes as JSON values."""
        return {"waits": self.waits, "other_layouts": self.other_layouts, "operations": dict(self.operations)}


def _place() -> str:
    """Return file and line of the innermost call in the package."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            return f"{Path(frame.f_code.co_filename).relative_to(PACKAGE)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


class Fake(FakeTensorMode):
    """Fake tensors that never run an operation of the device itself."""

    avoid_device_init = True  # type: ignore[assignment]


class AnyGenerator(torch.Generator):
    """A generator of random numbers for any device."""

    def __new__(cls, device: object = "cpu") -> AnyGenerator:
        """Create a generator on the CPU."""
        return super().__new__(cls)


def _apply(self: nn.Module, convert: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Convert all tensors of a module; torch's own method exchanges the memory of tensors, which fake ones do not have."""
    for module in self.modules():
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(convert(weight.detach()), weight.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = convert(buffer)
    return self


class RandomCase:
    """A prepared case of random values."""

    name = "random"
    record = SimpleNamespace(annotated=None, known_share=1.0)

    def __init__(self, plan: Plan) -> None:
        rng = np.random.default_rng(0)
        self.shape = tuple(2 * n if n > 1 else 1 for n in plan.patch_size)
        self.image = rng.random((len(plan.channels), *self.shape), np.float32)
        self.labels = rng.integers(0, plan.n_labels + 1, self.shape).astype(np.uint8)
        self.foreground = np.zeros((0, 4), np.int32)

    def read_box(self, start: Sequence[int], size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return a box of the given size."""
        pad = [(0, max(0, n - m)) for n, m in zip(size, self.shape, strict=True)]
        box = tuple(slice(0, n) for n in size)
        return np.pad(self.image, [(0, 0), *pad])[(slice(None), *box)], np.pad(self.labels, pad)[box]

    def context(self, fields: Sequence[str]) -> np.ndarray:
        """Return values of metadata."""
        return np.zeros(len(fields), np.float32)


def study_for(kind: str, *, augments: bool = False, **changes: Any) -> tuple[StudyConfig, Plan]:
    """Return the config and the plan of a study for a kind of network, with every augmentation in every patch or without."""
    values = small_values(Path("study"))
    values["network"] |= {"kind": kind, "drop_path": 0.5, "depth": 1, "interleave_depth": 1}
    every = ("affine", "mirror", "intensity", "low_resolution", "paste")
    values["augment"] = {"enabled": augments, **{f"{name}_probability": 1.0 for name in every}}
    plan: dict[str, Any] = {"batch_size": 2, "patch_size": (16, 16, 16)}
    plan["normalisation"] = tuple(Normalisation(channel=n, rule="zscore_foreground") for n in ("T1", "T2"))
    if kind == "transunet":
        values["network"] |= {"widths": [128, 128], "blocks": [1, 1]}
        plan |= {"patch_size": (32, 32, 1), "strides": ((2, 2, 1), (2, 2, 1))}
    return StudyConfig.model_validate(values), make_test_plan(**plan | changes)


GPU = torch.device("cpu")  # replaced by `main`


def training_step(kind: str, watch: Watch, *, is_deterministic: bool = False, **changes: Any) -> None:
    """Make a step of a training, with augmentation, loss, gradients, optimiser and average of the weights."""
    config, plan = study_for(kind, **changes)
    case: Any = RandomCase(plan)
    with tempfile.TemporaryDirectory() as folder:
        made = Trainer(config, plan, [case], [], folder=Path(folder), tracker=SeveralTrackers([]), device=GPU)
        made._learn()
        watch.clear()
        with deterministic(is_deterministic):
            made.train_step(made.sampler.batch(0))
    assert all(p.device == GPU for p in made.network.parameters())
    assert all(v.device == GPU for v in made.average.state.values())


def pretraining_step(watch: Watch) -> None:
    """Make a step of a pretraining."""
    config, plan = study_for("hybrid")
    case: Any = RandomCase(plan)
    network = network_for(config.network, plan)
    assert isinstance(network, SegmentationNetwork)
    autoencoder = MaskedAutoencoder(network, n_channels=2)
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"folder": Path(folder), "tracker": SeveralTrackers([]), "device": GPU}
        made = Pretrainer(config, plan, [case], [], network=autoencoder, **options)
        made._learn()
        watch.clear()
        made.train_step(made.sampler.batch(0))


def windows(kind: str, watch: Watch) -> None:
    """Predict the windows of a scan: eight of them, two at once."""
    config, plan = study_for(kind)
    network = network_for(config.network, plan).to(GPU).to(memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]
    image = torch.zeros(2, *(2 * n if n > 1 else 1 for n in plan.patch_size)).to(GPU)
    inference = config.inference.model_copy(update={"overlap": 0.0})
    settings = window_settings(plan, inference, Precision.FLOAT32)
    run = predictor_of(network, plan, None)
    watch.clear()
    list(predict_slabs(image, run, **settings, device=GPU))


MANY = {f"label{n}": n for n in range(1, 21)}
NESTED = {"whole": (1, 2), "core": (2,)}

SCENARIOS: dict[str, Callable[[Watch], None]] = {
    **{f"step {kind}": partial(training_step, kind) for kind in KINDS},
    "step with augmentation": partial(training_step, "resnet", augments=True),
    **{
        f"deterministic {kind}": partial(training_step, kind, is_deterministic=True) for kind in ("resnet", "transunet")
    },
    **{f"windows {kind}": partial(windows, kind) for kind in ("hybrid", "transunet")},
    "step many labels": partial(training_step, "resnet", labels=MANY),
    "step regions": partial(training_step, "resnet", labels={"a": 1, "b": 2}, regions=NESTED),
    "step metadata": partial(training_step, "hybrid", context=("age_years", "sex")),
    "pretraining": pretraining_step,
}


def main() -> None:
    """Run each scenario on the fake GPU, and print its notes or its error."""
    global GPU
    torch.utils.rename_privateuse1_backend(NAME)
    torch.utils.backend_registration._setup_privateuseone_for_python_backend(NAME)
    GPU = torch.device(NAME, 0)
    torch.Generator = AnyGenerator  # type: ignore[misc]
    nn.Module._apply = _apply  # type: ignore[method-assign, assignment]
    self_check.convolution_error = lambda *_: 0.0  # type: ignore[assignment]
    precision._fastest_precision = lambda _: Precision.FLOAT32  # type: ignore[assignment]
    told = {}
    for name, scenario in SCENARIOS.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        with Fake(allow_non_fake_inputs=True), Watch() as watch:
            try:
                scenario(watch)
                told[name] = watch.notes()
            except Exception:
                told[name] = {"error": traceback.format_exc()}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
