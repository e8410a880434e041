"""Values of patient and study that an output repeats of its source: valid, or empty.

Headers of real files break the rules of their types in many ways, and a writer that checks them would refuse the whole
output. A value that breaks a rule is left empty in the output; an invalid UID, which may not be empty, is replaced by
one that is worked out from it, so that outputs of one study stay in one study. The source itself is never changed.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from typing import Any

from medhybrid.scans.dicom.attributes import text

PATIENT_AND_STUDY = (0x0008, 0x0010, 0x0012, 0x0032, 0x0038)
"""Groups whose values outputs repeat."""

STUDY_VALUES = ("StudyID", "SeriesNumber", "InstanceNumber", "PositionReferenceIndicator")
"""The same of other groups."""

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
"""Values of compression, device and specimen that outputs repeat too; an invalid one is left out."""

KEPT = ("SOPClassUID", "SOPInstanceUID", "ImageType", "Modality", "SpecificCharacterSet")
"""Attributes of those groups that outputs do not repeat, but that writers look at."""

QUOTED = ("AccessionNumber", "ReferringPhysicianName", "StudyID", "StudyDate", "StudyInstanceUID")
"""Attributes beside the patient's that no message may repeat."""

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")

TEXT_VRS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")
LONG_TEXT_VRS = ("LT", "ST", "UT", "UR")
"""May hold a backslash and line ends."""

SEXES = {"M": "M", "F": "F", "O": "O", "MALE": "M", "FEMALE": "F", "OTHER": "O"}

UNREADABLE = "\ufffd"
"""Stands for a character that its character set does not have."""


def make_valid(dataset: Any) -> list[str]:
    """Make the values of patient and study in a data set valid or empty, in place.

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
    """Replace invalid and missing UIDs that outputs refer to, in place; return their keywords."""
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
    """Return a UID as it is where it is valid, else one that is worked out from it; an empty one stays empty."""
    from pydicom.uid import UID, generate_uid

    if not uid or (len(uid) <= 64 and UID(uid, validation_mode=0).is_valid):
        return uid
    return str(generate_uid(entropy_srcs=[uid]))


def uid_of(*parts: str) -> str:
    """Return a UID that is a function of what an object is made of: made again, it is the same one."""
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=["medhybrid", *parts]))


def hide_patient(message: str, dataset: Any) -> str:
    """Return a message without values of the patient's and study's attributes, which errors of libraries may quote."""
    for tag in list(dataset.keys()):
        if tag.group not in PATIENT_AND_STUDY[1:] and _keyword(tag) not in QUOTED:
            continue
        for value in text(dataset, _keyword(tag)).split("\\"):
            if len(value) > 1:
                message = message.replace(value, "...")
    return message


def copy_shallowly(dataset: Any) -> Any:
    """Copy a data set so that elements can be replaced in the copy alone."""
    copied = copy.copy(dataset)
    copied._dict = dict(dataset._dict)  # a copied data set shares its elements' table with the original
    return copied


def set_value(dataset: Any, keyword: str, value: Any) -> None:
    """Set an attribute of a shallow copy alone: setting it by name would change the element that both share."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    dataset.add_new(tag_for_keyword(keyword), dictionary_VR(keyword), value)


def _keyword(tag: Any) -> str:
    from pydicom.datadict import keyword_for_tag

    return "" if tag.is_private else str(keyword_for_tag(tag))


def _decode_texts(dataset: Any) -> None:
    """Bring all texts to UTF-8; real files name character sets that no decoder knows."""
    with warnings.catch_warnings(), contextlib.suppress(LookupError, UnicodeError, ValueError, TypeError):
        warnings.simplefilter("ignore")
        dataset.decode()
    set_value(dataset, "SpecificCharacterSet", "ISO_IR 192")


def _translate_sex(dataset: Any) -> list[str]:
    found = text(dataset, "PatientSex")
    known = SEXES.get(found.upper(), "")
    if found == known:
        return []
    set_value(dataset, "PatientSex", known)
    return ["PatientSex"]


def _is_valid_element(dataset: Any, tag: Any) -> bool:
    """Return whether an element can be read, has no more values than it may have, and each keeps the rules of its type."""
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
    except Exception:  # a damaged value raises many kinds on access
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
    """Empty an element; one that is not a plain value, or need not be there, is removed."""
    from pydicom.datadict import dictionary_VR

    vr = str(dictionary_VR(tag))
    if vr in TEXT_VRS and _keyword(tag) not in IMAGE_VALUES:
        dataset.add_new(tag, vr, None)
    else:
        del dataset[tag]
