"""Measure the memory of a long run over time, to find leaks.

    python benchmarks/memory.py watch train -- medhybrid train --config hippocampus.yaml data.root=DATA training.max_minutes=120
    python benchmarks/memory.py listen --studies 1000

`watch` runs a command and measures its process every 10 seconds. `listen` starts `medhybrid listen` with a small untrained
network, pushes generated studies (16 slices) to it, and receives the results. Each writes results/memory_<name>.json and .png:
resident MiB over minutes or studies, and the growth between the medians of the first and the last fifth. `scale.py` measures
`predict`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from scale import SHAPE, write_model

RESULTS = Path(__file__).parent / "results"
Points = list[tuple[float, float]]


def write_record(name: str, unit: str, points: Points, **more: Any) -> None:
    """Write the record and its figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fifth = max(1, len(points) // 5)
    first, last = (statistics.median(m for _, m in part) for part in (points[:fifth], points[-fifth:]))
    record = {"unit": unit, "growth_mib": round(last - first, 1), "most_mib": max(m for _, m in points), **more}
    points = points[:: max(1, len(points) // 200)]
    (RESULTS / f"memory_{name}.json").write_text(json.dumps(record | {"points": points}) + "\n")
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    axes.plot(*zip(*points, strict=True))
    axes.set(xlabel=unit, ylabel="resident MiB", ylim=(0, 1.1 * record["most_mib"]), title=name)
    figure.savefig(RESULTS / f"memory_{name}.png", dpi=110)
    print(record)


def watch(name: str, command: list[str], seconds: float = 10) -> None:
    """Run a command to its end and record its memory."""
    process, began = subprocess.Popen(command), time.monotonic()
    points: Points = []
    while process.poll() is None:
        try:
            points.append(
                (round((time.monotonic() - began) / 60, 2), psutil.Process(process.pid).memory_info().rss / 2**20)
            )
        except psutil.Error:
            break
        time.sleep(seconds)
    write_record(name, "minutes", points, command=command, returncode=process.wait())


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def listen(n_studies: int) -> None:
    """Push studies to a listener, one after the other, and wait for the results of each."""
    from pynetdicom import AE, AllStoragePresentationContexts, evt

    from medhybrid.scans.dicom.write import write_mr_series
    from medhybrid.scans.pacs import parse_endpoint, send_files

    arrived = threading.Semaphore(0)

    def on_store(_: evt.Event) -> int:
        arrived.release()
        return 0x0000

    destination, port, target = AE(ae_title="DEST"), free_port(), free_port()
    destination.supported_contexts = AllStoragePresentationContexts
    server = destination.start_server(("127.0.0.1", target), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        config = {"port": port, "senders": [{"ae_title": "MEDHYBRID"}], "send_to": f"dimse://DEST@127.0.0.1:{target}"}
        config |= {"spool": str(folder / "spool"), "wait_s": 0.3, "min_free_mb": 1}
        (folder / "listen.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "medhybrid", "listen", "--config", str(folder / "listen.yaml")]
        process = subprocess.Popen(
            [*command, "--model", str(folder / "model")], env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        us, points, rng = parse_endpoint(f"dimse://MEDHYBRID@127.0.0.1:{port}"), [], np.random.default_rng(0)
        wait_until_open(port)
        for n in range(n_studies):
            values = rng.integers(0, 1000, SHAPE).astype(np.uint16)
            study = folder / "study"
            files = write_mr_series(
                study, values, np.diag([2.0, 2.0, 2.0, 1.0]), description="T1", study=f"s{n}", case="c"
            )
            send_files(us, files)
            for _ in ("segmentation", "report"):
                if not arrived.acquire(timeout=60):
                    raise SystemExit(f"study {n}: no result within 60 s")
            points.append((float(n + 1), psutil.Process(process.pid).memory_info().rss / 2**20))
        process.terminate()
        process.wait(60)
        write_record("listen", "studies", points)
    server.shutdown()


def wait_until_open(port: int, seconds: float = 60) -> None:
    """Wait until a port accepts connections."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise SystemExit("the listener does not answer")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the chosen measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    a_command = ways.add_parser("watch")
    a_command.add_argument("name")
    a_command.add_argument("command", nargs=argparse.REMAINDER)
    of_studies = ways.add_parser("listen")
    of_studies.add_argument("--studies", type=int, default=1000)
    chosen = parser.parse_args(arguments)
    if chosen.way == "watch":
        watch(chosen.name, [part for part in chosen.command if part != "--"])
    else:
        listen(chosen.studies)


if __name__ == "__main__":
    main()
