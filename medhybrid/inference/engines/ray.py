"""Workers on a Ray cluster: each is an actor that loads the model once. An actor that dies is replaced.

Ray comes with the extra `[scale]`. Scans, model and output folder must be at the same paths on every node of the cluster.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from medhybrid.data.workers import FELLOWS, PLACE, WorkerDied
from medhybrid.errors import ConfigError, DeviceError
from medhybrid.inference.engines.pool import Item

logger = logging.getLogger(__name__)

ATTEMPTS = 3

CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Environment variable of Ray, which it reads on every system. With 0, Ray's ports are open to this computer only."""


class RayActors:
    """Pool of up to `n` Ray actors; see `Pool`.

    Parameters
    ----------
    address : str
        Address of a cluster; `auto` finds the cluster of this computer. `local` starts a cluster on this computer alone, which
        ends with the pool.
    device : str
        With `cpu` and `openvino`, each actor uses a CPU core; otherwise a GPU, if the cluster has any.

    Raises
    ------
    ConfigError, DeviceError
        If Ray is not installed, or the cluster does not answer or has no free core or GPU.
    """

    def __init__(self, n: int, *, address: str = "auto", device: str = "auto") -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if address == "local":
            os.environ.setdefault(CLUSTERS, "0")
        try:
            import ray
        except ImportError as error:
            raise ConfigError("Ray is not installed", remedy="pip install 'medhybrid[scale]'") from error
        self._ray = ray
        self._join(address, n)
        has_gpus = device not in ("cpu", "openvino") and ray.cluster_resources().get("GPU", 0) >= 1
        room = ray.available_resources()
        kind = "GPU" if has_gpus else "CPU"
        self.n = min(n, int(room.get(kind, 0)))  # an actor without a free core or GPU would wait forever
        if self.n < n:
            logger.warning("the cluster has room for %d of %d workers", self.n, n)
        if self.n < 1:
            ray.shutdown()
            raise DeviceError("the Ray cluster has no room for a worker", expected=f"a free {kind}")
        self._actor = ray.remote(num_gpus=int(has_gpus), num_cpus=1, max_restarts=0)(_Worker)
        self._idle: list[tuple[int, Any]] = []

    def _join(self, address: str, n: int) -> None:
        """Connect to a cluster, or start one, in several attempts: Ray gives up after 15 s, too early on a busy computer."""
        own: dict[str, Any] = {"address": "local", "include_dashboard": False, "num_cpus": n}
        where = own if address == "local" else {"address": address}
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
                return
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise DeviceError(
                    f"no Ray cluster at {address!r}",
                    found=str(error).splitlines()[0],
                    remedy="start one with `ray start --head`, or give --address",
                ) from error
            except Exception as error:  # Ray raises a plain Exception after a timeout
                self._ray.shutdown()
                if attempt == ATTEMPTS:
                    raise DeviceError(
                        "Ray did not start on this computer",
                        found=f"{ATTEMPTS} attempts: {str(error).splitlines()[0]}",
                        remedy="try again when the computer is less busy, or use `--engine local`",
                    ) from error
                logger.warning("Ray did not start: attempt %d of %d", attempt, ATTEMPTS)

    def __enter__(self) -> RayActors:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def map(self, function: Callable[[Item], Any], items: Sequence[Item]) -> Iterator[tuple[Item, Any]]:
        """Call `function` for each item; see `Pool`."""
        taken = {place for place, _ in self._idle}
        wanted = min(self.n, len(items)) - len(self._idle)
        self._idle += [(n, self._actor.remote(n, self.n)) for n in range(self.n) if n not in taken][: max(0, wanted)]
        waiting = list(reversed(items))
        busy: dict[Any, tuple[int, Any, Item]] = {}
        while waiting or busy:
            while waiting and self._idle:
                place, actor = self._idle.pop()
                item = waiting.pop()
                busy[actor.apply.remote(function, item)] = (place, actor, item)
            (ready, *_), _ = self._ray.wait(list(busy), num_returns=1)
            place, actor, item = busy.pop(ready)
            try:
                result = self._ray.get(ready)
            except self._ray.exceptions.RayTaskError:  # an error in our code, not the death of a worker
                raise
            except self._ray.exceptions.RayError as error:  # killed, out of memory, or its node is lost
                found = str(error).splitlines()[0] if str(error) else type(error).__name__
                self._ray.kill(actor)  # a node that was only unreachable could return and repeat the item
                result, actor = WorkerDied("a worker died", found=found), self._actor.remote(place, self.n)
            self._idle.append((place, actor))
            yield item, result


class _Worker:
    """Class of the actors."""

    def __init__(self, place: int, n: int) -> None:
        os.environ |= {PLACE: str(place), FELLOWS: str(n)}

    def apply(self, function: Callable[[Any], Any], item: Any) -> Any:
        """Return the result of `function` for one item."""
        return function(item)
