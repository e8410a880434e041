"""Ports and requests for tests that start a server."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any

import psutil

from tests.patience import patience_s


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens_beyond_this_machine(pid: int) -> list[str]:
    """Return the addresses, except loopback, on which a process or its children listen."""
    process = psutil.Process(pid)
    found = [c.laddr.ip for p in (process, *process.children(recursive=True)) for c in connections_of(p)]
    return [ip for ip in found if ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")]


def connections_of(process: psutil.Process) -> list[Any]:
    with suppress(psutil.NoSuchProcess):
        return [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    return []


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=patience_s()) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
