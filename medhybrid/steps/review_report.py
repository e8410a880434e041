"""`medhybrid review OUT`: server for the report of a folder of masks; marks are saved beside the masks.

The address has a token, which the browser keeps as a cookie. Other users of the host and other pages in the same browser do
not have it. Requests for a host name other than this host's are refused, which prevents DNS rebinding.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import secrets
import socket
import threading
import time
import webbrowser
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from html import escape
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from medhybrid.addresses import show_own_token
from medhybrid.errors import ConfigError, MedHybridError
from medhybrid.inference.folder_record import read_folder_record
from medhybrid.inference.records import Records
from medhybrid.interrupt import stop_on_signals
from medhybrid.progress import Reporter
from medhybrid.review.marks import Mark, Marks, read_marks, write_mark
from medhybrid.review.report.page import has_other_scripts, own_scripts, shared_viewer
from medhybrid.steps.report import report

logger = logging.getLogger(__name__)

MAX_BODY = 64 * 1024

MAX_CONNECTIONS, MAX_CONNECTIONS_FROM_ONE = 64, 16
"""Open connections, in total and from one address; a further one ends the oldest that has not sent the token."""

MAX_SECONDS = 30.0
"""Longest duration of a connection in seconds, also if the client sends slowly."""

POLICY = (
    "default-src 'none'; img-src 'self' data: blob:; style-src 'unsafe-inline'; font-src data:; "
    "script-src {scripts} 'wasm-unsafe-eval' blob: 'self'; connect-src 'self' blob: data:; worker-src blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Content security policy: that of the pages with scripts of this version alone, and no frames in other pages."""

POLL_S = 0.2


class _Change(BaseModel):
    """Mark of a case that the page sends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: str
    mark: Mark | None


def review_report(
    folder: Path,
    *,
    scans: Path | None = None,
    references: Path | None = None,
    ignore_value: int | None = None,
    annotated: Mapping[str, Collection[str]] | None = None,
    deidentify: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 5000,
    opens: bool = True,
    on_start: Callable[[str], None] = lambda _: None,
    reporter: Reporter | None = None,
) -> int:
    """Serve the report until Ctrl-C or SIGTERM.

    The report is written first if it is absent, older than the masks, has scripts that this version did not write, or if
    scans, references or a key are given.

    Raises
    ------
    DataError
        If `folder` is not an output folder of `predict`.
    ConfigError
        If the port is taken.
    """
    record, page = read_folder_record(folder), folder / "report.html"
    is_asked = bool(scans or references or deidentify)
    if is_asked or not _is_current(page, folder / "run.json"):
        report(
            folder,
            scans=scans,
            references=references,
            ignore_value=ignore_value,
            annotated=annotated,
            deidentify=deidentify,
            reporter=reporter,
        )
    read_marks(folder)  # raises for a damaged file before the user marks anything
    server = make_server(folder, record.made_by[:16], host, port)
    url = f"http://{host}:{server.server_port}/?token={server.token}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    on_start(url)
    with stop_on_signals() as should_stop, ExitStack() as opened:
        if opens:
            opened.enter_context(_open_in_browser(url))
        while not should_stop():
            time.sleep(POLL_S)
            if server.is_entered:
                opened.close()
    server.shutdown()
    server.server_close()
    return 0


@contextmanager
def _open_in_browser(url: str) -> Iterator[None]:
    """Open an address by a page that leads to it, which only this user can read and which is removed afterwards.

    The arguments of a browser can be read by every user of the host, and the address has the token.
    """
    try:  # a browser of a snap can read the visible part of the home alone
        place = TemporaryDirectory(prefix="medhybrid-review-", dir=Path.home() if Path("/snap").is_dir() else None)
    except OSError as error:  # the address was printed: the user can open it
        logger.debug("no browser was opened", exc_info=error)
        yield
        return
    with place as folder:
        page, address = Path(folder) / "open.html", escape(url)
        page.touch(mode=0o600)
        page.write_text(
            f'<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
            f'<meta http-equiv="refresh" content="0; url={address}"><a href="{address}">Open the report</a>'
        )
        webbrowser.open(page.as_uri())
        yield


def _is_current(page: Path, record: Path) -> bool:
    """Return whether a report is of these masks and has only the scripts of this version."""
    if page.is_symlink() or not page.is_file() or page.stat().st_mtime < record.stat().st_mtime:
        return False
    return not has_other_scripts(page.read_bytes())


class ReviewServer(ThreadingHTTPServer):
    """HTTP server with a token, a limit of connections, and a deadline for each connection.

    Attributes
    ----------
    token : str
        Requests with it may read the report and write marks.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.token = secrets.token_urlsafe(24)
        show_own_token(self.token)
        self.is_entered = False
        self._open: dict[Any, str] = {}
        self._known: set[Any] = set()
        self._lock = threading.Lock()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether another connection is allowed; the oldest one without the token ends for it if necessary."""
        with self._lock:
            from_one = [r for r, address in self._open.items() if address == client_address[0]]
            is_full = len(self._open) >= MAX_CONNECTIONS
            if is_full or len(from_one) >= MAX_CONNECTIONS_FROM_ONE:
                ended = next((r for r in (self._open if is_full else from_one) if r not in self._known), None)
                if ended is None:
                    return False
                del self._open[ended]
                _cut_off(ended)
            self._open[request] = client_address[0]
        return True

    def know(self, request: Any) -> None:
        """Note that a connection has sent the token: it does not end for others."""
        self.is_entered = True
        with self._lock:
            self._known.add(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle a connection and close it at its deadline."""
        deadline = threading.Timer(MAX_SECONDS, _cut_off, [request])
        deadline.daemon = True
        deadline.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            with self._lock:
                self._open.pop(request, None)
                self._known.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of closed connections."""


def _cut_off(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def make_server(folder: Path, key: str, host: str, port: int) -> ReviewServer:
    """Return a server for the pages and the marks of the report only; raises `ConfigError`."""

    class Handler(_Handler):
        place = folder.resolve()
        marks_key = key
        asked_host = host

    try:
        return ReviewServer((host, port), Handler)
    except OSError as error:
        raise ConfigError(
            f"port {port} of {host} cannot be used", found=str(error), remedy="give another --port"
        ) from error


class _Handler(BaseHTTPRequestHandler):
    place: Path
    marks_key: str
    asked_host: str
    server: ReviewServer

    def do_GET(self) -> None:
        if not self._is_meant_for_us():
            return
        if self._is_token(parse_qs(urlsplit(self.path).query).get("token", [""])[0]):
            self._take_in()
            return
        if not self._has_token():
            self.send_error(HTTPStatus.FORBIDDEN, explain="open the complete address that medhybrid review printed")
            return
        path = self.path.split("?")[0].split("#")[0]
        if path == "/marks":
            self._give_marks()
            return
        if path == "/report/viewer.js":
            self._answer(shared_viewer(), "text/javascript")  # not that of the folder, which may be somebody else's
            return
        allowed = {"/": "report.html", "/report.html": "report.html"}
        number = path.removeprefix("/report/").removesuffix(".html")
        if path == f"/report/{number}.html" and number.isdecimal() and number.isascii():
            allowed[path] = f"report/{number}.html"
        file = self.place / allowed[path] if path in allowed else None
        if file is None or file.is_symlink() or file.parent.is_symlink() or not file.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self._answer(file.read_bytes(), "text/html; charset=utf-8")

    def _give_marks(self) -> None:
        try:
            marks = read_marks(self.place)
        except MedHybridError as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=str(error))
            return
        if marks.key not in ("", self.marks_key):  # the marks are of another model's masks
            marks = Marks()
        current = {c: m for c, m in marks.marks.items() if m.is_of(self._sign_of(c))}
        self._answer(marks.model_copy(update={"marks": current}).model_dump_json(), "application/json")

    def _sign_of(self, case: str) -> str:
        done = Records(self.place).done(case)
        return "" if done is None else done.sign

    def do_POST(self) -> None:
        if not self._is_meant_for_us():
            return
        if not self._has_token():
            self.send_error(HTTPStatus.FORBIDDEN)
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
                raise ConfigError(f"{change.case} has no mask")
            if change.mark is not None and not change.mark.is_of(self._sign_of(change.case)):
                self.send_error(HTTPStatus.CONFLICT)  # the page is of earlier masks, or of another folder
                return
            marks = write_mark(self.place, self.marks_key, change.case, change.mark)
        except (ValidationError, ConfigError):
            self.send_error(HTTPStatus.BAD_REQUEST)
        except (OSError, MedHybridError) as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=str(error))
        else:
            self._answer(json.dumps({"n": len(marks.marks)}), "application/json")

    def _is_meant_for_us(self) -> bool:
        """Return whether host and origin of a request are this server's; other pages in the browser are refused."""
        asked = self.headers.get("Host", "")
        origin = self.headers.get("Origin")
        name = _host_of(asked)
        is_local = _is_loopback(self.asked_host)
        is_ours = (_is_loopback(name) if is_local else _is_own_name(name, self.asked_host)) and (
            origin is None or origin == f"http://{asked}"
        )
        if not is_ours:
            self.send_error(HTTPStatus.FORBIDDEN)
        return is_ours

    @property
    def _cookie(self) -> str:
        """Name of the cookie, with the port: browsers send cookies to all ports of a host."""
        return f"medhybrid_{self.server.server_port}"

    def _take_in(self) -> None:
        """Set the token as a cookie and redirect to the address without it."""
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Set-Cookie", f"{self._cookie}={self.server.token}; Path=/; HttpOnly; SameSite=Lax")
        self.send_header("Location", "/")
        self.send_header("Content-Length", "0")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()

    def _has_token(self) -> bool:
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return cookie is not None and self._is_token(cookie.value)

    def _is_token(self, text: str) -> bool:
        is_ours = hmac.compare_digest(text.encode("utf-8", "replace"), self.server.token.encode())
        if is_ours:
            self.server.know(self.connection)
        return is_ours

    def _answer(self, body: str | bytes, kind: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        policy = POLICY.format(scripts=" ".join(own_scripts()))
        self.send_response(HTTPStatus.OK)
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), "Cache-Control": "no-store"}
        headers |= {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}
        headers |= {
            "Content-Security-Policy": policy,
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Log nothing, since addresses contain case names."""


def _host_of(header: str) -> str:
    """Return the host name or IP address of a Host header, without the port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if ":" in header else header


def _is_own_name(name: str, asked_host: str) -> bool:
    """Return whether a name is an IP address, a name of this host, or the name that the server was started with."""
    with suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return name.casefold() in {
        n.casefold() for n in ("localhost", asked_host, socket.gethostname(), socket.getfqdn()) if n
    }


def _is_loopback(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
