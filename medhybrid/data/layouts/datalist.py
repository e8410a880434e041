"""Data lists in JSON: the Medical Segmentation Decathlon's `dataset.json`, and the lists of MONAI and Auto3DSeg.

`training` is a list of `{"image": FILE or [FILE, ...], "label": FILE, "fold": K}`. Of several files each is a channel, in the
order of the config. `fold` says in which fold a case validates. Cases in a list `validation` validate in the only fold.
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


def find_datalist(root: Path) -> Path | None:
    """Return the data list of a folder: `dataset.json`, or the only JSON file with a list `training` of images."""
    if (root / "dataset.json").is_file():
        return root / "dataset.json" if _is_datalist(root / "dataset.json") else None
    found = [p for p in sorted(root.glob("*.json")) if not p.name.startswith(".") and _is_datalist(p)]
    return found[0] if len(found) == 1 else None


def _is_datalist(path: Path) -> bool:
    try:
        values = read_json(path)
    except DataError:
        if path.name == "dataset.json":
            raise
        return False
    return isinstance(values, dict) and "training" in values


def list_datalist(config: DataConfig, root: Path) -> Listing:
    """List the cases of a data list.

    Raises
    ------
    DataError
        If there is no list of training cases.
    """
    path = find_datalist(root) or root / "dataset.json"
    values = read_json(path)
    listed = values.get("training") if isinstance(values, dict) else None
    if not isinstance(listed, list):
        raise DataError(f"{printable_path(path)} has no list of training cases")
    validating = values.get("validation")
    validating = validating if isinstance(validating, list) else []
    entries = [(e, None) for e in listed] + [(e, 0) for e in validating]
    if validating:
        entries = [(e, NO_FOLD if fold is None else fold) for e, fold in entries]
    names = _names_of([entry for entry, _ in entries], root)
    cases = [
        _case_of(entry, names[i], fold, config, root, f"{path.name}, entry {i + 1}")
        for i, (entry, fold) in enumerate(entries)
    ]
    testing = values.get("testing", values.get("test"))
    n_testing = len(testing) if isinstance(testing, list) else 0
    notes = [Note(path.name, f"{n_testing} cases for testing are not taken")] if n_testing else []
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
