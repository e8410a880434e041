"""What a model does besides its network, in words and numbers, for those who run the network elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np

from medhybrid.data.prepare import MAX_SCALED, TISSUE_SHARE
from medhybrid.inference.model import Model
from medhybrid.inference.windows import EDGE_WEIGHT

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

BLANK = "an optional channel that is absent, constant or a copy of another one is 0 everywhere"

WINDOWS = (
    "pad with 0 on both sides to at least one window; starts spread evenly, "
    "so that neighbours share at least the overlap"
)

MIRROR = "mean of the logits over every mirroring of these axes, mirrored back"

BLEND = (
    f"mean of overlapping windows, weighted by a bell curve about the centre "
    f"(sigma size / 8, height 1, at least {EDGE_WEIGHT})"
)

COMPONENTS = (
    "of the labels of keep_largest only the largest connected component is kept; none that is smaller than the volume"
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
        },
        "before": [
            {"step": "orient", "to": "RAS+", "how": ORIENT},
            {"step": "resample", "spacing_mm": list(plan.spacing_mm), "how": RESAMPLE},
            *normalise,
            {"step": "blank", "how": BLANK},
            {"step": "windows", "size": list(plan.patch_size), "overlap": inference.overlap, "how": WINDOWS},
        ],
        "output": {
            "name": "logits",
            "axes": ["batch", "class", "x", "y", "z"],
            "classes": ["background", *plan.labels],
        },
        "after": [
            {"step": "mirror", "axes": list(plan.mirror_axes) if inference.mirror else [], "how": MIRROR},
            {"step": "blend", "how": BLEND},
            {"step": "resample", "how": "the logits of each class to the scan's RAS grid, by the rule above"},
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
