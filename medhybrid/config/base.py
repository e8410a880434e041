"""The base of our config models."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

from medhybrid.files import read_mode


class Frozen(BaseModel):
    """Base of our models: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def mode_text(value: object) -> object:
    """Return the permissions of files as text; YAML reads 0640 as a number. Raises `ValueError` for what is no mode."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if re.fullmatch("[67][0-7]{2}", str(value)) else f"{value:04o}"
    if isinstance(value, str):
        read_mode(value)
    return value
