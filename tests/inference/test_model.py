"""Model folders are loaded as they were written, or refused with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import medhybrid
from medhybrid.errors import DeviceError, ModelError
from medhybrid.inference.folder_job import fingerprint_of
from medhybrid.inference.model import Model
from medhybrid.metrics import dice
from medhybrid.runs.models import load_models
from tests.synthetic import StudyFolder, blob_case, save_nifti

pytestmark = pytest.mark.slow


@pytest.fixture
def model(trained: tuple[StudyFolder, Path], tmp_path: Path) -> Path:
    """Return a copy of a model folder that a test may damage."""
    return Path(shutil.copytree(trained[1] / "model", tmp_path / "model"))


def test_weights_of_another_format_version_are_refused_even_if_they_fit(model: Path) -> None:
    record = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(record | {"format_version": 1}))

    with pytest.raises(
        ModelError, match=r"(?i)another version of medhybrid.*expected format 2, found format 1.*train it again"
    ):
        medhybrid.load_model(model)


def test_weights_that_are_not_those_of_the_record_are_refused(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")

    with pytest.raises(ModelError, match="not those of its record"):
        medhybrid.load_model(model)


def test_a_record_with_another_number_of_heads_than_its_weights_is_refused(model: Path) -> None:
    """The weights fit any number of heads, and other masks come out."""
    record = json.loads((model / "model.json").read_text())
    record["network"]["heads"] *= 2
    (model / "model.json").write_text(json.dumps(record))

    with pytest.raises(ModelError, match="is of another network"):
        medhybrid.load_model(model)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_folder_with_a_missing_file_is_refused(model: Path, name: str) -> None:
    (model / name).unlink()

    with pytest.raises(ModelError):
        medhybrid.load_model(model)


def test_masks_in_bf16_nearly_equal_those_in_float32(trained: tuple[StudyFolder, Path], tmp_path: Path) -> None:
    exact = medhybrid.load_model(trained[1], device="cpu", precision="float32")
    quick = medhybrid.load_model(trained[1], device="cpu", precision="bf16")
    image = torch.rand((1, *exact.plan.patch_size), generator=torch.Generator().manual_seed(0))
    logits = exact.logits(image)

    assert float((quick.logits(image) - logits).abs().max()) < 0.02 * float(logits.abs().max())
    # The masks have about 400 voxels: in much smaller ones, a single voxel would decide.
    scans = [medhybrid.read_scan(save_nifti(tmp_path / f"{n}.nii.gz", blob_case(n)[0])) for n in range(24)]
    a, b = (np.stack([model.predict(scan) > 0 for scan in scans]) for model in (exact, quick))
    assert dice(a, b) >= 0.999


def test_the_stem_computes_in_float32_regardless_of_the_precision(trained: tuple[StudyFolder, Path]) -> None:
    encoder = medhybrid.load_model(trained[1], device="cpu").network.encoder
    image = torch.rand((1, 1, 24, 24, 16))

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        stem_features = encoder.apply_stem(image)

    assert stem_features.dtype is torch.float32
    with torch.inference_mode():
        assert torch.equal(stem_features, encoder.stem(image))


def test_mirroring_can_be_switched_off_for_a_model_and_an_ensemble(trained: tuple[StudyFolder, Path]) -> None:
    plain, mirrored = (medhybrid.load_model(trained[1], device="cpu", mirror=mirror) for mirror in (False, True))
    folds = load_models([trained[1]] * 2, device="cpu", mirror=False)
    image = torch.rand((1, *plain.plan.patch_size), generator=torch.Generator().manual_seed(0))

    assert plain.plan.mirror_axes
    assert not torch.allclose(plain.logits(image), mirrored.logits(image))
    torch.testing.assert_close(folds.logits(image).softmax(0), _calibrated(plain, image), atol=1e-5, rtol=1e-4)
    assert len({fingerprint_of(model) for model in (plain, mirrored, folds)}) == 3


def _calibrated(model: Model, image: torch.Tensor) -> torch.Tensor:
    return (model.logits(image) / model.record.calibration.temperature).softmax(0)


def test_an_unknown_precision_is_refused(trained: tuple[StudyFolder, Path]) -> None:
    with pytest.raises(DeviceError, match=r"unknown precision 'fp8'.*Expected auto, bf16, fp16, tf32, float32"):
        medhybrid.load_model(trained[1], device="cpu", precision="fp8")
