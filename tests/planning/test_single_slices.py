"""Scans of one slice get a two-dimensional plan: nothing is convolved, pooled, resampled or rotated across the slice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medhybrid.config import AugmentConfig
from medhybrid.data.augment import apply, draw_parameters
from medhybrid.data.plan import Plan
from medhybrid.data.prepare import prepare_image, prepare_labels
from medhybrid.geometry import Grid
from medhybrid.inference.network import network_for
from medhybrid.planning import Budget, make_plan
from medhybrid.planning.geometry import choose_kernels
from tests.planning.test_plan import FAST, GIB, config, fingerprint, minutes
from tests.synthetic import make_test_plan

RADIOGRAPH = ((512, 640, 1), (0.2, 0.2, 1.0))
SAGITTAL = ((1, 256, 256), (5.0, 1.0, 1.0))
MICROSCOPE = ((1024, 1024, 1), (0.00065, 0.00065, 1.0))
NO_SIZE = ((600, 450, 1), (1.0, 1.0, 1.0))


def plan_of(scan: tuple, budget: Budget) -> Plan:
    return make_plan(config({"lung": 1, "heart": 4}), fingerprint(*scan), budget, rates=FAST)


@pytest.mark.parametrize(
    "scan", [RADIOGRAPH, SAGITTAL, MICROSCOPE, NO_SIZE], ids=["radiograph", "sagittal", "microscope", "photo"]
)
@pytest.mark.parametrize("length", [0.5, 30, 600])
def test_one_slice_gives_a_two_dimensional_network(scan: tuple, length: float) -> None:
    shape, spacing = scan
    axis = shape.index(1)

    plan = plan_of(scan, minutes(length))

    assert plan.patch_size[axis] == 1
    assert {s[axis] for s in plan.strides} == {1}
    assert {k[axis] for k in plan.kernels} == {1}
    assert {n for k in plan.kernels for n in k[:axis] + k[axis + 1 :]} == {3}
    assert plan.spacing_mm[axis] == spacing[axis], "it is not resampled across the slice"
    assert plan.mirror_axes == (() if axis == 0 else (0,))


@pytest.mark.parametrize("n_slices", [2, 8, 24])
def test_thick_stacks_are_volumes(n_slices: int) -> None:
    plan = plan_of(((256, 256, n_slices), (1.2, 1.2, 10.0)), minutes(15))

    assert plan.patch_size[2] > 1
    assert plan.spacing_mm[2] == 10.0
    assert plan.strides[0][2] == 1
    assert plan.kernels[0] == (3, 3, 1), "across slices of 10 mm, neighbours in the plane tell more"
    assert plan.kernels[-1] == (3, 3, 3), "the coarsest level joins the slices"


def test_nearly_isotropic_scans_are_convolved_along_each_axis() -> None:
    assert plan_of(((256, 256, 90), (1.2, 1.2, 2.0)), minutes(15)).kernels == ()


def test_a_patch_of_one_slice_by_hand_gives_a_two_dimensional_network() -> None:
    plan = make_plan(config(patch_size=[64, 64, 1]), fingerprint((200, 200, 24), (1, 1, 3)), Budget(None, 100, 8 * GIB))

    assert plan.kernels == choose_kernels(plan.spacing_mm, plan.patch_size, plan.strides) != ()


def test_its_convolutions_have_no_weights_across_the_slice() -> None:
    plan = make_test_plan(patch_size=(32, 32, 1), strides=((2, 2, 1),) * 2, kernels=((3, 3, 1),) * 2)
    settings = config().network.model_copy(update={"widths": (8, 16), "blocks": (1, 1)})

    network = network_for(settings, plan)

    assert {m.kernel_size[2] for m in network.modules() if isinstance(m, torch.nn.Conv3d)} == {1}
    assert network(torch.zeros(2, 1, 32, 32, 1)).full.shape == (2, 2, 32, 32, 1)


@pytest.mark.parametrize("axis", range(3))
def test_augmentation_stays_within_the_slice(axis: int) -> None:
    def with_one(n: int) -> tuple[int, int, int]:
        x, y, z = (1 if a == axis else n for a in range(3))
        return x, y, z

    patch, read = with_one(16), with_one(20)
    values = AugmentConfig(
        affine_probability=1.0, rotation_degrees=30, low_resolution_probability=1.0, paste_probability=1.0
    )
    image = torch.rand((2, 1, *read), generator=torch.Generator().manual_seed(0)) + 1
    for seed in range(20):
        drawn = [
            draw_parameters(
                values,
                np.random.default_rng((seed, i)),
                spacing_mm=(1, 1, 1),
                mirror_axes=(0,),
                optional=(False,),
                patch_size=patch,
            )
            for i in range(2)
        ]
        x, y = apply(image, torch.ones((2, *read)), drawn, patch_size=patch, spacing_mm=(1, 1, 1))

        assert x.shape == (2, 1, *patch)
        assert torch.isfinite(x).all()
        assert y.float().mean() > 0.8
        for p in drawn:
            assert p.matrix is not None
            others = [a for a in range(3) if a != axis]
            assert not p.matrix[axis, others].any()
            assert not p.matrix[others, axis].any()


def test_a_slice_of_another_thickness_keeps_it() -> None:
    plan = make_test_plan(
        spacing_mm=(2.0, 2.0, 10.0), patch_size=(16, 16, 1), strides=((2, 2, 1),) * 2, kernels=((3, 3, 1),) * 2
    )
    grid = Grid((20, 20, 1), np.diag([1.0, 1.0, 35.0, 1.0]))
    values = np.arange(400, dtype=np.float32).reshape(1, 20, 20, 1)

    prepared = prepare_image(values, grid, plan)

    assert prepared.image.shape == (1, 10, 10, 1)
    assert prepared.grid.spacing_mm == (2.0, 2.0, 35.0)
    assert prepare_labels((values[0] > 200).astype(np.uint8), prepared, plan).shape == (10, 10, 1)


def test_a_slice_in_bf16_gives_the_gradients_of_float32() -> None:
    """torch 2.13 computes strided bf16 convolutions on CPUs wrongly where halving leaves one token; a slice is no such case."""
    plan = make_test_plan(patch_size=(32, 32, 1), strides=((2, 2, 1),) * 2, kernels=((3, 3, 1),) * 2)
    torch.manual_seed(0)
    network = network_for(config().network.model_copy(update={"widths": (8, 16), "blocks": (1, 1)}), plan)
    image = torch.randn(2, 1, 32, 32, 1).contiguous(memory_format=torch.channels_last_3d)
    gradients = []
    for is_bf16 in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            network(image).full.float().square().mean().backward()
        gradients.append(network.encoder.get_parameter("stem.0.weight").grad.flatten().clone())

    assert torch.cosine_similarity(*gradients, dim=0) > 0.98
    assert not plan.is_thin
