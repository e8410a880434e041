"""The list `training` in the `dataset.json` of nnU-Net's version 1, with the image and mask of each training case."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medhybrid.data.layouts.case import Files, Note, path_inside, read_json, strip_suffix
from medhybrid.data.layouts.datalist import KEYS
from medhybrid.errors import DataError

NUMBER = re.compile(r"_(\d{4})$")
"""Number of a channel at the end of an image's name."""


@dataclass(frozen=True, slots=True)
class ListedPair:
    """Mask of a case in the list, if it exists, with a problem if the case cannot be used.

    Attributes
    ----------
    entry : object
        The entry of the list, which may have a subject, a fold and a part.
    number : int
        Number of the entry, from 1.
    is_validation : bool
        Whether the entry is in the list `validation`.
    """

    mask: Files | None
    problem: DataError | None = None
    entry: object = None
    number: int = 0
    is_validation: bool = False


def training_of(root: Path) -> list[Any] | None:
    """Return the list of training cases in `dataset.json`; None without such a list."""
    path = root / "dataset.json"
    values = read_json(path) if path.is_file() else {}
    listed = values.get("training") if isinstance(values, dict) else None
    return listed if isinstance(listed, list) and listed else None


def validation_of(root: Path) -> list[Any]:
    """Return the entries with a label in the list `validation` of `dataset.json`."""
    path = root / "dataset.json"
    values = read_json(path) if path.is_file() else {}
    lists = [values.get(k) for k in KEYS["validation"]] if isinstance(values, dict) else []
    found = next((entries for entries in lists if isinstance(entries, list)), [])
    return [e for e in found if isinstance(e, dict) and e.get("label")]


def notes_on_other_list(root: Path) -> list[Note]:
    """Return a note on the list `dataset` of nnU-Net's version 2, which is not read: the folders define the cases."""
    path = root / "dataset.json"
    values = read_json(path) if path.is_file() else {}
    listed = values.get("dataset") if isinstance(values, dict) else None
    if not isinstance(listed, dict) or not any(isinstance(v, dict) and "images" in v for v in listed.values()):
        return []
    message = f"the list `dataset` of {len(listed)} cases is not read: the files in imagesTr and labelsTr are used"
    return [Note("dataset.json", message, remedy="if the list has other files, list them in a table (layout csv)")]


def listed_pairs(root: Path, images: Mapping[str, object]) -> tuple[dict[str, ListedPair], list[str]] | None:
    """Return case to listed pair, and the names of duplicate entries; None without a list.

    Parameters
    ----------
    images : mapping
        Names of the existing images, without suffix, as keys.
    """
    listed = training_of(root)
    if listed is None:
        return None
    found: dict[str, ListedPair] = {}
    texts: dict[str, str] = {}
    doubled = []
    validating = validation_of(root)
    for i, entry in enumerate([*listed, *validating], start=1):
        image = entry.get("image") if isinstance(entry, dict) else entry
        label = entry.get("label") if isinstance(entry, dict) else None
        name, problem = f"entry {i}", None
        if not isinstance(image, str) or not image:
            problem = DataError(
                f"dataset.json, entry {i}: no image",
                expected='{"image": ..., "label": ...}',
                found=ascii(entry)[:100],
            )
        else:
            name = _case_of(image, images)
            if _folder_of(image) not in ("", "imagesTr"):
                problem = DataError(
                    f"case {name}: its image in the list is outside imagesTr",
                    expected="a file in imagesTr",
                    found=ascii(image)[:100],
                    remedy="move the images there, or list the files in a table (layout csv)",
                )
        pair = replace(_pair_of(root, name, label, problem), entry=entry, number=i, is_validation=i > len(listed))
        text = json.dumps([_plain(image), _plain(label), _other_keys(entry)], sort_keys=True, default=str)
        if name in found and texts[name] == text:
            doubled.append(name)
            continue
        if name in found:
            problem = DataError(
                f"case {name}: two different entries in the list `training`", remedy="remove one of them"
            )
            pair = ListedPair(None, problem)
        found[name], texts[name] = pair, text
    return found, doubled


def _pair_of(root: Path, name: str, label: object, problem: DataError | None) -> ListedPair:
    if problem is not None or label is None:
        return ListedPair(None, problem)
    try:
        path = path_inside(root, label)
    except DataError as error:
        return ListedPair(None, error)
    if path.exists():
        return ListedPair(Files((path,)))
    stem = unicodedata.normalize("NFC", strip_suffix(path.name))
    # the mask with the case's name may have another suffix, or a channel number
    if name in (stem, NUMBER.sub("", stem)):
        return ListedPair(None)
    return ListedPair(
        None,
        DataError(
            f"case {name}: its mask in the list `training` does not exist",
            expected=ascii(label)[:100],
            remedy="add it, or correct the list",
        ),
    )


def _case_of(image: str, images: Mapping[str, object]) -> str:
    """Return the case of a listed image, whose name may or may not have a channel number."""
    stem = unicodedata.normalize("NFC", strip_suffix(image.replace("\\", "/").rsplit("/", 1)[-1]))
    without = NUMBER.sub("", stem)
    is_numbered = without != stem and stem in images and f"{stem}_0000" not in images
    return without if is_numbered else stem


def _folder_of(image: str) -> str:
    return Path(image.replace("\\", "/")).parent.name


def _other_keys(entry: object) -> dict[str, object]:
    return {k: v for k, v in entry.items() if k not in ("image", "label")} if isinstance(entry, dict) else {}


def _plain(path: object) -> object:
    return str(Path(path.replace("\\", "/"))) if isinstance(path, str) else path
