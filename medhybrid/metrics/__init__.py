"""Overlap, surface, lesion and calibration measures: pure functions on arrays."""

from medhybrid.metrics.calibration import (
    Reliability,
    area_under_curve,
    expected_calibration_error,
    expected_dice,
    fit_temperature,
    reliability_bins,
)
from medhybrid.metrics.case import LabelScore, score_case, summarise
from medhybrid.metrics.comparison import Difference, Interval, mean_interval, paired_difference
from medhybrid.metrics.lesions import (
    Component,
    LesionCounts,
    count_lesions,
    longest_distance,
    measure_components,
    measure_whole,
)
from medhybrid.metrics.overlap import dice, volume_error_ml, volume_error_percent, volume_ml
from medhybrid.metrics.surface import hd95_mm, surface_dice, surface_distances_mm

__all__ = [
    "Component",
    "Difference",
    "Interval",
    "LabelScore",
    "LesionCounts",
    "Reliability",
    "area_under_curve",
    "count_lesions",
    "dice",
    "expected_calibration_error",
    "expected_dice",
    "fit_temperature",
    "hd95_mm",
    "longest_distance",
    "mean_interval",
    "measure_components",
    "measure_whole",
    "paired_difference",
    "reliability_bins",
    "score_case",
    "summarise",
    "surface_dice",
    "surface_distances_mm",
    "volume_error_ml",
    "volume_error_percent",
    "volume_ml",
]
