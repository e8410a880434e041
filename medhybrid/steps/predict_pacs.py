"""`medhybrid predict --from` and `--to`: a study from a PACS, and results to it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from medhybrid.steps.predict import FolderResult


def fetch(source: str, out: Path) -> Path:
    """Fetch a study from a PACS into `out/fetched`; raises `PacsError`."""
    from medhybrid.scans.pacs import fetch_study, parse_endpoint

    endpoint = parse_endpoint(source)
    folder = out / "fetched" / hashlib.sha256(endpoint.study_uid.encode()).hexdigest()[:32]
    fetch_study(endpoint, folder)
    return folder


def send_results(result: FolderResult, target: str) -> int:
    """Send the SEGs and reports of all finished scans to a PACS; returns their number. Raises `PacsError`."""
    from medhybrid.scans.pacs import parse_endpoint, send_files

    done = [p.case for p in result.predictions if p.status == "done"]
    paths = [result.out / kind / f"{case}.dcm" for case in done for kind in ("seg", "sr", "probabilities")]
    present = [p for p in paths if p.is_file()]
    send_files(parse_endpoint(target), present)
    return len(present)
