"""Base of the config models: immutable, unknown keys refused, keys of earlier versions accepted."""

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
        Keys of earlier versions, and their present names. Records of earlier versions are read with it. For a user's file,
        `load` also logs a warning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    renamed: ClassVar[dict[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _take_earlier_names(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not cls.renamed.keys() & values.keys():
            return values
        if twice := [f"{old} and {new}" for old, new in cls.renamed.items() if old in values and new in values]:
            raise ValueError(f"earlier and present name of the same key: {', '.join(twice)}; keep only the present one")
        return {cls.renamed.get(key, key): value for key, value in values.items()}

    def text_for_hash(self) -> str:
        """Return JSON with the first name of each key, so that its hash stays the same when a key is renamed."""
        text = self.model_dump_json()
        for old, new in self.renamed.items():
            text = text.replace(f'"{new}":', f'"{old}":')
        return text


def mode_text(value: object) -> object:
    """Return file permissions as text, also where YAML has read 0640 as a number.

    Raises
    ------
    ValueError
        If the text is not three octal digits from 600 on.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        # 640 was meant as octal digits; YAML has converted 0640 to 416 already
        value = str(value) if re.fullmatch("[67][0-7]{2}", str(value)) else f"{value:04o}"
    if isinstance(value, str):
        read_mode(value)
    return value
