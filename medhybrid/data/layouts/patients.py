"""Subjects of DICOM studies by the patient in their headers: folders of studies do not show which ones are of one person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from medhybrid.data.layouts.case import Case, Note
from medhybrid.scans import ScanEntry
from medhybrid.scans.dicom.patient import one_for_each_patient

SHOWN = 5


def first_study_of_patient(studies: Mapping[str, Sequence[ScanEntry]]) -> dict[str, str]:
    """Return study to the first study of its patient, for studies whose headers have the patient of another one.

    The result is empty if the headers do not distinguish patients: all have the same identifiers, or none.
    """
    patients: dict[str, tuple[str, ...]] = {}
    for study, entries in studies.items():
        known = Counter(e.patient for e in entries if any(e.patient))
        if known:
            patients[study] = max(known.items(), key=lambda found: (found[1], found[0]))[0]
    same = one_for_each_patient(patients.values())
    patients = {study: same[identity] for study, identity in patients.items()}
    if len(set(patients.values())) < 2:
        return {}
    first: dict[tuple[str, ...], str] = {}
    for study in sorted(patients):
        first.setdefault(patients[study], study)
    counts = Counter(patients.values())
    return {study: first[patient] for study, patient in patients.items() if counts[patient] > 1}


def with_patients(cases: Sequence[Case], studies: Mapping[str, Sequence[ScanEntry]]) -> tuple[list[Case], list[Note]]:
    """Return cases, each named for its study, with one subject for all studies of a patient; and a note on them."""
    first = first_study_of_patient(studies)
    joined = [name for name, study in sorted(first.items()) if name != study]
    if not joined:
        return list(cases), []
    shown = ", ".join(f"{name} ({first[name]})" for name in joined[:SHOWN])
    message = f"{len(joined)} studies have the patient of another study in their headers: they are one subject"
    remedy = "if the headers are wrong, set data.subject_pattern"
    return [replace(c, subject=first.get(c.name, c.subject)) for c in cases], [Note(shown, message, remedy=remedy)]
