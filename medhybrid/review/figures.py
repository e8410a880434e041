"""Pictures of masks on images: three planes through the largest reference region.

Reference and prediction are contours in blue and orange of the Okabe-Ito palette, which readers with any colour vision can
tell apart; the prediction is dashed as well.
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
"""Voxels above this share of the grey window are shown for sure; the air around them is cut away."""

MARGIN = 3
"""Voxels of air kept around the content."""

PLANES = (("sagittal", 0), ("coronal", 1), ("axial", 2))
LEFT_SIDES = "ARR"
"""What lies on the left of a picture, by the axis that it cuts."""


def largest_region_centre(mask: NDArray[np.generic]) -> tuple[int, int, int]:
    """A voxel of the largest component of a mask, nearest to its centre; the middle of the grid if the mask is empty."""
    labelled, n = ndimage.label(mask != 0, np.ones((3, 3, 3)))
    if n == 0:
        x, y, z = (s // 2 for s in mask.shape)
        return x, y, z
    largest = 1 + int(np.bincount(labelled.ravel())[1:].argmax())
    return nearest_to_centre(labelled == largest)


def nearest_to_centre(mask: NDArray[np.bool_]) -> tuple[int, int, int]:
    """The voxel of a mask that is nearest to its centre of mass."""
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
    """Write a PNG of three planes.

    Parameters
    ----------
    image : (X, Y, Z) ndarray
        One channel, in RAS order.
    reference, prediction : (X, Y, Z) ndarray
        Label maps on the same grid; without a reference the planes go through the largest predicted region.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    low, high = np.percentile(np.asarray(image, np.float64), [1, 99.9])
    box = box_of_content(image > low + CONTENT_SHARE * (high - low), prediction, reference)
    image, prediction = image[box], prediction[box]
    reference = None if reference is None else reference[box]
    centre = largest_region_centre(reference if reference is not None and reference.any() else prediction)
    extents = np.array(image.shape) * np.array(spacing_mm)
    widths = [extents[1], extents[0], extents[0]]
    figure = Figure(figsize=(10, 10 * max(extents[1], extents[2]) / sum(widths) + 0.7), facecolor="black")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, 3, width_ratios=widths)
    figure.subplots_adjust(0.01, 0.06, 0.99, 0.86, 0.03)
    for (name, axis), ax in zip(PLANES, axes, strict=True):
        ax.imshow(_plane(image, axis, centre[axis]), cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower")
        kept = [a for a in range(3) if a != axis]
        ax.set_aspect(spacing_mm[kept[1]] / spacing_mm[kept[0]])
        if reference is not None:
            _contours(ax, _plane(reference, axis, centre[axis]), REFERENCE_COLOUR, "solid")
        _contours(ax, _plane(prediction, axis, centre[axis]), PREDICTION_COLOUR, "dashed")
        ax.text(0.02, 0.5, LEFT_SIDES[axis], color="white", fontsize=8, transform=ax.transAxes, va="center")
        ax.axis("off")
        middle = ax.get_position().x0 + ax.get_position().width / 2
        figure.text(middle, 0.9, name, color="white", fontsize=9, ha="center", va="top")
    legend = "blue: reference    orange, dashed: prediction" if reference is not None else "orange: prediction"
    figure.suptitle(title, color="white", fontsize=10, y=0.995)
    figure.text(0.5, 0.01, legend, color="white", fontsize=8, ha="center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, facecolor="black")


def box_of_content(*volumes: NDArray[np.generic] | None) -> tuple[slice, ...]:
    """The smallest box, with a margin, around everything that is not zero; the whole grid if nothing is."""
    content = np.any([v != 0 for v in volumes if v is not None], axis=0)
    if not content.any():
        return (slice(None),) * 3
    box = []
    for axis in range(3):
        where = np.flatnonzero(content.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, int(where[0]) - MARGIN), int(where[-1]) + 1 + MARGIN))
    return tuple(box)


def _plane(volume: NDArray[np.generic], axis: int, index: int) -> NDArray[np.generic]:
    """Rows go up (to anterior, or to the head), columns to the patient's left or to posterior, as radiologists look."""
    plane: NDArray[np.generic] = np.take(volume, index, axis=axis)
    return plane.T[:, ::-1]


def _contours(ax: Any, labels: NDArray[np.generic], colour: str, style: str) -> None:
    for value in np.unique(labels):
        if value == 0:
            continue
        mask = labels == value
        if mask.all():
            continue
        x, y, filled = _widen_single_rows(mask)
        ax.contour(x, y, filled, levels=[0.5], colors=[colour], linewidths=1.3, linestyles=style)


def _widen_single_rows(
    mask: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return column and row positions of a plane, and its values (rows, columns).

    A plane with one row or one column, as of a single slice, has no contour: its row is given twice, at its two edges.
    """
    values, places = mask.astype(float), []
    for axis, n in enumerate(mask.shape):
        if n == 1:
            values = np.repeat(values, 2, axis=axis)
        places.append(np.array([-0.5, 0.5]) if n == 1 else np.arange(n, dtype=float))
    rows, columns = places
    return columns, rows, values
