"""Stages divide the run, train the chosen weights at their rates, and keep the state of the optimiser."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from medhybrid.config import NetworkConfig, StageConfig, TrainingConfig
from medhybrid.errors import ConfigError
from medhybrid.networks import SegmentationNetwork, build_network
from medhybrid.networks.parts import depths, part_of
from medhybrid.training.losses import compute_loss
from medhybrid.training.optimiser import make_optimiser
from medhybrid.training.stages import learning_rate, plan_stages, rate_factors, stage_at
from tests.synthetic import StudyFolder
from tests.training.test_loop import every_loss, trainer

CONFIG = TrainingConfig(iterations=100, peak_rate=1e-2, warmup_steps=10, final_rate_share=0.01)
THREE = (
    StageConfig(train=("encoder", "decoder"), share=1, name="convolutions"),
    StageConfig(train=("transformer",), share=1),
    StageConfig(share=2, layer_decay=0.5, rates={"transformer": 3.0, "*.norm.*": 0.1}),
)


def network(kind: str = "hybrid", depth: int = 2) -> SegmentationNetwork:
    config = NetworkConfig(kind=kind, widths=(16, 32), blocks=(1, 1), token_width=24, heads=2, depth=depth)
    return build_network(config, n_channels=1, n_labels=1, strides=((2, 2, 2),) * 2, token_mm=(4.0, 4.0, 4.0))


# --- the schedule -----------------------------------------------------------------------------------------------------


def test_the_rate_warms_up_then_falls_to_its_final_share() -> None:
    (stage,) = plan_stages(CONFIG)

    assert learning_rate(CONFIG, stage, 0, 0.0) == pytest.approx(1e-3)
    assert learning_rate(CONFIG, stage, 9, 0.0) == pytest.approx(1e-2)
    assert learning_rate(CONFIG, stage, 500, 0.5) == pytest.approx(1e-2 * (0.01 + 0.99 / 2))
    assert learning_rate(CONFIG, stage, 999, 1.0) == pytest.approx(1e-4)
    assert learning_rate(CONFIG, stage, 999, 1.3) == pytest.approx(1e-4)


def test_a_stage_may_have_a_different_peak_rate() -> None:
    (stage,) = plan_stages(CONFIG.model_copy(update={"stages": (StageConfig(share=1, peak_rate=5.0),)}))

    assert learning_rate(CONFIG, stage, 9, 0.0) == pytest.approx(5.0)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.floats(0, 1))
def test_stages_cover_the_run_in_order_and_without_gap(shares: list[float], progress: float) -> None:
    stages = plan_stages(CONFIG.model_copy(update={"stages": tuple(StageConfig(share=s) for s in shares)}))

    assert stages[0].begin == 0
    assert stages[-1].end == 1
    assert [s.begin for s in stages[1:]] == [s.end for s in stages[:-1]]
    now = stage_at(stages, progress)
    assert now.begin <= progress <= now.end
    assert 0 <= now.progress(progress) <= 1


# --- trained and frozen weights ---------------------------------------------------------------------------------------


def test_weights_belong_to_encoder_transformer_or_decoder() -> None:
    parts = {part_of(name) for name, _ in network().named_parameters()}

    assert parts == {"encoder", "transformer", "decoder"}
    assert part_of("encoder.branches.1.0.to_tokens.weight") == "transformer"
    assert part_of("encoder.stages.1.0.norm.weight") == "encoder"


def test_depth_grows_from_the_image_to_the_decoder() -> None:
    depth = depths(name for name, _ in network().named_parameters())
    path = [
        "encoder.stem.0.weight",
        "encoder.stages.0.0.second.weight",
        "encoder.stages.1.0.second.weight",
        "bottleneck.transformer.blocks.0.norm1.weight",
        "bottleneck.transformer.blocks.1.norm1.weight",
        "decoder.logits.weight",
    ]

    assert [depth[name] for name in path] == list(range(6))


def test_factors_multiply_layer_decay_and_the_last_rate_that_fits() -> None:
    factors = rate_factors((n for n, _ in network().named_parameters()), THREE[2])

    assert factors["decoder.logits.weight"] == 1
    assert factors["encoder.stem.0.weight"] == pytest.approx(0.5**5)
    assert factors["bottleneck.transformer.blocks.1.mlp.0.weight"] == pytest.approx(3 * 0.5)
    assert factors["bottleneck.transformer.norm.weight"] == pytest.approx(0.1 * 0.5)


def test_a_part_that_the_network_lacks_is_refused_with_the_available_names() -> None:
    with pytest.raises(ConfigError, match=r"transformer selects no weight.*encoder\.stages"):
        rate_factors((n for n, _ in network("resnet").named_parameters()), StageConfig(train=("transformer",), share=1))


def step(net: SegmentationNetwork, optimiser, seed: int) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 1, 8, 8, 8, generator=generator)
    optimiser.zero_grad()
    compute_loss(net(image), (image[:, 0] > 0.5).long(), 0.3).total.backward()
    optimiser.set_rate(1e-3)
    optimiser.step()


def test_frozen_weights_have_no_gradient_and_keep_their_momentum() -> None:
    torch.manual_seed(0)
    net = network()
    weights = dict(net.named_parameters())
    optimiser = make_optimiser(net, CONFIG)
    optimiser.set_factors(dict.fromkeys(weights.values(), 1.0))
    step(net, optimiser, 0)
    stem = net.encoder.stem[0].weight
    before, momentum = stem.detach().clone(), optimiser.parts[0].state[stem]["momentum"].clone()
    decoder = net.decoder.detail[0].weight.detach().clone()

    factors = rate_factors(weights, StageConfig(train=("transformer", "decoder"), share=1))
    optimiser.set_factors({weights[n]: f for n, f in factors.items()})
    step(net, optimiser, 1)

    assert stem.grad is None
    assert torch.equal(stem, before)
    assert torch.equal(optimiser.parts[0].state[stem]["momentum"], momentum)
    assert not torch.equal(net.decoder.detail[0].weight, decoder)


def test_a_frozen_encoder_stores_no_activations_for_the_backward_pass() -> None:
    net = network()
    for name, weight in net.named_parameters():
        weight.requires_grad_(part_of(name) != "encoder")

    maps = net.encoder(torch.rand(1, 1, 8, 8, 8), torch.ones(1, 1, dtype=torch.bool))

    assert not any(m.requires_grad for m in maps)


def test_the_update_of_a_weight_is_proportional_to_its_factor() -> None:
    moved = []
    for factor in (1.0, 0.25):
        torch.manual_seed(0)
        net = network()
        optimiser = make_optimiser(net, CONFIG.model_copy(update={"weight_decay": 0.0}))
        optimiser.set_factors(dict.fromkeys(net.parameters(), factor))
        before = net.encoder.stem[0].weight.detach().clone()
        step(net, optimiser, 0)
        moved.append(net.encoder.stem[0].weight.detach() - before)

    torch.testing.assert_close(moved[1], moved[0] * 0.25, rtol=1e-4, atol=1e-7)


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [2, 3, 5, 6, 9])
def test_a_run_resumed_in_any_stage_equals_an_uninterrupted_one(
    prepared: StudyFolder, tmp_path: Path, stop_at: int
) -> None:
    whole = trainer(prepared, tmp_path / "whole", stages=THREE)
    expected = every_loss(whole)
    expected_weights = whole.fit().weights

    first = trainer(prepared, tmp_path / "broken", stop_at=stop_at, stages=THREE)
    losses = every_loss(first)
    first.fit()
    second = trainer(prepared, tmp_path / "broken", stages=THREE)
    second.restore()
    after = every_loss(second)
    weights = second.fit().weights

    assert losses + after == expected
    assert all(torch.equal(weights[k], v) for k, v in expected_weights.items())


def test_an_extended_run_does_not_return_to_an_earlier_stage(prepared: StudyFolder, tmp_path: Path) -> None:
    trainer(prepared, tmp_path, iterations=6, stages=THREE).fit()

    longer = trainer(prepared, tmp_path, iterations=12, stages=THREE)
    longer.restore()
    started: list[int] = []
    longer.on_stage = lambda stage: started.append(stage.number)
    longer.fit()

    assert started == [3]


def test_one_stage_that_trains_all_weights_equals_a_run_without_stages(prepared: StudyFolder, tmp_path: Path) -> None:
    runs = [trainer(prepared, tmp_path / str(n), stages=s) for n, s in enumerate([(), (StageConfig(share=0.3),)])]
    losses = [every_loss(run) for run in runs]
    for run in runs:
        run.fit()

    assert losses[0] == losses[1]


@pytest.mark.parametrize("wrong", [{"train": ("trasnformer",)}, {"rates": {"all": 0.0}}])
def test_an_error_in_a_later_stage_is_raised_before_the_first_step(
    prepared: StudyFolder, tmp_path: Path, wrong: dict[str, object]
) -> None:
    stages = (StageConfig(share=1), StageConfig.model_validate({"share": 1, **wrong}))

    with pytest.raises(ConfigError, match=r"selects no weight|all weights are frozen in stage 2"):
        trainer(prepared, tmp_path, stages=stages)


def test_frozen_batch_norm_keeps_its_statistics(prepared: StudyFolder, tmp_path: Path) -> None:
    made = trainer(prepared, tmp_path, stages=(StageConfig(train=("decoder",), share=1),))
    made.network.encoder.add_module("norm", nn.BatchNorm3d(1))
    made.network.decoder.add_module("norm", nn.BatchNorm3d(1))
    made.network.encoder.norm.requires_grad_(False)

    made._learn()

    assert not made.network.encoder.norm.training
    assert made.network.decoder.norm.training
