"""Check of masks with a palette: the same label must have the same colour in all of them.

A program that numbers the colours of each image in their order exchanges labels, and the numbers alone show nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from medhybrid.data.checks import Finding
from medhybrid.errors import ScanError
from medhybrid.scans.raster import is_raster, label_colours

MAX_MASKS = 200
"""Largest number of masks that are read, evenly over the dataset."""


def palette_findings(masks: Mapping[str, Path]) -> list[Finding]:
    """Return a warning for each label that has several colours in the palettes of masks.

    Parameters
    ----------
    masks : mapping
        Case to the file of its mask. Files that cannot be read are ignored: other checks name them.
    """
    images = {case: path for case, path in masks.items() if is_raster(path)}
    cases = sorted(images)[:: max(1, -(-len(images) // MAX_MASKS))]
    found: dict[int, dict[str, str]] = {}
    for case in cases:
        try:
            colours = label_colours(images[case])
        except (ScanError, OSError):
            continue
        for label, colour in colours.items():
            found.setdefault(label, {})[case] = colour
    findings = []
    for label, by_case in sorted(found.items()):
        (usual, _), *others = Counter(by_case.values()).most_common()
        if label and others:
            case = next(c for c, colour in by_case.items() if colour != usual)
            findings.append(
                Finding(
                    code="palette",
                    severity="warning",
                    where=case,
                    message=f"the palettes of the masks show the value {label} in several colours: labels may be exchanged",
                    expected=f"{usual}, as in most of the {len(by_case)} masks that were compared",
                    found=by_case[case],
                    remedy="look at these masks; if their colours are right, replace each colour by the number of its label, "
                    "and save the masks as grey PNG",
                )
            )
    return findings
