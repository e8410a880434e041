"""The plan fits the budget, keeps what the config sets, and records reasons and rejected alternatives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medhybrid.config import StudyConfig
from medhybrid.data.fingerprint import CaseFingerprint, Fingerprint, combine, fingerprint_case, largest_structure
from medhybrid.data.plan import Plan
from medhybrid.errors import DataError
from medhybrid.planning import Budget, Rates, make_plan
from medhybrid.planning.geometry import MIN_TOKENS_PER_AXIS
from tests.synthetic import small_values

GIB = 2**30
SLOW = Rates(device="slow", fixed_s=0.1, voxel_ns=60, gflop_s=0.1)
FAST = Rates(device="fast", fixed_s=0.01, voxel_ns=1, gflop_s=0.0002)
STEPS = Budget(None, 1000, 8 * GIB)


def minutes(n: float, memory: int = 8 * GIB) -> Budget:
    return Budget(n, None, memory)


def config(labels: dict[str, Any] | None = None, **prepare: object) -> StudyConfig:
    values = small_values(Path("nowhere"))
    values["prepare"] = prepare
    values["network"] = {}
    if labels is not None:
        values["data"]["labels"] = labels
    return StudyConfig.model_validate(values)


def fingerprint(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    *,
    labels_mm: tuple[float, float, float] | None = None,
    thickness_mm: float | tuple[float, float] | None = None,
    values: tuple[float, ...] = (0.0, 9.0),
) -> Fingerprint:
    x, y, z = (n * s / 2 for n, s in zip(shape, spacing, strict=True))
    left, right = thickness_mm if isinstance(thickness_mm, tuple) else (thickness_mm, thickness_mm)
    thickness = {} if left is None else {"left": (left,) * 3, "right": (right,) * 3}
    case = CaseFingerprint(
        shape=shape,
        spacing_mm=spacing,
        foreground_ml={"left": 1.0, "right": 2.0},
        samples={"T1": list(values)},
        labels_mm=labels_mm or (x, y, z),
        thickness_mm=thickness,
    )
    return combine([case, case])


def test_thin_slices_are_halved_along_every_axis() -> None:
    plan = make_plan(config(), fingerprint((64, 80, 64), (1, 1, 1)), STEPS)

    assert plan.spacing_mm == (1, 1, 1)
    assert plan.strides == ((2, 2, 2), (2, 2, 2), (2, 2, 2))


def test_thick_slices_are_not_halved_until_the_spacing_is_isotropic() -> None:
    plan = make_plan(config(), fingerprint((100, 100, 24), (1, 1, 5), thickness_mm=4), STEPS)

    assert plan.spacing_mm == (1, 1, 5)
    assert [s[2] for s in plan.strides] == [1, 1, 2]


def test_an_axis_of_one_slice_does_not_prevent_halving_of_others() -> None:
    plan = make_plan(config(patch_size=[64, 64, 1]), fingerprint((200, 200, 24), (1, 1, 3)), STEPS)

    assert plan.strides == ((2, 2, 1),) * 3


@settings(max_examples=25)
@given(
    shape=st.tuples(*(st.integers(8, 512) for _ in range(3))),
    spacing=st.tuples(*(st.floats(0.3, 6.0) for _ in range(3))),
    share=st.floats(0.05, 1.0),
    budget=st.sampled_from([minutes(1), minutes(600, 64 * GIB), STEPS]),
    rates=st.sampled_from([SLOW, FAST]),
)
def test_every_plan_fits_network_and_memory(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], share: float, budget: Budget, rates: Rates
) -> None:
    x, y, z = (n * s * share for n, s in zip(shape, spacing, strict=True))

    plan = make_plan(config(), fingerprint(shape, spacing, labels_mm=(x, y, z)), budget, rates=rates)

    total = np.prod(plan.strides, axis=0)
    assert all(p % t == 0 for p, t in zip(plan.patch_size, total, strict=True))
    assert all(p // t >= MIN_TOKENS_PER_AXIS for p, t in zip(plan.patch_size, total, strict=True) if t > 1)
    assert all(s >= n - 1e-3 for s, n in zip(plan.spacing_mm, spacing, strict=True)), "finer than the scans"
    assert 2 <= plan.batch_size <= 8
    assert plan.prediction is not None
    assert plan.prediction.memory_bytes <= budget.memory
    assert set(plan.reasons) >= {"spacing_mm", "patch_size", "strides", "batch_size", "preset", "normalisation.T1"}


def test_less_time_gives_a_coarser_grid_and_a_smaller_network() -> None:
    large = fingerprint((400, 400, 90), (0.6, 0.6, 0.6), labels_mm=(80, 80, 45), thickness_mm=30)

    short, long = (make_plan(config(), large, minutes(n, 40 * GIB), rates=r) for n, r in ((15, SLOW), (720, FAST)))

    assert min(short.spacing_mm) >= 1.2
    assert short.preset == "S"
    assert long.spacing_mm == (0.6, 0.6, 0.6)
    assert long.preset in ("L", "XL")
    assert np.prod(long.patch_size) > 8 * np.prod(short.patch_size)


def test_thin_labels_keep_a_finer_grid_than_thick_ones() -> None:
    plans = [
        make_plan(
            config(),
            fingerprint((200, 200, 200), (1, 1, 1), labels_mm=(60, 60, 60), thickness_mm=t),
            minutes(30),
            rates=SLOW,
        )
        for t in (2.5, 40)
    ]

    assert max(plans[0].spacing_mm) < max(plans[1].spacing_mm)


def test_the_same_rates_give_the_same_plan_and_are_kept_with_it() -> None:
    print_ = fingerprint((160, 160, 100), (1, 1, 1), thickness_mm=20)
    first = make_plan(config(), print_, minutes(20), measure=lambda _config, _plan: SLOW)
    assert first.budget is not None

    again = make_plan(config(), print_, minutes(20), rates=Rates.model_validate(first.budget.rates))

    assert again == first


def test_the_machine_is_not_measured_if_its_speed_does_not_matter() -> None:
    def refuse(_config: StudyConfig, _plan: Plan) -> Rates:
        raise AssertionError("measured")

    by_hand = config(spacing_mm=(1, 1, 1), patch_size=(64, 64, 64), batch_size=2)
    by_hand = by_hand.model_copy(update={"network": by_hand.network.model_copy(update={"preset": "S"})})

    plan = make_plan(by_hand, fingerprint((64, 64, 64), (1, 1, 1)), minutes(10), measure=refuse)

    assert plan.patch_size == (64, 64, 64)


def test_a_value_of_the_config_overrides_the_choice_and_is_the_reason() -> None:
    plan = make_plan(config(spacing_mm=(2, 2, 2)), fingerprint((64, 64, 64), (1, 1, 1)), minutes(10), rates=FAST)

    assert plan.spacing_mm == (2, 2, 2)
    assert plan.reasons["spacing_mm"] == "config: prepare.spacing_mm"


def test_rejected_candidates_are_recorded_with_their_steps_and_the_reason() -> None:
    plan = make_plan(config(), fingerprint((300, 300, 200), (0.7, 0.7, 1), thickness_mm=20), minutes(15), rates=SLOW)

    assert plan.alternatives
    assert all(a.steps > 0 and "expected loss" in a.reason for a in plan.alternatives)
    assert len({a.spacing_mm for a in plan.alternatives}) > 1


def test_labels_thinner_than_two_voxels_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medhybrid.planning.choice.RESOLUTION", 0.01)

    plan = make_plan(
        config(spacing_mm=None),
        fingerprint((400, 400, 400), (1, 1, 1), labels_mm=(300, 300, 300), thickness_mm=(2, 60)),
        minutes(8),
        rates=SLOW,
    )

    assert "thinner than two voxels: left" in plan.reasons["spacing_mm"]


def test_labels_of_unknown_thickness_are_not_taken_for_thick() -> None:
    """From scribbles, the thickness cannot be measured."""
    heart = fingerprint((216, 256, 10), (1.5625, 1.5625, 10), labels_mm=(110, 110, 80))

    plan = make_plan(config(), heart, minutes(5), rates=SLOW)

    assert max(plan.spacing_mm[:2]) < 5
    assert "the thickness of the labels is not known" in plan.reasons["spacing_mm"]


def test_mirroring_exchanges_labels_that_name_both_sides() -> None:
    print_ = fingerprint((64, 64, 64), (1, 1, 1))

    sides = make_plan(config(), print_, STEPS)
    others = make_plan(config({"L1": 1, "L2": 4}), print_, STEPS)
    by_hand = make_plan(config(mirror_axes=[1]), print_, STEPS)

    assert sides.mirror_axes == (0,)
    assert sides.mirror_pairs == (("left", "right"),)
    assert sides.exchange == (0, 2, 1)
    assert sides.reasons["mirror_axes"] == "left-right: the labels left and right are exchanged"
    assert others.mirror_axes == (0,)
    assert others.exchange == ()
    assert others.reasons["mirror_axes"] == "left-right: no label names a side"
    assert by_hand.mirror_axes == (1,)
    assert by_hand.exchange == ()


def test_mirroring_is_off_where_it_would_give_wrong_labels() -> None:
    print_ = fingerprint((64, 64, 64), (1, 1, 1))

    heart = make_plan(config({"right_ventricle": 1, "myocardium": 2, "left_ventricle": 3}), print_, STEPS)
    alone = make_plan(config({"left_kidney": 1, "liver": 2}), print_, STEPS)

    assert heart.mirror_axes == alone.mirror_axes == ()
    assert heart.reasons["mirror_axes"] == "off: left_ventricle and right_ventricle are no mirror images of each other"
    assert alone.reasons["mirror_axes"] == "off: left_kidney names a side, and no label is its other side"


def test_a_patch_that_does_not_fit_the_strides_is_refused() -> None:
    wrong = config(patch_size=(60, 64, 64), spacing_mm=(1, 1, 1))

    with pytest.raises(DataError, match=r"multiples of \(8, 8, 8\)"):
        make_plan(wrong, fingerprint((64, 64, 64), (1, 1, 1)), STEPS)


def test_a_patch_larger_than_the_memory_is_refused_with_the_figures() -> None:
    large = config(patch_size=(512, 512, 512), spacing_mm=(1, 1, 1))

    with pytest.raises(DataError, match=r"no plan fits the memory.*at most 4.0 GiB.*512 x 512 x 512"):
        make_plan(large, fingerprint((512, 512, 512), (1, 1, 1)), minutes(10, 4 * GIB), rates=FAST)


def test_ct_is_clipped_and_scaled_by_the_dataset() -> None:
    values = small_values(Path("nowhere"))
    values["data"]["channels"] = [{"name": "T1", "modality": "CT"}]
    samples = tuple(np.linspace(-100, 300, 1000))

    plan = make_plan(StudyConfig.model_validate(values), fingerprint((64, 64, 64), (1, 1, 1), values=samples), STEPS)

    rule = plan.normalisation[0]
    assert rule.rule == "clip_and_scale"
    assert rule.low == pytest.approx(-98, abs=0.5)
    assert rule.high == pytest.approx(298, abs=0.5)


def test_thickness_is_the_mean_length_of_runs_and_the_extent_spans_all_labels() -> None:
    labels = np.zeros((10, 12, 8), np.uint8)
    labels[2:6, 3:9, 1:3] = 1
    labels[7:9, 3:5, 5:8] = 2
    image = np.ones((1, 10, 12, 8), np.float32)

    case = fingerprint_case(image, labels, (1.0, 2.0, 3.0), 0.006, ["T1"], ["a", "b", "c"])

    assert case.thickness_mm == {"a": (4.0, 12.0, 6.0), "b": (2.0, 4.0, 9.0)}
    assert case.labels_mm == (7.0, 12.0, 21.0)


def test_the_largest_structure_is_the_largest_connected_part_of_a_label_along_each_axis() -> None:
    labels = np.zeros((20, 22, 18), np.uint8)
    labels[1:4, 2:6, 3:5] = 1
    labels[10:19, 10:12, 3:6] = 1  # the larger part of label 1: 9 x 2 x 3
    labels[1:3, 10:21, 8:10] = 2  # 2 x 11 x 2
    labels[4:6, 10:12, 12:17] = 3

    assert largest_structure(labels, [(1,), (2,)], (1.0, 2.0, 3.0)) == (9.0, 22.0, 9.0)
    assert largest_structure(labels, [(1,), (2,), (3,)], (1.0, 2.0, 3.0)) == (9.0, 22.0, 15.0)
    assert largest_structure(labels, [(1, 2, 3)], (1.0, 1.0, 1.0)) == (9.0, 2.0, 3.0)
    assert largest_structure(labels, [(4,), ()], (1.0, 1.0, 1.0)) is None


def test_the_largest_structure_of_a_large_label_map_is_measured_on_a_sample() -> None:
    labels = np.zeros((400, 300, 200), np.uint8)
    labels[50:350, 20:220, 40:150] = 7

    x, y, z = largest_structure(labels, [(7,)], (0.5, 1.0, 1.0)) or (0.0, 0.0, 0.0)

    assert (x, y, z) == pytest.approx((150, 200, 110), abs=4)


def test_a_patch_shows_a_large_structure_with_a_margin() -> None:
    small = fingerprint((200, 240, 140), (1, 1, 1), labels_mm=(60, 60, 60), thickness_mm=25)
    large = small.model_copy(update={"large_labels_mm": (100, 130, 80)})

    plans = [make_plan(config(), f, minutes(60), rates=SLOW) for f in (small, large)]

    fields = [np.array(p.patch_size) * p.spacing_mm for p in plans]
    assert (fields[0] >= 60).all()
    assert (fields[1] >= [100, 130, 80]).all()


def test_labels_all_over_a_body_do_not_coarsen_the_grid_as_a_single_structure_does() -> None:
    body = fingerprint((512, 512, 1000), (0.9, 0.9, 0.9), labels_mm=(350, 250, 800), thickness_mm=25)
    organs, one = (body.model_copy(update={"large_labels_mm": mm}) for mm in ((60, 60, 60), (350, 250, 800)))

    spacings = [min(make_plan(config(), f, minutes(60), rates=SLOW).spacing_mm) for f in (organs, one)]

    assert spacings[0] < spacings[1]


def test_saving_and_loading_is_identity(tmp_path: Path) -> None:
    plan = make_plan(config(), fingerprint((64, 64, 64), (1, 1, 3)), minutes(10), rates=SLOW)

    plan.save(tmp_path / "plan.json")

    assert Plan.load(tmp_path / "plan.json") == plan


def test_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"version": 1}')

    with pytest.raises(DataError, match="is not a valid plan"):
        Plan.load(tmp_path / "plan.json")
