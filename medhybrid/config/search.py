"""Configuration of a hyperparameter search (`medhybrid tune`)."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from medhybrid.config.base import Frozen


class RangeConfig(Frozen):
    """Values of a key in a search: from `low` to `high`, or one of `choices`."""

    low: float | int | None = Field(None, description="Lowest value. If both bounds are integers, so are the values.")
    high: float | int | None = Field(None, description="Highest value.")
    log: bool = Field(False, description="Sample on a logarithmic scale.")
    choices: tuple[Any, ...] = Field((), description="Values to choose from.")

    @model_validator(mode="after")
    def _is_a_range_or_choices(self) -> Self:
        if (self.low is None) != (self.high is None) or (self.low is None) != bool(self.choices):
            raise ValueError("a range needs either low and high, or choices")
        if self.low is not None and self.high is not None and (self.low > self.high or (self.log and self.low <= 0)):
            raise ValueError(f"low must not exceed high, and must be above 0 with log; found {self.low}, {self.high}")
        return self

    def has(self, value: float) -> bool:
        """Return whether the range contains a value."""
        return self.low is not None and self.high is not None and self.low <= value <= self.high

    @property
    def is_whole(self) -> bool:
        """Return whether the values are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


class SearchConfig(Frozen):
    """Hyperparameter search of `medhybrid tune`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Name of the search.")
    trial: dict[str, Any] = Field({}, description="Dotted config keys with values for every trial, such as its length.")
    space: dict[str, RangeConfig] = Field(min_length=1, description="Dotted config keys to search, with their ranges.")
