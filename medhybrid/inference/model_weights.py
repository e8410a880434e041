"""A network with the weights of a file that somebody else may have made: sizes and values are checked before use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from medhybrid.errors import ModelError
from medhybrid.networks import Network


def network_with_weights(build: Callable[[], Network], path: Path) -> Network:
    """Return the network that `build` makes, with the weights of a `.safetensors` file.

    Its tensors are first made without memory, and compared with those of the file by name and shape.

    Raises
    ------
    ModelError
        If the file does not fit the network, is damaged, or holds values that are no numbers.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        _compare_shapes(build, path)
        with _NoDraws():
            network = build()
        tensors = load_file(path)
        network.load_state_dict(tensors)
    except (RuntimeError, SafetensorError, OSError, MemoryError) as error:
        raise ModelError(f"{path} does not fit the network of model.json", found=str(error)[:300]) from error
    if broken := [n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]:
        raise ModelError(
            f"{path} holds weights that are no numbers",
            expected="finite values",
            found=f"NaN or infinity in {', '.join(broken[:3])}"
            + (f" and {len(broken) - 3} more" if len(broken) > 3 else ""),
            remedy="take the model from where it came from again, or train it again",
        )
    return network


def _compare_shapes(build: Callable[[], Network], path: Path) -> None:
    """Raise `RuntimeError` where a file's tensors are not those of the network."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in build().state_dict().items()}
    if differing := sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n)):
        name = differing[0]
        raise RuntimeError(
            f"{len(differing)} tensors differ, as {name}: {found.get(name, 'none')} in the file, "
            f"{expected.get(name, 'none')} in the network"
        )


class _NoDraws(TorchFunctionMode):
    """New weights stay as memory holds them where they are about to be read: the caller's random numbers are its own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in ("kaiming_uniform_", "kaiming_normal_", "trunc_normal_", "uniform_", "normal_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
