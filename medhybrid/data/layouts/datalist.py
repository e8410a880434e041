"""Data lists in JSON: the Medical Segmentation Decathlon's `dataset.json`, and the lists of MONAI and Auto3DSeg.

`training` (or `train`) is a list of `{"image": FILE or [FILE, ...], "label": FILE, "fold": K}`. Several files are channels, in
the order of the config. `fold` is the fold in which a case validates. Cases in a list `validation` (or `val`) validate in a
single fold; those without labels are skipped. A key `subject` names the patient, `labels` the labels that the mask has (all by
default), and `split` with `train`, `val` or `test` assigns an entry to a part. A file can also be a plain list of such entries.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

from medhybrid.config import DataConfig
from medhybrid.data.layouts.case import (
    Case,
    Files,
    Listing,
    NoMaskError,
    Note,
    named_case,
    path_inside,
    read_fold,
    read_json,
    strip_suffix,
)
from medhybrid.data.layouts.case_labels import EVERY_LABEL, CaseLabelsError, read_annotated
from medhybrid.data.layouts.entry_keys import (
    notes_on_unused_keys,
    part_under,
    split_key,
    subject_under,
    with_part,
    with_subject,
)
from medhybrid.data.layouts.parts import fold_or_part
from medhybrid.errors import DataError
from medhybrid.files import find_in_any_form
from medhybrid.names import name_from_path, printable_path

KEYS = {
    "training": ("training", "train"),
    "validation": ("validation", "val", "valid"),
    "testing": ("testing", "test"),
}
"""Keys of the parts of a data list."""

MAX_BELOW = 20
"""Largest number of JSON files in folders below that are read."""

OTHER_LABEL_KEYS = ("labels", "mask", "seg", "segmentation", "annotation", "gt", "target")
"""Keys of other software for the mask of an entry, which a message names."""

SHOWN = 5


def find_datalist(root: Path) -> Path | None:
    """Return the data list of a folder: `dataset.json`, or the only JSON file with a list of images."""
    found = find_datalists(root)
    return found[0] if len(found) == 1 else None


def find_datalists(root: Path) -> list[Path]:
    """Return the data lists of a folder. With a `dataset.json`, other files are ignored."""
    if (root / "dataset.json").is_file():
        return [root / "dataset.json"] if _is_datalist(root / "dataset.json") else []
    return [p for p in sorted(root.glob("*.json")) if p.is_file() and p.name[0] != "." and _is_datalist(p)]


def datalists_below(root: Path) -> list[Path]:
    """Return the data lists in folders of a folder, relative to it, which are not used."""
    found = [p for level in ("*", "*/*") for p in sorted(root.glob(f"{level}/*.json")) if p.name[0] != "."]
    return [p.relative_to(root) for p in found[:MAX_BELOW] if p.is_file() and _is_datalist(p)]


def json_files(root: Path) -> list[str]:
    """Return the names of the JSON files of a folder, at most `SHOWN`."""
    return [printable_path(p.name) for p in sorted(root.glob("*.json"))[:SHOWN] if p.name[0] != "."]


def only_datalist(root: Path) -> Path:
    """Return the data list of a folder; raise `DataError` if it has several or none."""
    found = find_datalists(root)
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"{printable_path(root)} contains {'several data lists' if found else 'no data list'}",
        expected='one JSON file with a list `training` of {"image": ..., "label": ...}, or one with the name dataset.json',
        found=", ".join([printable_path(p.name) for p in found[:SHOWN]] or json_files(root)) or "no JSON file",
        remedy="rename the right one to dataset.json" if found else "set data.layout to the layout of the folder",
    )


def _is_datalist(path: Path) -> bool:
    """Return whether a file lists cases with images. In `dataset.json`, any list `training` counts but one of plain names."""
    try:
        parts = _parts_of(read_json(path))
    except DataError:
        if path.name == "dataset.json":
            raise
        return False
    training = parts["training"]
    if training is None or (training and all(isinstance(e, str) for e in training)):
        return False
    if not training and (path.parent / "imagesTr").is_dir():  # the list was left empty: the folder has the cases
        return False
    return path.name == "dataset.json" or any(_image_files(e) for e in training)


def _parts_of(values: object) -> dict[str, list[Any] | None]:
    """Return the lists of a file by part, None for a missing part. A plain list is for training."""
    if isinstance(values, list):
        return {
            "training": values if any(_image_files(e) for e in values) else None,
            "validation": None,
            "testing": None,
        }
    named = values if isinstance(values, dict) else {}
    return {part: next((named[k] for k in keys if isinstance(named.get(k), list)), None) for part, keys in KEYS.items()}


def image_counts(root: Path) -> list[int]:
    """Return the number of image files of each entry for training."""
    training = _parts_of(read_json(only_datalist(root)))["training"] or []
    return [n for e in training if (n := len(_image_files(e)))]


def channel_words(root: Path) -> tuple[str, ...]:
    """Return the words that differ between the files of the entries for training, as names of channels in their order.

    A position without a word that all entries have there is numbered. The result is empty if entries have a single file.
    """
    training = _parts_of(read_json(only_datalist(root)))["training"] or []
    found = [files for e in training if len(files := [f for f in _image_files(e) if isinstance(f, str)]) > 1]
    n_files = max(map(len, found), default=0)
    words: list[list[list[str]]] = []
    for files in found:
        of_files = [re.findall(r"[^\W_]+", strip_suffix(Path(f.replace("\\", "/")).name)) for f in files]
        shared = set.intersection(*map(set, of_files))
        words.append([[w for w in of_file if w not in shared] for of_file in of_files])
    alike = [[w[k] for w in words if k < len(w)] for k in range(n_files)]
    return tuple(
        "_".join(of[0]) if of[0] and all(w == of[0] for w in of) else f"channel_{k}" for k, of in enumerate(alike)
    )


def list_datalist(config: DataConfig, root: Path) -> Listing:
    """List the cases of a data list.

    Raises
    ------
    DataError
        If no file or several files have a list of training cases.
    """
    path = only_datalist(root)
    values = read_json(path)
    parts = _parts_of(values)
    listed, validating = _once(parts["training"] or []), _once(parts["validation"] or [])
    testing = parts["testing"] or []
    labelled = [e for e in validating if _has_label(e)]
    scans = [] if config.labelled else [e for e in validating if not _has_label(e)]
    split = split_key([*listed, *labelled], path.name)
    entries = [*listed, *labelled, *scans]
    names = _names_of(entries, root)
    has_subjects = any(subject_under(e) for e in entries)
    cases = [
        with_subject(_case_of(e, names[i], config, root, where, has_fold=not labelled), e, where, must_say=has_subjects)
        for i, e in enumerate(entries)
        for where in (f"{path.name}, entry {i + 1}",)
    ]
    if any(_has_labels(e) for e in entries):
        cases = [_with_labels(c, e, config, path.name) for c, e in zip(cases, entries, strict=True)]
    parts_of_cases = [part_under(split, e) for e in listed]
    parts_of_cases += ["test" if part_under(split, e) == "test" else "validation" for e in labelled]
    parts_of_cases += [None] * len(scans)
    if split:
        cases = [
            with_part(c, part, split, i < len(listed))
            for i, (c, part) in enumerate(zip(cases, parts_of_cases, strict=True))
        ]
    told = list(zip(cases, parts_of_cases, strict=True))
    kept = [c for c, part in told if part == "test"] + [case_for_testing(e, config, root) for e in testing]
    taken, notes = fold_or_part([(c, part) for c, part in told if part != "test"], split, path.name)
    notes += notes_on_unused_keys(entries, split, path.name, used=("labels",))
    if labelled and (n := sum(isinstance(e, dict) and e.get("fold") not in (None, "") for e in entries)):
        message = f"the folds of {n} entries are not used: the list `validation` defines a single fold"
        notes.append(Note(path.name, message, remedy="move these entries to `training` with a fold, to use the folds"))
    if kept:
        notes.append(Note(path.name, f"{len(kept)} cases for testing are skipped"))
    if config.labelled and len(labelled) < len(validating):
        n = len(validating) - len(labelled)
        notes.append(Note(path.name, f"{n} cases for validation have no label and are skipped"))
    if n := sum(len(parts[part] or []) for part in ("training", "validation")) - len(listed) - len(validating):
        notes.append(Note(path.name, f"{n} entries are duplicates; each is used once"))
    rest = values.items() if isinstance(values, dict) else ()
    notes += [
        Note(path.name, f"{len(of_key)} cases under {printable_path(str(key))} are skipped")
        for key, of_key in rest
        if isinstance(of_key, list) and of_key not in parts.values() and any(_image_files(e) for e in of_key)
    ]
    return Listing(tuple(taken), tuple(notes), tuple(kept))


def _once(entries: list[Any]) -> list[Any]:
    """Return the entries without duplicates, regardless of the spelling of file paths."""
    first: dict[str, Any] = {}
    for entry in entries:
        first.setdefault(json.dumps(_plain(entry), sort_keys=True), entry)
    return list(first.values())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return unicodedata.normalize("NFC", str(Path(value.replace("\\", "/")))) if isinstance(value, str) else value


def _has_label(entry: object) -> bool:
    return isinstance(entry, dict) and bool(entry.get("label"))


def _has_labels(entry: object) -> bool:
    return isinstance(entry, dict) and entry.get("labels") is not None


def _with_labels(case: Case, entry: Any, config: DataConfig, name: str) -> Case:
    """Set the labels that a case has; add a problem if its entry has none while others have, or unknown ones."""
    if case.mask is None:
        return case
    try:
        if not _has_labels(entry):
            raise CaseLabelsError(
                f"case {case.name}: its entry in {name} has no `labels`, while other entries have",
                expected=f"a list of the labels that its mask has, or `{EVERY_LABEL}`",
                remedy="add it",
            )
        annotated = read_annotated(entry["labels"], config, where=f"case {case.name}, key labels in {name}")
    except CaseLabelsError as error:
        return replace(case, problem=case.problem or error) if config.labelled else case
    return replace(case, annotated=annotated)


def testing_of(path: Path) -> list[Any]:
    """Return the entries for testing of a file."""
    return _parts_of(read_json(path))["testing"] or []


def case_for_testing(entry: Any, config: DataConfig, root: Path) -> Case:
    """Return the case of an entry for testing, which may be only a file name. Its subject may be unknown."""
    files = [f for f in (_image_files(entry) or [entry]) if isinstance(f, str) and f and "\0" not in f]
    name = strip_suffix(Path(files[0].replace("\\", "/")).name) if files else ""
    _, subject, problem = named_case(name, config, source="the data list", where="testing")
    paths = [root / (f if (root / f).exists() else f.replace("\\", "/")) for f in files]
    images = tuple(Files((find_in_any_form(p),)) for p in paths)
    subject = subject if config.subject_pattern and problem is None else ""
    return Case(name, subject_under(entry) or subject, images, None)


def _names_of(entries: list[Any], root: Path) -> list[str]:
    """Return a name for each entry: the file name of its first image, or its whole path if file names are not unique."""
    files = [_image_files(e) for e in entries]
    paths = [
        Path(f[0].replace("\\", "/")) if f and isinstance(f[0], str) else Path(f"entry {i + 1}")
        for i, f in enumerate(files)
    ]
    names = [strip_suffix(p.name) for p in paths]
    if len(set(names)) == len(names):
        return names
    inside = [Path(*(q for q in p.parts if q not in (".", "..", "/"))) for p in paths]
    return [name_from_path(p.parent / strip_suffix(p.name)) for p in inside]


def _image_files(entry: object) -> list[object]:
    image = entry.get("image") if isinstance(entry, dict) else None
    return list(image) if isinstance(image, list) else [image] if image else []


def _case_of(entry: Any, name: str, config: DataConfig, root: Path, where: str, *, has_fold: bool) -> Case:
    """Return the case of an entry, with a problem if it cannot be used."""
    name, subject, problem = named_case(name, config, source="the data list", where=where)
    images: tuple[Files | None, ...] = ()
    mask = None
    fold = None
    try:
        if has_fold and isinstance(entry, dict):
            fold = read_fold(entry.get("fold"))
        files = _image_files(entry)
        if not files:
            raise DataError(f"{where}: no image", expected='{"image": ..., "label": ...}', found=ascii(entry)[:100])
        if len(files) not in (1, len(config.channels)):
            raise DataError(
                f"case {name}: the number of images differs from the number of channels",
                expected=f"{len(config.channels)} ({', '.join(c.name for c in config.channels)})",
                found=str(len(files)),
                remedy="set data.channels to the channels of the list",
            )
        images = tuple(Files((path_inside(root, f),)) for f in files)
        if entry.get("label"):
            label = entry["label"]
            if isinstance(label, list):
                if len(label) != 1:
                    raise DataError(f"case {name}: several masks", expected="one", found=str(len(label)))
                label = label[0]
            mask = Files((path_inside(root, label),))
        if mask is None and config.labelled:
            other = next((k for k in OTHER_LABEL_KEYS if isinstance(entry.get(k), str)), "")
            raise NoMaskError(
                f"{where}: no label for {name}",
                found=f"the key {other}" if other else "",
                remedy=f"rename the key {other} to label" if other else "add it, or remove the entry",
            )
    except DataError as error:
        problem = problem or error
    return Case(name, subject, images, mask, problem=problem, is_labelled=mask is not None, fold=fold)
