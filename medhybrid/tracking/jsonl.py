"""Log of a run in `log.jsonl`, one JSON object per line; it is written with or without MLflow."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the events of a `log.jsonl`; lines that are not complete JSON objects are skipped, as a kill leaves them."""
    events = []
    for line in path.read_text().splitlines():
        with suppress(ValueError):
            events.append(json.loads(line))
    return [e for e in events if isinstance(e, dict)]


class JsonlTracker:
    """Tracker that appends events to a file; see `medhybrid.training.tracker.Tracker`."""

    run_id: str | None = None

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path

    def _write(self, kind: str, **values: object) -> None:
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **values})
        try:
            with self.path.open("a") as file:
                file.write(line + "\n")
        except OSError as error:
            logger.warning("%s cannot be written: %s", self.path, error)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log the metrics of a step; NaN and infinite values become null."""
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._write("metrics", step=step, values=finite)

    def log_image(self, path: Path, key: str, step: int) -> None:
        """Log the path of a figure."""
        self._write("image", step=step, key=key, path=str(path))

    def log_file(self, path: Path, folder: str) -> None:
        """Log the path of a file."""
        self._write("file", path=str(path), folder=folder)

    def log_table(self, path: Path, name: str) -> None:
        """Log the path of a table."""
        self._write("table", path=str(path), name=name)

    def describe(self, text: str) -> None:
        """Log the description of the run."""
        self._write("description", text=text)

    def log_model(self, folder: Path, *, register_as: str | None, alias: str) -> None:
        """Log the path of a model folder."""
        self._write("model", path=str(folder))

    def finish(self, status: str) -> None:
        """Log the end of the run."""
        self._write("finish", status=status)
