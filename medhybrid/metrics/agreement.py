"""Agreement of two observers beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Kappa:
    """Cohen's kappa, with its 95 % bootstrap interval over the cases.

    Attributes
    ----------
    value, low, high : float
        1 is complete agreement, 0 that of chance; NaN if both observers gave one and the same answer to all.
    agreed : float
        Share of cases with the same answer.
    """

    value: float
    low: float
    high: float
    agreed: float
    n: int


def cohen_kappa(answers: Sequence[tuple[str, str]], *, seed: int = 0) -> Kappa:
    """Compute Cohen's kappa (1960) of the answers of two observers, one pair for each case.

    Raises
    ------
    ValueError
        If there is no case.
    """
    if not answers:
        raise ValueError("no case")
    known = sorted({answer for pair in answers for answer in pair})
    coded = np.array([[known.index(a) for a in pair] for pair in answers])
    rng = np.random.default_rng(seed)
    drawn = [_kappa(coded[rng.integers(0, len(coded), len(coded))], len(known)) for _ in range(RESAMPLES)]
    usable = np.array(drawn)[np.isfinite(drawn)]
    low, high = np.percentile(usable, [2.5, 97.5]) if len(usable) else (np.nan, np.nan)
    agreed = float((coded[:, 0] == coded[:, 1]).mean())
    return Kappa(_kappa(coded, len(known)), float(low), float(high), agreed, len(coded))


def _kappa(coded: np.ndarray, n: int) -> float:
    agreed = float((coded[:, 0] == coded[:, 1]).mean())
    shares = [np.bincount(column, minlength=n) / len(coded) for column in coded.T]
    by_chance = float(shares[0] @ shares[1])
    return (agreed - by_chance) / (1 - by_chance) if by_chance < 1 else float("nan")
