"""Steps before and after the network of a bundle, as MONAI transforms and an inferer.

`bundle.write` copies this module into a bundle, with the functions that it imports from medhybrid in place of the imports. So
the bundle needs only MONAI, torch, numpy and SciPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform
from torch import Tensor

from medhybrid.data.prepare import outside_labels, prepare_image
from medhybrid.geometry.affine import Grid, voxel_ml
from medhybrid.geometry.orientation import turn_to_ras
from medhybrid.geometry.resample import resample_image, respace
from medhybrid.inference.postprocess import apply_component_rules
from medhybrid.inference.windows import (
    AIR_LOGIT,
    blending_weights,
    mirrorings,
    window_starts,
)


def plan_of(values: Mapping[str, Any]) -> Any:
    """Return a plan with the values of the bundle's config as attributes."""
    rules = [SimpleNamespace(**n) for n in values["normalisation"]]
    tuples = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
    return SimpleNamespace(
        **(dict(values) | tuples | {"normalisation": rules, "channels": tuple(n.channel for n in rules)})
    )


class Network(torch.nn.Module):
    """Exported network on a device, as MONAI calls it."""

    def __init__(self, path: str, device: torch.device | str = "cpu") -> None:
        super().__init__()
        program = torch.export.load(path)
        if torch.device(device).type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, str(device))
        self._call = (program.module(),)  # hidden from `eval()`, which exported programs refuse

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, K, X, Y, Z) of images (B, C, X, Y, Z)."""
        made: Tensor = self._call[0](_plain(image))
        return made


class Prepared(MapTransform):  # type: ignore[misc]
    """Reorder the axes of a scan (C, X, Y, Z) to RAS, resample it to the spacing of the network and normalise it."""

    def __init__(self, keys: str | Sequence[str], plan: Mapping[str, Any]) -> None:
        super().__init__(keys)
        self.plan = plan_of(plan)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return the data with prepared images; their metadata has the grid of the scan."""
        found = dict(data)
        for key in self.key_iterator(found):
            scan = found[key]
            shape, affine = tuple(int(n) for n in scan.shape[1:]), np.asarray(scan.affine, np.float64)
            made = prepare_image(np.asarray(scan), Grid((shape[0], shape[1], shape[2]), affine), self.plan)
            meta = dict(scan.meta) | {"scan_shape": np.array(shape), "scan_affine": affine}
            found[key] = MetaTensor(torch.from_numpy(made.image), affine=torch.from_numpy(made.grid.affine), meta=meta)
        return found


class Windows(Inferer):  # type: ignore[misc]
    """Sliding windows with Gaussian blending and test-time mirroring; windows of air are background."""

    def __init__(self, plan: Mapping[str, Any], *, overlap: float, mirror: bool, skip_air: bool) -> None:
        super().__init__()
        self.plan, self.overlap, self.skip_air = plan_of(plan), overlap, skip_air
        self.flips = mirrorings(self.plan.mirror_axes if mirror else ())

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return logits (B, K, X, Y, Z) of images (B, C, X, Y, Z)."""
        with torch.inference_mode():
            made = torch.stack([self._one(image, lambda x: network(x, *args, **kwargs)) for image in _plain(inputs)])
        return made

    def _one(self, image: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        size = self.plan.patch_size
        missing = [max(0, w - n) for n, w in zip(image.shape[1:], size, strict=True)]
        before = [m // 2 for m in missing]
        padding = [n for b, m in zip(reversed(before), reversed(missing), strict=True) for n in (b, m - b)]
        padded = F.pad(image, padding)
        weights = blending_weights(size).to(image.device)
        n_classes = len(self.plan.labels) + 1
        total = torch.zeros((n_classes, *padded.shape[1:]), device=image.device)
        weight, is_computed = torch.zeros_like(total[0]), torch.zeros_like(total[0], dtype=torch.bool)
        starts = [window_starts(n, w, self.overlap) for n, w in zip(padded.shape[1:], size, strict=True)]
        for corner in product(*starts):
            box = tuple(slice(s, s + w) for s, w in zip(corner, size, strict=True))
            window = padded[(slice(None), *box)]
            weight[box] += weights
            if self.skip_air and not bool(window.any()):
                continue
            total[(slice(None), *box)] += self._mirrored(window[None], network)[0] * weights
            is_computed[box] = True
        logits = total / weight
        logits[0][~is_computed] = AIR_LOGIT
        inside = tuple(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True))
        return logits[(slice(None), *inside)]

    def _mirrored(self, window: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        total = torch.zeros((), device=window.device)
        for flip in self.flips:
            dims = [axis + 2 for axis in flip]
            made = network(window.flip(dims)).float()
            if self.plan.exchange and 0 in flip:  # a mirrored left side is a right side
                made = made[:, list(self.plan.exchange)]
            total = total + made.flip(dims)
        return total / len(self.flips)


class OnScan(MapTransform):  # type: ignore[misc]
    """Resample logits (K, X, Y, Z) to the scan, and decide the label map (1, X', Y', Z') with the values of mask files."""

    def __init__(self, keys: str | Sequence[str], plan: Mapping[str, Any], image_key: str = "image") -> None:
        super().__init__(keys)
        self.plan, self.image_key = plan_of(plan), image_key

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return the data with label maps on the grid of the scan."""
        found = dict(data)
        meta = found[self.image_key].meta
        shape, affine = (
            np.asarray(meta["scan_shape"]).ravel(),
            np.asarray(meta["scan_affine"], np.float64).reshape(4, 4),
        )
        scan = Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)
        turn = turn_to_ras(affine)
        turned = turn.grid(scan)
        for key in self.key_iterator(found):
            logits = _plain(found[key]).cpu().numpy()
            x, y, z = (
                own if self.plan.kernels and n == patch == 1 else planned
                for own, planned, n, patch in zip(
                    turned.spacing_mm, self.plan.spacing_mm, turned.shape, self.plan.patch_size, strict=True
                )
            )
            labels = resample_image(logits, respace(turned, (x, y, z)), turned).argmax(axis=0).astype(np.uint8)
            kept = apply_component_rules(
                np.ascontiguousarray(turn.undo(labels)),
                structures={name: (i,) for i, name in enumerate(self.plan.labels, start=1)},
                keep_largest=self.plan.keep_largest,
                min_component_ml=self.plan.min_component_ml,
                voxel_ml=voxel_ml(affine),
            )
            mask = outside_labels(kept, self.plan.labels)
            values = torch.from_numpy(mask.astype(np.int32))[None]
            found[key] = MetaTensor(
                values, affine=torch.from_numpy(affine), meta={k: v for k, v in meta.items() if k != "affine"}
            )
        return found


def _plain(values: Tensor) -> Tensor:
    """Return a tensor without MONAI's metadata."""
    return values.as_tensor() if isinstance(values, MetaTensor) else values
