"""Loading of weights from a file that may come from elsewhere: shapes and values are checked before use."""

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

    The network is first built on torch's `meta` device, which needs no memory, and compared with the file by names and shapes
    of tensors.

    Raises
    ------
    ModelError
        If the file does not fit the network, is damaged, or holds NaN or infinite values.
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
            f"{path} holds NaN or infinite weights",
            expected="finite values",
            found=f"NaN or infinity in {', '.join(broken[:3])}"
            + (f" and {len(broken) - 3} more" if len(broken) > 3 else ""),
            remedy="copy the model from its source again, or train it again",
        )
    return network


def _compare_shapes(build: Callable[[], Network], path: Path) -> None:
    """Raise `RuntimeError` if the names or shapes of a file's tensors differ from those of the network."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in build().state_dict().items()}
    if differing := sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n)):
        name = differing[0]
        raise RuntimeError(
            f"{len(differing)} tensors differ, for example {name}: {found.get(name, 'none')} in the file, "
            f"{expected.get(name, 'none')} in the network"
        )


class _NoDraws(TorchFunctionMode):
    """Mode in which torch does not initialise new weights.

    They are overwritten by the file's weights, and random initialisation would change the state of the caller's generator.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in ("kaiming_uniform_", "kaiming_normal_", "trunc_normal_", "uniform_", "normal_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
