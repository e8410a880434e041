"""Source of a prepared dataset: the original folder, and the settings that determine the prepared cases.

PREPARED/source.json    written by `preprocess`, compared by `train`
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medhybrid.config import StudyConfig, config_from_dict
from medhybrid.data.case_check import CaseCheck, sources_of
from medhybrid.data.layouts import layout_of, list_dataset, list_files
from medhybrid.data.list_contents import hash_contents
from medhybrid.data.store import hash_files, stamp_files
from medhybrid.errors import ConfigError, DataError, MedHybridError
from medhybrid.files import write_atomically
from medhybrid.names import printable_path
from medhybrid.remote import is_remote, local_copy
from medhybrid.two_columns import two_columns

FILE = "source.json"

DATA_KEYS = (
    "labelled",
    "ignore_value",
    "beyond_scribbles",
    "channels",
    "labels",
    "regions",
    "channel_map",
    "mask_pattern",
    "segments",
    "other_segments",
    "overlaps",
    "subject_pattern",
    "splits",
    "corrections",
    "n_folds",
    "split_seed",
)
PREPARE_KEYS = ("max_patch_voxels", "max_affine_error_mm", "blank_copied_channels")
"""Settings that determine the cases, the folds or the plan, in addition to those stored in the plan."""

MADE_FOLDS = ("data.n_folds", "data.split_seed")
"""Settings for drawing folds, which a dataset with a file of folds does not use."""

EARLIER_PATCH_VOXELS = 262_144
"""Default of `prepare.max_patch_voxels` in version 0.1."""

SHOWN = 5

MAX_VALUE = 300
"""Length of a setting in a message, in characters."""


class DatasetSource(BaseModel):
    """Source of a prepared dataset.

    Attributes
    ----------
    root, resolved : str
        `data.root` as in the config, and as an absolute path. The latter is empty for a folder of an earlier version.
    settings : dict
        Config keys that determine the dataset, with their values.
    splits_sha256 : str, optional
        Hash of the file of folds; None without such a file, or if the hash is unknown.
    lists_sha256 : dict
        Hashes of the tables and lists that assign files to cases, channels, subjects and folds.
    contents_sha256 : dict
        Hashes of the content of these tables, lists and the file of folds, regardless of formatting; empty in folders of
        earlier versions.
    knows_splits : bool
        Whether these hashes are known. Earlier versions did not store them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    root: str
    resolved: str = ""
    settings: dict[str, Any]
    splits_sha256: str | None = None
    lists_sha256: dict[str, str] = {}
    contents_sha256: dict[str, str] = {}
    knows_splits: bool = True


def source_of(config: StudyConfig) -> DatasetSource:
    """Return the source of a config, in its present state."""
    root = config.data.root or ""
    return DatasetSource(
        root=root,
        resolved=_resolve(root),
        settings=_settings(config),
        splits_sha256=_hash_of_splits(config),
        lists_sha256=_hashes_of_lists(config),
        contents_sha256=hash_contents(config.data) if config.data.root else {},
    )


def save_source(folder: Path, config: StudyConfig) -> None:
    """Write the source of a prepared dataset."""
    write_atomically(folder / FILE, source_of(config).model_dump_json(indent=1))


def check_source(folder: Path, config: StudyConfig) -> list[str]:
    """Compare the source of a prepared dataset with the source of a config; return remarks on files changed since.

    Raises
    ------
    DataError
        If the dataset was prepared from another folder, or with other settings, folds or lists of cases.
    """
    then, now = _load_source(folder), source_of(config)
    if then is None:
        return []
    is_moved = not _is_same_root(then, now)
    if is_moved and not _has_same_cases(folder, config):
        raise DataError(
            f"the cases in {printable_path(folder)} were prepared from another dataset",
            expected=f"data.root={now.root}",
            found=f"data.root={then.root}",
            remedy="run medhybrid preprocess with this config, or give the study another name",
        )
    has_same_splits = then.splits_sha256 == now.splits_sha256 or _say_the_same(then, now, str(config.data.splits))
    is_from_file = now.splits_sha256 is not None and (not then.knows_splits or has_same_splits)
    unused = MADE_FOLDS if is_from_file else ()  # then they affect inner validation splits only
    shared = [k for k in now.settings if k in then.settings and k not in unused]
    keys = [k for k in shared if then.settings[k] != now.settings[k]]
    if keys:
        raise DataError(
            f"the cases in {printable_path(folder)} were prepared with other settings",
            table=two_columns(
                [(k, _short(then.settings[k]), _short(now.settings[k])) for k in keys], "prepared", "config"
            ),
            remedy="run medhybrid preprocess with this config: it repeats only the changed parts",
        )
    if then.knows_splits and _root_exists(now) and not has_same_splits:
        raise DataError(
            f"the folds in {printable_path(folder)} differ from those of {config.data.splits} in the dataset",
            expected="the same file of folds as when the cases were prepared",
            found="a new file" if then.splits_sha256 is None else "a changed or missing file",
            remedy="run medhybrid preprocess again: it repeats only the changed parts",
        )
    names = sorted(
        k
        for k in then.lists_sha256.keys() | now.lists_sha256
        if then.lists_sha256.get(k) != now.lists_sha256.get(k) and not _say_the_same(then, now, k)
    )
    if then.knows_splits and _root_exists(now) and names:
        raise DataError(
            f"the lists of cases have changed since the cases in {printable_path(folder)} were prepared",
            found=", ".join(names),
            remedy="run medhybrid preprocess again: it repeats only the changed parts",
        )
    moved = [f"the dataset was moved from {then.root} to {now.root}, with the same files"] if is_moved else []
    return [*moved, *_changed_files(folder, then, now), *_new_cases(folder, config)]


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 3] + "..."


def _say_the_same(then: DatasetSource, now: DatasetSource, name: str) -> bool:
    """Return whether the recorded content of a table or list is unchanged, regardless of its formatting."""
    return name in then.contents_sha256 and then.contents_sha256[name] == now.contents_sha256.get(name)


def _load_source(folder: Path) -> DatasetSource | None:
    """Load the recorded source; for a folder of an earlier version, derive it from the config in the folder."""
    try:
        source = DatasetSource.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        pass
    else:
        return _with_present_defaults(source)
    try:
        config = config_from_dict(yaml.safe_load((folder / "config.yaml").read_text()), source="config.yaml")
    except (OSError, ValueError, yaml.YAMLError, ConfigError):
        return None
    earlier = DatasetSource(root=config.data.root or "", settings=_settings(config), knows_splits=False)
    return _with_present_defaults(earlier)


def _with_present_defaults(source: DatasetSource) -> DatasetSource:
    """Return a source in which a default of an earlier version is the present one."""
    settings = {"data.beyond_scribbles": "unknown"} | source.settings
    if settings.get("prepare.max_patch_voxels") == EARLIER_PATCH_VOXELS:
        settings["prepare.max_patch_voxels"] = None
    return source.model_copy(update={"settings": settings})


def _settings(config: StudyConfig) -> dict[str, Any]:
    data, prepare = config.data.model_dump(mode="json"), config.prepare.model_dump(mode="json")
    values = {f"data.{k}": data[k] for k in DATA_KEYS}
    values |= {f"prepare.{k}": prepare[k] for k in PREPARE_KEYS}
    values |= {f"scans.{k}": v for k, v in config.scans.model_dump(mode="json").items()}
    if config.data.layout != "auto":
        values["data.layout"] = config.data.layout
    return values


def _resolve(root: str) -> str:
    return root if not root or is_remote(root) else printable_path(Path(root).resolve())


def _root_exists(source: DatasetSource) -> bool:
    return is_remote(source.root) or (bool(source.root) and Path(source.root).is_dir())


def _is_same_root(then: DatasetSource, now: DatasetSource) -> bool:
    """Return whether two roots are the same folder; if the folder does not exist, whether the paths are equal."""
    if then.resolved and now.resolved == then.resolved:
        return True
    if not then.resolved and _resolve(then.root) == now.resolved:
        return True
    return then.root == now.root and not _root_exists(now)


def _hashes_of_lists(config: StudyConfig) -> dict[str, str]:
    if not config.data.root:
        return {}
    try:
        root = local_copy(config.data.root)
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in list_files(config.data, root)}
    except (OSError, MedHybridError):
        return {}


def _new_cases(folder: Path, config: StudyConfig) -> list[str]:
    """Return a remark on cases added since; none for folders of studies, because their search takes long."""
    root = config.data.root
    try:
        if not root or is_remote(root) or not Path(root).is_dir() or layout_of(config.data, Path(root)) == "studies":
            return []
        known = {c.case for c in _checks(folder)}
        added = sorted(c.name for c in list_dataset(config.data).cases if c.name not in known)
    except (OSError, MedHybridError):
        return []
    if not added:
        return []
    names = ", ".join(added[:SHOWN]) + (f" and {len(added) - SHOWN} more" if len(added) > SHOWN else "")
    return [f"{len(added)} cases of the dataset are not prepared, and are skipped: {names}. Run medhybrid preprocess"]


def _hash_of_splits(config: StudyConfig) -> str | None:
    if not config.data.splits or not config.data.root:
        return None
    try:
        path = local_copy(config.data.root) / config.data.splits
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, MedHybridError):
        return None


def _has_same_cases(folder: Path, config: StudyConfig) -> bool:
    """Return whether a config's folder contains the prepared cases, by names and content of their files."""
    known = {c.case: c for c in _checks(folder) if c.stamps and _is_prepared(folder, c.case)}
    try:
        cases = {c.name: c for c in list_dataset(config.data).cases if c.problem is None}
        if not known or not known.keys() <= cases.keys():
            return False
        for name, check in known.items():  # sizes first: they distinguish datasets without reading files
            if sorted(s[1] for s in stamp_files(sources_of(cases[name], config))) != sorted(s[1] for s in check.stamps):
                return False
        return all(
            not c.files_hash or hash_files(sources_of(cases[n], config)) == c.files_hash for n, c in known.items()
        )
    except (OSError, MedHybridError):
        return False


def _is_prepared(folder: Path, case: str) -> bool:
    return (folder / "cases" / case / "case.json").is_file()


def _checks(folder: Path) -> list[CaseCheck]:
    found = []
    for path in sorted((folder / "checks").glob("[!.]*.json")):
        try:
            found.append(CaseCheck.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            continue
    return found


def _changed_files(folder: Path, then: DatasetSource, now: DatasetSource) -> list[str]:
    """Return a remark on prepared cases with changed files, by content and not by time."""
    if is_remote(now.root) or not _root_exists(now) or then.resolved != now.resolved:
        return []
    changed = []
    for check in _checks(folder):
        if not check.files_hash:
            continue  # checked by an earlier version, or without files
        paths = [Path(stamp[0]) for stamp in check.stamps]
        try:
            if stamp_files(paths) != list(check.stamps) and hash_files(paths) != check.files_hash:
                changed.append(check.case)
        except OSError:
            if _is_prepared(folder, check.case):  # otherwise it was removed from the dataset, or never used
                changed.append(check.case)
    if not changed:
        return []
    names = ", ".join(changed[:SHOWN]) + (f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else "")
    return [
        f"files of {len(changed)} cases have changed since they were prepared; the changes are not used: {names}. "
        "Run medhybrid preprocess"
    ]
