"""The speed of steps of other patches, from two that were timed."""

from __future__ import annotations

import pytest

from medhybrid.planning import Budget, make_plan, rates
from medhybrid.planning.rates import measure_rates
from tests.planning.test_plan import GIB, SLOW, config, fingerprint


@pytest.mark.parametrize("small_s", [0.05, 0.1, 0.15, 0.199, 0.25])
def test_a_small_patch_never_seems_to_cost_nothing(small_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the two times are, as beside other programs, the larger one is met and a tenth of the smaller one is fixed."""
    study = config()
    plan = make_plan(
        study, fingerprint((160, 160, 100), (1, 1, 1), thickness_mm=20), Budget(20, None, 8 * GIB), rates=SLOW
    )
    times = iter([rates._Times(0.01, 0.2, "cpu"), rates._Times(0.01, small_s, "cpu")])
    monkeypatch.setattr(rates, "_time_steps", lambda *_: next(times))

    found = measure_rates(study, plan)

    assert found.fixed_s >= 0.1 * min(small_s, 0.2)
    assert found.gflop_s > 0
    assert next(times, None) is None  # a patch that cannot be halved is timed with a smaller batch
