"""Which part of a network a weight belongs to, and how deep it lies: what stages and learning rates are said by.

The parts are `encoder`, `transformer` and `decoder`. A pattern (`fnmatch`) over the names of the weights says it finer, as
`encoder.stages.0.*`.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from medhybrid.errors import ConfigError

PARTS = ("encoder", "transformer", "decoder")

ALL = "all"


def part_of(name: str) -> str:
    """The part of a weight, by its name in the network; `decoder` for what stands in neither of the others."""
    first, _, rest = name.partition(".")
    if first == "bottleneck" or (first == "encoder" and rest.startswith("branches.")):
        return "transformer"
    return "encoder" if first == "encoder" else "decoder"


def is_meant(name: str, pattern: str) -> bool:
    """Whether a pattern means this weight: `all`, a part, or an `fnmatch` pattern over names."""
    if pattern in (ALL, *PARTS):
        return pattern in (ALL, part_of(name))
    return fnmatchcase(name, pattern)


def check_patterns(names: Iterable[str], patterns: Iterable[str], *, key: str) -> None:
    """Every pattern must mean some weight.

    Raises
    ------
    ConfigError
        With the names that there are.
    """
    names = list(names)
    for pattern in patterns:
        if not any(is_meant(name, pattern) for name in names):
            modules = sorted({".".join(name.split(".")[:2]) for name in names})
            raise ConfigError(
                f"{key}: {pattern} means no weight of this network",
                expected=f"{', '.join((ALL, *PARTS))}, or a pattern over {', '.join(modules)}",
                remedy="a network without a part has no stage for it",
            )


def depths(names: Iterable[str]) -> dict[str, int]:
    """How deep each weight lies: the stem is 0, each encoder stage and Transformer block one more, the decoder last.

    For learning rates that fall from layer to layer towards the picture (`layer_decay`).
    """
    names = list(names)
    encoder = {n: 1 + _index(n, "stages") for n in names if part_of(n) == "encoder"}
    first = 1 + max(encoder.values(), default=-1)
    blocks = {n: _index(n, "blocks") for n in names if part_of(n) == "transformer"}
    last = first + max([0, *blocks.values()]) if blocks else first - 1
    before = ("to_tokens", "study_tokens", "positions")
    transformer = {
        n: first + b if b >= 0 else (first if any(x in n for x in before) else last) for n, b in blocks.items()
    }
    return {n: encoder.get(n, transformer.get(n, last + 1)) for n in names}


def _index(name: str, of: str) -> int:
    """The number after a piece of the name; -1 where there is none."""
    pieces = name.split(".")
    return int(pieces[pieces.index(of) + 1]) if of in pieces else -1
