"""Test `medhybrid listen` under hostile connections: answers for each study, their delay, and memory.

    python benchmarks/listener_soak.py --studies 200 --connections 50 --minutes 10

The listener has a small untrained network. A listed sender pushes generated studies (16 slices) at a steady rate. The first
tenth is pushed without, the rest with hostile connections. These come in equal parts from the address of the sender and from
an unlisted address. They stay silent, send a request byte by byte, announce 1,000 MiB, send HTTP, use another AE title, or
connect and close as fast as possible. Writes results/listener_soak.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from memory import RESULTS, free_port, wait_until_open
from scale import SHAPE, write_model

TITLE = "MEDHYBRID"
ADDRESSES = ("127.0.0.1", "127.0.0.3")


class Hostile:
    """Hostile connections that are opened again until `stop` is set."""

    def __init__(self, port: int) -> None:
        self.port, self.stop, self.made = port, threading.Event(), Counter[str]()

    def run(self, n: int) -> None:
        """Keep `n` connections open until the standard input ends, and print the number of connections of each kind."""
        kinds = itertools.cycle(itertools.product(ADDRESSES, KINDS))
        threads = [threading.Thread(target=self.keep_on, args=next(kinds), daemon=True) for _ in range(n)]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        self.stop.set()
        print(json.dumps(self.made))

    def keep_on(self, address: str, kind: str) -> None:
        """Open one connection after the other."""
        while not self.stop.is_set():
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=5, source_address=(address, 0)) as caller,
            ):
                self.made[kind] += 1
                KINDS[kind](caller, self.stop)
            self.stop.wait(0.01)


def be_silent(caller: socket.socket, stop: threading.Event) -> None:
    """Send nothing, and wait until the listener closes the connection."""
    while not stop.is_set():
        with suppress(TimeoutError):
            if not caller.recv(1):
                return


def drip(caller: socket.socket, stop: threading.Event) -> None:
    """Send a request of 60,000 bytes, ten bytes per second."""
    for byte in struct.pack(">BxI", 1, 60_000) + bytes(60_000):
        caller.sendall(bytes([byte]))
        if stop.wait(0.1):
            return


def announce_much(caller: socket.socket, stop: threading.Event) -> None:
    """Announce a request of 1,000 MiB, and send data."""
    caller.sendall(struct.pack(">BxI", 1, 1000 << 20))
    while not stop.is_set():
        caller.sendall(bytes(1 << 16))


def speak_http(caller: socket.socket, stop: threading.Event) -> None:
    """Send an HTTP request."""
    caller.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    be_silent(caller, stop)


def use_another_title(caller: socket.socket, stop: threading.Event) -> None:
    """Send a complete association request with an AE title that is not listed."""
    body = b"\0\1\0\0" + TITLE.ljust(16).encode() + b"STRANGER        " + bytes(32)
    caller.sendall(struct.pack(">BxI", 1, len(body)) + body)
    be_silent(caller, stop)


def close_at_once(_caller: socket.socket, _stop: threading.Event) -> None:
    """Close the connection without sending."""


KINDS = {f.__name__: f for f in (be_silent, drip, announce_much, speak_http, use_another_title, close_at_once)}


class Studies:
    """Sender that pushes studies and receives their results."""

    def __init__(self, port: int, target: int, folder: Path) -> None:
        from pynetdicom import AE, AllStoragePresentationContexts, evt

        self.port, self.folder = port, folder
        self.answered: dict[str, list[float]] = {}
        self.change = threading.Condition()
        ae = AE(ae_title="DEST")
        ae.supported_contexts = AllStoragePresentationContexts
        handlers = [(evt.EVT_C_STORE, self._on_store)]
        self.server = ae.start_server(("127.0.0.1", target), block=False, evt_handlers=handlers)

    def _on_store(self, event: Any) -> int:
        with self.change:
            self.answered.setdefault(str(event.dataset.StudyInstanceUID), []).append(time.monotonic())
            self.change.notify_all()
        return 0x0000

    def push(self, name: str) -> tuple[float, float, bool]:
        """Push one study; return seconds until it was accepted, seconds until its second result, and whether both arrived."""
        from pydicom import dcmread

        from medhybrid.scans.dicom.write import write_mr_series
        from medhybrid.scans.pacs import parse_endpoint, send_files

        values = np.random.default_rng(abs(hash(name)) % 2**32).integers(0, 1000, SHAPE).astype(np.uint16)
        spacing = np.diag([2.0, 2.0, 2.0, 1.0])
        files = write_mr_series(self.folder / name, values, spacing, description="T1", study=name, case="c")
        uid = str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)
        began = time.monotonic()
        send_files(parse_endpoint(f"dimse://{TITLE}@127.0.0.1:{self.port}"), files)
        taken = time.monotonic()
        with self.change:
            if not self.change.wait_for(lambda: len(self.answered.get(uid, ())) >= 2, timeout=120):
                return taken - began, float("inf"), False
            return taken - began, self.answered[uid][1] - began, True

    def n_answered_once(self) -> int:
        """Count the studies with exactly two results, a segmentation and a report."""
        return sum(len(times) == 2 for times in self.answered.values())


def spread(values: list[float]) -> dict[str, float]:
    """Return median, 95th percentile and maximum."""
    return {
        "median": round(statistics.median(values), 3),
        "p95": round(float(np.percentile(values, 95)), 3),
        "most": round(max(values), 3),
    }


def soak(n_studies: int, n_connections: int, minutes: float) -> dict[str, Any]:
    """Run the listener, the sender and the hostile connections, and return the measurements."""
    port, target = free_port(), free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        config = {"port": port, "senders": [{"ae_title": TITLE}], "send_to": f"dimse://DEST@127.0.0.1:{target}"}
        config |= {"spool": str(folder / "spool"), "wait_s": 3.0, "min_free_mb": 1}
        (folder / "listen.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "medhybrid", "listen", "--config", str(folder / "listen.yaml")]
        process = subprocess.Popen(
            [*command, "--model", str(folder / "model")], env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        studies = Studies(port, target, folder)
        wait_until_open(port)
        pace_s = minutes * 60 / n_studies
        alone = [push_at(studies, f"alone{n}", pace_s) for n in range(max(1, n_studies // 10))]
        memory_alone = psutil.Process(process.pid).memory_info().rss / 2**20
        hostile = subprocess.Popen(
            [sys.executable, __file__, "--hostile", str(port), "--connections", str(n_connections)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        beside, memory = [], [memory_alone]
        for n in range(n_studies):
            beside.append(push_at(studies, f"beside{n}", pace_s))
            memory.append(psutil.Process(process.pid).memory_info().rss / 2**20)
        made, _ = hostile.communicate()
        process.terminate()
        process.wait(60)
        studies.server.shutdown()
        return {
            "studies": n_studies,
            "answered_once": studies.n_answered_once() - len(alone),
            "hostile_connections_at_once": n_connections,
            "hostile_connections_made": json.loads(made),
            "seconds_to_take": {"alone": spread([a[0] for a in alone]), "beside": spread([b[0] for b in beside])},
            "seconds_to_answer": {"alone": spread([a[1] for a in alone]), "beside": spread([b[1] for b in beside])},
            "resident_mib": {"alone": round(memory_alone), "most_beside": round(max(memory))},
        }


def push_at(studies: Studies, name: str, pace_s: float) -> tuple[float, float, bool]:
    """Push one study, and wait until the next is due."""
    began = time.monotonic()
    outcome = studies.push(name)
    time.sleep(max(0.0, pace_s - (time.monotonic() - began)))
    return outcome


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the test, and write and print its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--hostile", type=int, metavar="PORT", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.hostile:
        Hostile(chosen.hostile).run(chosen.connections)
        return
    record = soak(chosen.studies, chosen.connections, chosen.minutes)
    (RESULTS / "listener_soak.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
