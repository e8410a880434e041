"""Tests of the listener's limits before it knows its caller. Messages are built by hand, after PS3.8, section 9.3."""

from __future__ import annotations

import gc
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medhybrid.config import ListenConfig, SenderConfig
from medhybrid.scans.pacs import front
from medhybrid.scans.pacs.exchange import PacsError
from medhybrid.scans.pacs.front import Front, MessageSize, PduError, plain_address
from tests.patience import patience_s, wait_until
from tests.servers import free_port

SENDER, US = "SCANNER", "MEDHYBRID"

pytestmark = pytest.mark.filterwarnings("error::ResourceWarning")


def request(calling: str = SENDER, called: str = US, *, padding: int = 0) -> bytes:
    """Return an A-ASSOCIATE-RQ."""
    body = b"\0\1\0\0" + called.ljust(16).encode() + calling.ljust(16).encode() + bytes(32 + padding)
    return struct.pack(">BxI", 1, len(body)) + body


def data(*fragments: tuple[bytes, bool, bool]) -> bytes:
    """Return a P-DATA-TF PDU of fragments (content, is it part of a command, is it the last)."""
    body = b"".join(
        struct.pack(">IBB", len(content) + 2, 1, is_command | is_last << 1) + content
        for content, is_command, is_last in fragments
    )
    return struct.pack(">BxI", 4, len(body)) + body


@pytest.fixture(scope="module", autouse=True)
def _no_connection_is_left_open() -> Iterator[None]:
    """Collect what these tests leave, so that an unclosed connection of the listener warns here, as an error."""
    yield
    gc.collect()


class Inside:
    """Server behind the front, which records received bytes and answers each message by one byte."""

    def __init__(self) -> None:
        self.received: list[bytearray] = []

    def take(self, connection: socket.socket, _: object) -> None:
        got = bytearray()
        self.received.append(got)

        def read() -> None:
            with connection, suppress(OSError):
                while more := connection.recv(65536):
                    got.extend(more)
                    connection.sendall(b"!")

        threading.Thread(target=read, daemon=True).start()


class Gate:
    """Front with its port."""

    def __init__(self, **config: object) -> None:
        senders = config.pop("senders", (SenderConfig(ae_title=SENDER),))
        self.inside, self.port = Inside(), free_port()
        self.config = ListenConfig(port=self.port, senders=senders, send_to="dimse://A@b:1", **config)  # type: ignore[arg-type]
        self.front = Front(self.config, self.inside.take)

    def call(self, *, by: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=patience_s(), source_address=(by, 0))

    def associate(self, **titles: str) -> socket.socket:
        caller = self.call()
        caller.sendall(request(**titles))
        assert caller.recv(1) == b"!"
        return caller


@contextmanager
def gate(**config: object) -> Iterator[Gate]:
    made = Gate(**config)
    made.front.start()
    try:
        yield made
    finally:
        made.front.stop()


@pytest.fixture(scope="module")
def shared() -> Iterator[Gate]:
    """Share one front between tests that do not change its state."""
    with gate(max_instance_mb=1) as made:
        yield made


def is_ended(caller: socket.socket) -> bool:
    """Return True if the other side closes the connection within the time limit."""
    try:
        while caller.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def test_messages_of_a_listed_sender_are_forwarded_unchanged(shared: Gate) -> None:
    messages = [request(), data((b"echo", True, True)), data((bytes(3000), False, False), (b"end", False, True))]
    n_before = len(shared.inside.received)
    with shared.call() as caller:
        for byte in b"".join(messages):
            caller.sendall(bytes([byte]))
        wait_until(
            lambda: len(shared.inside.received) > n_before and shared.inside.received[n_before] == b"".join(messages),
            "every byte",
        )


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(struct.pack(">BxI", 1, 1000 << 20), id="a request of 1,000 MiB"),
        pytest.param(struct.pack(">BxI", 1, front.MAX_REQUEST + 1), id="a request over the limit"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="a web browser"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(data((bytes(9), False, True)), id="data before a request"),
        pytest.param(struct.pack(">BxI", 1, 3) + b"abc", id="a request without titles"),
        pytest.param(struct.pack(">BxI", 1, 0), id="an empty request"),
        pytest.param(struct.pack(">BxI", 7, 4) + bytes(4), id="an abort"),
    ],
)
def test_a_message_other_than_a_request_closes_the_connection(shared: Gate, hostile: bytes) -> None:
    n_before = len(shared.inside.received)
    with shared.call() as caller:
        caller.sendall(hostile)
        assert is_ended(caller)
    assert len(shared.inside.received) == n_before


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(struct.pack(">BxI", 4, 0xFFFFFFFF), id="a PDU of 4 GiB"),
        pytest.param(struct.pack(">BxI", 4, front.MAX_PDU + 1), id="a PDU over the limit"),
        pytest.param(struct.pack(">BxI", 9, 4), id="an unknown kind of PDU"),
        pytest.param(
            struct.pack(">BxI", 4, 8) + struct.pack(">IBB", 100, 1, 0) + b"ab", id="a fragment beyond its PDU"
        ),
        pytest.param(struct.pack(">BxI", 4, 3) + b"abc", id="a fragment without a header"),
        pytest.param(data(*[(bytes(9000), True, False)] * 8), id="a command over the limit"),
    ],
)
def test_a_message_above_a_limit_ends_the_association(shared: Gate, hostile: bytes) -> None:
    with shared.associate() as caller:
        caller.sendall(hostile)
        assert is_ended(caller)
    assert hostile not in shared.inside.received[-1]


def test_an_endless_data_set_is_stopped_at_the_limit(shared: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "OVER_LIMIT", 0)
    block = data((bytes(1 << 18), False, False))
    with shared.associate() as caller, suppress(ConnectionError):
        for _ in range(100):
            caller.sendall(block)
        pytest.fail("25 MiB were taken where 1 is the limit")
    wait_until(lambda: len(shared.inside.received[-1]) <= len(request()) + 4 * len(block), "no more than the limit")


@given(
    sizes=st.lists(st.tuples(st.integers(0, 50), st.booleans(), st.booleans()), max_size=20),
    limit=st.integers(0, 200),
)
def test_the_size_of_a_message_is_summed_over_its_fragments(sizes: list[tuple[int, bool, bool]], limit: int) -> None:
    size, n_bytes, is_over = MessageSize(limit), 0, False
    for length, is_command, is_last in sizes:
        if not is_command:
            n_bytes += length
            is_over = n_bytes > limit
        try:
            size.add(data((bytes(length), is_command, is_last))[6:])
        except PduError:
            assert is_over
            return
        assert not is_over
        if is_last and not is_command:
            n_bytes = 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=40))
def test_any_body_of_a_pdu_is_counted_or_refused(body: bytes) -> None:
    with suppress(PduError):
        MessageSize(1000).add(body)


def test_a_slow_request_has_the_same_time_limit_as_a_silent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "REQUEST_S", 0.5)
    with gate() as made, made.call() as silent, made.call() as dripping:
        began = time.monotonic()
        with suppress(ConnectionError):
            for byte in request(padding=60_000):
                dripping.sendall(bytes([byte]))
                time.sleep(0.02)
            pytest.fail("it had 1,200 s")
        assert is_ended(silent)
        assert time.monotonic() - began < patience_s()


def test_a_slow_message_ends_its_association_after_the_timeout() -> None:
    with gate(timeout_s=0.5) as made, made.associate() as caller, suppress(ConnectionError):
        for byte in data((bytes(60_000), False, True)):
            caller.sendall(bytes([byte]))
            time.sleep(0.02)
        pytest.fail("it had 1,200 s")


def test_a_sender_is_accepted_while_idle_connections_fill_its_address() -> None:
    with gate() as made:
        idle = [made.call() for _ in range(3 * front.MAX_PENDING)]
        began = time.monotonic()
        made.associate().close()
        assert time.monotonic() - began < front.REQUEST_S
        for caller in idle[: -front.MAX_PENDING]:
            assert is_ended(caller)
        for caller in idle:
            caller.close()


def test_nothing_is_read_from_an_address_that_is_not_listed(caplog: pytest.LogCaptureFixture) -> None:
    with gate(senders=(SenderConfig(ae_title=SENDER, address="192.0.2.1"),)) as made:
        for _ in range(20):
            with made.call() as caller, suppress(ConnectionError):
                caller.sendall(request())
                assert caller.recv(1) == b""
    assert made.inside.received == []
    assert caplog.text.count("127.0.0.1 is not one of the configured senders") == 1  # a flood does not fill the log


@pytest.mark.parametrize(
    ("titles", "reason"), [({"calling": "OTHER"}, 3), ({"called": "OTHER"}, 7), ({"calling": ""}, 3)]
)
def test_unknown_ae_titles_are_rejected_with_the_reason(shared: Gate, titles: dict[str, str], reason: int) -> None:
    with shared.call() as caller:
        caller.sendall(request(**titles))
        assert caller.recv(100) == bytes((3, 0, 0, 0, 0, 4, 0, 1, 1, reason))


def test_an_ae_title_is_accepted_only_from_its_configured_address() -> None:
    senders = (SenderConfig(ae_title=SENDER, address="192.0.2.1"), SenderConfig(ae_title="B"))
    with gate(senders=senders) as made, made.call() as caller:
        caller.sendall(request(calling=SENDER))
        assert caller.recv(100)[-1] == 3


def test_associations_are_reserved_for_other_senders() -> None:
    senders = (SenderConfig(ae_title=SENDER), SenderConfig(ae_title="B", address="127.0.0.2"))
    with gate(senders=senders, max_associations=3) as made:
        held = [made.associate(), made.associate()]
        with made.call() as third:
            third.sendall(request())
            assert third.recv(100) == bytes((3, 0, 0, 0, 0, 4, 0, 2, 3, 2))  # transient: the sender may try again
        try:
            other = made.call(by="127.0.0.2")
        except OSError:
            pytest.skip("this machine has one loopback address")
        other.sendall(request(calling="B"))
        assert other.recv(1) == b"!"
        for caller in (*held, other):
            caller.close()


def test_a_new_association_is_accepted_after_one_ends() -> None:
    with gate(max_associations=1) as made:
        for _ in range(3):
            made.associate().close()

            def is_free() -> bool:
                with made.call() as caller:
                    caller.sendall(request())
                    return caller.recv(1) == b"!"

            wait_until(is_free, "room for one more")


def test_a_port_in_use_is_reported(shared: Gate) -> None:
    with pytest.raises(PacsError, match="cannot listen"):
        Front(shared.config, shared.inside.take).start()


@pytest.mark.parametrize(
    ("written", "plain"),
    [("::ffff:10.0.0.1", "10.0.0.1"), ("fe80::1%eth0", "fe80::1"), ("FE80:0::1", "fe80::1"), ("", "")],
)
def test_addresses_are_compared_in_a_common_spelling(written: str, plain: str) -> None:
    assert plain_address(written) == plain


def test_a_sender_is_configured_by_address_not_by_host_name() -> None:
    assert SenderConfig(ae_title="A", address="FE80:0::1").address == "fe80::1"
    with pytest.raises(ValidationError, match="IPv4 or IPv6"):
        SenderConfig(ae_title="A", address="pacs.hospital")
