"""Validation of the patient and study values that an output copies from its source.

Headers of real files often violate the rules of their VRs, and a strict writer would refuse the output. An invalid value is
left empty in the output. An invalid UID may not be empty, so it is replaced by a UID derived from it: outputs of one study stay
in one study. The source files are never changed.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from typing import Any

from medhybrid.scans.dicom.attributes import text

PATIENT_AND_STUDY = (0x0008, 0x0010, 0x0012, 0x0032, 0x0038)
"""Groups of attributes that outputs copy."""

STUDY_VALUES = ("StudyID", "SeriesNumber", "InstanceNumber", "PositionReferenceIndicator")
"""Attributes of other groups that outputs copy."""

IMAGE_VALUES = (
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "ContainerIdentifier",
    "ContainerDescription",
    "IssuerOfTheContainerIdentifierSequence",
    "AlternateContainerIdentifierSequence",
    "ContainerTypeCodeSequence",
    "ContainerComponentSequence",
    "SpecimenDescriptionSequence",
    "ReasonForPerformedProcedureCodeSequence",
)
"""Attributes of compression, device and specimen that outputs copy. An invalid one is omitted."""

KEPT = ("SOPClassUID", "SOPInstanceUID", "ImageType", "Modality", "SpecificCharacterSet")
"""Attributes of these groups that outputs do not copy, but writers read."""

CHARACTER_VRS = ("PN", "LO", "SH", "ST", "LT", "UT", "UC")
"""VRs whose values depend on the character set."""

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")

TEXT_VRS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")
LONG_TEXT_VRS = ("LT", "ST", "UT", "UR")
"""VRs whose values may contain backslashes and line ends."""

SEXES = {"M": "M", "F": "F", "O": "O", "MALE": "M", "FEMALE": "F", "OTHER": "O"}

UNREADABLE = "\ufffd"
"""Replacement for a character that could not be decoded."""


def make_valid(dataset: Any) -> list[str]:
    """Empty or replace the invalid patient and study values of a data set, in place.

    The data set must be a copy; see `copy_shallowly`.

    Returns
    -------
    list of str
        Keywords of the attributes that were changed.
    """
    _decode_texts(dataset)
    changed = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changed += _translate_sex(dataset)
        for tag in list(dataset.keys()):
            keyword = _keyword(tag)
            is_repeated = tag.group in PATIENT_AND_STUDY or keyword in (*STUDY_VALUES, *IMAGE_VALUES)
            if not is_repeated or not keyword or keyword in (*KEPT, *UIDS):
                continue
            if not _is_valid_element(dataset, tag):
                _empty(dataset, tag)
                changed.append(keyword)
        changed += make_uids_valid(dataset)
    return list(dict.fromkeys(changed))


def make_uids_valid(dataset: Any) -> list[str]:
    """Replace invalid and missing UIDs of a data set in place, and return their keywords."""
    changed = []
    for keyword in UIDS:
        found = text(dataset, keyword)
        if keyword == "FrameOfReferenceUID" and not found:
            continue
        valid = valid_uid(found) if found else valid_uid(f"{keyword} of {text(dataset, 'SeriesInstanceUID')}")
        if valid != found:
            set_value(dataset, keyword, valid)
            changed.append(keyword)
    return changed


def valid_uid(uid: str) -> str:
    """Return a valid or empty UID unchanged, and for an invalid UID a valid one derived from it."""
    from pydicom.uid import UID, generate_uid

    if not uid or (len(uid) <= 64 and UID(uid, validation_mode=0).is_valid):
        return uid
    return str(generate_uid(entropy_srcs=[uid]))


def uid_of(*parts: str) -> str:
    """Return a UID derived from texts that describe an object. Equal texts give equal UIDs."""
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=["medhybrid", *parts]))


def copy_shallowly(dataset: Any) -> Any:
    """Copy a data set so that elements of the copy can be replaced without changing the original."""
    copied = copy.copy(dataset)
    copied._dict = dict(dataset._dict)  # copy.copy shares the table of elements with the original
    return copied


def set_value(dataset: Any, keyword: str, value: Any) -> None:
    """Set an attribute of a shallow copy. Setting it by name would change the element shared with the original."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    dataset.add_new(tag_for_keyword(keyword), dictionary_VR(keyword), value)


def _keyword(tag: Any) -> str:
    from pydicom.datadict import keyword_for_tag

    return "" if tag.is_private else str(keyword_for_tag(tag))


def _decode_texts(dataset: Any) -> None:
    """Convert all texts to UTF-8, if their character sets are known; texts in UTF-8 that do not declare it are recognised."""
    is_undeclared = not text(dataset, "SpecificCharacterSet")
    with warnings.catch_warnings(), contextlib.suppress(LookupError, UnicodeError, ValueError, TypeError):
        warnings.simplefilter("ignore")
        dataset.decode()
    if is_undeclared:
        for tag in list(dataset.keys()):
            with contextlib.suppress(UnicodeError, KeyError, ValueError, TypeError):
                element = dataset[tag]
                values = [str(v) for v in element.value] if element.VM > 1 else [str(element.value)]
                if element.VR in CHARACTER_VRS and not all(map(str.isascii, values)) and _keyword(tag):
                    decoded = [v.encode("latin-1").decode("utf-8") for v in values]
                    set_value(dataset, _keyword(tag), decoded if len(decoded) > 1 else decoded[0])
    set_value(dataset, "SpecificCharacterSet", "ISO_IR 192")


def _translate_sex(dataset: Any) -> list[str]:
    found = text(dataset, "PatientSex")
    known = SEXES.get(found.upper(), "")
    if found == known:
        return []
    set_value(dataset, "PatientSex", known)
    return ["PatientSex"]


def _is_valid_element(dataset: Any, tag: Any) -> bool:
    """Return True if an element can be read, and its VR, number of values and values are valid."""
    from pydicom.datadict import dictionary_VM, dictionary_VR

    try:
        element = dataset[tag]
        vr = str(element.VR)
        if vr == "SQ":
            return all(_is_valid_element(item, t) for item in element.value for t in list(item.keys()))
        if tag.is_private or element.is_empty:
            return True
        known_vr = str(dictionary_VR(tag))
        if vr not in known_vr.split(" or "):
            return False
        values = list(element.value) if element.VM > 1 else [element.value]
        is_single = dictionary_VM(tag) == "1" and vr not in LONG_TEXT_VRS
        if is_single and len(values) > 1:
            return False
        return vr not in TEXT_VRS or all(_is_valid_text(vr, str(v)) for v in values)
    except Exception:  # damaged values raise many kinds of exceptions on access
        return False


def _is_valid_text(vr: str, value: str) -> bool:
    from pydicom import config
    from pydicom.valuerep import DA, DT, TM, validate_value

    try:
        value.encode("utf-8")
        validate_value(vr, value, config.RAISE)
        kind = {"DA": DA, "DT": DT, "TM": TM}.get(vr)
        if kind is not None and value:
            kind(value)
    except (ValueError, OverflowError, UnicodeError):
        return False
    allowed = "\t\n\f\r" if vr in LONG_TEXT_VRS else ""
    return not any((ord(c) < 32 or ord(c) == 127) and c not in allowed for c in value) and UNREADABLE not in value


def _empty(dataset: Any, tag: Any) -> None:
    """Empty a text element; remove an element that is optional or not text."""
    from pydicom.datadict import dictionary_VR

    vr = str(dictionary_VR(tag))
    if vr in TEXT_VRS and _keyword(tag) not in IMAGE_VALUES:
        dataset.add_new(tag, vr, None)
    else:
        del dataset[tag]
