"""The plan follows its documented rules, and records their reasons."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.config import StudyConfig
from medhybrid.data.fingerprint import CaseFingerprint, combine
from medhybrid.data.plan import BYTES_PER_PATCH_VOXEL, MIN_TOKENS_PER_AXIS, Plan, make_plan
from medhybrid.errors import DataError
from tests.synthetic import small_values

GIB = 2**30


def config(**prepare: object) -> StudyConfig:
    values = small_values(Path("nowhere"))
    values["prepare"] = prepare
    values["network"] = {}
    return StudyConfig.model_validate(values)


def fingerprint(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], values: tuple[float, ...] = (0.0, 9.0)
):  # type: ignore[no-untyped-def]
    case = CaseFingerprint(
        shape=shape, spacing_mm=spacing, foreground_ml={"left": 1.0, "right": 2.0}, samples={"T1": list(values)}
    )
    return combine([case, case])


def test_thin_slices_are_halved_along_every_axis() -> None:
    plan = make_plan(config(), fingerprint((160, 192, 160), (1, 1, 1)), free_memory=8 * GIB)

    assert plan.spacing_mm == (1, 1, 1)
    assert plan.strides == ((2, 2, 2), (2, 2, 2), (2, 2, 2))


def test_thick_slices_are_not_halved_until_the_spacing_is_isotropic() -> None:
    plan = make_plan(config(), fingerprint((200, 200, 24), (1, 1, 5)), free_memory=8 * GIB)

    assert plan.spacing_mm == (1, 1, 5)
    assert [s[2] for s in plan.strides] == [1, 1, 2]


def test_an_axis_of_one_slice_does_not_prevent_halving_of_others() -> None:
    plan = make_plan(config(patch_size=[64, 64, 1]), fingerprint((200, 200, 24), (1, 1, 3)), free_memory=8 * GIB)

    assert plan.strides == ((2, 2, 1),) * 3


@given(
    shape=st.tuples(*(st.integers(16, 512) for _ in range(3))),
    spacing=st.tuples(*(st.floats(0.3, 6.0) for _ in range(3))),
    memory=st.integers(GIB, 64 * GIB),
)
def test_every_plan_fits_network_and_memory(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], memory: int
) -> None:
    study = config()

    plan = make_plan(study, fingerprint(shape, spacing), free_memory=memory)

    total = np.prod(plan.strides, axis=0)
    assert all(p % t == 0 for p, t in zip(plan.patch_size, total, strict=True))
    assert all(p // t >= MIN_TOKENS_PER_AXIS for p, t in zip(plan.patch_size, total, strict=True) if t > 1)
    assert 2 <= plan.batch_size <= 8
    if plan.batch_size > 2:
        assert plan.batch_size * np.prod(plan.patch_size) * BYTES_PER_PATCH_VOXEL <= memory / 2
    assert set(plan.reasons) >= {"spacing_mm", "patch_size", "strides", "batch_size", "normalisation.T1"}


def test_a_patch_of_few_slices_keeps_four_tokens_and_its_number_of_voxels() -> None:
    """With proportional scaling only, it would have 144 x 144 x 8 voxels and one token along Z."""
    plan = make_plan(config(), fingerprint((512, 512, 40), (0.8, 0.8, 1.5)), free_memory=8 * GIB)

    assert plan.patch_size == (88, 88, 32)
    assert np.prod(plan.patch_size) <= config().prepare.max_patch_voxels


def test_a_value_of_the_config_overrides_the_rule_and_is_the_reason() -> None:
    plan = make_plan(config(spacing_mm=(2, 2, 2)), fingerprint((64, 64, 64), (1, 1, 1)), free_memory=GIB)

    assert plan.spacing_mm == (2, 2, 2)
    assert plan.reasons["spacing_mm"] == "config: prepare.spacing_mm"


def test_a_patch_that_does_not_fit_the_strides_is_refused() -> None:
    with pytest.raises(DataError, match=r"multiples of \(8, 8, 8\)"):
        make_plan(config(patch_size=(60, 64, 64)), fingerprint((64, 64, 64), (1, 1, 1)), free_memory=GIB)


def test_ct_is_clipped_and_scaled_by_the_dataset() -> None:
    values = small_values(Path("nowhere"))
    values["data"]["channels"] = [{"name": "T1", "modality": "CT"}]
    samples = tuple(np.linspace(-100, 300, 1000))

    plan = make_plan(StudyConfig.model_validate(values), fingerprint((64, 64, 64), (1, 1, 1), samples), free_memory=GIB)

    rule = plan.normalisation[0]
    assert rule.rule == "clip_and_scale"
    assert rule.low == pytest.approx(-98, abs=0.5)
    assert rule.high == pytest.approx(298, abs=0.5)


def test_saving_and_loading_is_identity(tmp_path: Path) -> None:
    plan = make_plan(config(), fingerprint((64, 64, 64), (1, 1, 3)), free_memory=GIB)

    plan.save(tmp_path / "plan.json")

    assert Plan.load(tmp_path / "plan.json") == plan


def test_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"version": 1}')

    with pytest.raises(DataError, match="is not a valid plan"):
        Plan.load(tmp_path / "plan.json")
