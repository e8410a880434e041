"""Attributes of DICOM data sets: read fast, and None where a value is absent or damaged.

An attribute that is written with VR UN is read by the VR that the dictionary of DICOM has for it (PS3.5 6.2.2): a value of
more than 64 KiB has to be written so with explicit VR, and some archives write all that they do not know so.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

PLAIN_TEXT_VRS = ("CS", "DS", "IS", "UI", "TM")
"""Values of these are ASCII; no character set bears on them."""


@cache
def _tag(name: str) -> Any:
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import BaseTag

    return BaseTag(tag_for_keyword(name) or 0)


@cache
def _known_vr(tag: Any) -> str:
    """Return the VR of a standard attribute, or an empty string where there is none or several."""
    from pydicom.datadict import dictionary_VR

    try:
        vr = str(dictionary_VR(tag))
    except KeyError:
        return ""
    return "" if " or " in vr else vr


def value_of(dataset: Any, name: str) -> Any:
    """Return an attribute's value, or None where it is absent, empty or cannot be parsed. Numbers may come as text."""
    try:
        raw = dataset.get_item(_tag(name), keep_deferred=True) if hasattr(dataset, "get_item") else None
        if raw is not None and raw.is_raw and raw.VR == "UN":
            raw = _restore_vr(dataset, raw)
        if raw is not None and raw.is_raw and raw.value and (raw.VR or _known_vr(raw.tag)) in PLAIN_TEXT_VRS:
            # Much faster than the library's own values, which listing thousands of files would wait for.
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
    """Give a raw element of VR UN the VR of its tag, in its data set; return the element."""
    from pydicom.dataelem import DataElement
    from pydicom.values import convert_SQ

    vr = _known_vr(raw.tag)
    if not vr or vr == "UN":
        return raw
    if raw.value is None and raw.length:
        raw = dataset.get_item(raw.tag)  # a deferred value comes from its file
    if not raw.is_raw:
        return raw
    if vr == "SQ":  # items inside UN are implicit VR little endian, whatever the file's encoding
        items = convert_SQ(raw.value or b"", True, True)
        dataset[raw.tag] = DataElement(raw.tag, "SQ", items)
    else:
        dataset[raw.tag] = raw._replace(VR=vr, is_implicit_VR=True, is_little_endian=True)
    return dataset.get_item(raw.tag)


def restore_vrs(dataset: Any) -> None:
    """Give every standard attribute of VR UN its VR, at any depth, for code that takes values from the data set itself."""
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag, keep_deferred=True)
        if element.is_raw and element.VR == "UN":
            element = _restore_vr(dataset, element)
        is_sequence = (element.VR or _known_vr(tag)) == "SQ"
        if is_sequence and not tag.is_private:
            for item in dataset[tag].value or []:
                restore_vrs(item)


def integer(dataset: Any, name: str) -> int | None:
    """Return a whole number, or None."""
    found = number(dataset, name)
    return int(found) if found is not None and found.is_integer() else None


def number(dataset: Any, name: str) -> float | None:
    """Return a finite number, or None."""
    try:
        found = _float(value_of(dataset, name))
    except (TypeError, ValueError, OverflowError):
        return None
    return found if np.isfinite(found) else None


def _float(value: Any) -> float:
    from pydicom.tag import BaseTag

    if isinstance(value, BaseTag):  # of an element whose VR is damaged; for Python it is a whole number
        raise TypeError("a tag is not a number")
    return float(value)


def numbers(dataset: Any, name: str, n: int) -> tuple[float, ...] | None:
    """Return exactly `n` finite numbers, or None."""
    try:
        value = value_of(dataset, name)
        found = tuple(_float(v) for v in ([value] if isinstance(value, str) else value))
    except (TypeError, ValueError, OverflowError):
        return None
    return found if len(found) == n and np.isfinite(found).all() else None


def text(dataset: Any, name: str) -> str:
    """Return the value as text; several values are joined as DICOM does."""
    value = value_of(dataset, name)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return "\\".join(str(v) for v in value)
    except TypeError:
        return str(value)
