"""Labels without a file or segment in the mask of a case, which count as absent from its image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medhybrid.config import DataConfig
from medhybrid.data.checks import Finding
from medhybrid.data.label_masks import has_label_files
from medhybrid.data.layouts import Case
from medhybrid.data.layouts.case import strip_suffix
from medhybrid.data.layouts.joined_masks import references_of
from medhybrid.data.segments import SegmentRules, match_names
from medhybrid.errors import DataError, ScanError
from medhybrid.scans.dicom.references import reference_kind, reference_names
from medhybrid.scans.slicer_segments import segments_of_nrrd
from medhybrid.scans.walk import visible_files


def missing_segment_findings(cases: Sequence[Case], config: DataConfig) -> list[Finding]:
    """Return a warning for each case without a file or segment for a label, unless it is partly labelled.

    A structure without a file may be absent from the image, or not drawn. A mask that cannot be read is ignored: other checks
    name it.
    """
    rules, findings = SegmentRules.of(config), []
    for case in cases:
        if case.annotated is not None or case.mask is None:
            continue
        try:
            chosen = match_names(_names_of(case, rules), rules, case=case.name)
        except (DataError, ScanError, OSError):
            continue
        if missing := [label for label in rules.labels if not chosen[label]]:
            findings.append(
                Finding(
                    code="no_segment",
                    severity="warning",
                    where=case.name,
                    message="its mask has no file or segment for a label, which counts as absent from the image",
                    expected=", ".join(rules.labels),
                    found=f"none for {', '.join(missing)}",
                    remedy="if it is in the image and was not drawn, list the labels that the mask has (see partly labelled "
                    "cases in docs/reference/data.md); if it is not there, nothing needs to be done",
                )
            )
    return findings


def missing_labels(path: Path, rules: SegmentRules) -> list[str]:
    """Return the labels without a file or segment in a mask: a folder with a file for each label, or a file with segments.

    The list is empty for label maps, and for masks that cannot be read.
    """
    try:
        if path.is_dir():
            names: Sequence[str] = [strip_suffix(p.name) for p in visible_files(path)]
        else:
            names = reference_names(path) if reference_kind(path) else list(segments_of_nrrd(path))
        chosen = match_names(names, rules, case="") if names else {}
    except (DataError, ScanError, OSError):
        return []
    return [label for label in chosen if not chosen[label]]


def _names_of(case: Case, rules: SegmentRules) -> Sequence[str]:
    """Return the names of the files or segments of a mask; none match a label if it is a label map."""
    assert case.mask is not None
    if has_label_files(case.mask, rules):
        return case.mask.names
    return [name for path in references_of(case.mask, case.name) for name in reference_names(path)]


__all__ = ["missing_labels", "missing_segment_findings"]
