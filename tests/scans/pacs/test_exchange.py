"""Tests of answers of a PACS to `predict --from`: deflated instances of few bytes that would fill the memory."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, MRImageStorage

from medhybrid.scans.dicom import deflated
from medhybrid.scans.pacs.exchange import PacsError, fetch_study, parse_endpoint

pytestmark = pytest.mark.filterwarnings("ignore")  # sockets of pynetdicom; an answer of one part violates the standard

MANY_ZEROS = bytes(4 << 20)


@pytest.fixture(autouse=True)
def low_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflated, "MIN_CHECKED_BYTES", 1 << 20)


def bomb() -> Dataset:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = MRImageStorage, "1.2.3"
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2", "1.2.1"
    made.add_new(0x7FE00010, "OW", MANY_ZEROS)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return made


def file_of_bomb() -> bytes:
    file = BytesIO()
    pydicom.dcmwrite(file, bomb(), enforce_file_format=True)
    assert len(file.getvalue()) < len(MANY_ZEROS) // 200
    return file.getvalue()


@pytest.mark.parametrize(
    ("answer", "refused"),
    [("parts", "inflate to more"), ("one file", "inflate to more"), ("gzip", "compressed answer")],
)
def test_an_answer_that_inflates_to_far_more_is_refused(answer: str, refused: str, tmp_path: Path) -> None:
    body, kind = file_of_bomb(), "application/dicom"
    if answer != "one file":
        body = b"--X\r\nContent-Type: application/dicom\r\n\r\n" + body + b"\r\n--X--\r\n"
        kind = 'multipart/related; type="application/dicom"; boundary=X'
    body = gzip.compress(body) if answer == "gzip" else body

    class Pacs(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if answer == "gzip":
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Pacs) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(PacsError, match=refused):
            fetch_study(parse_endpoint(f"dicomweb://127.0.0.1:{server.server_port}/x?StudyInstanceUID=1.2"), tmp_path)
        server.shutdown()

    assert not list(tmp_path.iterdir())


def test_an_instance_of_c_get_that_inflates_to_far_more_is_refused(tmp_path: Path) -> None:
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import (
        StudyRootQueryRetrieveInformationModelGet,
    )

    def on_get(_: Any) -> Iterator[Any]:
        yield 1
        yield 0xFF00, bomb()

    ae = AE("PACS")
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
    ae.add_supported_context(MRImageStorage, DeflatedExplicitVRLittleEndian, scu_role=True, scp_role=True)
    server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_GET, on_get)])
    try:
        port = server.socket.getsockname()[1]
        with pytest.raises(PacsError, match="inflate to more"):
            fetch_study(parse_endpoint(f"dimse://PACS@127.0.0.1:{port}?StudyInstanceUID=1.2"), tmp_path)
    finally:
        server.shutdown()
    assert not list(tmp_path.iterdir())
