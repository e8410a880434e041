"""Affines, orientations and resampling of arrays. No module here reads or writes files."""

from medhybrid.geometry.affine import (
    LPS_FROM_RAS,
    Affine,
    Grid,
    apply_affine,
    check_affine,
    corner_distance_mm,
    is_sheared,
    spacing_mm,
    voxel_ml,
)
from medhybrid.geometry.orientation import Turn, extend_to, joint_grid, match_axes, orientation_code, turn_to_ras
from medhybrid.geometry.resample import (
    axis_weights,
    grid_weights,
    resample_image,
    resample_labels,
    respace,
)

__all__ = [
    "LPS_FROM_RAS",
    "Affine",
    "Grid",
    "Turn",
    "apply_affine",
    "axis_weights",
    "check_affine",
    "corner_distance_mm",
    "extend_to",
    "grid_weights",
    "is_sheared",
    "joint_grid",
    "match_axes",
    "orientation_code",
    "resample_image",
    "resample_labels",
    "respace",
    "spacing_mm",
    "turn_to_ras",
    "voxel_ml",
]
