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
    values = {"structures": {"a": (1,), "b": (2,)}, "keep_largest": (), "min_component_ml": 0.0, "voxel_ml": 0.001}
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


REGIONS = {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}


def nested() -> np.ndarray:
    """Return a large tumour with two cores, the larger one with an enhancing part, and a small tumour that is all core."""
    out = np.zeros((16, 6, 6), np.uint8)
    out[:10] = 1
    out[1:5, 1:5, 1:5] = 2
    out[2:4, 2:4, 2:4] = 3
    out[7:9, 1:3, 1:3] = 2
    out[13:15, :2, :2] = 2
    return out


def run_on_regions(**rules: object) -> np.ndarray:
    values = {"structures": REGIONS, "keep_largest": (), "min_component_ml": 0.0, "voxel_ml": 0.001}
    return apply_component_rules(nested(), **{**values, **rules})  # type: ignore[arg-type]


def test_a_component_that_is_removed_from_a_region_stays_in_the_outer_one() -> None:
    expected = nested()
    expected[7:9, 1:3, 1:3] = 1
    expected[13:15, :2, :2] = 1  # not in the largest core, but still whole tumour

    np.testing.assert_array_equal(run_on_regions(keep_largest=("core",)), expected)


def test_a_component_that_is_removed_from_a_region_is_removed_from_the_inner_ones() -> None:
    expected = nested()
    expected[13:15] = 0

    np.testing.assert_array_equal(run_on_regions(keep_largest=("whole",)), expected)


def test_small_components_of_each_region_are_removed_by_volume() -> None:
    expected = nested()
    expected[13:15] = 0  # 8 voxels of whole tumour
    expected[7:9, 1:3, 1:3] = 1  # 8 voxels of core
    expected[2:4, 2:4, 2:4] = 2  # 8 voxels of enhancing tumour

    np.testing.assert_array_equal(run_on_regions(min_component_ml=0.009), expected)
