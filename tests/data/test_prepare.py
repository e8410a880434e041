"""A prepared image has the plan's spacing, RAS axes, and intensities that do not depend on the scanner's unit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.data.plan import Normalisation
from medhybrid.data.prepare import inside_labels, outside_labels, prepare_image
from medhybrid.errors import DataError
from medhybrid.geometry import Grid, orientation_code
from tests.strategies import grids
from tests.synthetic import AFFINE, SHAPE, blob_case, make_test_plan

TWO_CHANNELS = (
    Normalisation(channel="T1", rule="zscore_foreground", optional=True),
    Normalisation(channel="FLAIR", rule="zscore_foreground"),
)


@given(grid=grids(max_degrees=20))
def test_the_prepared_grid_is_ras_with_the_plans_spacing(grid: Grid) -> None:
    image = np.random.default_rng(0).normal(size=(1, *grid.shape)).astype(np.float32)

    prepared = prepare_image(image, grid, make_test_plan())

    np.testing.assert_allclose(prepared.grid.spacing_mm, (1.5, 1.5, 3.0))
    assert orientation_code(prepared.grid.affine) == "RAS"
    assert prepared.image.shape[1:] == prepared.grid.shape


@given(scale=st.floats(0.01, 1000), offset=st.floats(-100, 1000))
def test_intensities_do_not_depend_on_the_unit_of_the_scanner(scale: float, offset: float) -> None:
    image = blob_case(0)[0][None].astype(np.float64)
    grid = Grid(SHAPE, AFFINE)

    a = prepare_image(image, grid, make_test_plan()).image
    b = prepare_image((image * scale + offset).astype(np.float32), grid, make_test_plan()).image

    np.testing.assert_allclose(a, b, atol=2e-2)
    assert a.min() == 0


def test_a_copied_channel_is_blank_only_if_it_is_optional() -> None:
    image = np.stack([blob_case(0)[0]] * 2).astype(np.float32)

    prepared = prepare_image(image, Grid(SHAPE, AFFINE), make_test_plan(normalisation=TWO_CHANNELS))

    assert not prepared.image[0].any()
    assert prepared.image[1].any()


def test_a_scan_with_another_number_of_channels_is_refused() -> None:
    with pytest.raises(DataError, match="number of channels differs"):
        prepare_image(np.zeros((2, *SHAPE)), Grid(SHAPE, AFFINE), make_test_plan())


@given(values=st.lists(st.integers(1, 65535), min_size=1, max_size=6, unique=True), seed=st.integers(0, 99))
def test_label_values_survive_a_round_trip(values: list[int], seed: int) -> None:
    labels = {f"label_{v}": v for v in values}
    mask = np.random.default_rng(seed).choice([0, *values], size=(4, 4, 4)).astype(np.int32)

    inside = inside_labels(mask, labels)

    assert inside.max() <= len(values)
    np.testing.assert_array_equal(outside_labels(inside, labels), mask)
