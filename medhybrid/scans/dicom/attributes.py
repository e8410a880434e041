"""Fast reading of DICOM attributes, with None for absent or damaged values.

An attribute stored with VR UN is read with the VR of the DICOM dictionary (PS3.5 6.2.2). With explicit VR, values above
64 KiB must be stored as UN, and some archives store all attributes as UN that they do not know.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

PLAIN_TEXT_VRS = ("CS", "DS", "IS", "UI", "TM")
"""VRs with ASCII values, which do not depend on the character set."""


@cache
def _tag(name: str) -> Any:
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import BaseTag

    return BaseTag(tag_for_keyword(name) or 0)


@cache
def _known_vr(tag: Any) -> str:
    """Return the VR of a standard attribute, or an empty string for an unknown or ambiguous VR."""
    from pydicom.datadict import dictionary_VR

    try:
        vr = str(dictionary_VR(tag))
    except KeyError:
        return ""
    return "" if " or " in vr else vr


def value_of(dataset: Any, name: str) -> Any:
    """Return an attribute's value, or None if it is absent, empty or cannot be parsed. Numbers may be text."""
    try:
        raw = dataset.get_item(_tag(name), keep_deferred=True) if hasattr(dataset, "get_item") else None
        if raw is not None and raw.is_raw and raw.VR == "UN":
            raw = _restore_vr(dataset, raw)
        if raw is not None and raw.is_raw and raw.value and (raw.VR or _known_vr(raw.tag)) in PLAIN_TEXT_VRS:
            # much faster than pydicom's parsing, which would dominate the listing of thousands of files
            words = [w.strip(" \0\t\r\n") for w in raw.value.decode("latin-1").split("\\")]
            return (words[0] or None) if len(words) == 1 else words
        element = dataset.get(_tag(name))  # by tag, which is faster than by name
        value = None if element is None else element.value
        if isinstance(value, str):
            return str(value).strip() or None
        return None if value is None or (hasattr(value, "__len__") and len(value) == 0) else value
    except Exception:  # damaged values raise many kinds on access
        return None


def _restore_vr(dataset: Any, raw: Any) -> Any:
    """Replace VR UN of a raw element by the dictionary's VR, in its data set, and return the element."""
    from pydicom.dataelem import DataElement
    from pydicom.values import convert_SQ

    vr = _known_vr(raw.tag)
    if not vr or vr == "UN":
        return raw
    if raw.value is None and raw.length:
        raw = dataset.get_item(raw.tag)  # reads a deferred value from its file
    if not raw.is_raw:
        return raw
    if vr == "SQ":  # items inside UN are always implicit VR little endian
        items = convert_SQ(raw.value or b"", True, True)
        dataset[raw.tag] = DataElement(raw.tag, "SQ", items)
    else:
        dataset[raw.tag] = raw._replace(VR=vr, is_implicit_VR=True, is_little_endian=True)
    return dataset.get_item(raw.tag)


def restore_vrs(dataset: Any) -> None:
    """Replace VR UN of all standard attributes by the dictionary's VR, at any depth.

    Needed for code that reads values from the data set directly, without `value_of`.
    """
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag, keep_deferred=True)
        if element.is_raw and element.VR == "UN":
            element = _restore_vr(dataset, element)
        is_sequence = (element.VR or _known_vr(tag)) == "SQ"
        if is_sequence and not tag.is_private:
            for item in dataset[tag].value or []:
                restore_vrs(item)


def integer(dataset: Any, name: str) -> int | None:
    """Return an attribute as an integer, or None."""
    found = number(dataset, name)
    return int(found) if found is not None and found.is_integer() else None


def number(dataset: Any, name: str) -> float | None:
    """Return an attribute as a finite number, or None."""
    try:
        value = value_of(dataset, name)
        found = _float(_with_point(value) if isinstance(value, str) else value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if np.isfinite(found) else None


def _float(value: Any) -> float:
    from pydicom.tag import BaseTag

    if isinstance(value, BaseTag):  # from an element with a damaged VR; a tag is an int in Python
        raise TypeError("a tag is not a number")
    return float(value)


def _words(value: str | list[Any]) -> list[Any]:
    """Return the values in a text whose VR does not allow several, without empty ones at the end, and with decimal points."""
    words = value.split("\\") if isinstance(value, str) else list(value)
    while words and words[-1] in ("", " "):
        words.pop()
    return [_with_point(w) if isinstance(w, str) else w for w in words]


def _with_point(word: str) -> str:
    """Return a number with a decimal point in place of a comma."""
    return word.replace(",", ".") if word.count(",") == 1 and "." not in word else word


def numbers(dataset: Any, name: str, n: int) -> tuple[float, ...] | None:
    """Return an attribute as a tuple of exactly `n` finite numbers, or None."""
    try:
        value = value_of(dataset, name)
        found = tuple(_float(v) for v in (_words(value) if isinstance(value, str | list) else value))
    except (TypeError, ValueError, OverflowError):
        return None
    return found if len(found) == n and np.isfinite(found).all() else None


def text(dataset: Any, name: str) -> str:
    """Return an attribute as text. Several values are joined by backslashes, as in DICOM."""
    value = value_of(dataset, name)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return "\\".join(str(v) for v in value)
    except TypeError:
        return str(value)


def name_text(item: Any, name: str, dataset: Any) -> str:
    """Return an attribute with a name as text; UTF-8 that the data set around its item does not declare is recognised."""
    found = text(item, name)
    if found.isascii() or text(dataset, "SpecificCharacterSet"):
        return found
    try:
        return found.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return found
