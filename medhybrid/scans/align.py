"""Resampling of one study's channels to a common grid, by patient coordinates or by rigid registration."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.config import ScansConfig
from medhybrid.errors import ScanError
from medhybrid.geometry import LPS_FROM_RAS, apply_affine, corner_distance_mm
from medhybrid.number_text import format_apart, format_vectors_apart
from medhybrid.scans.scan import Scan

LEAST_COVER = 0.5
"""Smallest share of the reference's voxels that a channel must cover."""

LEAST_INFORMATION_GAIN = -0.05
"""Smallest accepted change of mutual information. A registration below it has failed."""


def bring_onto(moving: Scan, reference: Scan, name: str, options: ScansConfig) -> tuple[NDArray[np.float32], str]:
    """Resample `moving` to the grid of `reference`.

    Returns
    -------
    values : (X, Y, Z) float32 ndarray
        The resampled values.
    note : str
        A description of the resampling or registration.

    Raises
    ------
    ScanError
        If `options` does not allow resampling, the registration fails, or the channel covers too little of the reference.
    """
    same_frame = _frame(moving) == _frame(reference) != ""
    if options.other_grids == "refuse" or (options.other_grids == "same_frame" and not same_frame):
        wanted, found = format_vectors_apart([reference.grid.spacing_mm, moving.grid.spacing_mm])
        apart = ""
        if moving.grid.shape == reference.grid.shape:
            apart = f", corners up to {format_apart([corner_distance_mm(moving.grid, reference.grid)])[0]} mm apart"
        raise ScanError(
            f"case {reference.case}: channel {name} has another grid than the first channel"
            + ("" if same_frame else ", and the two have no common frame of reference"),
            expected=f"{reference.array.shape[1:]}, spacing_mm ({wanted}), one frame of reference",
            found=f"{moving.array.shape[1:]}, spacing_mm ({found}){apart}",
            remedy="resample the channels to one grid first, or set scans.other_grids to resample or register",
        )
    note = f"channel {name} was resampled to the grid of the first one"
    transform = None
    if options.other_grids == "register" and not same_frame:
        transform, quality = _register(moving, reference)
        note = f"channel {name} was registered rigidly: {quality}"
    else:
        cover = covered_share(moving, reference)
        if cover < LEAST_COVER:
            raise ScanError(
                f"case {reference.case}: channel {name} covers too little of the first channel",
                expected=f"at least {LEAST_COVER:.0%} of it",
                found=f"{cover:.0%}",
                remedy="check that the series belongs to the study",
            )
    return _resample(moving, reference, transform), note


def covered_share(moving: Scan, reference: Scan) -> float:
    """Return the share of the reference's voxels with centres inside `moving`, estimated from a sample of voxels."""
    axes = [np.unique(np.linspace(0, n - 1, 24).round()) for n in reference.grid.shape]
    index: NDArray[np.float64] = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).astype(np.float64)
    to_moving: NDArray[np.float64] = np.linalg.inv(moving.affine).astype(np.float64)
    voxels = apply_affine(to_moving, apply_affine(reference.affine, index))
    inside = ((voxels >= -0.5) & (voxels <= np.array(moving.grid.shape) - 0.5)).all(1)
    return float(inside.mean())


def _frame(scan: Scan) -> str:
    """Return the FrameOfReferenceUID, or an empty string. One generated while reading differs between series."""
    if scan.source.kind != "dicom" or not scan.source.header:
        return ""
    return str(scan.source.header[0].get("FrameOfReferenceUID", ""))


def _to_itk(scan: Scan) -> Any:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(scan.array[0].transpose(2, 1, 0), np.float32))
    lps = LPS_FROM_RAS @ scan.affine
    spacing = np.array(scan.grid.spacing_mm)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def _resample(moving: Scan, reference: Scan, transform: Any) -> NDArray[np.float32]:
    import SimpleITK as sitk

    image = _to_itk(moving)
    lowest = float(moving.array.min())
    target = _to_itk(reference)
    out = sitk.Resample(image, target, transform or sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear, lowest)
    return np.asarray(sitk.GetArrayFromImage(out).transpose(2, 1, 0), np.float32)


def _register(moving: Scan, reference: Scan) -> tuple[Any, str]:
    """Register `moving` to `reference` rigidly by mutual information.

    Returns
    -------
    transform : SimpleITK.Transform
        From the reference to `moving`.
    quality : str
        Rotation, translation, and mutual information before and after.
    """
    import SimpleITK as sitk

    fixed, image = _to_itk(reference), _to_itk(moving)
    start = sitk.CenteredTransformInitializer(
        fixed, image, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.1, 0)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200, 0.5)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SetInitialTransform(start, inPlace=False)
    try:
        before = -method.MetricEvaluate(fixed, image)
        found = method.Execute(fixed, image)
    except RuntimeError as error:
        raise ScanError(f"case {reference.case}: registration failed", found=str(error).splitlines()[-1]) from error
    after = -method.GetMetricValue()
    if after < before + LEAST_INFORMATION_GAIN:
        raise ScanError(
            f"case {reference.case}: registration did not improve the match",
            found=f"mutual information {before:.3f} before, {after:.3f} after",
            remedy="register the channels with another program",
        )
    euler = sitk.Euler3DTransform(sitk.CompositeTransform(found).GetBackTransform())
    angle = np.degrees(np.linalg.norm([euler.GetAngleX(), euler.GetAngleY(), euler.GetAngleZ()]))
    shift = float(np.linalg.norm(euler.GetTranslation()))
    return found, f"{angle:.1f} degrees, {shift:.1f} mm, mutual information {before:.3f} before and {after:.3f} after"
