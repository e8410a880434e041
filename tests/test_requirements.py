"""The lower bounds of all requirements are the tested versions of constraints.txt."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = sorted(
    {*PROJECT["dependencies"], *(r for n, e in PROJECT["optional-dependencies"].items() if n != "dev" for r in e)}
)
CONSTRAINTS = {
    (c := Requirement(line)).name.lower(): next(iter(c.specifier)).version
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
}


@pytest.mark.parametrize("text", REQUIRED)
def test_the_lower_bound_of_a_requirement_is_the_version_that_is_tested(text: str) -> None:
    requirement = Requirement(text)
    (bound,) = [s.version for s in requirement.specifier if s.operator == ">="]

    assert bound == CONSTRAINTS[requirement.name.lower()]
    assert version(requirement.name).partition("+")[0] == bound, "it must be the installed version"
