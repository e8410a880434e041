"""Send scans to `medhybrid serve` from many clients at once, and count lost, doubled and failed jobs.

    python benchmarks/serve_load.py --model RUN --scan scan.nii.gz --clients 50 --jobs 4

Each client sends its scans one after the other and polls until each has ended; a refused one is sent again after the time that
the service states. The result is added to results/serve_load.json.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

RESULTS = Path(__file__).parent / "results" / "serve_load.json"


def send_all(client: httpx.Client, scan: Path, n: int) -> list[tuple[str, str, float, int]]:
    """Send a scan `n` times; return job, state, seconds to the result and number of refusals of each."""
    found = []
    for _ in range(n):
        began, refused = time.monotonic(), 0
        while True:
            query = {"model": "model", "name": scan.name}
            answer = client.post("/jobs", params=query, content=scan.read_bytes())
            if answer.status_code == 202:
                break
            assert answer.status_code == 503, answer.text
            refused += 1
            time.sleep(1)
        job = answer.json()["job"]
        while (state := client.get(f"/jobs/{job}").json()["state"]) in ("queued", "running"):
            time.sleep(0.5)
        found.append((job, state, time.monotonic() - began, refused))
    return found


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the service and its clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--scan", required=True, type=Path)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=4)
    given = parser.parse_args(arguments)
    token, port = secrets.token_hex(16), _free_port()
    with tempfile.TemporaryDirectory() as spool:
        command = [sys.executable, "-m", "medhybrid", "serve", "--model", f"model={given.model}", "--spool", spool]
        command += ["--port", str(port), "--max-queued", str(max(1, given.clients // 2)), "--device", "cpu"]
        service = subprocess.Popen(command, env=os.environ | {"MEDHYBRID_TOKEN": token})
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers=headers,
            timeout=600,
            limits=httpx.Limits(max_connections=None),
        ) as client:
            while True:
                try:
                    client.get("/health")
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
            began = time.monotonic()
            with ThreadPoolExecutor(given.clients) as pool:
                parts = list(pool.map(lambda _: send_all(client, given.scan, given.jobs), range(given.clients)))
            seconds = time.monotonic() - began
            metrics = client.get("/metrics").text
        service.terminate()
        service.wait()
        done = [p.name for p in (Path(spool) / "done").iterdir()]
    ended = [one for part in parts for one in part]
    jobs = [job for job, *_ in ended]
    record = {
        "clients": given.clients,
        "jobs": len(ended),
        "done": sum(state == "done" for _, state, *_ in ended),
        "lost": len(set(jobs) - set(done)),
        "doubled": len(jobs) - len(set(jobs)) + len(set(done) - set(jobs)),
        "refused_for_now": sum(refused for *_, refused in ended),
        "seconds": round(seconds, 1),
        "jobs_per_second": round(len(ended) / seconds, 2),
        "median_s": round(statistics.median(s for _, _, s, _ in ended), 1),
        "cores": os.cpu_count(),
    }
    assert f"medhybrid_jobs_received_total {len(ended)}" in metrics
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
