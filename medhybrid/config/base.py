"""The base of our config models."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Base of our models: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
