"""Synthetic brains with lesions, for the demo and the tests, as functions on arrays.

A subject is a smooth deformation of the MNI152 template of the nilearn package. Its contrasts are random combinations of the
grey and white matter maps, with a bias field and noise. Lesions of several shapes are bright on FLAIR and dark on T1. The
position of the head differs between subjects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medhybrid.errors import DataError
from medhybrid.geometry import Affine

SPACING_MM = 2.0
"""Voxel size of the template arrays."""

Float32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Template:
    """Maps (X, Y, Z) of grey matter, white matter and the whole head, in [0, 1] on the same grid, with its affine."""

    grey: Float32Array
    white: Float32Array
    head: Float32Array
    affine: Affine


@dataclass(frozen=True, slots=True)
class Subject:
    """Synthetic subject: T1 and FLAIR (X, Y, Z), lesion mask and their affine."""

    t1: Float32Array
    flair: Float32Array
    lesions: NDArray[np.uint8]
    affine: Affine


def load_template() -> Template:
    """Load the MNI152 maps of the nilearn package at 2 mm.

    Raises
    ------
    DataError
        If nilearn is not installed.
    """
    try:
        from nilearn import datasets
    except ImportError as error:
        raise DataError(
            "the demo needs the brain templates of nilearn", remedy='install it: pip install "medhybrid[demo]"'
        ) from error
    head = datasets.load_mni152_template(resolution=2)
    maps = [datasets.load_mni152_gm_template(resolution=2), datasets.load_mni152_wm_template(resolution=2), head]
    grey, white, whole = (np.asarray(m.dataobj, np.float32) for m in maps)
    return Template(grey / grey.max(), white / white.max(), whole / whole.max(), np.asarray(head.affine, np.float64))


def make_subject(template: Template, seed: int) -> Subject:
    """Generate a subject, reproducibly for each seed."""
    rng = np.random.default_rng(seed)
    grey, white, head = _deform((template.grey, template.white, template.head), rng)
    brain = np.clip(grey + white, 0, 1)
    lesions = _draw_lesions(white > 0.5, rng)
    soft = ndimage.gaussian_filter(lesions.astype(np.float32), 0.6)
    csf = np.clip(head - brain, 0, 1) * (ndimage.binary_erosion(head > 0.1, iterations=3))
    flair = _contrast(rng, grey, white, csf, (0.62, 0.48, 0.12))
    t1 = _contrast(rng, grey, white, csf, (0.55, 0.85, 0.15))
    flair = flair + soft * rng.uniform(0.22, 0.45)
    t1 = t1 - soft * rng.uniform(0.1, 0.3)
    scale = float(rng.uniform(300, 900))  # MR intensities have no common unit
    images = [np.clip(_finish(image, head, rng) * scale, 0, None).astype(np.float32) for image in (t1, flair)]
    affine = template.affine.copy()
    affine[:3, 3] += rng.uniform(-10, 10, 3)
    return Subject(images[0], images[1], lesions, affine)


def _deform(maps: tuple[Float32Array, ...], rng: np.random.Generator) -> list[Float32Array]:
    """Apply the same random smooth deformation, with a small rotation and scaling, to all maps."""
    shape = maps[0].shape
    angles, scales = rng.uniform(-0.12, 0.12, 3), rng.uniform(0.92, 1.08, 3)
    matrix = np.diag(1 / scales)
    for axis, angle in enumerate(angles):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    centre = (np.array(shape) - 1) / 2
    grid = np.stack(np.meshgrid(*(np.arange(n) - c for n, c in zip(shape, centre, strict=True)), indexing="ij"))
    where = np.tensordot(matrix, grid, axes=1) + centre[:, None, None, None]
    for axis in range(3):
        control = rng.normal(0, 2.0, (6, 6, 6))
        zoom = [n / 6 for n in shape]
        where[axis] += ndimage.zoom(control, zoom, order=1, grid_mode=True, mode="nearest")[
            : shape[0], : shape[1], : shape[2]
        ]
    return [ndimage.map_coordinates(m, where, order=1, mode="constant").astype(np.float32) for m in maps]


def _draw_lesions(white: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw two to five lesions centred in white matter: blobs with a ragged edge, of 4 to 14 mm radius, some elongated."""
    candidates = np.argwhere(ndimage.binary_erosion(white, iterations=2))
    mask = np.zeros(white.shape, bool)
    rough = ndimage.gaussian_filter(rng.normal(size=white.shape), 1.5)
    rough /= rough.std()
    index = np.stack(np.meshgrid(*(np.arange(n) for n in white.shape), indexing="ij")).astype(np.float32)
    for _ in range(int(rng.integers(2, 6))):
        centre = candidates[int(rng.integers(len(candidates)))]
        radius = rng.uniform(4, 14) / SPACING_MM
        stretch = rng.uniform(0.6, 1.5, 3)
        distance = np.sqrt((((index - centre[:, None, None, None]) / stretch[:, None, None, None]) ** 2).sum(0))
        mask |= distance < radius * (1 + 0.18 * rough)
    labelled, n = ndimage.label(mask)
    sizes = np.bincount(labelled.ravel(), minlength=n + 1)
    sizes[0] = 0
    return np.asarray(sizes[labelled] >= 8, np.uint8)


def _contrast(
    rng: np.random.Generator, grey: Float32Array, white: Float32Array, csf: Float32Array, levels: tuple[float, ...]
) -> Float32Array:
    g, w, c = (level * rng.uniform(0.88, 1.12) for level in levels)
    return np.asarray(grey * g + white * w + csf * c, np.float32)


def _finish(image: Float32Array, head: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Add skull and skin, a bias field and noise."""
    skin = np.clip(head - 0.1, 0, 1) * (image < 0.05)
    image = image + 0.35 * skin
    control = rng.normal(0, 0.08, (4, 4, 4))
    zoom = [n / 4 for n in image.shape]
    bias = ndimage.zoom(control, zoom, order=3, grid_mode=True, mode="nearest")
    bias = bias[: image.shape[0], : image.shape[1], : image.shape[2]]
    noisy = image * np.exp(bias) + rng.normal(0, 0.02, image.shape)
    return np.asarray(noisy * (head > 0.02), np.float32)
