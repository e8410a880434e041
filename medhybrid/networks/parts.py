"""Part and depth of each weight of a network, for training stages and layer-wise learning rates.

The parts are `encoder`, `transformer` and `decoder`. An `fnmatch` pattern over the names of the weights selects a smaller set,
for example `encoder.stages.0.*`.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from medhybrid.errors import ConfigError

PARTS = ("encoder", "transformer", "decoder")

ALL = "all"


def part_of(name: str) -> str:
    """Return the part of a weight from its name in the network; `decoder` if it is in neither of the other parts."""
    first, _, rest = name.partition(".")
    if first == "bottleneck" or (first == "encoder" and rest.startswith("branches.")):
        return "transformer"
    return "encoder" if first == "encoder" else "decoder"


def is_meant(name: str, pattern: str) -> bool:
    """Return whether a pattern selects a weight: `all`, a part, or an `fnmatch` pattern over names."""
    if pattern in (ALL, *PARTS):
        return pattern in (ALL, part_of(name))
    return fnmatchcase(name, pattern)


def check_patterns(names: Iterable[str], patterns: Iterable[str], *, key: str) -> None:
    """Check that every pattern selects at least one weight.

    Parameters
    ----------
    key : str
        Config key of the patterns, for the message.

    Raises
    ------
    ConfigError
        If a pattern selects none; the message lists the available names.
    """
    names = list(names)
    for pattern in patterns:
        if not any(is_meant(name, pattern) for name in names):
            modules = sorted({".".join(name.split(".")[:2]) for name in names})
            raise ConfigError(
                f"{key}: {pattern} selects no weight of this network",
                expected=f"{', '.join((ALL, *PARTS))}, or a pattern over {', '.join(modules)}",
                remedy="correct the pattern, or remove it if the network does not have this part",
            )


def depths(names: Iterable[str]) -> dict[str, int]:
    """Return the depth of each weight: 0 for the stem, one more for each encoder stage and Transformer block, then the decoder.

    Layer-wise learning rate decay (`layer_decay`) uses it: rates fall from layer to layer towards the image.
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
    """Return the number that follows a piece of the name; -1 if the name lacks that piece."""
    pieces = name.split(".")
    return int(pieces[pieces.index(of) + 1]) if of in pieces else -1
