"""Figures of masks on images: three planes through the largest reference region.

Contours of reference and prediction are blue and orange of the Okabe-Ito palette, which is readable with colour vision
deficiency. The prediction is also dashed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

REFERENCE_COLOUR = "#56B4E9"
PREDICTION_COLOUR = "#E69F00"
CONTENT_SHARE = 0.15
"""Voxels above this share of the display window count as content; the air around the content is cropped."""

MARGIN = 3
"""Voxels of air kept around the content."""

PLANES = (("sagittal", 0), ("coronal", 1), ("axial", 2))
LEFT_SIDES = "ARR"
"""Letter of the side that is on the left of a plane, by the axis that the plane is perpendicular to."""

NARROWEST_SHARE = 0.12
"""Smallest share of the figure's width for a plane: a narrow plane has its letter beside it."""

LETTER_WIDTH = 0.012
"""Width of a letter with its space, as a share of the figure's width."""


def largest_region_centre(mask: NDArray[np.generic]) -> tuple[int, int, int]:
    """Return the voxel of the largest component that is nearest to its centre; the middle of the grid for an empty mask."""
    labelled, n = ndimage.label(mask != 0, np.ones((3, 3, 3)))
    if n == 0:
        x, y, z = (s // 2 for s in mask.shape)
        return x, y, z
    largest = 1 + int(np.bincount(labelled.ravel())[1:].argmax())
    return nearest_to_centre(labelled == largest)


def nearest_to_centre(mask: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Return the voxel of a mask that is nearest to its centre of mass."""
    voxels = np.argwhere(mask)
    nearest = voxels[np.linalg.norm(voxels - voxels.mean(axis=0), axis=1).argmin()]
    return int(nearest[0]), int(nearest[1]), int(nearest[2])


def draw_case(
    path: Path,
    image: NDArray[np.generic],
    *,
    reference: NDArray[np.generic] | None,
    prediction: NDArray[np.generic],
    spacing_mm: tuple[float, float, float],
    title: str,
) -> None:
    """Write a PNG of three planes with contours; of a single slice, only that plane.

    Parameters
    ----------
    image : (X, Y, Z) ndarray
        One channel, in RAS order.
    reference, prediction : (X, Y, Z) ndarray
        Label maps on the same grid. Without a reference, the planes go through the largest predicted region.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    low, high = np.percentile(np.asarray(image, np.float64), [1, 99.9])
    box = box_of_content(image > low + CONTENT_SHARE * (high - low), prediction, reference)
    image, prediction = image[box], prediction[box]
    reference = None if reference is None else reference[box]
    centre = largest_region_centre(reference if reference is not None and reference.any() else prediction)
    extents = np.array(image.shape) * np.array(spacing_mm)
    planes = planes_of(image.shape)
    widths = np.array([extents[1] if axis == 0 else extents[0] for _, axis in planes])
    heights = [extents[1] if axis == 2 else extents[2] for _, axis in planes]
    widths = np.maximum(widths, NARROWEST_SHARE * widths.sum())
    figure = Figure(figsize=(10, 10 * max(heights) / sum(widths) + 0.7), facecolor="black")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, len(planes), width_ratios=widths, squeeze=False)[0]
    figure.subplots_adjust(0.01, 0.06, 0.99, 0.86, 0.03)
    for (name, axis), ax in zip(planes, axes, strict=True):
        ax.imshow(_plane(image, axis, centre[axis]), cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower")
        kept = [a for a in range(3) if a != axis]
        ax.set_aspect(spacing_mm[kept[1]] / spacing_mm[kept[0]])
        if reference is not None:
            _contours(ax, _plane(reference, axis, centre[axis]), REFERENCE_COLOUR, "solid")
        _contours(ax, _plane(prediction, axis, centre[axis]), PREDICTION_COLOUR, "dashed")
        ax.axis("off")
        ax.apply_aspect()
        place = ax.get_position()
        middle = place.x0 + place.width / 2
        is_thin = place.width < 4 * LETTER_WIDTH  # inside the plane, the letter would reach into its right half
        left = place.x0 - LETTER_WIDTH if is_thin else place.x0 + 0.02 * place.width
        figure.text(left, place.y0 + place.height / 2, LEFT_SIDES[axis], color="white", fontsize=8, va="center")
        figure.text(middle, 0.9, name, color="white", fontsize=9, ha="center", va="top")
    legend = "blue: reference    orange, dashed: prediction" if reference is not None else "orange: prediction"
    figure.suptitle(title, color="white", fontsize=10, y=0.995)
    figure.text(0.5, 0.01, legend, color="white", fontsize=8, ha="center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, facecolor="black")


def planes_of(shape: tuple[int, ...]) -> list[tuple[str, int]]:
    """Return the planes of a volume (X, Y, Z) that are shown: the only one of a single slice, else all three."""
    single = [axis for axis, n in enumerate(shape) if n == 1]
    return [PLANES[single[0]]] if single else list(PLANES)


def box_of_content(*volumes: NDArray[np.generic] | None) -> tuple[slice, ...]:
    """Return the smallest box, with a margin, around all nonzero voxels; the whole grid if all are zero."""
    content = np.any([v != 0 for v in volumes if v is not None], axis=0)
    if not content.any():
        return (slice(None),) * 3
    box = []
    for axis in range(3):
        where = np.flatnonzero(content.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, int(where[0]) - MARGIN), int(where[-1]) + 1 + MARGIN))
    return tuple(box)


def _plane(volume: NDArray[np.generic], axis: int, index: int) -> NDArray[np.generic]:
    """Return a slice in radiological orientation: rows go up (anterior or superior), columns to the left or posterior."""
    plane: NDArray[np.generic] = np.take(volume, index, axis=axis)
    return plane.T[:, ::-1]


def _contours(ax: Any, labels: NDArray[np.generic], colour: str, style: str) -> None:
    for value in np.unique(labels):
        if value == 0:
            continue
        mask = labels == value
        if mask.all():
            continue
        rows, columns = (np.arange(n) for n in mask.shape)
        if min(mask.shape) == 1:  # matplotlib needs two rows and two columns
            mask = np.pad(mask, 1)
            rows, columns = (np.arange(-1, n - 1) for n in mask.shape)
        ax.autoscale(False)
        ax.contour(columns, rows, mask.astype(float), levels=[0.5], colors=[colour], linewidths=1.3, linestyles=style)
