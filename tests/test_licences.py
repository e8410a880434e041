"""The runtime dependencies have permissive licences."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

WEAK = {
    "certifi": "MPL-2.0, of its list alone",
    "tqdm": "MPL-2.0 and MIT",
    "fqdn": "MPL-2.0",
    "orjson": "MPL-2.0 or others",
}
"""Weak copyleft for single files, which does not extend to programs that use them."""


def runtime_closure(name: str) -> dict[str, Distribution]:
    """Return the distribution and all its dependencies without extras, by name."""
    found: dict[str, Distribution] = {}
    waiting = [(name, frozenset[str]())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        asked = waiting.pop()
        if asked in seen:
            continue
        seen.add(asked)
        try:
            found[asked[0]] = distribution(asked[0])
        except PackageNotFoundError:
            continue  # for another platform or Python version
        for text in found[asked[0]].requires or ():
            requirement = Requirement(text)
            extras = asked[1] or {""}
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in extras):
                waiting.append((requirement.name.lower(), frozenset(requirement.extras)))
    return found


def licence(found: Distribution) -> str:
    """Return the licence in the metadata, in one line."""
    told = [found.metadata.get("License-Expression") or "", (found.metadata.get("License") or "").split("\n")[0]]
    told += [c for c in found.metadata.get_all("Classifier") or () if c.startswith("License")]
    return "; ".join(t for t in told if t)


def test_no_dependency_of_the_runtime_is_copyleft() -> None:
    closure = runtime_closure("medhybrid")
    assert {"torch", "monai", "mlflow", "ipyniivue", "jinja2"} <= set(closure), "the dependencies were searched"

    strong = {n: licence(d) for n, d in closure.items() if re.search(r"\bA?GPL|Affero|SSPL|Commons Clause", licence(d))}
    weak = {n for n, d in closure.items() if re.search(r"LGPL|MPL|Mozilla|EPL", licence(d))}

    assert not strong
    assert weak <= set(WEAK), weak - set(WEAK)
