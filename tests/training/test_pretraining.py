"""Pretraining reconstructs masked tokens, can be resumed, and its weights can initialise a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import medhybrid
from medhybrid.config import NetworkConfig, StudyConfig
from medhybrid.data.dataset import PreparedDataset
from medhybrid.errors import ConfigError
from medhybrid.networks import SegmentationNetwork, build_network
from medhybrid.progress import Silent
from medhybrid.runs.prepared import prepared_folder
from medhybrid.steps.pretrain import for_scans
from medhybrid.training.pretraining import (
    MaskedAutoencoder,
    Pretrainer,
    hide_tokens,
    rebuilding_loss,
    to_patches,
    to_voxels,
)
from tests.brief import in_this_process
from tests.synthetic import StudyFolder, blob_case, save_nifti, small_config
from tests.training.test_loop import every_loss
from tests.training.trainers import make_trainer

pytestmark = pytest.mark.usefixtures("blank_pictures", "small_program", "in_this_process")

STRIDES = st.tuples(*[st.sampled_from([1, 2, 4])] * 3)


def network(kind: str = "hybrid") -> SegmentationNetwork:
    config = NetworkConfig(kind=kind, widths=(16, 32), blocks=(1, 1), token_width=24, heads=2, depth=1)
    made = build_network(config, n_channels=1, n_labels=2, strides=((2, 2, 1), (2, 2, 2)), token_mm=(4.0, 4.0, 4.0))
    assert isinstance(made, SegmentationNetwork)
    return made


# --- hiding -----------------------------------------------------------------------------------------------------------


@given(st.floats(0.05, 0.95), st.integers(0, 100))
def test_each_sample_has_the_mask_ratio(share: float, seed: int) -> None:
    hidden = hide_tokens((3, 4, 5, 2), share, torch.Generator().manual_seed(seed))

    assert hidden.flatten(1).sum(1).tolist() == [round(share * 40)] * 3


@given(STRIDES, st.integers(0, 100))
def test_patches_are_the_voxels_of_their_token(stride: tuple[int, int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = rng.integers(1, 4, 3)
    image = torch.from_numpy(rng.random((2, 3, *(grid * stride))))
    place = tuple(int(rng.integers(n)) for n in grid)

    patches = to_patches(image, stride)

    box = tuple(slice(p * s, (p + 1) * s) for p, s in zip(place, stride, strict=True))
    assert torch.equal(patches[(slice(None), *place)], image[(slice(None), slice(None), *box)].flatten(2))
    marked = torch.zeros(2, *grid, dtype=torch.bool)
    marked[(slice(None), *place)] = True
    assert torch.equal(
        image * to_voxels(marked, stride)[:, None] != 0, torch.zeros_like(image).bool() | _only(image, box)
    )


def _only(image: torch.Tensor, box: tuple[slice, ...]) -> torch.Tensor:
    inside = torch.zeros_like(image).bool()
    inside[(slice(None), slice(None), *box)] = image[(slice(None), slice(None), *box)] != 0
    return inside


def test_masked_voxels_do_not_influence_the_reconstruction() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(network(), 1).eval()
    image = torch.rand(1, 1, 16, 16, 8)
    hidden = hide_tokens((1, 4, 4, 4), 0.5)
    other = torch.where(to_voxels(hidden, (4, 4, 2))[:, None], torch.rand_like(image), image)

    with torch.no_grad():
        torch.testing.assert_close(model(image, hidden), model(other, hidden))


def test_the_loss_counts_only_masked_tissue() -> None:
    image = torch.rand(1, 1, 8, 8, 4) + 0.1
    image[..., 4:, :, :] = 0  # air
    hidden = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    hidden[0, 0] = True  # tissue
    hidden[0, 1, 0] = True  # air
    rebuilt = to_patches(image, (4, 4, 2)).clone()

    assert rebuilding_loss(rebuilt, image, hidden, (4, 4, 2)).total == 0
    assert rebuilding_loss(rebuilt, image, hidden, (4, 4, 2)).explained == 1
    rebuilt[~hidden] += 5.0
    rebuilt[0, 1] += 5.0
    assert rebuilding_loss(rebuilt, image, hidden, (4, 4, 2)).total == 0
    rebuilt[0, 0] += 2.0
    torch.testing.assert_close(rebuilding_loss(rebuilt, image, hidden, (4, 4, 2)).total, torch.tensor(4.0))


def test_masked_parts_of_a_smooth_image_are_reconstructed() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(network(), 1)
    x, y, z = torch.meshgrid(*(torch.linspace(0, 1, n) for n in (16, 16, 8)), indexing="ij")
    pictures = torch.stack([1 + torch.sin(3 * x + p) + torch.cos(2 * y - p) * z for p in (0.0, 0.5, 1.0, 1.5)])[:, None]
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)

    for _ in range(150):
        hidden = hide_tokens((4, 4, 4, 4), 0.5)
        loss = rebuilding_loss(model(pictures, hidden), pictures, hidden, (4, 4, 2))
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()

    assert float(loss.explained.detach()) > 0.8


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scans(study: StudyFolder, tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    """Return the config of the study with its scans prepared without masks."""
    folder = tmp_path_factory.mktemp("scans")
    places = f"prepare.folder={folder / 'prepared'}", f"runs={folder / 'runs'}"
    config = for_scans(small_config(study.folder, "training.iterations=12", "training.n_validations=2", *places))
    with in_this_process():
        medhybrid.preprocess(config)
    return config


def pretrainer(config: StudyConfig, folder: Path, *, stop_at: int | None = None) -> Pretrainer:
    torch.manual_seed(0)
    return make_trainer(Pretrainer, config, folder, stop_at=stop_at, network=MaskedAutoencoder(network(), 1))


def test_scans_are_prepared_without_their_masks(scans: StudyConfig, prepared: StudyFolder) -> None:
    alone, labelled = (PreparedDataset(prepared_folder(c)) for c in (scans, prepared.config))

    assert alone.names() == labelled.names()
    assert alone.folds == labelled.folds
    for ours, theirs in zip(alone.open(alone.names()), labelled.open(labelled.names()), strict=True):
        assert not ours.labels().any()
        np.testing.assert_array_equal(ours.image(), theirs.image())


def test_a_resumed_pretraining_equals_an_uninterrupted_one(scans: StudyConfig, tmp_path: Path) -> None:
    whole = pretrainer(scans, tmp_path / "whole")
    expected = every_loss(whole)
    weights = whole.fit().weights

    first = pretrainer(scans, tmp_path / "broken", stop_at=5)
    losses = every_loss(first)
    first.fit()
    second = pretrainer(scans, tmp_path / "broken")
    second.restore()
    after = every_loss(second)
    resumed = second.fit().weights

    assert losses + after == expected
    assert all(torch.equal(resumed[k], v) for k, v in weights.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_pretrained_weights_initialise_a_training(scans: StudyConfig, study: StudyFolder, tmp_path: Path) -> None:
    places = f"prepare.folder={scans.prepare.folder}", f"runs={tmp_path}"
    config = small_config(study.folder, "training.iterations=4", *places)

    learnt = medhybrid.pretrain(config)

    assert not learnt.is_interrupted
    assert np.isfinite(learnt.metrics["val/explained"])
    medhybrid.preprocess(config)
    started = medhybrid.train(
        small_config(study.folder, "training.iterations=1", f"training.pretrained={learnt.folder}", *places)
    )
    rows = (started.folder / "start.csv").read_text().splitlines()[1:]
    assert {row.split(",")[1] for row in rows if row.startswith(("encoder", "bottleneck"))} == {"taken"}
    assert {row.split(",")[1] for row in rows if row.startswith("decoder")} == {"not there"}


def test_networks_without_an_encoder_are_refused(study: StudyFolder) -> None:
    with pytest.raises(ConfigError, match="transformer cannot be pretrained"):
        medhybrid.pretrain(small_config(study.folder, "network.kind=transformer"))


def test_a_training_without_masks_is_refused(scans: StudyConfig) -> None:
    with pytest.raises(ConfigError, match="training needs masks"):
        medhybrid.train(scans)


def test_an_unreadable_scan_is_reported_and_the_others_are_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(4):
        save_nifti(tmp_path / "scans" / f"s{n}.nii.gz", blob_case(n)[0])
    whole = (tmp_path / "scans" / "s0.nii.gz").read_bytes()
    (tmp_path / "scans" / "broken.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "scans" / "none.nii.gz").write_bytes(b"no scan")
    config = small_config(
        tmp_path, f"data.root={tmp_path / 'scans'}", "tracking.kind=none", "training.iterations=2", "data.splits=null"
    )

    told = Told()
    run = medhybrid.pretrain(config, reporter=told)

    assert run.left_out == ("broken",)
    assert any("1 scans are excluded, since they cannot be used: broken" in text for text in told.messages)
    assert "none is skipped: none.nii.gz cannot be read" in caplog.text


class Told(Silent):
    """Reporter that records messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)
