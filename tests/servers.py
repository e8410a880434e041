"""For tests that start a server: a port, and whether it answers."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

from tests.patience import patience_s


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=patience_s()) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
