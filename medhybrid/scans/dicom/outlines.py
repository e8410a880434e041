"""Closed polygons in the plane of a slice: enclosed pixels, and distances of points.

The nonzero winding rule applies: a polygon that is drawn round twice, or has overlapping ends, encloses the same pixels. A line
that is drawn there and back (keyhole technique) leads to a separate loop, such as a cavity. Pixels inside an even number of
loops are outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

ON_CONTOUR_VOXEL = 1e-3
"""Largest distance of a voxel centre from a contour that it lies on. Coordinates are stored with few digits."""


def area(polygon: Points) -> float:
    """Return the area of a polygon."""
    x, y = polygon.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def length(polygon: Points) -> float:
    """Return the perimeter of a polygon."""
    return float(np.linalg.norm(np.roll(polygon, -1, axis=0) - polygon, axis=1).sum())


def distance(points: Points, polygon: Points) -> NDArray[np.float64]:
    """Return the distance of each point (N, 2) from the edges of a polygon."""
    step = np.roll(polygon, -1, axis=0) - polygon
    squares = np.maximum((step**2).sum(1), 1e-30)
    nearest = np.empty(len(points))
    for i, point in enumerate(points):
        share = np.clip(((point - polygon) * step).sum(1) / squares, 0, 1)
        nearest[i] = np.linalg.norm(polygon + share[:, None] * step - point, axis=1).min()
    return nearest


def without_rounds(polygon: Points) -> Points:
    """Return one round of a polygon that repeats its points, in either direction; return other polygons unchanged."""
    kept = polygon[np.abs(polygon - np.roll(polygon, -1, axis=0)).max(1) > ON_CONTOUR_VOXEL]
    for n in np.flatnonzero((np.abs(kept - kept[:1]) <= ON_CONTOUR_VOXEL).all(1))[1:]:
        ways = kept[:n], np.vstack([kept[:1], kept[1:n][::-1]])
        if len(kept) % n == 0 and all(_are_near(kept[i : i + n], ways) for i in range(n, len(kept), n)):
            return np.asarray(kept[:n])
    return polygon


def _are_near(points: Points, ways: Sequence[Points]) -> bool:
    return any(np.abs(points - way).max() <= ON_CONTOUR_VOXEL for way in ways)


def inside(polygon: Points, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels (A, B) with centres inside or on a polygon (N, 2) in pixel coordinates."""
    return enclosed(polygon, shape) | on_outline(polygon, shape)


def interior(polygon: Points, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels (A, B) with centres inside a polygon, but not on it."""
    return enclosed(polygon, shape) & ~on_outline(polygon, shape)


def enclosed(polygon: Points, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels (A, B) with centres inside a polygon. Centres on it may count as inside or outside."""
    out = np.zeros(shape, bool)
    for loop in _loops(polygon):
        out ^= _wound(loop, shape)
    return out


def contains(polygon: Points, points: Points) -> NDArray[np.bool_]:
    """Return True for each point (N, 2) inside a polygon. Points on it may count as inside or outside."""
    out = np.zeros(len(points), bool)
    for loop in _loops(polygon):
        (a, b), (to_a, to_b) = loop.T, np.roll(loop, -1, axis=0).T
        for i, (x, y) in enumerate(points):
            crosses = (a <= x) != (to_a <= x)
            at = b[crosses] + (x - a[crosses]) * (to_b - b)[crosses] / (to_a - a)[crosses]
            out[i] ^= np.sign(to_a - a)[crosses][at > y].sum() != 0
    return out


def _wound(loop: Points, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels (A, B) with a nonzero winding number, from the edges that cross each line of pixels."""
    step = np.roll(loop, -1, axis=0) - loop
    ends = np.sort(np.stack([loop[:, 0], loop[:, 0] + step[:, 0]]), axis=0)
    first = np.clip(np.ceil(ends[0]), 0, shape[0]).astype(int)
    n_lines = np.clip(np.ceil(ends[1]), 0, shape[0]).astype(int) - first  # the upper end belongs to the next edge
    edge = np.repeat(np.arange(len(loop)), n_lines)
    line = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(n_lines) - n_lines, n_lines)
    across = loop[edge, 1] + (line - loop[edge, 0]) / step[edge, 0] * step[edge, 1]
    turns = np.zeros((shape[0], shape[1] + 1), int)
    sign = np.sign(step[edge, 0]).astype(int)
    np.add.at(turns, (line, np.zeros_like(line)), sign)
    np.add.at(turns, (line, np.clip(np.ceil(across), 0, shape[1]).astype(int)), -sign)
    return np.asarray(np.cumsum(turns, axis=1)[:, :-1] != 0)


def _loops(polygon: Points) -> list[Points]:
    """Split a polygon into loops at each pair of edges that run along the same line there and back."""
    todo, loops = [polygon], []
    while todo:
        points = todo.pop()
        pair = _there_and_back(points)
        if pair is None:
            loops.append(points)
            continue
        i, j = pair
        todo += [p for p in (points[i + 1 : j + 1], np.vstack([points[j + 1 :], points[: i + 1]])) if len(p) > 2]
    return loops


def _there_and_back(points: Points) -> tuple[int, int] | None:
    """Return the closest pair of edges of which one runs back along the other, or None."""
    keys = np.rint(points / ON_CONTOUR_VOXEL).astype(np.int64).tolist()
    places: dict[tuple[int, ...], list[int]] = {}
    best: tuple[int, int] | None = None
    for j, (start, end) in enumerate(zip(keys, [*keys[1:], keys[0]], strict=True)):
        if start == end:
            continue
        for i in places.get((*end, *start), [])[-1:]:
            if best is None or j - i < best[1] - best[0]:
                best = i, j
        places.setdefault((*start, *end), []).append(j)
    return best


def on_outline(polygon: Points, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels (A, B) with centres on an edge of a polygon."""
    out = np.zeros(shape, bool)
    start, step = polygon, np.roll(polygon, -1, axis=0) - polygon
    for axis in (0, 1):
        ends = np.sort(np.stack([start[:, axis], start[:, axis] + step[:, axis]]), axis=0)
        low = np.ceil(ends[0] - ON_CONTOUR_VOXEL).astype(int)
        n_lines = np.maximum(np.floor(ends[1] + ON_CONTOUR_VOXEL).astype(int) - low + 1, 0)
        edge = np.repeat(np.arange(len(start)), n_lines)  # one item per edge and line of pixels that it crosses
        line = low[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(n_lines) - n_lines, n_lines)
        along = step[edge, axis]
        share = np.divide(
            line - start[edge, axis], along, out=np.zeros(len(edge)), where=np.abs(along) > ON_CONTOUR_VOXEL
        )
        across = start[edge, 1 - axis] + np.clip(share, 0, 1) * step[edge, 1 - axis]
        pixels = np.empty((len(edge), 2), int)
        pixels[:, axis], pixels[:, 1 - axis] = line, np.rint(across)
        is_hit = (np.abs(across - np.rint(across)) <= ON_CONTOUR_VOXEL) & (pixels >= 0).all(1) & (pixels < shape).all(1)
        out[tuple(pixels[is_hit].T)] = True
    return out
