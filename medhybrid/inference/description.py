"""What a model does besides its network, in words and numbers, for those who run the network elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np

from medhybrid.data.prepare import MAX_SCALED, TISSUE_SHARE
from medhybrid.inference.model import Model
from medhybrid.inference.program import fixed_axes
from medhybrid.inference.windows import AIR_LOGIT, EDGE_WEIGHT

ORIENT = "permute and flip axes to the closest; no interpolation"

RESAMPLE = (
    "along each axis n' = max(1, round(n * old / new)) voxels about the same centre; value i' is the mean of the old values i "
    "weighted by max(0, 1 - |p - i| / w), where w = max(1, new / old) and p is the place of i' in old voxels, cut to 0 .. n - 1"
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
    "an optional channel that is absent or has one value everywhere is 0 everywhere; where copies is true, of two channels "
    "with the same values the later one is, if it is optional, else the earlier one, if it is"
)

ALIGN = (
    "channels on another grid than the first, by what may be done about them: same_frame resamples those of one DICOM frame of "
    "reference, resample all, register aligns them rigidly; otherwise they are refused"
)

CONTEXT = "the program is told of no field: it runs as for a study that says nothing of them"

WINDOWS = (
    "pad with 0 to at least one window, before with half of what is missing, rounded down, and the rest after; an axis longer "
    "than the window has ceil((length - window) / max(1, floor(window * (1 - overlap)))) + 1 starts, spread evenly from 0 to "
    "length - window and rounded to the nearest whole number, halves to the even one"
)

AIR = "a window in which every channel is 0 is not run: its logits are 0 in the mean of the blend"

MIRROR = "mean of the logits over every mirroring of these axes (0 is x), mirrored back"

BLEND = (
    f"at each voxel the mean over all windows there; a window's weights are the product over the three axes of exp(-d^2 / 2) "
    f"with d = (i - (size - 1) / 2) / (size / 8), divided by the largest of these products, then at least {EDGE_WEIGHT}; "
    f"a voxel that no window was run for gets the background logit {AIR_LOGIT:g} and is background; then the padding is cut off"
)

COMPONENTS = (
    "connected with 26 neighbours, on the scan's grid; of each label every component that is smaller than min_component_ml is "
    "removed, and of the labels of keep_largest all but the largest one"
)


def describe(model: Model) -> dict[str, Any]:
    """Input, steps before the network, output, steps after it, calibration; in order, with every number."""
    plan, inference = model.plan, model.record.inference
    stride = [int(s) for s in np.prod(plan.strides, axis=0)]
    normalise = [{"step": "normalise", **rule.model_dump(), "how": NORMALISE[rule.rule]} for rule in plan.normalisation]
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
        "before": [
            {"step": "align", "other_grids": model.record.scans.other_grids, "how": ALIGN},
            {"step": "orient", "to": "RAS+", "how": ORIENT},
            {"step": "resample", "spacing_mm": list(plan.spacing_mm), "how": RESAMPLE},
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
        "output": {
            "name": "logits",
            "axes": ["batch", "class", "x", "y", "z"],
            "classes": ["background", *plan.labels],
        },
        "after": [
            {"step": "mirror", "axes": list(plan.mirror_axes) if inference.tta_mirroring else [], "how": MIRROR},
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
                "how": COMPONENTS,
            },
            {"step": "orient", "how": "back to the scan's own axes"},
        ],
        "calibration": {
            "temperature": model.record.calibration.temperature,
            "how": "probabilities are softmax(logits / temperature)",
        },
    }
