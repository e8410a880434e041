"""Validation with the sliding window, resampling and component rules of `predict`, scored on the grid of each scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from medhybrid.config import InferenceConfig
from medhybrid.data.annotation import scored
from medhybrid.data.fingerprint import UNKNOWN
from medhybrid.data.plan import Plan
from medhybrid.data.store import PreparedCase
from medhybrid.geometry import Grid
from medhybrid.inference.confidence import Calibration, VoxelSample, calibrate, sample_voxels
from medhybrid.inference.device_memory import on_device_or_cpu
from medhybrid.inference.memory import collected_bytes
from medhybrid.inference.network import predict_logits
from medhybrid.inference.postprocess import apply_component_rules
from medhybrid.inference.precision import Precision
from medhybrid.inference.to_grid import labels_on_scan
from medhybrid.inference.windows import to_tensor
from medhybrid.metrics import dice
from medhybrid.networks import Network


@dataclass(frozen=True, slots=True)
class CaseResult:
    """Validation result of one case.

    Attributes
    ----------
    dice : dict
        Dice score of each label that the reference has, on the voxels whose label is known.
    prediction : (X, Y, Z) array
        Predicted label map on the grid of the scan; values are 1, 2, ... in the order of the plan's labels.
    voxels : VoxelSample, optional
        Sampled voxels for the calibration.
    classes : mapping
        Classes of each label or region, whether the reference has it or not; a region has several.
    """

    case: PreparedCase
    dice: dict[str, float]
    prediction: NDArray[np.uint8]
    voxels: VoxelSample | None = None
    classes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def mean_dice(self) -> float:
        """Return the mean over the labels in reference or prediction; 1 if both have no label."""
        held = [d for name, d in self.dice.items() if self.reference_ml(name) > 0 or d < 1]
        return float(np.mean(held)) if held else 1.0

    def reference_ml(self, name: str) -> float:
        """Return the volume of a label or region in the reference; 0 if the reference does not have it."""
        return self.case.record.reference_ml.get(name, 0.0)


@dataclass(frozen=True, slots=True)
class Validation:
    """Validation results of several cases at one step; `is_complete` if these are all validation cases."""

    step: int
    results: tuple[CaseResult, ...]
    is_complete: bool

    @property
    def mean_dice(self) -> float:
        """Return the mean Dice over the cases."""
        return float(np.mean([r.mean_dice for r in self.results]))

    @property
    def dice_of_present(self) -> dict[str, float]:
        """Return the mean Dice of each label, over the cases whose reference has it."""
        found: dict[str, list[float]] = {}
        for result in self.results:
            for name, dice_score in result.dice.items():
                if result.reference_ml(name) > 0:
                    found.setdefault(name, []).append(dice_score)
        return {name: float(np.mean(values)) for name, values in found.items()}

    @property
    def structures(self) -> dict[str, tuple[int, ...]]:
        """Return the labels or regions with their classes."""
        return dict(self.results[0].classes)

    @property
    def known_share(self) -> float:
        """Return the mean share of the voxels whose label is known; below 1, Dice is not that of whole masks."""
        return float(np.mean([r.case.record.known_share for r in self.results]))

    @property
    def basis(self) -> str:
        """Return the voxels that Dice was measured on as text; empty for whole masks."""
        if self.known_share >= 1:
            return ""
        return f"Dice on labelled voxels only ({self.known_share:.2%} of the voxels)"

    def calibration(self) -> Calibration:
        """Fit the calibration of the model's confidence on a complete validation."""
        taught = [(r.voxels, r.mean_dice) for r in self.results if r.voxels is not None]
        return calibrate([voxels for voxels, _ in taught], [dice for _, dice in taught])

    def metrics(self) -> dict[str, float]:
        """Return the metrics with their names, for a tracker."""
        values = {"val/dice": self.mean_dice, "val/dice_median": float(np.median([r.mean_dice for r in self.results]))}
        values |= {f"val_label/{label}/dice": value for label, value in self.dice_of_present.items()}
        if self.known_share < 1:
            values["val/labelled_share"] = self.known_share
        values |= {f"val_case/{r.case.name}/dice": r.mean_dice for r in self.results}
        return values


def subset(cases: Sequence[PreparedCase], n: int) -> list[PreparedCase]:
    """Select at most `n` evenly spread cases, always the same ones, for validations during the run."""
    return list(cases)[:: max(1, len(cases) // n)][:n]


def validate(
    network: Network,
    cases: Sequence[PreparedCase],
    plan: Plan,
    config: InferenceConfig,
    *,
    step: int,
    is_complete: bool,
    device: torch.device,
    precision: Precision,
) -> Validation:
    """Predict and score each case; the network must be in evaluation mode.

    If the device has too little memory for a case, its logits are collected on the CPU, as in prediction.

    Raises
    ------
    DeviceError
        If the device has too little memory for a single window.
    """
    results = []
    for case in cases:
        image, turned = case.image(), case.turn.grid(case.source_grid)
        context = torch.from_numpy(case.context(plan.context)).to(device)

        def compute(
            place: torch.device,
            case: PreparedCase = case,
            image: NDArray[np.float32] = image,
            context: torch.Tensor = context,
            turned: Grid = turned,
        ) -> tuple[NDArray[np.uint8], VoxelSample | None]:
            logits = predict_logits(network, to_tensor(image, place), plan, config, precision, context, device=device)
            # In a partly labelled case, the class of the background is not known.
            is_sampled = is_complete and case.record.annotated is None
            voxels = sample_voxels(logits, case.labels_with_unknown()) if is_sampled else None
            return labels_on_scan(logits, case.grid, turned, case.turn), voxels

        labels, voxels = on_device_or_cpu(device, compute, needed=collected_bytes(image.shape, plan), of=case.name)
        prediction = apply_component_rules(
            labels,
            structures=plan.structures,
            keep_largest=plan.keep_largest,
            min_component_ml=plan.min_component_ml,
            voxel_ml=turned.voxel_ml,
        )
        scores = dice_of_known(
            prediction, case.source_mask_with_unknown(), scored(plan.structures, case.record.annotated)
        )
        results.append(CaseResult(case, scores, prediction, voxels, plan.structures))
    return Validation(step, tuple(results), is_complete)


def dice_of_known(
    prediction: NDArray[np.uint8], reference: NDArray[np.uint8], structures: Mapping[str, tuple[int, ...]]
) -> dict[str, float]:
    """Return the Dice of each structure on the voxels whose label is known.

    Parameters
    ----------
    prediction, reference : (X, Y, Z) uint8 ndarray
        Class indices; the reference may have `UNKNOWN` voxels.
    structures : mapping
        Labels or regions with their classes.
    """
    prediction = np.where(reference == UNKNOWN, 0, prediction)
    return {n: dice(np.isin(prediction, classes), np.isin(reference, classes)) for n, classes in structures.items()}
