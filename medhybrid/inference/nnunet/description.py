"""Description of the steps before and after the network of an imported model; see `inference.description`."""

from __future__ import annotations

from typing import Any

from medhybrid.inference.model_record import ModelRecord

CROP = "to the box around the voxels in which any channel is not 0, after filling holes; outside it, the mask is background"

NORMALISE = {
    "ZScoreNormalization": "(v - mean(v)) / max(std(v), 1e-8); with in_mask, of the voxels of the filled non-zero region only, "
    "and the others stay 0",
    "CTNormalization": "(clip(v, low, high) - mean) / max(deviation, 1e-8)",
    "NoNormalization": "v",
    "RescaleTo01Normalization": "(v - min(v)) / max(max(v) - min(v), 1e-8)",
    "RGBTo01Normalization": "v / 255",
}

RESAMPLE = (
    "n' = round(n * old / new) voxels with the same outer edges; spline of degree order along each axis (scipy.ndimage.zoom, "
    "mode nearest, grid_mode), limited to the range of the values; if one spacing is more than threshold times another, before "
    "or after, and one axis alone has it, each slice is resampled in its plane, and slices by order_across"
)

KEPT = "; the spacing across the slices is the scan's own"

SIZES = {
    "scan": "",
    "pixels": "; the spacing of the scan is taken as 1 x 1 x 999 mm",
    "beside": "; the spacing of a TIFF is that of the JSON file beside it, or 1 mm",
}

WINDOWS = (
    "pad with 0 to at least one window, half of the missing voxels, rounded down, before the image; along an axis, "
    "ceil((length - window) / (window * (1 - overlap))) + 1 starts, evenly spaced and rounded, halves to the even one"
)

BLEND = "weighted mean over the windows; a window's weights are a Gaussian of an eighth of its size about voxel n // 2"

MIRROR = "mean of the logits over every combination of mirrored axes (0 is x), each mirrored back"

LABEL = "class of the highest logit"

REGIONS = "each region whose logit is above 0 is drawn over the earlier ones, with its value"


def describe_imported(record: ModelRecord) -> dict[str, Any]:
    """Return the steps before and after the network of an imported model, in the order in which they are applied."""
    rules, plan, inference = record.nnunet, record.plan, record.inference
    assert rules is not None
    x, y, z = plan.spacing_mm
    spacing = [None if axis == rules.slice_axis else mm for axis, mm in enumerate((x, y, z))]
    how = RESAMPLE + (KEPT if rules.slice_axis is not None else "") + SIZES[rules.voxel_size]
    normalise = [
        {"step": "normalise", "channel": name, **rule.model_dump(), "how": NORMALISE[rule.scheme]}
        for name, rule in zip(plan.channels, rules.channels, strict=True)
    ]
    values = list(plan.labels.values())
    label: dict[str, Any] = {"step": "label", "how": LABEL, "values": {"background": 0, **plan.labels}}
    if rules.regions:
        drawn = {name: values[c - 1] for name, c in zip(plan.regions, rules.regions, strict=True)}
        label = {"step": "label", "how": REGIONS, "values": drawn}
    return {
        "before": [
            {"step": "orient", "to": "RAS+" if rules.orientation == "RAS" else "as stored"},
            {"step": "crop", "how": CROP},
            *normalise,
            {"step": "resample", "spacing_mm": spacing, **rules.images.model_dump(), "how": how},
            {"step": "windows", "size": list(plan.patch_size), "overlap": inference.overlap, "how": WINDOWS},
        ],
        "after": [
            {"step": "mirror", "axes": list(plan.mirror_axes) if inference.tta_mirroring else [], "how": MIRROR},
            {"step": "blend", "how": BLEND},
            {
                "step": "resample",
                **rules.logits.model_dump(),
                "how": "the logits to the shape of the crop, by the rule above",
            },
            label,
            {"step": "uncrop", "how": "background outside the crop"},
            {"step": "orient", "how": "back to the scan's own axes"},
        ],
    }
