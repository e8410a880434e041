"""Write docs/reference/schemas/*.json, the JSON Schemas of records for programs: python docs/make_schemas.py."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from medhybrid.inference.folder_record import FolderRecord
from medhybrid.inference.records import Prediction
from medhybrid.steps.models import ModelList

FOLDER = Path(__file__).parent / "reference" / "schemas"

SCHEMAS: dict[str, type[BaseModel]] = {"models": ModelList, "run": FolderRecord, "scan": Prediction}
"""Records by the name of their schema: `models --json`, OUT/run.json, and the record of a scan in OUT/done and OUT/failed."""


def main() -> None:
    """Write the schemas."""
    FOLDER.mkdir(exist_ok=True)
    for name in SCHEMAS:
        (FOLDER / f"{name}.schema.json").write_text(schema(name))


def schema(name: str) -> str:
    """Return the JSON Schema of a record, as medhybrid writes it."""
    made = SCHEMAS[name].model_json_schema(mode="serialization")
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(dialect | made, indent=1) + "\n"


if __name__ == "__main__":
    main()
