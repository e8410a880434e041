"""The run's own record: one JSON object a line in `log.jsonl`, whatever else records the run."""

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
    """The events of a `log.jsonl`; a line that a kill cut off is no event."""
    events = []
    for line in path.read_text().splitlines():
        with suppress(ValueError):
            events.append(json.loads(line))
    return [e for e in events if isinstance(e, dict)]


class JsonlTracker:
    """Appends to a file; see `medhybrid.training.tracker.Tracker`."""

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
        """One line."""
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._write("metrics", step=step, values=finite)

    def log_image(self, path: Path, key: str, step: int) -> None:
        """Where the picture is."""
        self._write("image", step=step, key=key, path=str(path))

    def log_file(self, path: Path, folder: str) -> None:
        """Where the file is."""
        self._write("file", path=str(path), folder=folder)

    def log_table(self, path: Path, name: str) -> None:
        """Where the table is."""
        self._write("table", path=str(path), name=name)

    def describe(self, text: str) -> None:
        """The text."""
        self._write("description", text=text)

    def log_model(self, folder: Path, *, register_as: str | None, alias: str) -> None:
        """Where the model is."""
        self._write("model", path=str(folder))

    def finish(self, status: str) -> None:
        """The last line."""
        self._write("finish", status=status)
