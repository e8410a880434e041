"""The config of a search for settings (`medhybrid tune`)."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from medhybrid.config.base import Frozen


class RangeConfig(Frozen):
    """Values that a search may take for a key: from `low` to `high`, or one of `choices`."""

    low: float | int | None = Field(None, description="Least value; whole numbers give whole numbers.")
    high: float | int | None = Field(None, description="Largest value.")
    log: bool = Field(False, description="Equal chances for equal factors.")
    choices: tuple[Any, ...] = Field((), description="The values to choose from.")

    @model_validator(mode="after")
    def _is_a_range_or_choices(self) -> Self:
        if (self.low is None) != (self.high is None) or (self.low is None) != bool(self.choices):
            raise ValueError("give low and high, or choices")
        if self.low is not None and self.high is not None and (self.low > self.high or (self.log and self.low <= 0)):
            raise ValueError(f"low must be below high, and above 0 with log; found {self.low}, {self.high}")
        return self

    def has(self, value: float) -> bool:
        """Whether the range has a value."""
        return self.low is not None and self.high is not None and self.low <= value <= self.high

    @property
    def is_whole(self) -> bool:
        """Whether the values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


class SearchConfig(Frozen):
    """What `medhybrid tune` tries."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Name of the search.")
    trial: dict[str, Any] = Field({}, description="Config keys (dotted) that every trial has, as its length.")
    space: dict[str, RangeConfig] = Field(min_length=1, description="Config keys (dotted) and their values.")
