"""Slices with contours as SVG: sharp at any size, and contours can be hidden by a style without JavaScript.

Slices are in radiological orientation: the patient's right is on the left, and anterior is at the top. In sagittal slices,
anterior is on the left and superior at the top.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.review.figures import CONTENT_SHARE, PLANES, box_of_content, largest_region_centre, planes_of
from medhybrid.review.report.display import Window, display_window, grey_range
from medhybrid.review.report.views import VolumeView

MAX_SLICES = 12
"""Largest number of slices in a montage."""

EMPTY_SLICES = 6
"""Number of slices of a scan without findings."""

WEBP_QUALITY = 82

THUMBNAIL = 96
"""Pixels along the longer side of a preview."""

N_COLOURS = 6
"""Colours of labels in `report.css` and `viewer.js`; further labels have the same ones again."""

SIDES = {0: "APSI", 1: "RLSI", 2: "RLAP"}
"""Letters at the left, right, top and bottom of a slice, by the axis that it is perpendicular to."""

LETTER_SHARE = 0.055
"""Height of a letter as a share of the slice's height."""

LETTERS_PER_SIDE = 4
"""A slice that is narrower than this many letters gets a margin, so that each letter stays on its side of the centre."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Drawn slice: SVG text, plane, axis, index, and position in mm along the axis."""

    svg: str
    plane: str
    axis: int
    index: int
    position_mm: float


def crop(volume: VolumeView) -> VolumeView:
    """Crop the air around the patient, which is a large part of most scans; masks stay complete."""
    return _cut(volume, _content(volume))


def crop_together(a: VolumeView, b: VolumeView) -> tuple[VolumeView, VolumeView]:
    """Crop two results of one scan to the same box; the masks of both stay complete."""
    boxes = _content(a), _content(b)
    box = tuple(slice(min(x.start or 0, y.start or 0), _last(x.stop, y.stop)) for x, y in zip(*boxes, strict=True))
    return _cut(a, box), _cut(b, box)


def _last(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else max(a, b)


def _content(volume: VolumeView) -> tuple[slice, ...]:
    low, high = grey_range(volume.image)
    return box_of_content(
        np.asarray(volume.image) > low + CONTENT_SHARE * (high - low), volume.prediction, volume.reference
    )


def _cut(volume: VolumeView, box: tuple[slice, ...]) -> VolumeView:
    x, y, z = ((part.start or 0) + first for part, first in zip(box, volume.start, strict=True))
    return replace(
        volume,
        image=volume.image[box],
        prediction=volume.prediction[box],
        reference=None if volume.reference is None else volume.reference[box],
        grid=volume.grid.box(box),
        start=(x, y, z),
        whole=volume.whole or volume.grid.shape,
        others={name: array[box] for name, array in volume.others.items()},
    )


def three_planes(volume: VolumeView, labels: Sequence[int]) -> list[Slice]:
    """Draw axial, coronal and sagittal slices through the largest region of the reference, or else of the prediction.

    A scan of a single slice gives only this slice.
    """
    reference, prediction = volume.reference, volume.prediction
    centre = largest_region_centre(reference if reference is not None and reference.any() else prediction)
    window = display_window(volume)
    planes = reversed(planes_of(volume.grid.shape))
    return [draw(volume, axis, centre[axis], window, labels) for _, axis in planes]


def montage(volume: VolumeView, labels: Sequence[int]) -> list[Slice]:
    """Draw evenly spaced slices through prediction and reference, along the axis with the thickest slices."""
    spacing = volume.grid.spacing_mm
    axis = 2 if max(spacing) < 1.2 * spacing[2] else int(np.argmax(spacing))
    others = tuple(a for a in range(3) if a != axis)
    marked = volume.prediction != 0
    if volume.reference is not None:
        marked = marked | (volume.reference != 0)
    where = np.flatnonzero(marked.any(axis=others))
    n = volume.image.shape[axis]
    if len(where):
        places = where[np.unique(np.linspace(0, len(where) - 1, min(MAX_SLICES, len(where))).round().astype(int))]
    else:
        places = np.unique(np.linspace(0, n - 1, EMPTY_SLICES + 2).round().astype(int))
        places = (
            places[1:-1] if len(places) > 2 else places
        )  # omit the outermost slices, unless there are only one or two
    window = display_window(volume)
    return [draw(volume, axis, int(i), window, labels) for i in places[::-1]]


def draw(
    volume: VolumeView, axis: int, index: int, window: Window, labels: Sequence[int], *, is_small: bool = False
) -> Slice:
    """Draw one slice with contours.

    Parameters
    ----------
    axis, index : int
        Axis and index of the slice on the RAS grid.
    window : (float, float)
        Grey values shown as black and as white.
    labels : sequence of int
        Values of the masks; the n-th has the style class `label-n`, up to `N_COLOURS`.
    is_small : bool
        Draw a preview for a row of a table: few pixels, no letters.
    """
    kept = [a for a in range(3) if a != axis]
    dx, dy = (volume.grid.spacing_mm[a] for a in kept)
    picture = _seen(volume.image, axis, index)
    height, width = picture.shape[0] * dy, picture.shape[1] * dx
    plane = PLANES[axis][0]
    size = f'width="{width:.1f}" height="{height:.1f}"'
    margin_x, margin_y = (0.0, 0.0) if is_small else _margins(width, height)
    view = f"{0 - margin_x:.1f} {0 - margin_y:.1f} {width + 2 * margin_x:.1f} {height + 2 * margin_y:.1f}"
    href = _webp(picture, window, THUMBNAIL if is_small else None)
    parts = [
        f'<svg viewBox="{view}" role="img" aria-label="{plane} slice">',
        f'<image href="{href}" {size} preserveAspectRatio="none"/>',
    ]
    for name, mask in (("reference", volume.reference), ("prediction", volume.prediction)):
        if mask is None:
            continue
        seen = _seen(mask, axis, index)
        for n, value in enumerate(labels, start=1):
            if path := _contour(seen == value, dx, dy):
                parts.append(f'<path class="{name} label-{(n - 1) % N_COLOURS + 1}" d="{path}"/>')
    if not is_small:
        parts.extend(_letters(axis, width, height))
    parts.append("</svg>")
    middle = [index if a == axis else (n - 1) / 2 for a, n in enumerate(volume.image.shape)]
    position = volume.grid.affine[axis, :3] @ middle + volume.grid.affine[axis, 3]
    return Slice("".join(parts), plane, axis, index, float(position))


def _seen(volume: NDArray[np.generic], axis: int, index: int) -> NDArray[np.generic]:
    """Return a slice of a volume as it is displayed: rows run down, columns to the patient's left or to posterior."""
    plane: NDArray[np.generic] = np.take(volume, index, axis=axis).T[::-1, ::-1]
    return plane


def _letter_height(width: float, height: float) -> float:
    """Return the height of the letters of a slice, in mm."""
    return LETTER_SHARE * max(height, width / 2)


def _margins(width: float, height: float) -> tuple[float, float]:
    """Return the margins left and right, and above and below, in mm, that the letters of a thin slice need."""
    needed = LETTERS_PER_SIDE * _letter_height(width, height)
    return max(0.0, (needed - width) / 2), max(0.0, (needed - height) / 2)


def _letters(axis: int, width: float, height: float) -> list[str]:
    """Return the letters of the four sides as SVG texts, each in its own half of the slice and its margins."""
    tall = _letter_height(width, height)
    margin_x, margin_y = _margins(width, height)
    left = tall * 0.5 - margin_x
    right = width + margin_x - tall * 0.5
    top = tall - margin_y
    bottom = height + margin_y - tall / 3
    places = [(left, height / 2), (right, height / 2), (width / 2, top), (width / 2, bottom)]
    return [
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{tall:.1f}">{letter}</text>'
        for letter, (x, y) in zip(SIDES[axis], places, strict=True)
    ]


def _webp(picture: NDArray[np.generic], window: Window, most_pixels: int | None) -> str:
    from PIL import Image

    low, high = window
    grey = np.clip((picture.astype(np.float32) - low) / (high - low), 0, 1)
    data = io.BytesIO()
    image = Image.fromarray((255 * grey + 0.5).astype(np.uint8))
    if most_pixels is not None:
        image.thumbnail((most_pixels, most_pixels))
    image.save(data, "WEBP", quality=WEBP_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()


def _contour(mask: NDArray[np.bool_], dx: float, dy: float) -> str:
    """Return the SVG path of a mask's contour, in mm; empty for an empty mask."""
    if not mask.any():
        return ""
    from contourpy import contour_generator

    padded = np.pad(mask, 1).astype(float)
    lines: Any = contour_generator(z=padded).lines(0.5)
    return "".join(
        "M" + "L".join(f"{(x - 0.5) * dx:.1f} {(y - 0.5) * dy:.1f}" for x, y in line) + "Z" for line in lines
    )
