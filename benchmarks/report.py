"""Measure the size of a report, and the time to create and to open it.

    python benchmarks/report.py OUT

OUT is a folder of masks from `medhybrid predict`. The index is opened in Chromium from disk, five times. `load` is the time
from the start of navigation to the load event, measured by the browser.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import sync_playwright

import medhybrid
from medhybrid.version import code_revision

RESULT = Path(__file__).parent / "results" / "report.json"
ROUNDS = 5


def load_s(page: Path) -> list[float]:
    """Return the seconds to the load event, for each round."""
    seconds = []
    with sync_playwright() as playwright:
        for _ in range(ROUNDS):
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            tab = browser.new_page()
            tab.goto(page.resolve().as_uri())
            seconds.append(tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
            browser.close()
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Create the report, open it, and write the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args(arguments).out
    began = time.perf_counter()
    index = medhybrid.report(out, layout="pages")
    made = time.perf_counter() - began
    pages = sorted((out / "report").glob("*.html"), key=lambda p: p.stat().st_size)
    record = {
        "n_cases": len(pages),
        "made_s": round(made, 1),
        "index_mib": round(index.stat().st_size / 2**20, 3),
        "median_page_mib": round(pages[len(pages) // 2].stat().st_size / 2**20, 2),
        "viewer_mib": round((out / "report" / "viewer.js").stat().st_size / 2**20, 2),
        "index_load_s": [round(s, 2) for s in load_s(index)],
        "largest_page_load_s": [round(s, 2) for s in load_s(pages[-1])],
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "code": code_revision(),
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))
    print(f"index: {statistics.median(record['index_load_s'])} s, {record['index_mib']} MiB")


if __name__ == "__main__":
    main()
