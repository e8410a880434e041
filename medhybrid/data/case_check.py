"""Checks of the cases of a dataset, with records that are reused while the files stay the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from medhybrid.config import DataConfig, StudyConfig
from medhybrid.config.regions import class_indices
from medhybrid.data.annotation import keep_annotated, missing_structures
from medhybrid.data.channels import channel_assignment_of
from medhybrid.data.checks import Finding, check_image, check_mask, from_error
from medhybrid.data.equal_scans import hash_values
from medhybrid.data.fingerprint import CaseFingerprint, fingerprint_case, tissue
from medhybrid.data.layouts import Case
from medhybrid.data.load import dataset_root, load_image, load_mask
from medhybrid.data.prepare import reference_labels
from medhybrid.data.store import Stamps, hash_files, stamp_files
from medhybrid.errors import DataError, MedHybridError, item_error
from medhybrid.files import check_present, write_atomically
from medhybrid.geometry import turn_to_ras
from medhybrid.scans.context import CONTEXT_VERSION, context_files
from medhybrid.scans.image_files import files_beside, files_of, header_of

WITH_VALUES_BESIDE = (".hdr", ".hdr.gz", ".nhdr", ".mhd")
"""Suffixes of headers that may have their voxel values in a separate file."""

CHECKS_VERSION = 5
"""Version of the checks. Checks of another version are repeated; prepared cases are kept."""


class CaseCheck(BaseModel):
    """Result of checking a case, valid until the stamps of its files change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: str
    stamps: Stamps
    settings: str
    sources_hash: str
    findings: list[Finding]
    fingerprint: CaseFingerprint | None
    files_hash: str = ""
    values_hash: str = ""

    @property
    def is_usable(self) -> bool:
        """Return whether the case can be used for training."""
        return self.fingerprint is not None and all(f.severity != "error" for f in self.findings)


class CheckTask(BaseModel):
    """Case to check, as sent to a worker process."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    case: Case
    config: StudyConfig

    @property
    def name(self) -> str:
        """Return the case's name."""
        return self.case.name


def reading_of(config: StudyConfig) -> dict[str, object]:
    """Return the settings that affect the reading of images and masks."""
    ignored = {} if config.data.ignore_value is None else {"ignore_value": config.data.ignore_value}
    beyond = {} if config.data.beyond_scribbles == "unknown" else {"beyond_scribbles": config.data.beyond_scribbles}
    rules = config.data.model_dump(include={"segments", "other_segments", "overlaps"})
    return config.scans.model_dump() | rules | ignored | beyond


def check_settings(config: StudyConfig, case: Case) -> str:
    """Return a hash of the settings that a check depends on, and of the volumes that are assigned to channels."""
    values = [
        CHECKS_VERSION,
        *([assignment] if (assignment := channel_assignment_of(case.images)) else []),
        *([] if config.data.labelled else ["scans alone"]),
        *([CONTEXT_VERSION] if config.data.context else []),
        *([config.data.regions] if config.data.regions else []),
        *([_labels_text(case, config.data)] if case.annotated is not None else []),
        [c.model_dump() for c in config.data.channels],
        config.data.labels,
        config.prepare.max_affine_error_mm,
        config.prepare.blank_copied_channels,
        reading_of(config),
    ]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def sources_of(case: Case, config: StudyConfig) -> tuple[Path, ...]:
    """Return the files that a case is read from, with its metadata tables and separate value files of headers."""
    files = tuple(dict.fromkeys(f for p in case.files for f in (p, *_values_beside(p))))
    return files + (context_files(case.files, dataset_root(config.data)) if config.data.context else ())


def _values_beside(path: Path) -> tuple[Path, ...]:
    """Return the other files of an image: header and values of a pair, and files that decide its place."""
    if not path.is_file():
        return ()
    header = header_of(path)
    found: tuple[Path, ...] = (header,) if header != path else ()
    if header.name.lower().endswith(WITH_VALUES_BESIDE):
        with suppress(MedHybridError, OSError):
            found += files_of(header)[1:]
    return (*(p for p in found if p != path), *(p for f in (path, *found) for p in files_beside(f)))


def _hash_sources(files_hash: str, case: Case, config: StudyConfig) -> str:
    """Return a hash of a case's files and of the settings for reading them."""
    reading = json.dumps(reading_of(config), sort_keys=True) + channel_assignment_of(case.images)
    reading += _labels_text(case, config.data)
    context = CONTEXT_VERSION if config.data.context else ""
    return hashlib.sha256((files_hash + reading + context).encode()).hexdigest()


def _labels_text(case: Case, config: DataConfig) -> str:
    """Return a text of the labels that a partly labelled case has; empty for all."""
    if case.annotated is None:
        return ""
    return json.dumps(["labels", case.annotated, config.regions])


def check_case(task: CheckTask) -> CaseCheck:
    """Read, check and measure a case. Errors are returned as findings."""
    case, config = task.case, task.config
    channels = [c.name for c in config.data.channels]
    labels = config.data.labels
    stamps: Stamps = []
    files_hash = sources_hash = values_hash = ""
    findings: list[Finding] = []
    fingerprint = None
    if case.problem is not None:
        findings = [from_error(case.name, case.problem, code="layout")]
        return CaseCheck(
            case=case.name,
            stamps=[],
            settings=check_settings(config, case),
            sources_hash="",
            findings=findings,
            fingerprint=None,
        )
    try:
        for path in case.files:
            check_present(path)
        stamps = stamp_files(sources_of(case, config))
        files_hash = hash_files(sources_of(case, config))
        sources_hash = _hash_sources(files_hash, case, config)
        image = load_image(case, config.data, config.scans)
        optional = [c.name for c in config.data.channels if c.optional and config.prepare.blank_copied_channels]
        alike = [c.name for c in config.data.channels if c.modality == "CT"]
        findings = check_image(
            case.name, image.array, channels, image.notes, blanked_if_copied=optional, scaled_alike=alike
        )
        measured = tissue(image.array)
        if config.data.labelled:
            mask = load_mask(case, image, config.data, config.scans)
            findings += check_mask(
                case.name,
                image.grid,
                mask.array[0],
                mask.grid,
                labels,
                config.prepare.max_affine_error_mm,
                ignored=config.data.ignore_value,
            )
            measured, others = keep_annotated(reference_labels(mask.array[0], config.data), config.data, case.annotated)
            if others:
                findings.append(_not_annotated(case.name, others))
        if all(f.severity != "error" for f in findings):
            turn = turn_to_ras(image.affine)
            turned = turn.apply(image.array)
            values_hash = hash_values(turned)
            fingerprint = fingerprint_case(
                turned,
                turn.apply(measured),
                turn.grid(image.grid).spacing_mm,
                image.grid.voxel_ml,
                channels,
                list(labels),
                regions=class_indices(config.data.regions, config.data.labels),
                missing=missing_structures(config.data, case.annotated),
            )
    except Exception as error:
        findings.append(from_error(case.name, item_error(error, "the case cannot be read", DataError)))
    return CaseCheck(
        case=case.name,
        stamps=stamps,
        settings=check_settings(config, case),
        sources_hash=sources_hash,
        files_hash=files_hash,
        values_hash=values_hash,
        findings=findings,
        fingerprint=fingerprint,
    )


def _not_annotated(case: str, others: Sequence[str]) -> Finding:
    return Finding(
        code="not_annotated",
        severity="warning",
        where=case,
        message="the mask has voxels of labels that its case does not have",
        expected="no voxel of them",
        found=", ".join(others[:8]),
        remedy="add them to the labels of the case, or ignore this: such voxels count as unknown",
    )


def load_check(path: Path, case: Case, config: StudyConfig) -> CaseCheck | None:
    """Load an earlier check of a case; return None if its files or settings have changed."""
    if case.problem is not None:
        return None
    sources = sources_of(case, config)
    try:
        check = CaseCheck.model_validate_json(path.read_bytes())
        if check.settings != check_settings(config, case):
            return None
        if check.stamps == (stamps := stamp_files(sources)):
            return check
        if not check.sources_hash or _hash_sources(hash_files(sources), case, config) != check.sources_hash:
            return None
    except (OSError, ValidationError, ValueError):
        return None
    check = check.model_copy(update={"stamps": stamps})
    write_atomically(path, check.model_dump_json())  # so that the next run need not hash the files
    return check


def is_check(path: Path) -> bool:
    """Return whether a file is the record of a check."""
    try:
        CaseCheck.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return False
    return True
