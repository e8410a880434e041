"""Checks of a case for training. They return findings: a case with an error is excluded, one with a warning is used."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from medhybrid.data.label_values import unknown_values
from medhybrid.data.outliers import NEARLY_ALL, is_nearly_constant, replace_outliers
from medhybrid.errors import MedHybridError
from medhybrid.geometry import Grid, corner_distance_mm
from medhybrid.number_text import format_apart

Severity = Literal["error", "warning"]

MIN_FOREGROUND_VOXELS = 1
"""A reference mask with fewer foreground voxels counts as empty."""


class Finding(BaseModel):
    """Problem, or possible problem, of a case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    severity: Severity
    where: str
    message: str
    expected: str = ""
    found: str = ""
    remedy: str = ""


def from_error(case: str, error: MedHybridError, code: str = "unreadable") -> Finding:
    """Return the finding for a case that could not be read or prepared."""
    return Finding(
        code=getattr(error, "code", code),
        severity="error",
        where=case,
        message=error.what,
        expected=error.expected,
        found=error.found,
        remedy=error.remedy,
    )


def check_image(
    case: str,
    image: NDArray[np.generic],
    channels: Sequence[str],
    notes: Sequence[str],
    *,
    blanked_if_copied: Collection[str] = (),
    scaled_alike: Collection[str] = (),
) -> list[Finding]:
    """Check an image (C, X, Y, Z) for non-finite values, constant channels, outliers and copied channels.

    Parameters
    ----------
    notes : sequence of str
        Remarks from reading the image.
    blanked_if_copied : collection of str
        Channels that are treated as missing if they are a copy of another.
    scaled_alike : collection of str
        Channels whose values are comparable between scans (CT). They are clipped, and not checked for outliers.
    """
    findings = [Finding(code="note", severity="warning", where=case, message=note) for note in notes]
    if len(channels) != image.shape[0]:
        return [
            Finding(
                code="channels",
                severity="error",
                where=case,
                message="wrong number of channels",
                expected=f"{len(channels)} ({', '.join(channels)})",
                found=str(image.shape[0]),
                remedy="set data.channels to the channels of the files",
            )
        ]
    for name, values in zip(channels, image, strict=True):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            n_bad = int((~np.isfinite(values)).sum())
            findings.append(
                Finding(
                    code="not_finite",
                    severity="error",
                    where=case,
                    message=f"channel {name} has NaN or infinite values",
                    expected="finite values",
                    found=f"{n_bad} voxels",
                    remedy="export the image again, or replace these values",
                )
            )
        elif values.min() == values.max() and f"channel {name} is missing" not in notes:
            findings.append(
                Finding(
                    code="constant",
                    severity="error",
                    where=case,
                    message=f"channel {name} is constant",
                    found=f"the value {values.flat[0]} in all voxels",
                    remedy="export the image again, or remove the file if the channel is optional",
                )
            )
        elif is_nearly_constant(values) and f"channel {name} is missing" not in notes:
            findings.append(
                Finding(
                    code="nearly_constant",
                    severity="warning",
                    where=case,
                    message=f"channel {name} is nearly constant",
                    found=f"the same value in more than {NEARLY_ALL:.1%} of the voxels",
                    remedy="view the image: its export may have failed",
                )
            )
        elif name not in scaled_alike and (finding := _find_outliers(case, name, values)) is not None:
            findings.append(finding)
    for a, b in copied_channels(image):
        blanked = next((channels[i] for i in (b, a) if channels[i] in blanked_if_copied), None)
        findings.append(
            Finding(
                code="copied_channel",
                severity="warning",
                where=case,
                message=f"channels {channels[a]} and {channels[b]} are the same image",
                found=f"{blanked} is treated as missing" if blanked else "",
                remedy="" if blanked else "if one replaces a missing sequence, mark that channel optional",
            )
        )
    return findings


def _find_outliers(case: str, name: str, values: NDArray[np.generic]) -> Finding | None:
    """Return a warning if an image has outliers, which are replaced before the image is scaled."""
    cleaned, n_outliers = replace_outliers(values)
    if not n_outliers:
        return None
    return Finding(
        code="outliers",
        severity="warning",
        where=case,
        message=f"channel {name} has {n_outliers} voxels with outlier values (padding, defective voxels, metal)",
        expected=f"values from {cleaned.min()} to {cleaned.max()}",
        found=f"values from {values.min()} to {values.max()}",
        remedy="nothing to do: outliers are clipped to the expected range before the image is scaled",
    )


def copied_channels(image: Sequence[NDArray[np.generic]] | NDArray[np.generic]) -> list[tuple[int, int]]:
    """Return the pairs of channels with equal values, except constant channels."""
    return [
        (a, b)
        for a, b in combinations(range(len(image)), 2)
        if np.array_equal(image[a], image[b]) and image[a].min() != image[a].max()
    ]


def check_mask(
    case: str,
    image_grid: Grid,
    mask: NDArray[np.generic],
    mask_grid: Grid,
    labels: Mapping[str, int],
    max_mm: float,
    *,
    ignored: int | None = None,
) -> list[Finding]:
    """Check a reference mask (X, Y, Z): same grid as its image, only known labels or `ignored`, not empty."""
    if mask.shape != image_grid.shape:
        return [
            Finding(
                code="shape",
                severity="error",
                where=case,
                message="mask and image differ in shape",
                expected=str(image_grid.shape),
                found=str(mask.shape),
                remedy="resample the mask to the image first",
            )
        ]
    gap = corner_distance_mm(image_grid, mask_grid)
    findings = []
    if gap > max_mm:
        findings.append(
            Finding(
                code="affine",
                severity="error",
                where=case,
                message="mask and image are at different positions",
                expected=f"corners within {max_mm} mm",
                found=f"{format_apart([gap, max_mm], decimals=2)[0]} mm apart",
                remedy="correct the wrong header; raise prepare.max_affine_error_mm only if the voxels match",
            )
        )
    unknown = unknown_values(mask, [*labels.values(), *([] if ignored is None else [ignored])])
    if unknown:
        findings.append(
            Finding(
                code="unknown_label",
                severity="error",
                where=case,
                message="mask has values without a label",
                expected=", ".join(f"{v} ({n})" for n, v in labels.items()),
                found=", ".join(unknown),
                remedy="add them to data.labels, or correct the mask",
            )
        )
    if np.count_nonzero(mask) < MIN_FOREGROUND_VOXELS:
        findings.append(Finding(code="empty_mask", severity="warning", where=case, message="mask is empty"))
    return findings
