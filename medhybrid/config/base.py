"""The base of the config models: immutable, unknown keys refused, keys of earlier versions accepted."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from medhybrid.files import read_mode


class Frozen(BaseModel):
    """Base of the config models.

    Attributes
    ----------
    renamed : dict
        Keys of earlier versions, and their present names. Records of earlier versions are read by it; a user's file gives a
        warning, too (`load`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    renamed: ClassVar[dict[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _take_earlier_names(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not cls.renamed.keys() & values.keys():
            return values
        if twice := [f"{old} and {new}" for old, new in cls.renamed.items() if old in values and new in values]:
            raise ValueError(f"two names of one key: {', '.join(twice)}")
        return {cls.renamed.get(key, key): value for key, value in values.items()}

    def text_for_hash(self) -> str:
        """Return JSON with the first names of all keys: a hash of it stays the same when a key is renamed."""
        text = self.model_dump_json()
        for old, new in self.renamed.items():
            text = text.replace(f'"{new}":', f'"{old}":')
        return text


def mode_text(value: object) -> object:
    """Return the permissions of files as text; YAML reads 0640 as a number. Raises `ValueError` for what is no mode."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if re.fullmatch("[67][0-7]{2}", str(value)) else f"{value:04o}"
    if isinstance(value, str):
        read_mode(value)
    return value
