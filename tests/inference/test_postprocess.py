"""Component rules change masks only as requested."""

import numpy as np
from scipy import ndimage

from medhybrid.inference.postprocess import apply_component_rules


def labels() -> np.ndarray:
    out = np.zeros((12, 6, 6), np.uint8)
    out[:4, :4, :4] = 1
    out[6:8, :2, :2] = 1
    out[9:, 4:, 4:] = 2
    return out


def run(**rules: object) -> np.ndarray:
    values = {"names": ("a", "b"), "keep_largest": (), "min_component_ml": 0.0, "voxel_ml": 0.001}
    return apply_component_rules(labels(), **{**values, **rules})  # type: ignore[arg-type]


def test_without_rules_nothing_changes() -> None:
    np.testing.assert_array_equal(run(), labels())


def test_only_the_named_label_is_reduced_to_its_largest_component() -> None:
    out = run(keep_largest=("a",))

    assert ndimage.label(out == 1)[1] == 1
    assert (out == 1).sum() == 64
    assert (out == 2).sum() == (labels() == 2).sum()


def test_small_components_are_removed_by_volume() -> None:
    out = run(min_component_ml=0.01)

    assert (out == 1).sum() == 64
    assert (out == 2).sum() == 12


def test_volume_counts_in_millilitres() -> None:
    assert (run(min_component_ml=0.01, voxel_ml=0.008) == 1).sum() == 72
