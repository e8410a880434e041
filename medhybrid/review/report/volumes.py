"""Image and masks of a scan for the viewer in the page, and the viewer's script.

The viewer is NiiVue, which is part of the notebook script of the installed ipyniivue. `assets/viewer.js` takes the place of the
notebook.
"""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhybrid.geometry import Affine, Grid
from medhybrid.review.report.display import Window, display_window
from medhybrid.review.report.views import VolumeView
from medhybrid.scans import nifti_bytes

MAX_VOXELS = 6_000_000
"""A larger scan is downsampled by 2 along its finest axes for the viewer, with a note on the page."""

LEVELS = 2047
"""Steps between the lowest and the highest grey value: enough for any display window, and small when compressed."""

INSTANCE = re.compile(rb"\b(\w{1,8})\.setDrawingEnabled\(\1\.opts\.drawingEnabled\)")
"""Use of the NiiVue instance in the script of ipyniivue, by its name after minification."""

SECOND_COPY = re.compile(rb'="var%20[^"]*"')
"""Second copy of NiiVue, for pages that ipyniivue saves: half of the script, and not used here."""


@dataclass(frozen=True, slots=True)
class ViewerImage:
    """Image of one channel for the viewer: Base64 of a `.nii.gz` file, with its display window and range of values."""

    name: str
    data: str
    window: Window
    range: Window


@dataclass(frozen=True, slots=True)
class ViewerData:
    """Volumes for the viewer, as Base64 of `.nii.gz` files on one RAS grid, with their shape and display window.

    Attributes
    ----------
    images : tuple of ViewerImage
        The channels; the first one is shown first.
    left_out : tuple of str
        Names of the channels that would make the page too large.
    factors : (3,) tuple of int
        Downsampling along each axis: number of the scan's voxels in one voxel of the viewer.
    start, whole : (3,) tuple of int
        Index of the first voxel in the complete scan, and the shape of the scan, before downsampling.
    """

    images: tuple[ViewerImage, ...]
    left_out: tuple[str, ...]
    prediction: str
    reference: str | None
    shape: tuple[int, int, int]
    factors: tuple[int, int, int]
    start: tuple[int, ...]
    whole: tuple[int, ...]


def viewer_data(volume: VolumeView, labels: Sequence[int], *, max_voxels_of_channels: int = MAX_VOXELS) -> ViewerData:
    """Compress images and masks of a case: grey values in `LEVELS` steps, and value n for the n-th label.

    Parameters
    ----------
    max_voxels_of_channels : int
        The other channels are left out if all channels together have more voxels.
    """
    images = {volume.channel: np.asarray(volume.image)} | {n: np.asarray(a) for n, a in volume.others.items()}
    masks = [None if m is None else _numbered(m, labels) for m in (volume.prediction, volume.reference)]
    grid, factors = volume.grid, [1, 1, 1]
    while np.prod(grid.shape) > MAX_VOXELS:
        axis = int(np.argmin([s if n > 1 else np.inf for s, n in zip(grid.spacing_mm, grid.shape, strict=True)]))
        images = {name: _pairs(image, axis).mean(axis, dtype=np.float32) for name, image in images.items()}
        masks = [None if m is None else _pairs(m, axis).max(axis) for m in masks]
        grid, factors[axis] = _halved(grid, axis), factors[axis] * 2
    held = list(images) if len(images) * np.prod(grid.shape) <= max_voxels_of_channels else [volume.channel]
    prediction, reference = (None if m is None else _packed(m, grid.affine) for m in masks)
    return ViewerData(
        images=tuple(_viewer_image(name, images[name], volume, grid) for name in held),
        left_out=tuple(name for name in images if name not in held),
        prediction=prediction or "",
        reference=reference,
        shape=grid.shape,
        factors=(factors[0], factors[1], factors[2]),
        start=volume.start,
        whole=volume.whole or volume.grid.shape,
    )


def _viewer_image(name: str, image: NDArray[np.generic], volume: VolumeView, grid: Grid) -> ViewerImage:
    whole, slope, low = _quantised(image)
    window = display_window(volume if name == volume.channel else replace(volume, image=volume.others[name]))
    return ViewerImage(name, _packed(whole, grid.affine, slope, low), window, (low, low + slope * float(whole.max())))


@cache
def niivue() -> str | None:
    """Return the compressed script of ipyniivue as Base64, with its NiiVue instance as an export.

    It is None without ipyniivue, or with a version whose script lacks such an instance.
    """
    spec = find_spec("ipyniivue")  # find_spec does not import it: the import would load the libraries of notebooks
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "static" / "widget.js"
    script = file.read_bytes() if file.is_file() else b""
    if (instance := INSTANCE.search(script)) is None:
        return None
    script = SECOND_COPY.sub(b'=""', script) + b"export{" + instance[1] + b" as instance};"
    return base64.b64encode(gzip.compress(script, 9, mtime=0)).decode()


def _numbered(mask: NDArray[np.generic], labels: Sequence[int]) -> NDArray[np.uint8]:
    numbered = np.zeros(mask.shape, np.uint8)
    for n, value in enumerate(labels, start=1):
        numbered[mask == value] = n
    return numbered


def _packed(array: NDArray[np.generic], affine: Affine, slope: float = 1.0, intercept: float = 0.0) -> str:
    return base64.b64encode(nifti_bytes(array, affine, slope=slope, intercept=intercept)).decode()


def _quantised(image: NDArray[np.generic]) -> tuple[NDArray[np.int16], float, float]:
    """Return integers, with the slope and intercept to the original values. Integer images of a small range stay exact."""
    values = np.nan_to_num(image.astype(np.float32))
    low, high = float(values.min()), float(values.max())
    step = (high - low) / LEVELS
    if np.issubdtype(image.dtype, np.integer) and step < 1:
        step = 1.0
    step = step or 1.0
    return np.round((values - low) / step).astype(np.int16), step, low


def _pairs(array: NDArray[np.generic], axis: int) -> NDArray[np.generic]:
    """Return neighbours along an axis as pairs on a new axis after it; an odd last one is paired with itself."""
    n = array.shape[axis]
    even = np.take(array, np.minimum(np.arange(n + n % 2), n - 1), axis)
    shape = (*array.shape[:axis], (n + 1) // 2, 2, *array.shape[axis + 1 :])
    return np.moveaxis(even.reshape(shape), axis + 1, axis)


def _halved(grid: Grid, axis: int) -> Grid:
    affine = grid.affine.copy()
    affine[:3, 3] += 0.5 * affine[:3, axis]
    affine[:3, axis] *= 2
    shape = [(n + 1) // 2 if a == axis else n for a, n in enumerate(grid.shape)]
    return Grid((shape[0], shape[1], shape[2]), affine)
