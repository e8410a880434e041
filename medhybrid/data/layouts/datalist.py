"""Data lists in JSON: the Medical Segmentation Decathlon's `dataset.json`, and the lists of MONAI and Auto3DSeg.

`training` (or `train`) is a list of `{"image": FILE or [FILE, ...], "label": FILE, "fold": K}`. Of several files each is a
channel, in the order of the config. `fold` says in which fold a case validates. Cases in a list `validation` (or `val`)
validate in the only fold. A file may also be a bare list of such entries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medhybrid.config import DataConfig
from medhybrid.data.layouts.case import (
    NO_FOLD,
    Case,
    Files,
    Listing,
    Note,
    named_case,
    path_inside,
    read_fold,
    read_json,
    strip_suffix,
)
from medhybrid.errors import DataError
from medhybrid.names import name_from_path, printable_path

KEYS = {
    "training": ("training", "train"),
    "validation": ("validation", "val", "valid"),
    "testing": ("testing", "test"),
}
"""Names under which a list has its parts."""

SHOWN = 5


def find_datalist(root: Path) -> Path | None:
    """Return the data list of a folder: `dataset.json`, or the only JSON file with a list of images."""
    found = find_datalists(root)
    return found[0] if len(found) == 1 else None


def find_datalists(root: Path) -> list[Path]:
    """Return the data lists of a folder; beside a `dataset.json` no other file counts."""
    if (root / "dataset.json").is_file():
        return [root / "dataset.json"] if _is_datalist(root / "dataset.json") else []
    return [p for p in sorted(root.glob("*.json")) if p.is_file() and p.name[0] != "." and _is_datalist(p)]


def json_files(root: Path) -> list[str]:
    """Return the names of the JSON files of a folder, at most a few."""
    return [printable_path(p.name) for p in sorted(root.glob("*.json"))[:SHOWN] if p.name[0] != "."]


def only_datalist(root: Path) -> Path:
    """Return the data list of a folder; raises `DataError` where there are several, or none."""
    found = find_datalists(root)
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"{printable_path(root)} holds {'several data lists' if found else 'no data list'}",
        expected='one JSON file with a list `training` of {"image": ..., "label": ...}; dataset.json counts before others',
        found=", ".join([printable_path(p.name) for p in found[:SHOWN]] or json_files(root)) or "no JSON file",
        remedy="name the one that counts dataset.json" if found else "set data.layout to what the folder holds",
    )


def _is_datalist(path: Path) -> bool:
    """Whether a file lists cases with images; what is written for `training` in `dataset.json` counts if it is a list."""
    try:
        parts = _parts_of(read_json(path))
    except DataError:
        if path.name == "dataset.json":
            raise
        return False
    training = parts["training"]
    return training is not None and (path.name == "dataset.json" or any(_image_files(e) for e in training))


def _parts_of(values: object) -> dict[str, list[Any] | None]:
    """Return the lists of a file by part, None for one that it does not have; a bare list is for training."""
    if isinstance(values, list):
        return {
            "training": values if any(_image_files(e) for e in values) else None,
            "validation": None,
            "testing": None,
        }
    named = values if isinstance(values, dict) else {}
    return {part: next((named[k] for k in keys if isinstance(named.get(k), list)), None) for part, keys in KEYS.items()}


def list_datalist(config: DataConfig, root: Path) -> Listing:
    """List the cases of a data list.

    Raises
    ------
    DataError
        If there is no list of training cases, or several files have one.
    """
    path = only_datalist(root)
    values = read_json(path)
    parts = _parts_of(values)
    listed, validating, testing = parts["training"] or [], parts["validation"] or [], parts["testing"] or []
    entries = [(e, None) for e in listed] + [(e, 0) for e in validating]
    if validating:
        entries = [(e, NO_FOLD if fold is None else fold) for e, fold in entries]
    names = _names_of([entry for entry, _ in entries], root)
    cases = [
        _case_of(entry, names[i], fold, config, root, f"{path.name}, entry {i + 1}")
        for i, (entry, fold) in enumerate(entries)
    ]
    notes = [Note(path.name, f"{len(testing)} cases for testing are not taken")] if testing else []
    others = values.items() if isinstance(values, dict) else ()
    notes += [
        Note(path.name, f"{len(rest)} cases under {printable_path(str(key))} are not taken")
        for key, rest in others
        if isinstance(rest, list) and rest not in parts.values() and any(_image_files(e) for e in rest)
    ]
    return Listing(tuple(cases), tuple(notes))


def _names_of(entries: list[Any], root: Path) -> list[str]:
    """Return a name for each entry: that of its first image, or where several would share it, of its path."""
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


def _case_of(entry: Any, name: str, section: int | None, config: DataConfig, root: Path, where: str) -> Case:
    """Return the case of an entry; one that cannot be used has the reason as its problem."""
    name, subject, problem = named_case(name, config, source="the data list", where=where)
    images: tuple[Files | None, ...] = ()
    mask = None
    fold = section
    try:
        files = _image_files(entry)
        if not files:
            raise DataError(
                f"{where}: names no image", expected='{"image": ..., "label": ...}', found=ascii(entry)[:100]
            )
        if len(files) not in (1, len(config.channels)):
            raise DataError(
                f"case {name}: the number of images differs from the number of channels",
                expected=f"{len(config.channels)} ({', '.join(c.name for c in config.channels)})",
                found=str(len(files)),
                remedy="set data.channels to what the list holds",
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
            raise DataError(f"{where} names no label of {name}", remedy="add it, or take the entry out")
        if section is None:
            fold = read_fold(entry.get("fold"))
    except DataError as error:
        problem = problem or error
    return Case(name, subject, images, mask, problem=problem, is_labelled=mask is not None, fold=fold)
