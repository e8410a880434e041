"""Write docs/reference/dicom-conformance.md from the code: python docs/make_conformance.py.

Tables of classes, transfer syntaxes, limits and attributes come from the modules that implement them. The attributes are those
of a SEG and a report that are written for a generated series.
"""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medhybrid.config import ListenConfig
from medhybrid.scans.dicom import deidentify, not_scans
from medhybrid.scans.dicom.read import read_series
from medhybrid.scans.dicom.report import RegionMeasure, write_report
from medhybrid.scans.dicom.seg import SegInfo, write_seg
from medhybrid.scans.dicom.surplus import ENCAPSULATED_UNCOMPRESSED
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.pacs import exchange, front

PAGE = Path(__file__).parent / "reference" / "dicom-conformance.md"

HEAD = """# DICOM conformance statement

<!-- Written by docs/make_conformance.py from the code; do not edit. -->

This page states which DICOM services, classes, transfer syntaxes and attributes medhybrid supports, in the order of PS3.2. It
is for the engineer who connects medhybrid with a PACS. [DICOM and PACS](../how-to/dicom-and-pacs.md) has the commands, and
[DICOM](../explanation/dicom.md) explains how a series is read.

medhybrid reads images from files or a PACS, and writes a segmentation and a structured report. It has no user interface for
DICOM images, prints nothing, and offers no query service.

## Application entities

| application entity | command | role |
| --- | --- | --- |
| Listener | `medhybrid listen` | SCP of Storage and Verification; SCU of Storage for its results |
| Fetcher | `medhybrid predict --from` | SCU of Query/Retrieve (C-GET), with the SCP role of Storage; DICOMweb user agent |
| Sender | `medhybrid predict --to` | SCU of Storage; DICOMweb user agent |
"""

CAPTURES = "secondary captures without position, except grey radiographs"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


def page() -> str:
    """Return the whole page."""
    parts = [HEAD, _services(), _associations(), _web(), _classes(), _syntaxes(), _texts(), _security(), _attributes()]
    return "\n".join(parts)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(str(c) for c in row) + " |" for row in rows)]) + "\n"


def _wrapped(text: str, indent: str = "") -> str:
    """Return a text in lines of at most 128 characters."""
    return textwrap.fill(" ".join(text.split()), 128, subsequent_indent=indent, break_long_words=False)


def _services() -> str:
    from pynetdicom import AllStoragePresentationContexts
    from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet, Verification

    storage = len(AllStoragePresentationContexts)
    rows = [
        ("Listener", "Verification", f"`{Verification}`", "SCP", "C-ECHO"),
        ("Listener", f"each Storage class of PS3.4 annex B ({storage} classes)", "", "SCP", "C-STORE"),
        (
            "Fetcher",
            "Study Root Query/Retrieve - GET",
            f"`{StudyRootQueryRetrieveInformationModelGet}`",
            "SCU",
            "C-GET at level STUDY or SERIES",
        ),
        ("Fetcher", "Storage, the first 120 classes of pynetdicom", "", "SCP by role selection", "C-STORE"),
        ("Listener, Sender", "Storage, the classes of the results", "", "SCU", "C-STORE"),
    ]
    head = _table(("application entity", "service", "SOP class UID", "role", "operation"), rows)
    return f"""## Network services

{head}
Not supported: C-FIND, C-MOVE, storage commitment, worklist, MPPS, printing. Nothing is stored for others: received instances
are the input of a prediction, and no other node can query them.
"""


def _associations() -> str:
    from pynetdicom import AE, PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

    listen = {name: field.default for name, field in ListenConfig.model_fields.items()}
    rows = [
        ("AE title of the listener", f"`{listen['ae_title']}`", "`ae_title`"),
        ("AE title of fetcher and sender", f"`{exchange.AE_TITLE}`", "fixed"),
        ("port of the listener", listen["port"], "`port`"),
        ("accepted callers", "AE title and IP address must both be listed", "`senders`"),
        ("associations at once, listener", listen["max_associations"], "`max_associations`"),
        ("PDU length that is offered", AE().maximum_pdu_size, "fixed"),
        ("longest PDU that is accepted", f"{front.MAX_PDU:,} bytes", "fixed"),
        ("longest association request", f"{front.MAX_REQUEST:,} bytes within {front.REQUEST_S:g} s", "fixed"),
        ("time without traffic, listener", f"{listen['timeout_s']:g} s", "`timeout_s`"),
        ("largest instance, listener", f"{listen['max_instance_mb']:,} MB", "`max_instance_mb`"),
        ("instances of a study, listener", f"{listen['max_study_instances']:,}", "`max_study_instances`"),
        ("free disk below which instances are refused", f"{listen['min_free_mb']:,} MB", "`min_free_mb`"),
        ("time after the last instance until a study is used", f"{listen['wait_s']:g} s", "`wait_s`"),
        ("asynchronous operations", "none", "fixed"),
        ("implementation class UID", f"`{PYNETDICOM_IMPLEMENTATION_UID}`", "fixed"),
        (
            "implementation version",
            f"`{PYNETDICOM_IMPLEMENTATION_VERSION.partition('_')[0]}_` and its version",
            "fixed",
        ),
    ]
    statuses = [
        ("0000", "the instance is on the disk"),
        ("A700", "the disk is nearly full, the study or the instance is too large, or the file cannot be written"),
        ("C000", "the data set cannot be read"),
    ]
    return f"""## Associations

{_table(("property", "value", "key of `listen.yaml`"), rows)}
The listener answers C-STORE with one of these statuses:

{_table(("status", "meaning"), statuses)}
A later instance of a study that was already used joins it, and the whole study is predicted again. Results with equal content
have equal UIDs. If the destination of the results does not answer, the listener keeps the study and tries again.
"""


def _web() -> str:
    return """## DICOMweb

| service | used as | requests |
| --- | --- | --- |
| WADO-RS | user agent | `GET` of a study or a series, `multipart/related; type="application/dicom"` |
| STOW-RS | user agent | `POST /studies`, one instance for each request |

User and password come from `~/.netrc`; tokens and client certificates are not supported. `dicomwebs://` uses TLS, with the
certificate authorities of the package certifi or of `REQUESTS_CA_BUNDLE`. Answers with a Content-Encoding are refused.
"""


def _classes() -> str:
    from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

    read = [
        (
            "images of each class with pixel data on a regular grid",
            "scans",
            "CT, MR, PET, NM, enhanced and legacy-converted classes",
        ),
        ("Segmentation Storage", "reference masks", "BINARY, LABELMAP; FRACTIONAL of two values"),
        ("RT Structure Set Storage", "reference masks", "CLOSED_PLANAR contours"),
        ("Parametric Map Storage", "scans", "integer, float and double pixels"),
        ("Media Storage Directory (DICOMDIR)", "list of files", ""),
    ]
    written = [
        ("Segmentation Storage", f"`{SegmentationStorage}`", "BINARY; FRACTIONAL (PROBABILITY) with `--probabilities`"),
        ("Comprehensive 3D SR Storage", f"`{Comprehensive3DSRStorage}`", "TID 1500, measurements with TID 1411"),
    ]
    skipped = ", ".join(f"{modality} ({words})" for modality, words in not_scans.NOT_SCANS.items())
    return f"""## Classes

Read from files, a PACS or the listener:

{_table(("class", "used as", "remarks"), read)}
Written, in Explicit VR Little Endian:

{_table(("class", "SOP class UID", "content"), written)}
{_wrapped(f"Skipped as scans, with a row in the table of scans: {skipped}; localizers; {CAPTURES}.")}
"""


def _syntaxes() -> str:
    from pydicom.pixels import get_decoder
    from pydicom.uid import AllTransferSyntaxes

    rows = []
    for uid in AllTransferSyntaxes:
        if not uid.is_encapsulated:
            rows.append((uid.name, f"`{uid}`", "yes"))
            continue
        try:
            decodes = uid == ENCAPSULATED_UNCOMPRESSED or bool(get_decoder(uid).is_available)
        except NotImplementedError:
            decodes = False
        rows.append((uid.name, f"`{uid}`", "yes" if decodes else "refused, with its name"))
    return f"""## Transfer syntaxes

The listener accepts each of them from a listed sender and stores it as received. The last column shows which are read as scans.

{_table(("transfer syntax", "UID", "read"), rows)}
C-GET proposes the uncompressed and the deflated syntaxes only: the PACS decompresses. A lossy stream is read with a note.
"""


def _texts() -> str:
    return """## Character sets

Each character set of PS3.3 C.12.1.1.2 is read, with code extensions. SEG and report are written in UTF-8 (ISO_IR 192).
"""


def _security() -> str:
    replaced = ", ".join(sorted(deidentify.REPLACED))
    emptied = ", ".join(deidentify.EMPTIED)
    kept = ", ".join(sorted(deidentify.KEPT))
    groups = ", ".join(f"{group:04X}" for group in deidentify.GROUPS)
    outputs = f"""- `--deidentify KEYFILE` cleans the outputs, and never the source files. It follows the basic profile of
        PS3.15 annex E, without options for retained attributes. UIDs and the attributes {replaced} are replaced; one key gives
        the same values each time. {emptied} are emptied. Private attributes are removed. Of the other attributes of the groups
        {groups}, only these are kept: {kept}. PatientIdentityRemoved is `YES`, and DeidentificationMethod names the method."""
    return f"""## Security and de-identification

- DIMSE has neither TLS nor user identity. The listener binds to the loopback address unless `host` is set.
- DICOMweb uses TLS with `dicomwebs://`.
{_wrapped(outputs, "  ")}
- Pixels are not changed. `BurnedInAnnotation` gives a warning.
"""


def _attributes() -> str:
    with tempfile.TemporaryDirectory() as name:
        source, seg, report = _written(Path(name))
    listed = []
    for title, dataset in (("Segmentation", seg), ("Comprehensive 3D SR", report)):
        rows = [(e.name, f"`({e.tag.group:04X},{e.tag.element:04X})`", e.VR, _origin(e, source)) for e in dataset]
        listed.append(f"### {title}\n\n{_table(('attribute', 'tag', 'VR', 'value'), rows)}")
    return f"""## Attributes that are written

The attributes of the top level, for an MR series with each label of a model found. `source` means that the value is that of the
source images, or empty if they lack it.

{chr(10).join(listed)}"""


PLANTED = {
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientID": "PATIENT",
    "PatientName": "PATIENT",
    "PatientBirthDate": "19700102",
    "PatientSex": "O",
    "PatientAge": "056Y",
    "PatientWeight": "77",
    "AccessionNumber": "ACCESSION",
    "StudyID": "STUDYID",
    "StudyDate": "20260103",
    "StudyTime": "112233",
    "StudyDescription": "STUDY",
    "ReferringPhysicianName": "SOMEBODY",
    "PositionReferenceIndicator": "INDICATOR",
    "InstitutionName": "HOSPITAL",
    "ProtocolName": "PROTOCOL",
}
"""Values of the source images, to find out which ones the outputs repeat."""


def _written(folder: Path) -> tuple[Any, Any, Any]:
    """Return a source image of a generated series, its SEG and its report."""
    import pydicom

    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    paths = write_mr_series(folder / "in", np.ones((8, 8, 4)), affine, description="T1", study="s", case="PATIENT")
    for path in paths:
        source = pydicom.dcmread(path)
        for keyword, value in PLANTED.items():
            setattr(source, keyword, value)
        source.save_as(path)
    scan = read_series(paths, case="scan")
    mask = np.zeros(scan.grid.shape, np.uint8)
    mask[2:5, 2:5, 1:3] = 1
    sources = write_seg(folder / "seg.dcm", mask, scan, SegInfo({"lesion": 1}, "0", "0" * 64))
    measure = RegionMeasure("lesion", 1, 0.1, 3.0)
    write_report(folder / "sr.dcm", folder / "seg.dcm", sources, [measure], {})
    return source, pydicom.dcmread(folder / "seg.dcm"), pydicom.dcmread(folder / "sr.dcm")


def _origin(element: Any, source: Any) -> str:
    """Describe a value: from the source, generated, a sequence, or the constant itself."""
    if element.keyword in (*PLANTED, "StudyInstanceUID", "FrameOfReferenceUID"):
        return "source" if element.value == source[element.keyword].value else f"`{element.value}`"
    if element.VR == "SQ":
        return "sequence"
    if element.VR == "UI" and element.keyword != "SOPClassUID":
        return "generated from the content"
    if element.VR in ("DA", "TM", "DT"):
        return "time of writing"
    if element.keyword in ("Rows", "Columns", "NumberOfFrames", "PixelData"):
        return "of the mask"
    if element.keyword == "SoftwareVersions":
        return "version of medhybrid"
    return f"`{element.value}`" if str(element.value) else "empty"


if __name__ == "__main__":
    main()
