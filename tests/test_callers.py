"""Calls from Python scripts: random state, logging and MLflow store of the caller are kept; invalid arguments are errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import medhybrid
from medhybrid.config import with_values
from medhybrid.errors import ConfigError, GeometryError, MedHybridError, ModelError, OutputError, ScanError
from tests.synthetic import AFFINE, StudyFolder, blob_case, save_nifti, small_config


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
def test_training_restores_the_random_state_of_the_caller(prepared: StudyFolder, tmp_path: Path) -> None:
    config = small_config(prepared.folder, f"runs={tmp_path}", "training.iterations=2", "tracking.kind=none")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    run = medhybrid.train(config)
    medhybrid.load_model(run.folder)
    medhybrid.export(run.folder, out=str(tmp_path / "program"), format_="pt2")

    assert torch.equal(torch.rand(3), expected)


def test_a_loaded_model_has_only_the_weights_of_its_file(trained: tuple[StudyFolder, Path]) -> None:
    a, b = (medhybrid.load_model(trained[1]).network.state_dict() for _ in range(2))

    assert all(torch.equal(a[name], b[name]) and a[name].isfinite().all() for name in a)


OWN_STORE = """
import logging, os, sys
import mlflow, medhybrid

mlflow.set_tracking_uri(sys.argv[1])
medhybrid.train(medhybrid.load_config(sys.argv[2], [sys.argv[3], "training.iterations=2"]))
print(mlflow.get_tracking_uri() == sys.argv[1] == os.environ["MLFLOW_TRACKING_URI"])
print(logging.getLogger().level == logging.WARNING, logging.getLogger().handlers)
"""


@pytest.mark.slow
def test_training_keeps_the_mlflow_store_and_logging_of_the_caller(prepared: StudyFolder, tmp_path: Path) -> None:
    arguments = [f"sqlite:///{tmp_path / 'mine.db'}", prepared.folder / "small.yaml", f"runs={tmp_path / 'runs'}"]

    done = subprocess.run([sys.executable, "-c", OWN_STORE, *arguments], capture_output=True, text=True)

    assert done.stdout.splitlines()[-2:] == ["True", "True []"], done.stderr


def test_loading_a_registered_model_creates_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ModelError, match=r"MLflow store .*runs/mlflow\.db does not exist"):
        medhybrid.load_model("models:/brain@newest")

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["my%20study", "what?", "#1"])
def test_a_path_that_mlflow_cannot_use_is_refused_before_the_run(
    prepared: StudyFolder, tmp_path: Path, name: str
) -> None:
    config = small_config(prepared.folder, f"runs={tmp_path / name}")

    with pytest.raises(ConfigError, match="MLflow cannot keep records"):
        medhybrid.train(config)

    assert not list(tmp_path.iterdir())


def test_a_folder_of_runs_that_cannot_be_created_is_an_error(prepared: StudyFolder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = small_config(prepared.folder, f"runs={tmp_path / 'file'}", "tracking.kind=none")

    with pytest.raises(OutputError, match=r"cannot be created\..*Choose another folder: runs=FOLDER"):
        medhybrid.train(config)
    with pytest.raises(OutputError, match="cannot be created"):
        medhybrid.cross_validate(config)


@pytest.mark.parametrize("kind", [bool, np.int64, np.uint64, np.float16])
def test_masks_of_any_numpy_type_are_written(tmp_path: Path, kind: type) -> None:
    scan = medhybrid.read_scan([str(save_nifti(tmp_path / "scan.nii.gz", blob_case(1)[0]))][0])
    mask = (scan.array[0] > scan.array.mean()).astype(kind)

    medhybrid.write_nifti(str(tmp_path / "mask.nii.gz"), mask, scan.affine, like=scan.source)

    written = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), mask)
    assert written.get_data_dtype() == (np.float32 if kind is np.float16 else np.uint8)
    np.testing.assert_allclose(written.affine, AFFINE)


@pytest.mark.parametrize(
    ("largest", "kind"),
    [(255, np.uint8), (256, np.int16), (2**16 - 1, np.uint16), (2**31 - 1, np.int32), (2**32 - 1, np.uint32)],
)
def test_integers_are_written_in_the_smallest_type(tmp_path: Path, largest: int, kind: type) -> None:
    array = np.full((2, 2, 2), largest)

    medhybrid.write_nifti(tmp_path / "a.nii", array, np.eye(4))

    image = nib.load(tmp_path / "a.nii")
    assert image.get_data_dtype() == kind
    assert int(np.asarray(image.dataobj).max()) == largest


def test_an_array_that_is_not_a_volume_is_refused(tmp_path: Path) -> None:
    volume = np.zeros((3, 3, 3), np.uint8)
    with pytest.raises(OutputError, match=r"a\.png cannot be written as NIfTI"):
        medhybrid.write_nifti(tmp_path / "a.png", volume, np.eye(4))
    with pytest.raises(OutputError, match=r"values up to .* cannot be written"):
        medhybrid.write_nifti(tmp_path / "a.nii", np.full((2, 2, 2), 2**60), np.eye(4))
    with pytest.raises(GeometryError, match=r"shape \(3, 3\) is not a volume"):
        medhybrid.write_nifti(tmp_path / "a.nii", volume[0], np.eye(4))
    with pytest.raises(GeometryError, match="the affine is invalid"):
        medhybrid.write_nifti(tmp_path / "a.nii", volume, np.full((4, 4), np.nan))
    assert not list(tmp_path.iterdir())


def test_a_path_instead_of_a_config_or_scan_is_an_error(trained: tuple[StudyFolder, Path]) -> None:
    for step in (medhybrid.preprocess, medhybrid.train, medhybrid.pretrain, medhybrid.cross_validate):
        with pytest.raises(ConfigError, match=r"the argument is not a config.*str 'brain\.yaml'.*load_config"):
            step("brain.yaml")  # type: ignore[operator]
    with pytest.raises(ScanError, match=r"found str|Found str"):
        medhybrid.load_model(trained[1]).predict("scan.nii.gz")  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [{}, {"anterior": "1"}, {"anterior": 0}, {"anterior": True}, {"anterior": 1.0}])
def test_invalid_label_values_are_refused(tmp_path: Path, labels: dict[str, object]) -> None:
    save_nifti(tmp_path / "a.nii.gz", blob_case(1)[1])

    with pytest.raises(ConfigError, match="invalid labels"):
        medhybrid.evaluate(tmp_path, tmp_path, labels=labels)  # type: ignore[arg-type]


def test_invalid_arguments_are_refused(trained: tuple[StudyFolder, Path], tmp_path: Path) -> None:
    study, run = trained
    scan, model = save_nifti(tmp_path / "in" / "a.nii.gz", blob_case(1)[0]).parent, medhybrid.load_model(run)
    refused: list[tuple[str, dict[str, object]]] = [
        ("number of workers 0", {"model": run, "workers": 0}),
        ("invalid list of models", {"model": []}),
        ("invalid list of models", {"model": [model, model]}),
        ("memory limit of nan GiB", {"model": run, "max_memory": float("nan")}),
    ]
    for message, arguments in refused:
        with pytest.raises(ConfigError, match=message):
            medhybrid.predict(scan, out=tmp_path / "out", **arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cannot be set"):
        with_values(study.config, {"training.stages.0.peak_rate": 1e-3}, source="search")
    with pytest.raises(ConfigError, match="invalid name"):
        medhybrid.cross_validate(study.config, name="../../elsewhere")

    medhybrid.predict(scan, model=run, out=tmp_path / "out")
    for arguments in ({"layout": "book"}, {"scans": tmp_path / "nowhere"}):
        with pytest.raises(MedHybridError, match=r"unknown layout|does not exist"):
            medhybrid.report(tmp_path / "out", **arguments)  # type: ignore[arg-type]


@pytest.mark.slow
def test_folders_may_be_strings(trained: tuple[StudyFolder, Path], tmp_path: Path) -> None:
    _, run = trained
    scan = save_nifti(tmp_path / "in" / "a.nii.gz", blob_case(1)[0]).parent

    medhybrid.predict(str(scan), model=str(run), out=str(tmp_path / "out"), deidentify=str(tmp_path / "key"))
    page = medhybrid.report(str(tmp_path / "out"), scans=str(scan), deidentify=str(tmp_path / "key"))
    compared = medhybrid.compare(str(run), str(run), out=str(tmp_path / "compared"))
    program = medhybrid.export(str(run), out=str(tmp_path / "program"), format_="pt2")

    assert all(p.is_file() for p in (page, compared.page, program))
    assert medhybrid.load_config(trained[0].folder / "small.yaml", "training.seed=4").training.seed == 4
