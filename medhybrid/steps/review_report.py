"""`medhybrid review OUT`: the report of a folder of masks in the browser; marks are saved beside the masks."""

from __future__ import annotations

import ipaddress
import json
import threading
import time
import webbrowser
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from medhybrid.errors import ConfigError, MedHybridError
from medhybrid.inference.folder_record import read_folder_record
from medhybrid.inference.records import Records
from medhybrid.review.marks import Mark, Marks, read_marks, write_mark
from medhybrid.steps.interrupt import stop_on_signals
from medhybrid.steps.progress import Reporter
from medhybrid.steps.report import report

MAX_BODY = 64 * 1024
POLL_S = 0.2


class _Change(BaseModel):
    """A mark that the page sends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: str
    mark: Mark | None


def review_report(
    folder: Path,
    *,
    scans: Path | None = None,
    references: Path | None = None,
    deidentify: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 5000,
    opens: bool = True,
    on_start: Callable[[str], None] = lambda _: None,
    reporter: Reporter | None = None,
) -> int:
    """Serve the report, made first where it is absent, older than the masks, or asked for with more, until Ctrl-C or SIGTERM.

    Raises
    ------
    DataError
        If `folder` holds no masks of `predict`.
    ConfigError
        If the port is taken.
    """
    record, page = read_folder_record(folder), folder / "report.html"
    is_asked = bool(scans or references or deidentify)
    if is_asked or not page.is_file() or page.stat().st_mtime < (folder / "run.json").stat().st_mtime:
        report(folder, scans=scans, references=references, deidentify=deidentify, reporter=reporter)
    read_marks(folder)  # a damaged file is told before anything is marked
    server = make_server(folder, record.made_by[:16], host, port)
    url = f"http://{host}:{server.server_port}/"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    on_start(url)
    if opens:
        webbrowser.open(url)
    with stop_on_signals() as should_stop:
        while not should_stop():
            time.sleep(POLL_S)
    server.shutdown()
    server.server_close()
    return 0


def make_server(folder: Path, key: str, host: str, port: int) -> ThreadingHTTPServer:
    """A server of the report's own pages and of its marks, and of nothing else; raises `ConfigError`."""

    class Handler(_Handler):
        place = folder.resolve()
        marks_key = key
        is_local = _is_loopback(host)

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise ConfigError(
            f"port {port} of {host} cannot be used", found=str(error), remedy="give another --port"
        ) from error


class _Handler(BaseHTTPRequestHandler):
    place: Path
    marks_key: str
    is_local: bool

    def do_GET(self) -> None:
        if not self._is_meant_for_us():
            return
        path = self.path.split("?")[0].split("#")[0]
        if path == "/marks":
            self._give_marks()
            return
        allowed = {"/": "report.html", "/report.html": "report.html", "/report/viewer.js": "report/viewer.js"}
        number = path.removeprefix("/report/").removesuffix(".html")
        if path == f"/report/{number}.html" and number.isdecimal() and number.isascii():
            allowed[path] = f"report/{number}.html"
        file = self.place / allowed[path] if path in allowed else None
        if file is None or not file.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self._answer(file.read_bytes(), "text/javascript" if file.suffix == ".js" else "text/html; charset=utf-8")

    def _give_marks(self) -> None:
        try:
            marks = read_marks(self.place)
        except MedHybridError as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=str(error))
            return
        if marks.key not in ("", self.marks_key):  # they are of another model's masks
            marks = Marks()
        current = {c: m for c, m in marks.marks.items() if m.is_of(self._sign_of(c))}
        self._answer(marks.model_copy(update={"marks": current}).model_dump_json(), "application/json")

    def _sign_of(self, case: str) -> str:
        done = Records(self.place).done(case)
        return "" if done is None else done.sign

    def do_POST(self) -> None:
        if not self._is_meant_for_us():
            return
        length = self.headers.get("Content-Length", "")
        if self.path != "/marks" or self.headers.get_content_type() != "application/json":
            self.send_error(HTTPStatus.NOT_FOUND)
        elif not length.isdecimal() or int(length) > MAX_BODY:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            self._keep(self.rfile.read(int(length)))

    def _keep(self, body: bytes) -> None:
        try:
            change = _Change.model_validate_json(body)
            if change.case not in {p.stem for p in (self.place / "done").glob("[!.]*.json")}:
                raise ConfigError(f"there is no mask of {change.case}")
            if change.mark is not None and not change.mark.is_of(self._sign_of(change.case)):
                self.send_error(HTTPStatus.CONFLICT)  # a page of masks that are no more, or of another folder
                return
            marks = write_mark(self.place, self.marks_key, change.case, change.mark)
        except (ValidationError, ConfigError):
            self.send_error(HTTPStatus.BAD_REQUEST)
        except (OSError, MedHybridError) as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=str(error))
        else:
            self._answer(json.dumps({"n": len(marks.marks)}), "application/json")

    def _is_meant_for_us(self) -> bool:
        """Another page in the same browser must not read or write here, by whatever name it finds this machine."""
        asked = self.headers.get("Host", "")
        origin = self.headers.get("Origin")
        name = asked.rsplit(":", 1)[0].strip("[]")
        is_ours = (not self.is_local or _is_loopback(name)) and (origin is None or origin == f"http://{asked}")
        if not is_ours:
            self.send_error(HTTPStatus.FORBIDDEN)
        return is_ours

    def _answer(self, body: str | bytes, kind: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(HTTPStatus.OK)
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), "Cache-Control": "no-store"}
        headers |= {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing: addresses hold names of cases."""


def _is_loopback(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
