"""`medhybrid report`: HTML report for a folder of masks.

Scans are read again, as `predict` read them. Masks and measurements are those on disk; nothing is predicted again.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.label_values import unknown_values
from medhybrid.data.layouts.case import strip_suffix
from medhybrid.data.mask_files import list_masks, mask_on_grid
from medhybrid.data.segments import SegmentRules
from medhybrid.errors import ConfigError, DataError, OutputError, item_error
from medhybrid.geometry import Grid, orientation_code
from medhybrid.inference.folder_record import FolderRecord, read_folder_record
from medhybrid.inference.folder_scans import FolderScans, is_unchanged
from medhybrid.inference.foreign_files import is_edited
from medhybrid.inference.records import Prediction, Records
from medhybrid.inference.worklist import WorkItem, without_names
from medhybrid.metrics import LabelScore, score_case
from medhybrid.progress import Reporter, Silent
from medhybrid.review.report import CaseView, ReportInfo, VolumeView, write_report
from medhybrid.review.report.correcting import path_from
from medhybrid.review.report.page import Layout
from medhybrid.review.report.views import Size
from medhybrid.steps.scoring_names import by_predictions
from medhybrid.version import __version__


def report(
    folder: str | Path,
    *,
    scans: str | Path | None = None,
    references: str | Path | None = None,
    ignore_value: int | None = None,
    annotated: Mapping[str, Collection[str]] | None = None,
    deidentify: str | Path | None = None,
    layout: Layout = "auto",
    reporter: Reporter | None = None,
) -> Path:
    """Write `report.html` into a folder of masks and return its path.

    Parameters
    ----------
    folder : str or Path
        Output folder of `predict`.
    scans : str or Path, optional
        Folder of the scans, if they were moved since `predict`; required if names were replaced.
    references : str or Path, optional
        Folder of reference masks, named by case, to draw and score.
    ignore_value : int, optional
        Value in reference masks of voxels whose label is unknown. They are neither drawn nor scored.
    annotated : mapping, optional
        For cases whose reference has only some of the labels, or regions: their names. The others are not scored.
    deidentify : str or Path, optional
        Key file of the `predict` call.
    layout : str
        `single`, one file; `pages`, an index and a page for each case; `auto` by the number of cases.

    Raises
    ------
    ConfigError
        If the layout is unknown.
    DataError
        If the folder has no record of `predict` or no case, or `scans` does not exist.
    OutputError
        If the report cannot be written.
    """
    folder, reporter = Path(folder), reporter or Silent()
    if layout not in get_args(Layout):
        raise ConfigError(f"unknown layout {layout!r}", expected=", ".join(get_args(Layout)))
    if scans is not None and not Path(scans).exists():
        raise DataError(f"{scans} does not exist", remedy="give the current folder of the scans")
    record = read_folder_record(folder)
    found = FolderScans.find(
        folder,
        record,
        scans=None if scans is None else Path(scans),
        deidentify=None if deidentify is None else Path(deidentify),
    )
    names = sorted({p.stem for state in ("done", "failed") for p in (folder / state).glob("[!.]*.json")})
    predictions = [p for p in Records(folder).all(names) if p.made_by in ("", record.made_by)]
    if not predictions:
        raise DataError(f"{folder} has no case", expected="records in done/ or failed/", remedy="run medhybrid predict")
    if not any(p.case in found.items for p in predictions):
        where = scans or record.scans or "a folder that is not recorded, since names were replaced"
        reporter.message(
            f"the scans of these masks were not found in {where}: the report has no images. Give --scans (and --deidentify)"
        )
    elif absent := [p.case for p in predictions if p.status == "done" and p.case not in found.items]:
        more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
        reporter.message(f"no images, since their scans were not found: {', '.join(absent[:5])}{more}")
    known, doubled = ({}, {}) if references is None else list_masks(Path(references), labels=record.labels)
    known = by_predictions(known, {unicodedata.normalize("NFC", p.case): folder for p in predictions}) or known
    for message in doubled.values():
        reporter.message(f"{message}: neither is used")
    cases = {unicodedata.normalize("NFC", p.case) for p in predictions}
    if references is not None and not known.keys() & cases:
        shown = f"{len(known)} masks, such as {min(known)}" if known else "no mask"
        reporter.message(
            f"no reference is used: {references} has {shown}, and none of the name of a scan, such as {min(cases)}"
        )
    elif unused := sorted(known.keys() - cases):
        more = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
        reporter.message(f"references of no scan in the report: {', '.join(unused[:5])}{more}")

    labels_of = {unicodedata.normalize("NFC", case): names for case, names in (annotated or {}).items()}

    def views() -> Iterator[CaseView]:
        for n, prediction in enumerate(predictions, start=1):
            case = unicodedata.normalize("NFC", prediction.case)
            path = known.get(case)
            of_file = labels_of.get(unicodedata.normalize("NFC", strip_suffix(path.name))) if path else None
            reference = None if path is None else _Reference(path, ignore_value, labels_of.get(case, of_file))
            yield _view(folder, prediction, record, found.items.get(prediction.case), reference)
            reporter.advance(n, prediction.case)

    info = ReportInfo(
        title=f"{folder.resolve().name}: {', '.join(record.labels)}",
        labels=record.labels,
        regions=record.regions,
        facts=_facts(record),
        skipped_files=tuple((e.name, e.reason) for e in record.skipped_files),
        key=record.made_by[:16],
        folder=f"{folder.resolve().name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}",
        version=__version__,
    )
    reporter.begin("drawing", len(predictions))
    try:
        path = write_report(folder, info, views(), len(predictions), layout=layout)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written to",
            found=error.strerror or str(error),
            remedy="free disk space, or copy it to another folder",
        ) from error
    reporter.end()
    return path


@dataclass(frozen=True, slots=True)
class _Reference:
    """Reference mask of a case.

    Attributes
    ----------
    labels : collection of str, optional
        Labels that it has; None for all.
    """

    path: Path
    ignore_value: int | None
    labels: Collection[str] | None


def _view(
    folder: Path, prediction: Prediction, record: FolderRecord, item: WorkItem | None, reference: _Reference | None
) -> CaseView:
    sizes = {n: Size(m.volume_ml, m.n_components, m.largest_mm) for n, m in prediction.measures.items()}
    facts: tuple[tuple[str, str], ...] = ()
    notes: list[str] = []
    scores: list[LabelScore] = []
    volume = None
    if prediction.status == "done":
        try:
            volume, scores, facts = _read(folder, prediction.case, record, item, reference, notes)
        except Exception as error:
            problem = item_error(error, f"{prediction.case} cannot be shown", DataError)
            notes.append(f"no image: {problem}")
        if not record.scans and item is not None:  # names were replaced: replace them in messages, too
            notes = [without_names(n, item, prediction.case) for n in notes]
    reasons = record.channels.get(prediction.case, ())
    mask = f"masks/{prediction.case}.nii.gz"
    files = item.files if item is not None and record.scans else ()
    return CaseView(
        case=prediction.case,
        status=prediction.status,
        message=prediction.message,
        sign=prediction.sign,
        verdict=prediction.verdict,
        score=prediction.score,
        sizes=sizes,
        facts=(*facts, *(("channel", r) for r in reasons), ("time", f"{prediction.seconds:.1f} s")),
        notes=tuple(notes),
        scores=tuple(scores),
        volume=volume,
        mask_path=mask if os.path.isfile(folder / mask) else "",
        scan_path=path_from(folder, files[0]) if files else "",
    )


def _read(
    folder: Path,
    case: str,
    record: FolderRecord,
    item: WorkItem | None,
    reference: _Reference | None,
    notes: list[str],
) -> tuple[VolumeView | None, list[LabelScore], tuple[tuple[str, str], ...]]:
    if item is None:
        return None, [], ()
    if item.problem or not is_unchanged(folder, item):
        raise DataError(
            f"case {case}: the scan has changed since its mask was predicted",
            found=item.problem,
            remedy="predict again, or give --scans with the folder that predict read",
        )
    if item.is_burned_in and not record.scans:
        raise DataError(f"case {case}: the pixels may have burned-in text, and names were to be replaced")
    names = [n for n, _ in record.model_channels]
    scan = item.read(names, record.scan_options)
    notes += scan.notes
    mask = mask_on_grid(folder / "masks" / f"{case}.nii.gz", scan.grid, SegmentRules(record.labels))
    if mask is None:
        raise DataError(f"case {case}: the mask has another grid than the scan", remedy="predict again")
    made = Records(folder).done(case)
    edited = is_edited(folder, Records(folder), case)
    if edited:
        notes.append("the mask was edited after predict wrote it: the measures are those of the original")
    known: NDArray[np.generic] | None = None
    scores: list[LabelScore] = []
    if reference is not None:
        try:
            known = mask_on_grid(reference.path, scan.grid, SegmentRules(record.labels))
            problem = "" if known is not None else "the reference has another grid than the scan"
        except Exception as error:
            problem = str(item_error(error, "the reference cannot be read", DataError)).rstrip(".")
        ignored = reference.ignore_value
        is_known = np.ones(scan.grid.shape, bool) if known is None or ignored is None else known != ignored
        structures = {n: v for n, v in record.structures.items() if reference.labels is None or n in reference.labels}
        if known is None:
            notes.append(f"{problem}: it is neither drawn nor scored")
        elif not is_known.any():
            known = None
            notes.append("the reference has no voxel of known label: it is neither drawn nor scored")
        elif unknown := unknown_values(known[is_known], record.labels.values()):
            known = None
            notes.append(
                f"the reference has values that are not labels ({', '.join(unknown)}): it is neither drawn nor scored"
            )
        elif edited:
            notes.append("an edited mask is not scored")
        elif made is not None and made.is_training_scan:
            notes.append("the model was trained on this scan: its mask is not scored")
        else:
            scores = score_case(case, mask, known, structures, scan.grid, known=is_known)
            if absent := [n for n in record.structures if n not in structures]:
                notes.append(f"not scored, since the reference does not have them: {', '.join(absent)}")
            if not is_known.all():
                notes.append(f"scored on {is_known.mean():.1%} of the voxels: the label of the others is unknown")
        if known is not None:
            known = np.where(is_known, known, 0)
    shown = shown_channel(record.model_channels)
    shown = shown if shown < len(scan.array) else 0
    channels = dict(zip(names, scan.array, strict=False)) or {"": scan.array[0]}
    channel, image = list(channels.items())[shown]
    others = {n: a for n, a in channels.items() if n != channel and np.ptp(a) > 0}  # a missing channel is constant
    volume = VolumeView.from_scan(image, mask, known, scan.grid, channel=channel, others=others)
    return volume, scores, facts_of(scan.grid, scan.source.kind)


def pictures_of(folder: Path, record: FolderRecord) -> Callable[[str], VolumeView | None]:
    """Return a function that reads the image and mask of a case for a figure.

    It returns None if the scan is not found, and raises `MedHybridError` if it cannot be read.
    """
    found = cache(lambda: FolderScans.find(folder, record))
    return lambda case: _read(folder, case, record, found().items.get(case), None, [])[0]


def shown_channel(channels: list[tuple[str, bool]]) -> int:
    """Return the index of the last required channel."""
    return max((i for i, (_, is_optional) in enumerate(channels) if not is_optional), default=0)


def facts_of(grid: Grid, kind: str) -> tuple[tuple[str, str], ...]:
    """Return shape, spacing, axes and file format of a scan as texts for the report."""
    return (
        ("grid", " x ".join(map(str, grid.shape))),
        ("spacing", " x ".join(f"{s:.3g}" for s in grid.spacing_mm) + " mm"),
        ("axes", orientation_code(grid.affine)),
        ("read from", {"nifti": "NIfTI", "dicom": "DICOM"}.get(kind, kind)),
    )


def _facts(record: FolderRecord) -> dict[str, str]:
    return {
        "predicted": record.time.replace("T", " ").replace("+00:00", " UTC"),
        "model": record.model_weights_sha256[:12],
        "by": f"medhybrid {record.medhybrid} on {record.device}, {record.precision}",
        **({"confidence": "not calibrated"} if record.is_calibrated is False else {}),
        "other files": str(record.n_other_files),
        **({"not yet predicted": str(record.n_waiting)} if record.n_waiting else {}),
    }
