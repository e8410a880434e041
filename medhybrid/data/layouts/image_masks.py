"""Masks in image files (PNG, TIFF, BMP, GIF) beside radiographs and single DICOM slices, in the layout of studies.

Beside other scans, image files count as previews. But the mask of a study may be an image file, if all scans of the study are
DICOM images of one slice, and it has no other mask.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from medhybrid.scans import Discovery, ScanEntry, discover

logger = logging.getLogger(__name__)


def discover_with_masks(
    root: Path,
    study_of: Callable[[Path], str],
    masks_of: Callable[[Sequence[ScanEntry], str], Sequence[ScanEntry]],
) -> Discovery:
    """Search a folder for scans, and take masks in image files beside single DICOM images.

    Parameters
    ----------
    study_of : callable
        Function that returns the study of a file.
    masks_of : callable
        Function that returns the possible masks among the scans of a study.
    """
    found = discover(root, with_archives=False, warns=False)
    by_study: dict[str, list[ScanEntry]] = {}
    for entry in found.entries:
        by_study.setdefault(study_of(entry.paths[0]), []).append(entry)
    files: dict[str, list[Path]] = {}
    for path in found.preview_files:
        files.setdefault(study_of(path), []).append(path)
    masks = [
        mask
        for study, paths in files.items()
        if _has_single_images_only(by_study.get(study, ())) and not masks_of(by_study[study], study)
        for mask in masks_of(discover(root, only=paths).entries, study)
    ]
    taken = {m.paths[0] for m in masks}
    kept = [(p, name) for p, name in zip(found.preview_files, found.previews, strict=True) if p not in taken]
    found = replace(
        found,
        entries=tuple(sorted((*found.entries, *masks), key=lambda e: e.name)),
        n_skipped=found.n_skipped - len(taken),
        preview_files=tuple(p for p, _ in kept),
        previews=tuple(name for _, name in kept),
    )
    if found.left_out:
        logger.warning("%s", found.left_out)
    return found


def _has_single_images_only(entries: Sequence[ScanEntry]) -> bool:
    """Return whether the scans of a study are DICOM images of one slice."""
    scans = [e for e in entries if not (e.problem or e.skip_reason)]
    return bool(scans) and all(e.kind == "dicom" and e.shape[2:] == (1,) for e in scans)
