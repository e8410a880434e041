"""Random augmentation of batches of training patches, on the training device.

`draw_parameters` draws the random parameters, and `apply` applies them. The two are separate so that an augmentation can be
recorded and tested. Axes: B batch, C channels, X Y Z space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medhybrid.config import AugmentConfig
from medhybrid.data.fingerprint import MIN_KNOWN, UNKNOWN
from medhybrid.data.sides import LEFT_RIGHT

ELASTIC_POINTS = 5
"""Number of control points of the elastic deformation along each axis."""


@dataclass(frozen=True, slots=True)
class PatchParameters:
    """Random parameters of the augmentation of one patch.

    Attributes
    ----------
    matrix : (3, 3) ndarray or None
        Maps output to input positions, in mm. None applies no affine and no elastic deformation.
    displacement : (3, P, P, P) ndarray or None
        Elastic displacement at the control points, in mm.
    flips : tuple of int
        Mirrored axes.
    gain, shift, gamma : (C,) ndarray
        Contrast factor, brightness shift and exponent of the gamma transform, for each channel.
    low_resolution : float
        Factor of downsampling; 1 keeps the resolution.
    noise : float
        Standard deviation of Gaussian noise; 0 adds none.
    present : (C,) ndarray
        False for blanked channels.
    noise_seed : int
        Seed of the noise.
    paste_margin_mm : float or None
        Margin around the foreground that is pasted from the next patch of the batch. None pastes nothing.
    """

    matrix: np.ndarray | None
    displacement: np.ndarray | None
    flips: tuple[int, ...]
    gain: np.ndarray
    shift: np.ndarray
    gamma: np.ndarray
    low_resolution: float
    noise: float
    present: np.ndarray
    noise_seed: int
    paste_margin_mm: float | None


def draw_parameters(
    config: AugmentConfig,
    rng: np.random.Generator,
    *,
    spacing_mm: tuple[float, float, float],
    mirror_axes: tuple[int, ...],
    optional: tuple[bool, ...],
    patch_size: tuple[int, int, int] | None = None,
) -> PatchParameters:
    """Draw the random parameters for one patch.

    Parameters
    ----------
    patch_size : (3,) tuple of int, optional
        A patch of one slice is rotated within the slice only.
    optional : (C,) tuple of bool
        Channels that may be blanked.
    """
    n_channels = len(optional)
    matrix = displacement = None
    if rng.random() < config.affine_probability:
        matrix = _rotation(rng, config.rotation_degrees, spacing_mm, patch_size) * (
            1 + config.scale * rng.uniform(-1, 1)
        )
        if config.elastic_mm:
            displacement = rng.normal(0, config.elastic_mm, (3, *(ELASTIC_POINTS,) * 3))
    flips = tuple(axis for axis in mirror_axes if rng.random() < config.mirror_probability)

    def sometimes(value: np.ndarray, otherwise: float) -> np.ndarray:
        chosen = rng.random(n_channels) < config.intensity_probability
        return np.where(chosen, value, otherwise)

    gain = sometimes(1 + config.contrast * rng.uniform(-1, 1, n_channels), 1.0)
    shift = sometimes(config.brightness * rng.uniform(-1, 1, n_channels), 0.0)
    gamma = sometimes(np.exp(config.gamma * rng.uniform(-1, 1, n_channels)), 1.0)
    low = rng.uniform(0.5, 1.0) if rng.random() < config.low_resolution_probability else 1.0
    noise = rng.uniform(0, config.noise) if rng.random() < config.intensity_probability else 0.0
    dropped = (rng.random(n_channels) < config.drop_channel_probability) & np.array(optional)
    noise_seed = int(rng.integers(2**31))
    margin = None
    if rng.random() < config.paste_probability:
        margin = float(config.paste_margin_mm * rng.uniform(0.25, 1))
    return PatchParameters(
        matrix, displacement, flips, gain, shift, gamma, float(low), float(noise), ~dropped, noise_seed, margin
    )


def _rotation(
    rng: np.random.Generator,
    degrees: float,
    spacing_mm: tuple[float, float, float],
    patch_size: tuple[int, int, int] | None,
) -> np.ndarray:
    """Draw a rotation matrix.

    The range is `degrees` around the axis with the largest spacing, and two thirds of that around the others. With slices more
    than twice as thick as the pixels, it is one third around the others, because interpolation between few slices is inexact.
    A single slice is rotated by `degrees` around its normal only.
    """
    thick = int(np.argmax(spacing_mm))
    ratio = max(spacing_mm) / min(spacing_mm)
    limits = np.full(3, degrees / (3 if ratio > 2 else 1.5))
    limits[thick] = degrees
    if patch_size is not None and 1 in patch_size:
        limits = np.zeros(3)
        limits[patch_size.index(1)] = degrees
    a, b, c = np.radians(limits * rng.uniform(-1, 1, 3))
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(rz @ ry @ rx)


def centre_crop(x: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Return the centre of a tensor, cropped along the last three axes."""
    begin = [(n - s) // 2 for n, s in zip(x.shape[-3:], size, strict=True)]
    return x[..., begin[0] : begin[0] + size[0], begin[1] : begin[1] + size[1], begin[2] : begin[2] + size[2]]


def apply(
    image: Tensor,
    labels: Tensor,
    parameters: list[PatchParameters],
    *,
    patch_size: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    exchange: Sequence[int] = (),
    has_unknown: bool = False,
    annotated: NDArray[np.bool_] | None = None,
) -> tuple[Tensor, Tensor]:
    """Apply the drawn parameters to a batch.

    Parameters
    ----------
    image : (B, C, *read) Tensor
        Image as it was read: larger than the patch.
    labels : (B, *read) Tensor
        Label map with values 0..n.
    parameters : list of PatchParameters
        One for each patch of the batch.
    exchange : sequence of int
        Class of each class 0..n after mirroring left-right: that of the other side. Empty exchanges none.
    has_unknown : bool
        Whether the label map may have voxels of unknown label (`UNKNOWN`). Beside a patch of mostly unknown voxels, what
        rotation brings in is unknown, too.
    annotated : (B, S) bool ndarray, optional
        Labels that the case of each patch has. Foreground is pasted only between patches with the same labels.

    Returns
    -------
    image : (B, C, *patch) Tensor
    labels : (B, *patch) Tensor of int64
    """
    images, targets = [], []
    table = _lookup(exchange, image.device)
    moved = [
        _move(image[i], labels[i], p, patch_size, spacing_mm, table, has_unknown=has_unknown)
        for i, p in enumerate(parameters)
    ]
    for i, p in enumerate(parameters):
        x, y = moved[i]
        following = (i + 1) % len(moved)
        has_same = annotated is None or bool((annotated[i] == annotated[following]).all())
        if p.paste_margin_mm is not None and len(moved) > 1 and has_same:
            x, y = paste_foreground(x, y, *moved[following], margin_mm=p.paste_margin_mm, spacing_mm=spacing_mm)
        images.append(_change_intensities(x, p))
        targets.append(y)
    return torch.stack(images), torch.stack(targets)


def _lookup(exchange: Sequence[int], device: torch.device) -> Tensor | None:
    """Return the class (256,) of each value of a label map after an exchange; None without an exchange."""
    if not exchange:
        return None
    table = torch.arange(256, device=device)
    table[: len(exchange)] = torch.tensor(exchange, device=device)
    return table


def _move(
    x: Tensor,
    y: Tensor,
    p: PatchParameters,
    patch: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    exchange: Tensor | None,
    *,
    has_unknown: bool,
) -> tuple[Tensor, Tensor]:
    if p.matrix is None:
        x, y = centre_crop(x, patch), centre_crop(y, patch)
    else:
        grid = _sampling_grid(p, patch, tuple(x.shape[-3:]), spacing_mm, x.device)  # (1, X, Y, Z, 3)
        x = F.grid_sample(x[None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0]
        outside = _label_outside(y) if has_unknown else 0.0
        y = y.float() - outside  # what is sampled outside is 0
        y = F.grid_sample(y[None, None], grid, mode="nearest", padding_mode="zeros", align_corners=True)[0, 0] + outside
    if p.flips:
        x, y = x.flip([a + 1 for a in p.flips]), y.flip(list(p.flips))
    y = y.long()
    return x, exchange[y] if exchange is not None and LEFT_RIGHT in p.flips else y


def _label_outside(y: Tensor) -> Tensor:
    """Return the label of voxels outside of a label map as a float scalar: `UNKNOWN` if most voxels in it are."""
    is_mostly_unknown = (y == UNKNOWN).float().mean() > 1 - MIN_KNOWN
    return torch.where(is_mostly_unknown, float(UNKNOWN), 0.0)


def paste_foreground(
    x: Tensor, y: Tensor, other: Tensor, other_y: Tensor, *, margin_mm: float, spacing_mm: tuple[float, float, float]
) -> tuple[Tensor, Tensor]:
    """Paste the foreground of another patch, with a margin, into the same position of this one.

    Channels that are blank in this patch stay blank. If a channel is blank in the other patch only, nothing is pasted.

    Parameters
    ----------
    x, other : (C, X, Y, Z) Tensor
        Images of this and of the other patch.
    y, other_y : (X, Y, Z) Tensor
        Their label maps.

    Returns
    -------
    image : (C, X, Y, Z) Tensor
    labels : (X, Y, Z) Tensor

    References
    ----------
    CarveMix, Zhang et al. (2021), MICCAI, with a box-shaped margin instead of a distance.
    """
    has, other_has = (image.flatten(1).any(1) for image in (x, other))
    if bool((has & ~other_has).any()):
        return x, y
    radius = [int(margin_mm // s) for s in spacing_mm]
    foreground = (other_y > 0) & (other_y != UNKNOWN)
    region = _dilate(foreground, radius)
    return torch.where(region & has[:, None, None, None], other, x), torch.where(region, other_y, y)


def _dilate(region: Tensor, radius: Sequence[int]) -> Tensor:
    """Return the voxels (X, Y, Z) within a box of `2 * radius + 1` voxels around a region: one pass along each axis."""
    values = region.float()[None]
    for axis, r in enumerate(radius):
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = 2 * r + 1, r
        values = F.max_pool3d(values, kernel, stride=1, padding=padding)
    return values[0] > 0


def _sampling_grid(
    p: PatchParameters,
    patch: tuple[int, int, int],
    read: tuple[int, ...],
    spacing_mm: tuple[float, float, float],
    device: torch.device,
) -> Tensor:
    assert p.matrix is not None
    spacing = torch.tensor(spacing_mm, device=device)
    axes = [(torch.arange(n, device=device) - (n - 1) / 2) * s for n, s in zip(patch, spacing_mm, strict=True)]
    position = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)  # (X, Y, Z, 3) in mm around the centre
    position = position @ torch.tensor(p.matrix.T, dtype=torch.float32, device=device)
    if p.displacement is not None:
        control = torch.tensor(p.displacement, dtype=torch.float32, device=device)[None]
        smooth = F.interpolate(control, size=patch, mode="trilinear", align_corners=True)  # (1, 3, X, Y, Z)
        position = position + smooth[0].permute(1, 2, 3, 0)
    half = torch.tensor([max((n - 1) / 2, 0.5) for n in read], device=device)
    grid = position / spacing / half  # -1..1 over the image as it was read
    for axis, n in enumerate(read):
        if n == 1:  # a single slice is deformed within its plane
            grid[..., axis] = 0
    return grid.flip(-1)[None]  # grid_sample expects the order z, y, x


def _change_intensities(x: Tensor, p: PatchParameters) -> Tensor:
    def per_channel(values: np.ndarray) -> Tensor:
        return torch.tensor(values, dtype=x.dtype, device=x.device)[:, None, None, None]

    has_content = x.flatten(1).abs().amax(1) > 0  # a blank channel stays blank
    if p.low_resolution < 1:
        small = [max(2, round(n * p.low_resolution)) if n > 1 else 1 for n in x.shape[-3:]]
        small[-1] = x.shape[-1] if x.shape[-1] < 24 else small[-1]  # few slices are not downsampled further
        low = F.interpolate(x[None], size=small, mode="trilinear", align_corners=False)
        x = F.interpolate(low, size=tuple(x.shape[-3:]), mode="trilinear", align_corners=False)[0]
    if (p.gamma != 1).any():
        top = x.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-3)
        x = (x.clamp_min(0) / top).pow(per_channel(p.gamma)) * top
    if (p.gain != 1).any():
        x = x * per_channel(p.gain)
    if (p.shift != 0).any():
        x = x + per_channel(p.shift) * (x > 0)  # air stays air
    if p.noise:
        generator = torch.Generator(x.device).manual_seed(p.noise_seed)
        x = x + p.noise * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x * (per_channel(p.present.astype(np.float32)) * has_content[:, None, None, None])
