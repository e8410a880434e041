"""Description of the steps before and after the network, in words and numbers, for other software that runs the network."""

from __future__ import annotations

from typing import Any

import numpy as np

from medhybrid.data.outliers import MIN_GAP_ABOVE, MIN_GAP_BELOW, N_EXTREMES
from medhybrid.data.plan import Plan
from medhybrid.data.prepare import MAX_SCALED, TISSUE_SHARE
from medhybrid.inference.model import Model
from medhybrid.inference.nnunet.description import describe_imported
from medhybrid.inference.program import fixed_axes
from medhybrid.inference.windows import AIR_LOGIT, EDGE_WEIGHT

ORIENT = "permute and flip axes to the closest; no interpolation"

RESAMPLE = (
    "along each axis n' = max(1, round(n * old / new)) voxels about the same centre; value i' is the mean of the old values i "
    "weighted by max(0, 1 - |p - i| / w), where w = max(1, new / old) and p is the position of i' in old voxels, clipped to "
    "0 .. n - 1"
)

OUTLIERS = (
    f"padding, metal and defective voxels are replaced by the nearest value of the image before resampling; other scans "
    f"are unchanged. A value at an end counts if the gap to the next exceeds {MIN_GAP_BELOW:g} (low end, negative values) "
    f"or {MIN_GAP_ABOVE:g} (high end) times the range of the others, for at most {N_EXTREMES} voxels and padding. "
    "The exact rule is `replace_outliers` in scripts/steps.py of `medhybrid export --format bundle`"
)

NORMALISE = {
    "zscore_foreground": (
        f"low = min; tissue = values above low + {TISSUE_SHARE} * (99.5th percentile - low); "
        f"min((v - low) / std(tissue), {MAX_SCALED:g})"
    ),
    "zscore": f"low = min; min((v - low) / std(v), {MAX_SCALED:g})",
    "clip_and_scale": "(clip(v, low, high) - low) / deviation",
}

BLANK = (
    "an optional channel that is absent or has one value everywhere is set to 0; if copies is true and two channels have the "
    "same values, the later one is set to 0 if it is optional, otherwise the earlier one if it is optional"
)

ALIGN = (
    "channels on another grid than the first channel: same_frame resamples them if they share its DICOM frame of reference, "
    "resample resamples all of them, register aligns them by a rigid registration; otherwise the scan is refused"
)

CONTEXT = "the program takes no values of these fields: it runs as for a study in which they are all unknown"

WINDOWS = (
    "pad with 0 to at least one window: half of the missing voxels, rounded down, before the image and the rest after it; an "
    "axis longer than the window has ceil((length - window) / max(1, floor(window * (1 - overlap)))) + 1 starts, spaced evenly "
    "from 0 to length - window and rounded to the nearest integer, halves to the even one"
)

AIR = "a window in which every channel is 0 is not run: its logits count as 0 in the blended mean"

MIRROR = "test-time mirroring: mean of the logits over every combination of mirrored axes (0 is x), each mirrored back"

EXCHANGE = "after mirroring along x, the logits of the classes of each exchanged pair change places"

BLEND = (
    f"at each voxel the weighted mean over all windows that contain it; a window's weights are the product over the three axes "
    f"of exp(-d^2 / 2) with d = (i - (size - 1) / 2) / (size / 8), divided by the largest of these products, then raised to at "
    f"least {EDGE_WEIGHT}; a voxel of which no window was run gets the background logit {AIR_LOGIT:g} and is background; then "
    f"the padding is removed"
)

COMPONENTS = (
    "components are 26-connected, on the scan's grid; of each label, components smaller than min_component_ml are removed; of "
    "the labels in keep_largest, all components but the largest are removed"
)

REGIONS = (
    "with regions, this holds for each region instead, in this order: a removed component is removed from the regions inside "
    "it, too, and its voxels get the class of the regions that stay, or background"
)


def _kept(plan: Plan) -> dict[str, Any]:
    """Return which axes of a scan are not resampled, for a two-dimensional network."""
    axes = ["xyz"[axis] for axis, n in enumerate(plan.patch_size) if n == 1 and plan.kernels]
    return {"not_if_one_slice_along": axes} if axes else {}


def describe(model: Model) -> dict[str, Any]:
    """Return a description of a model: input, steps before the network, output, steps after it, calibration.

    The steps are in the order in which they are applied, with all of their numbers.
    """
    plan = model.plan
    stride = [int(s) for s in np.prod(plan.strides, axis=0)]
    steps = _steps(model) if model.record.nnunet is None else describe_imported(model.record)
    is_of_regions = model.record.nnunet is not None and bool(plan.regions)
    return {
        "input": {
            "name": "image",
            "type": "float32",
            "axes": ["batch", "channel", "x", "y", "z"],
            "channels": list(plan.channels),
            "size_multiple_of": stride,
            "size_trained_with": list(plan.patch_size),
            "size_fixed": {"xyz"[axis]: size for axis, size in fixed_axes(model).items()},
        },
        "before": steps["before"],
        "output": {
            "name": "logits",
            "axes": ["batch", "class", "x", "y", "z"],
            "classes": list(plan.regions) if is_of_regions else ["background", *plan.labels],
        },
        "after": steps["after"],
        "calibration": {
            "temperature": model.record.calibration.temperature,
            "how": "probabilities are softmax(logits / temperature)",
        },
    }


def _steps(model: Model) -> dict[str, Any]:
    """Return the steps before and after the network of a model that medhybrid trained."""
    plan, inference = model.plan, model.record.inference
    scaled = [n.channel for n in plan.normalisation if n.rule != "clip_and_scale"]
    outliers = {"step": "outliers", "channels": scaled, "how": OUTLIERS}
    normalise = [{"step": "normalise", **rule.model_dump(), "how": NORMALISE[rule.rule]} for rule in plan.normalisation]
    return {
        "before": [
            {"step": "align", "other_grids": model.record.scans.other_grids, "how": ALIGN},
            {"step": "orient", "to": "RAS+", "how": ORIENT},
            *([outliers] if outliers["channels"] else []),
            {"step": "resample", "spacing_mm": list(plan.spacing_mm), "how": RESAMPLE, **_kept(plan)},
            *normalise,
            {
                "step": "blank",
                "optional": [n.channel for n in plan.normalisation if n.optional],
                "copies": plan.blank_copied_channels,
                "how": BLANK,
            },
            {"step": "windows", "size": list(plan.patch_size), "overlap": inference.overlap, "how": WINDOWS},
            *([{"step": "air", "how": AIR}] if inference.skip_air else []),
            *([{"step": "context", "fields": list(plan.context), "how": CONTEXT}] if plan.context else []),
        ],
        "after": [
            {
                "step": "mirror",
                "axes": list(plan.mirror_axes) if inference.tta_mirroring else [],
                **({"exchanged": [list(pair) for pair in plan.mirror_pairs]} if plan.mirror_pairs else {}),
                "how": f"{MIRROR}; {EXCHANGE}" if plan.mirror_pairs else MIRROR,
            },
            {"step": "blend", "how": BLEND},
            {
                "step": "resample",
                "how": "the logits of each class to the scan's RAS grid, by the rule above, axis by axis",
            },
            {"step": "label", "how": "class of the highest logit", "values": {"background": 0, **plan.labels}},
            {
                "step": "components",
                "keep_largest": list(plan.keep_largest),
                "min_component_ml": plan.min_component_ml,
                **({"regions": {n: list(plan.values_of(c)) for n, c in plan.regions.items()}} if plan.regions else {}),
                "how": f"{COMPONENTS}; {REGIONS}" if plan.regions else COMPONENTS,
            },
            {"step": "orient", "how": "back to the scan's own axes"},
        ],
    }
