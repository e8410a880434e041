"""Hashes of the content of a dataset's tables and lists, regardless of descriptions, unused columns and formatting."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from medhybrid.config import DataConfig
from medhybrid.data.channels import TABLE as CHANNEL_TABLE
from medhybrid.data.layouts import LAYOUTS, Case, layout_of, list_files
from medhybrid.data.layouts.case import Files, read_json
from medhybrid.data.layouts.datalist import KEYS
from medhybrid.data.layouts.nnunet import CASE_LABELS
from medhybrid.data.splits import splits_file
from medhybrid.errors import MedHybridError
from medhybrid.remote import local_copy
from medhybrid.scans.context import TABLE as CONTEXT_TABLE
from medhybrid.tables import read_table


def hash_contents(config: DataConfig) -> dict[str, str]:
    """Return file name to hash for each table, list and file of folds; files that cannot be read are omitted."""
    found = {}
    try:
        root = local_copy(config.root or "")
        folds = splits_file(config)
        paths = [*list_files(config, root), *([folds] if folds else [])]
    except (OSError, MedHybridError):
        return {}
    for path in paths:
        try:
            contents = _folds_in(path) if path == folds else _contents_of(path, config, root)
        except (OSError, MedHybridError, TypeError, ValueError, AttributeError):
            continue
        key = str(config.splits) if path == folds else path.name
        found[key] = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    return found


def _contents_of(path: Path, config: DataConfig, root: Path) -> Any:
    if path.name in (CHANNEL_TABLE, CONTEXT_TABLE):
        return sorted(sorted(row.items()) for _, row in read_table(path).rows)
    layout = layout_of(config, root)
    listing = LAYOUTS[layout](config, root)
    # the cases of nnU-Net's folders follow from their files, which are compared separately
    contents: dict[str, Any] = {
        "cases": [] if layout == "nnunet" else sorted(_case(c, root) for c in listing.cases),
        "testing": sorted(_case(c, root) for c in listing.testing),
    }
    values = read_json(path) if path.suffix.lower() == ".json" else {}
    if isinstance(values, dict):
        lists = ("training", *KEYS["validation"], CASE_LABELS) if layout == "nnunet" else ()
        keys = ("labels", "channel_names", "modality", *lists)
        contents |= {k: values[k] for k in keys if k in values}
    return contents


def _case(case: Case, root: Path) -> list[str]:
    parts = [case.name, case.subject, str(case.fold), str(case.is_labelled), str(case.problem is not None)]
    parts += [] if case.annotated is None else ["labels", *case.annotated]
    return [*parts, *(_files(f, root) for f in case.images), _files(case.mask, root)]


def _files(files: Files | None, root: Path) -> str:
    return "" if files is None else json.dumps([[os.path.relpath(p, root) for p in files.paths], files.part])


def _folds_in(path: Path) -> Any:
    return [[f["train"], f.get("validation", f.get("val", []))] for f in read_json(path)]
