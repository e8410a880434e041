"""MONAI alone runs an exported bundle, and makes the masks of the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import medhybrid
from medhybrid.config import NetworkConfig
from medhybrid.data.plan import Normalisation, Plan
from medhybrid.errors import ModelError
from medhybrid.inference.bundle.write import write_bundle
from medhybrid.inference.model import Model
from medhybrid.inference.network import network_for
from medhybrid.inference.precision import Precision
from tests.synthetic import StudyFolder, make_test_plan, make_test_record

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings of the exporter

RUN = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "medhybrid":
            raise ImportError("the bundle must not need medhybrid")

sys.meta_path.insert(0, Refused())
sys.path = [p for p in sys.path if p != ROOT]
sys.path.insert(0, BUNDLE)
from monai.bundle import ConfigParser
from monai.data import decollate_batch

parser = ConfigParser()
parser.read_config(BUNDLE + "/configs/inference.json")
parser["bundle_root"], parser["dataset_dir"], parser["output_dir"] = BUNDLE, SCANS, OUT
network, inferer = parser.get_parsed_content("network"), parser.get_parsed_content("inferer")
after = parser.get_parsed_content("postprocessing")
for batch in parser.get_parsed_content("dataloader"):
    batch["pred"] = inferer(batch["image"], network)
    for item in decollate_batch(batch):
        after(item)
"""


def masks_by_monai(bundle: Path, scans: Path, out: Path) -> dict[str, np.ndarray]:
    """Run a bundle in a process that cannot import medhybrid."""
    root = str(Path(medhybrid.__file__).parents[1])
    places = {"ROOT": root, "BUNDLE": str(bundle), "SCANS": str(scans), "OUT": str(out)}
    head = "".join(f"{name} = {place!r}\n" for name, place in places.items())
    ended = subprocess.run(
        [sys.executable, "-c", head + RUN], capture_output=True, text=True, cwd=out.parent, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return {p.name: np.asarray(nib.load(p).dataobj) for p in sorted(out.iterdir())}


def untrained(plan: Plan) -> Model:
    config = NetworkConfig(widths=(8, 16), blocks=(1, 1), token_width=24, depth=1, heads=2)
    torch.manual_seed(0)
    model = Model(network_for(config, plan), make_test_record(plan, config), torch.device("cpu"))
    model.precision = Precision.FLOAT32
    return model


def test_a_trained_model_makes_the_same_masks_in_monai(trained: tuple[StudyFolder, Path], tmp_path: Path) -> None:
    study, folder = trained
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("case_07", "case_08"):
        (scans / f"{name}.nii.gz").write_bytes((study.folder / "data" / "imagesTr" / f"{name}.nii.gz").read_bytes())

    bundle = medhybrid.export(folder, out=tmp_path / "bundle", format_="bundle")

    made = masks_by_monai(bundle, scans, tmp_path / "out")
    model = medhybrid.load_model(folder, device="cpu", precision="float32")
    assert sorted(made) == ["case_07_seg.nii.gz", "case_08_seg.nii.gz"]
    for name in ("case_07", "case_08"):
        expected = model.predict(medhybrid.read_scan(scans / f"{name}.nii.gz"))
        assert (made[f"{name}_seg.nii.gz"] == expected).mean() > 0.9999
        assert expected.any()
    told = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert told["network_data_format"]["outputs"]["pred"]["channel_def"]["0"] == "background"
    assert "medhybrid." not in (bundle / "scripts" / "steps.py").read_text().replace("`medhybrid.", "")


TURNS = {"RAS": np.eye(3), "LPI": np.diag([-1.0, -1.0, -1.0]), "turned": np.array([[0, 0, 1.0], [-1, 0, 0], [0, 1, 0]])}


@pytest.mark.parametrize("turn", TURNS)
def test_channels_air_windows_components_and_oblique_axes_are_those_of_the_model(tmp_path: Path, turn: str) -> None:
    channels = (
        Normalisation(channel="T1", rule="zscore_foreground"),
        Normalisation(channel="T2", rule="zscore", optional=True),
    )
    plan = make_test_plan(normalisation=channels, min_component_ml=0.05)
    model = untrained(plan)
    rng = np.random.default_rng(0)
    values = rng.gamma(4, 100, (2, 40, 26, 14)).astype(np.float32)
    values[:, 22:] = 0
    values[0, 3, 3, 3] = 1e6  # an outlier
    angle = np.deg2rad(12)
    oblique = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = oblique @ TURNS[turn] @ np.diag([1.1, 0.9, 1.3]) * plan.spacing_mm[0]
    affine[:3, 3] = (-20, 12, 5)
    scans, bundle = tmp_path / "scans", tmp_path / "bundle"
    scans.mkdir()
    for i in range(2):
        nib.Nifti1Image(values[i], affine).to_filename(scans / f"a_{i:04d}.nii.gz")
    nib.Nifti1Image(values.transpose(1, 2, 3, 0), affine).to_filename(tmp_path / "both.nii.gz")

    write_bundle(model, bundle)

    made = masks_by_monai(bundle, scans, tmp_path / "out")
    expected = model.predict(medhybrid.read_scan(tmp_path / "both.nii.gz"))
    ((name, mask),) = made.items()
    assert (mask == expected).mean() > 0.999
    assert 0 < (expected > 0).mean() < 0.95
    np.testing.assert_allclose(nib.load(tmp_path / "out" / name).affine, affine, atol=1e-4)


def test_a_model_with_other_steps_is_refused(tmp_path: Path) -> None:
    plan = make_test_plan(context=("age_years",))

    with pytest.raises(ModelError, match=r"cannot be exported as a bundle.*values of the study"):
        write_bundle(untrained(plan), tmp_path)

    assert not any(tmp_path.iterdir())
