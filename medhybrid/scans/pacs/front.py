"""Front of the DICOM listener: enforces limits on connections, from the first byte.

pynetdicom reads each message without a limit on size or time, before it checks the caller. Therefore connections are accepted
here. A connection from an unlisted address is closed before anything is read. A listed sender has a few seconds for an
association request of limited size. Every later message (PDU) has a size limit, and is passed on only when it is complete.
DICOM PS3.8, section 9.3, defines the layout of PDUs.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from medhybrid.config import ListenConfig
from medhybrid.scans.pacs.exchange import PacsError

logger = logging.getLogger(__name__)

REQUEST_S = 10.0
"""Time limit in seconds from the connection to the end of its association request."""

MAX_REQUEST = 1 << 18
"""Largest association request in bytes. 128 contexts of 40 transfer syntaxes need about half of it."""

MAX_PDU = 1 << 20
"""Largest later PDU in bytes. The peer is asked for at most 16 KiB, but some send more."""

MAX_COMMAND = 1 << 16
"""Largest DIMSE command in bytes. Commands hold only identifiers."""

OVER_LIMIT = 64 << 20
"""Bytes above the limit up to which an instance is read and refused with a status. Beyond, the connection is closed."""

MAX_PENDING = 32
"""Largest number of connections per address without a complete request. One more closes the oldest."""

BACKLOG = 512
SAY_S = 10.0
"""Shortest time in seconds between two log lines about refused connections."""

ASSOCIATE_REQUEST, DATA = 0x01, 0x04
HEADER = struct.Struct(">BxI")
PERMANENT, TRANSIENT = 1, 2
BY_USER, BY_PROVIDER = 1, 3
CALLING_TITLE, CALLED_TITLE, LIMIT_EXCEEDED = 3, 7, 2

Address = tuple[Any, ...]


class PduError(Exception):
    """Violation of the protocol or of a limit, after which the connection is closed."""


@dataclass
class MessageSize:
    """Size of the message that is being received, over all its PDUs.

    Parameters
    ----------
    limit : int
        Largest data set in bytes.
    """

    limit: int
    _n_bytes: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})

    def add(self, body: bytes) -> None:
        """Count the fragments (PDVs) of a P-DATA PDU.

        Raises
        ------
        PduError
            If a command or data set is too large, or a fragment does not fit in its PDU.
        """
        at = 0
        while at < len(body):
            if at + 6 > len(body):
                raise PduError("a fragment without a header")
            (length,) = struct.unpack_from(">I", body, at)
            if length < 2 or at + 4 + length > len(body):
                raise PduError("a fragment that does not fit in its PDU")
            is_command, is_last = bool(body[at + 5] & 1), bool(body[at + 5] & 2)
            self._n_bytes[is_command] += length - 2
            if self._n_bytes[is_command] > (MAX_COMMAND if is_command else self.limit):
                raise PduError("a message above the size limit")
            if is_last:
                self._n_bytes[is_command] = 0
            at += 4 + length


class Front:
    """Acceptor of connections in a separate thread, which forwards the messages of listed senders.

    Parameters
    ----------
    config : ListenConfig
        Address, senders and limits.
    hand_over : callable
        Called for each association of a listed sender, with one end of a socket pair and the sender's address.
    """

    def __init__(self, config: ListenConfig, hand_over: Callable[[socket.socket, Address], None]) -> None:
        self.config, self._hand_over = config, hand_over
        self._pending: dict[str, dict[asyncio.StreamWriter, None]] = {s.address: {} for s in config.senders}
        self._n_open: Counter[str] = Counter()
        self._n_refused, self._said_at = 0, -SAY_S
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start to accept connections.

        Raises
        ------
        PacsError
            If the address cannot be bound.
        """
        host, port = self.config.host, self.config.port
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
            listening.setblocking(False)
        except OSError as error:
            raise PacsError(f"cannot listen on {host}:{port}", found=error.strerror or "") from error
        loop = self._loop = asyncio.new_event_loop()

        def run() -> None:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:  # cancels the remaining connections
                runner.run(self._accept(listening))

        self._thread = threading.Thread(target=run, daemon=True, name="pacs-front")
        self._thread.start()

    def stop(self) -> None:
        """Stop to accept, and close all connections."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
            self._loop = self._thread = None

    async def _accept(self, listening: socket.socket) -> None:
        """Accept one connection per turn of the event loop, so that a flood does not delay open connections."""
        served: set[asyncio.Task[None]] = set()
        with listening:
            stopping = asyncio.ensure_future(self._stopping.wait())
            while not stopping.done():
                accepting = asyncio.ensure_future(_accepted(listening))
                await asyncio.wait((stopping, accepting), return_when=asyncio.FIRST_COMPLETED)
                if not accepting.done():
                    accepting.cancel()
                    break
                connection, peer = accepting.result()
                address = plain_address(peer[0])
                if address in self._pending:
                    serving = asyncio.ensure_future(self._serve(connection, peer, address))
                    served.add(serving)
                    serving.add_done_callback(served.discard)
                else:
                    connection.close()
                    self._say_refused(f"its address {address or 'unknown'} is not one of the configured senders")
            await asyncio.sleep(0)  # a task that is cancelled before its first turn leaves its connection open

    async def _serve(self, connection: socket.socket, peer: Address, address: str) -> None:
        reader, writer = await asyncio.open_connection(sock=connection, limit=MAX_PDU)
        try:
            request = await self._request_of(address, reader, writer)
            answer = self._refusal(request, address)
            if answer is not None:
                writer.write(answer)
                return
            self._n_open[address] += 1
            try:
                await self._pass_on(request, peer, reader, writer)
            finally:
                self._n_open[address] -= 1
        except PduError as error:
            self._say_refused(str(error))
        except (OSError, EOFError, TimeoutError, asyncio.CancelledError):
            pass  # the caller disconnected or timed out, or the listener stops
        finally:
            writer.close()

    async def _request_of(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Read an association request. The time limit is for the whole request, so slow bytes do not extend it."""
        pending = self._pending[address]
        while len(pending) >= MAX_PENDING:
            oldest = next(iter(pending))
            del pending[oldest]
            oldest.transport.abort()
        pending[writer] = None
        try:
            async with asyncio.timeout(min(REQUEST_S, self.config.timeout_s)):
                return await _read_pdu(reader, {ASSOCIATE_REQUEST: MAX_REQUEST})
        finally:
            pending.pop(writer, None)

    def _refusal(self, request: bytes, address: str) -> bytes | None:
        """Return the A-ASSOCIATE-RJ for a refused request, or None for an accepted one."""
        if len(request) < 74:
            raise PduError("an association request without AE titles")
        called, calling = (request[at : at + 16].decode("ascii", "replace").strip() for at in (10, 26))
        if not any(s.ae_title.strip() == calling and s.address == address for s in self.config.senders):
            self._say_refused(f"its AE title is not configured for the address {address}")
            return _rejection(PERMANENT, BY_USER, CALLING_TITLE)
        if called != self.config.ae_title.strip():
            self._say_refused(f"it calls another AE title than {self.config.ae_title}")
            return _rejection(PERMANENT, BY_USER, CALLED_TITLE)
        # one association is reserved for each other sender
        most = max(1, self.config.max_associations - (len(self._pending) - 1))
        if self._n_open[address] >= most or self._n_open.total() >= self.config.max_associations:
            return _rejection(TRANSIENT, BY_PROVIDER, LIMIT_EXCEEDED)
        return None

    async def _pass_on(
        self, request: bytes, peer: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Forward an association until one side ends it."""
        ours, theirs = socket.socketpair()
        try:
            inner_reader, inner_writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            theirs.close()
            raise
        try:
            self._hand_over(theirs, peer)
            inner_writer.write(request)
            await _first_to_end(self._from_sender(reader, inner_writer), self._to_sender(inner_reader, writer))
        finally:
            inner_writer.close()

    async def _from_sender(self, reader: asyncio.StreamReader, inner: asyncio.StreamWriter) -> None:
        size = MessageSize((self.config.max_instance_mb << 20) + OVER_LIMIT)
        limits = dict.fromkeys(range(1, 8), MAX_PDU)
        while True:
            first = await reader.read(1)  # without a time limit: pynetdicom ends idle associations
            if not first:
                return
            async with asyncio.timeout(self.config.timeout_s):
                pdu = await _read_pdu(reader, limits, first)
            if pdu[0] == DATA:
                size.add(pdu[HEADER.size :])
            inner.write(pdu)
            await inner.drain()

    async def _to_sender(self, inner: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await inner.read(MAX_PDU):
            writer.write(data)
            async with asyncio.timeout(self.config.timeout_s):
                await writer.drain()

    def _say_refused(self, reason: str) -> None:
        """Log a refused connection, at most once per `SAY_S` seconds."""
        self._n_refused += 1
        now = time.monotonic()
        if now - self._said_at >= SAY_S:
            logger.warning("refused a connection: %s (%d refused in all)", reason, self._n_refused)
            self._said_at = now


def plain_address(text: str) -> str:
    """Return an IP address in its usual spelling, without a zone.

    An IPv4 address that is mapped to IPv6 is returned as IPv4. An invalid address is returned unchanged.
    """
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(text.partition("%")[0])
        return str(getattr(address, "ipv4_mapped", None) or address)
    return text


async def _accepted(listening: socket.socket) -> tuple[socket.socket, Address]:
    """Wait for the next connection, and return it with the caller's address."""
    while True:
        try:
            connection, peer = await asyncio.get_running_loop().sock_accept(listening)
        except OSError as error:  # no free file handle, or the caller has disconnected
            logger.debug("a connection was not accepted: %s", error)
            await asyncio.sleep(0.1)
            continue
        connection.setblocking(False)
        return connection, peer


async def _read_pdu(reader: asyncio.StreamReader, limits: dict[int, int], first: bytes = b"") -> bytes:
    """Read one complete PDU.

    Parameters
    ----------
    limits : dict of int to int
        Largest length in bytes of each accepted PDU type.
    first : bytes
        Bytes of the PDU that were already read.
    """
    header = first + await reader.readexactly(HEADER.size - len(first))
    kind, length = HEADER.unpack(header)
    if kind not in limits:
        raise PduError("it sent an unexpected message or one that is not DICOM")
    if length > limits[kind]:
        raise PduError(f"a DICOM message of {length} bytes, above the limit of {limits[kind]}")
    return header + await reader.readexactly(length)


async def _first_to_end(*work: Coroutine[Any, Any, None]) -> None:
    """Run coroutines until the first ends, and cancel the others. An error of the first is raised."""
    tasks = [asyncio.ensure_future(w) for w in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _rejection(result: int, source: int, reason: int) -> bytes:
    return HEADER.pack(0x03, 4) + bytes((0, result, source, reason))
