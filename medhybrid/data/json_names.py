"""Names of channels and labels in a dataset's own JSON file: Decathlon, nnU-Net versions 1 and 2, MONAI and Auto3DSeg."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medhybrid.data.layouts.case import read_json
from medhybrid.data.layouts.datalist import find_datalist
from medhybrid.errors import DataError

UNLABELLED = ("unlabeled", "unlabelled")
"""Names of the background (0), and beside another name for 0, of voxels whose label is unknown."""

BACKGROUND = ("background", "bg", "none", *UNLABELLED)
NO_LABEL = (
    *UNLABELLED,
    *("unknown", "void", "not labelled", "not labeled", "unannotated", "not annotated", "no label", "no annotation"),
    *("dont care", "dontcare", "unspecified", "undefined"),
)
IGNORE = ("ignore", "ignored", "exclude", "excluded", *NO_LABEL)
"""Names of voxels whose label is unknown. With the value 0, those of `NO_LABEL` are background, as in FreeSurfer's tables."""

KIND_WORDS = frozenset(
    {
        *("label", "labels", "region", "regions", "area", "areas", "class", "voxel", "voxels", "pixel", "pixels"),
        *("scribble", "scribbles"),
    }
)
"""Last words of a name that do not change its meaning."""

OUTSIDE_WORDS = frozenset(
    {
        *BACKGROUND,
        *NO_LABEL,
        *("clear", "outside", "exterior", "air", "nothing", "empty", "normal", "healthy", "rest", "other", "others"),
        *("non", "no", "not", "zero", "0", "hintergrund", "fond", "fondo", "sfondo"),
    }
)
"""Words of names for the value 0 that name no structure."""

OUTSIDE_FIRST = (["background"], ["clear"], ["normal"], ["healthy"])
"""First words of such names in a list."""


@dataclass(frozen=True, slots=True)
class JsonNames:
    """Names in a dataset's file.

    Attributes
    ----------
    path : Path
        The file.
    name : str
        Name of the dataset, or empty.
    channels : tuple of str
        Names of the channels in order; empty if the file does not name them.
    labels : dict
        Label name to its value, or to several values for a region.
    ignore_value : int, optional
        Value of voxels whose label is unknown.
    class_order : tuple of int
        nnU-Net's `regions_class_order`, the value of each region in a label map.
    zero : str
        Name of the value 0, if it is that of a structure.
    """

    path: Path
    name: str = ""
    channels: tuple[str, ...] = ()
    labels: dict[str, int | tuple[int, ...]] = field(default_factory=dict)
    ignore_value: int | None = None
    class_order: tuple[int, ...] = ()
    zero: str = ""

    @property
    def values(self) -> set[int]:
        """Return the values that have a name."""
        return {v for value in self.labels.values() for v in (value if isinstance(value, tuple) else (value,))}


def read_names(root: Path, *, ignored: Collection[str] = IGNORE) -> JsonNames | None:
    """Read the names in the dataset's file; return None without such a file.

    Parameters
    ----------
    ignored : collection of str
        Names, in lower case, of the label value for voxels whose label is unknown.

    Raises
    ------
    DataError
        If a label has no usable value.
    """
    path = root / "dataset.json" if (root / "dataset.json").is_file() else find_datalist(root)
    if path is None:
        return None
    values = read_json(path)
    if not isinstance(values, dict):
        return JsonNames(path)
    labels, ignore = _labels_of(values.get("labels"), path, ignored)
    order = values.get("regions_class_order")
    return JsonNames(
        path,
        str(values.get("name") or "").strip(),
        _channels_of(values.get("channel_names", values.get("modality"))),
        labels,
        ignore,
        tuple(int(v) for v in order) if isinstance(order, list) and all(_is_number(v) for v in order) else (),
        _structure_at_zero(values.get("labels")),
    )


def _structure_at_zero(values: Any) -> str:
    """Return the name of the value 0 if it is that of a structure; otherwise an empty text."""
    if not isinstance(values, dict):
        return ""
    names = [
        str(v) if _is_number(k) and isinstance(v, str) else str(k) for k, v in values.items() if "0" in (str(k), str(v))
    ]
    words = set(plain_name(names[0]).split()) | {plain_name(names[0])} if names else OUTSIDE_WORDS
    return "" if words & OUTSIDE_WORDS else names[0]


def _channels_of(values: Any) -> tuple[str, ...]:
    """Return channel names in order from `{"0": "T1", ...}`, `{"T1": 0, ...}`, a list or a single text."""
    if isinstance(values, dict):
        pairs = [(k, v) if _is_number(k) else (v, k) for k, v in values.items()]
        if not all(_is_number(k) for k, _ in pairs):
            return ()
        return tuple(str(v) for _, v in sorted(((int(k), v) for k, v in pairs), key=lambda p: p[0]))
    if isinstance(values, list):
        return tuple(str(v) for v in values)
    return (values,) if isinstance(values, str) and values.strip() else ()


def _labels_of(
    values: Any, path: Path, ignored: Collection[str]
) -> tuple[dict[str, int | tuple[int, ...]], int | None]:
    """Return labels without background, and the value of `ignore`."""
    if isinstance(values, list):
        values = {str(name): i for i, name in enumerate(values, start=0 if _is_background(values[:1]) else 1)}
    if not isinstance(values, dict):
        return {}, None
    found: dict[str, int | tuple[int, ...]] = {}
    ignore: int | None = None
    zero = [plain_name(str(v) if str(k) == "0" else str(k)) for k, v in values.items() if "0" in (str(k), str(v))]
    for key, value in values.items():
        name, number = (str(value), key) if _is_number(key) and isinstance(value, str) else (str(key), value)
        number = number[0] if isinstance(number, list) and len(number) == 1 else number
        numbers = tuple(int(v) for v in number) if isinstance(number, list) and all(map(_is_number, number)) else None
        if numbers is None and not _is_number(number):
            raise DataError(
                f"{path.name}: label {name!r} has no usable value",
                expected="a number, or a list of numbers for a region",
                found=ascii(number)[:60],
                remedy=f"correct {path.name}",
            )
        plain = plain_name(name) if ignored is IGNORE else name.strip().casefold()
        is_other = plain in UNLABELLED and numbers is None and (bool(zero) or int(number) > 1)
        is_second = plain.startswith("background") and bool(zero) and zero[0] in NO_LABEL
        if (plain in BACKGROUND or is_second) and numbers is None and int(number) != 0 and not is_other:
            raise DataError(
                f"{path.name}: the background has the value {int(number)}",
                expected="0 for the background",
                found=", ".join(f"{n}: {v}" for n, v in list(values.items())[:5]),
                remedy="save the masks with 0 for the background, and correct the list",
            )
        if plain in ignored and numbers is None and (int(number) != 0 or plain not in NO_LABEL):
            ignore = int(number)
        elif numbers is not None:
            if kept := tuple(dict.fromkeys(v for v in numbers if v)):
                found[_unique(name, found)] = kept if len(kept) > 1 else kept[0]
        elif int(number) != 0:
            found[_unique(name, found)] = int(number)
    return found, ignore


def plain_name(name: str) -> str:
    """Return a name for comparison with `BACKGROUND` and `IGNORE`: in lower case, without a last word such as `label`."""
    words = re.sub(r"[-_\s]+", " ", re.sub("['\u2019]", "", name.casefold())).split()
    return " ".join(words[:-1] if len(words) > 1 and words[0] != "no" and words[-1] in KIND_WORDS else words)


def _unique(name: str, taken: dict[str, Any]) -> str:
    name = name.strip() or "label"
    number = 2
    chosen = name
    while chosen in taken:
        chosen, number = f"{name}_{number}", number + 1
    return chosen


def _is_background(first: list[Any]) -> bool:
    """Return whether the first name of a list is that of the value 0: of the background, or of voxels without a label."""
    name = plain_name(str(first[0])) if first else "other"
    return name in OUTSIDE_WORDS - {"other", "others", "rest"} | {*IGNORE} or name.split()[:1] in OUTSIDE_FIRST


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and re.fullmatch(r"\d{1,9}", str(value)) is not None
