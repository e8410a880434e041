"""Addresses of a PACS, fetching of studies (DICOMweb, C-GET) and sending of instances (DICOMweb, C-STORE).

dicomweb://host[:port]/path?StudyInstanceUID=1.2.3      DICOMweb over http; dicomwebs:// over https
dimse://AETITLE@host:port?StudyInstanceUID=1.2.3        C-GET to fetch, C-STORE to send

The query selects the study or series to fetch. It is omitted in addresses for sending.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from medhybrid.addresses import hide_password
from medhybrid.errors import MedHybridError, ScanError
from medhybrid.scans.dicom.deflated import DEFLATED, bomb_of, find_bomb_in

AE_TITLE = "MEDHYBRID"
"""AE title of medhybrid in associations that it opens."""

TIMEOUT_S = 60.0

OUT_OF_RESOURCES = 0xA700
"""Status that refuses an instance that cannot be stored (PS3.4)."""


class PacsError(ScanError):
    """Failed transfer from or to a PACS, or an invalid address."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address of a PACS, with the study or series to fetch.

    Attributes
    ----------
    kind : str
        ``dicomweb`` or ``dimse``.
    url : str
        Base URL, for DICOMweb.
    host, port, ae_title
        Host, port and AE title, for DIMSE.
    study_uid, series_uid : str
        The study, or one series of it, to fetch.
    """

    kind: str
    url: str = ""
    host: str = ""
    port: int = 0
    ae_title: str = ""
    study_uid: str = ""
    series_uid: str = ""

    def __str__(self) -> str:
        return self.url if self.kind == "dicomweb" else f"{self.ae_title}@{self.host}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """Parse the address of a PACS.

    Raises
    ------
    PacsError
        If the address is not valid, or contains a user name or password.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise PacsError(f"{hide_password(text)} is not a valid PACS address", found=hide_password(str(error))) from None
    query = {k: v[0] for k, v in parse_qs(parts.query).items()}
    study, series = query.pop("StudyInstanceUID", ""), query.pop("SeriesInstanceUID", "")
    is_web = parts.scheme in ("dicomweb", "dicomwebs")
    is_dimse = parts.scheme == "dimse" and parts.username and port
    if parts.password is not None or (is_web and parts.username is not None):
        raise PacsError(
            f"{hide_password(text)} contains a user name or password",
            expected="an address without them, because addresses are stored and displayed",
            remedy="put them into ~/.netrc",
        )
    if not (is_web or is_dimse) or not parts.hostname or query:
        raise PacsError(
            f"{hide_password(text)} is not a valid PACS address",
            expected="dicomweb://host:port/path or dimse://AETITLE@host:port, with ?StudyInstanceUID=... to fetch",
        )
    if is_web:
        scheme = "https" if parts.scheme == "dicomwebs" else "http"
        return Endpoint("dicomweb", f"{scheme}://{parts.netloc}{parts.path}", study_uid=study, series_uid=series)
    return Endpoint(
        "dimse",
        host=parts.hostname,
        port=port or 0,
        ae_title=parts.username or "",
        study_uid=study,
        series_uid=series,
    )


def fetch_study(source: Endpoint, folder: Path) -> list[Path]:
    """Fetch a study, or one series of it, into `folder`, with one file per instance.

    Raises
    ------
    PacsError
        If the PACS cannot be reached, refuses the request, or does not have the study.
    """
    if not source.study_uid:
        raise PacsError(
            "the address names no study to fetch", expected="?StudyInstanceUID=... at the end of the address"
        )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if source.kind == "dicomweb":
            paths = [save_instance(d, folder) for d in _fetch_web(source)]
        else:
            paths = _fetch_dimse(source, folder)
    except MedHybridError:
        raise
    except Exception as error:  # errors of network and HTTP; the message repeats only the address that the user gave
        raise _failed("fetch from", source, error) from error
    if not paths:
        raise PacsError(f"{source} has no instance of this study", remedy="check StudyInstanceUID")
    return paths


def send_files(target: Endpoint, paths: Sequence[Path]) -> None:
    """Store DICOM files on a PACS.

    Raises
    ------
    PacsError
        If the PACS cannot be reached, or refuses an instance.
    """
    import pydicom

    if not paths:
        return
    datasets = (pydicom.dcmread(p) for p in paths)
    try:
        if target.kind == "dicomweb":
            _send_web(target, datasets)
        else:
            _send_dimse(target, list(datasets))
    except MedHybridError:
        raise
    except Exception as error:  # errors of network and HTTP
        raise _failed("send to", target, error) from error


def save_instance(dataset: Any, folder: Path) -> Path:
    """Write an instance atomically. Its file name is a hash, which does not identify the patient."""
    name = hashlib.sha256(str(dataset.SOPInstanceUID).encode()).hexdigest()[:32]
    path, pending = folder / f"{name}.dcm", folder / f".{os.getpid()}.{name}"
    dataset.save_as(pending, enforce_file_format=True)
    pending.replace(path)
    return path


def _failed(what: str, endpoint: Endpoint, error: Exception) -> PacsError:
    return PacsError(
        f"cannot {what} {endpoint}",
        found=f"{type(error).__name__}",
        remedy="check that the PACS is running, its address, and that it accepts this host's AE title",
    )


# --- DICOMweb -----------------------------------------------------------------------------------------------------


@contextmanager
def _web_client(endpoint: Endpoint) -> Iterator[Any]:
    import requests
    from dicomweb_client.api import DICOMwebClient

    class CheckedClient(DICOMwebClient):  # type: ignore[misc, unused-ignore]
        """Client that checks each instance of an answer before pydicom inflates it."""

        def _http_get(self, *args: Any, **options: Any) -> Any:
            response = super()._http_get(*args, **options)
            _check_answer(response)
            return response

        def _decode_multipart_message(self, response: Any, stream: bool) -> Iterator[bytes]:
            for part in super()._decode_multipart_message(response, stream):
                _refuse_bomb(find_bomb_in(BytesIO(part), len(part)))
                yield part

    with requests.Session() as session:  # takes credentials from netrc
        session.headers["Accept-Encoding"] = "identity"  # else an answer could inflate without a bound
        try:
            yield CheckedClient(endpoint.url.rstrip("/"), session=session, timeout=TIMEOUT_S)
        except requests.HTTPError as error:
            if error.response is not None:
                error.response.close()  # a streamed response is still open
            raise


def _check_answer(response: Any) -> None:
    """Refuse an answer that is compressed although no compression was asked for, or is one instance that is a bomb."""
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        response.close()
        raise PacsError("the PACS sent a compressed answer", expected="an answer without Content-Encoding")
    if response.headers.get("Content-Type", "").partition(";")[0].strip().lower() == "application/dicom":
        _refuse_bomb(find_bomb_in(BytesIO(response.content), len(response.content)))


def _refuse_bomb(found: str) -> None:
    if found:
        raise PacsError("the PACS sent a deflated instance that is refused", found=found)


def _fetch_web(source: Endpoint) -> Iterator[Any]:
    with _web_client(source) as client:
        if source.series_uid:
            yield from client.iter_series(source.study_uid, source.series_uid)
        else:
            yield from client.iter_study(source.study_uid)


def _send_web(target: Endpoint, datasets: Iterable[Any]) -> None:
    with _web_client(target) as client:
        for dataset in datasets:
            answer = client.store_instances([dataset])
            if answer.get("FailedSOPSequence"):
                raise PacsError(f"{target} refused an instance", remedy="see the PACS' log")


# --- DIMSE --------------------------------------------------------------------------------------------------------


def _fetch_dimse(source: Endpoint, folder: Path) -> list[Path]:
    """Fetch instances by C-GET. Each is written to disk as it arrives, because a study may exceed the memory."""
    from pydicom.dataset import Dataset
    from pynetdicom import AE, StoragePresentationContexts, build_role, evt
    from pynetdicom.sop_class import (
        StudyRootQueryRetrieveInformationModelGet,
    )

    received: list[Path] = []
    problems: list[Exception] = []

    def on_store(event: Any) -> int:
        try:
            if str(event.context.transfer_syntax) == DEFLATED:
                deflated = event.request.DataSet.getvalue()
                _refuse_bomb(bomb_of([deflated], len(deflated)))
            dataset = event.dataset
            dataset.file_meta = event.file_meta
            received.append(save_instance(dataset, folder))
        except Exception as error:  # raised again below: in the association's thread it would be lost
            problems.append(error)
            return OUT_OF_RESOURCES
        return 0x0000

    ae = AE(ae_title=AE_TITLE)
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
    storage = [c.abstract_syntax for c in StoragePresentationContexts][:120]
    for uid in storage:
        ae.add_requested_context(uid)
    roles = [build_role(uid, scp_role=True) for uid in storage if uid is not None]
    wanted = Dataset()
    wanted.QueryRetrieveLevel = "SERIES" if source.series_uid else "STUDY"
    wanted.StudyInstanceUID = source.study_uid
    if source.series_uid:
        wanted.SeriesInstanceUID = source.series_uid
    association = ae.associate(
        source.host,
        source.port,
        ae_title=source.ae_title,
        ext_neg=roles,
        evt_handlers=[(evt.EVT_C_STORE, on_store)],
    )
    if not association.is_established:
        raise _failed("fetch from", source, ConnectionError())
    try:
        for status, _ in association.send_c_get(wanted, StudyRootQueryRetrieveInformationModelGet):
            if not status or status.Status not in (0x0000, 0xFF00, 0xFF01):
                if problems:
                    raise problems[0]
                code = f"status {status.Status:#06x}" if status else "no answer"
                raise PacsError(f"{source} did not deliver the complete study", found=code)
    finally:
        association.release()
    if problems:
        raise problems[0]
    return received


def _send_dimse(target: Endpoint, datasets: Sequence[Any]) -> None:
    from pynetdicom import AE

    ae = AE(ae_title=AE_TITLE)
    for dataset in datasets:
        ae.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = ae.associate(target.host, target.port, ae_title=target.ae_title)
    if not association.is_established:
        raise _failed("send to", target, ConnectionError())
    try:
        for dataset in datasets:
            status = association.send_c_store(dataset)
            if not status or status.Status not in (0x0000, 0xB000, 0xB006, 0xB007):
                code = f"status {status.Status:#06x}" if status else "no answer"
                raise PacsError(f"{target} refused an instance", found=code)
    finally:
        association.release()
