"""A training with another dataset, other settings or other folds than the prepared ones is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

import medhybrid
from medhybrid.config import StudyConfig, load_config
from medhybrid.data.case_check import sources_of
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.layouts import Case, Files
from medhybrid.data.source import FILE, check_source
from medhybrid.errors import DataError
from tests.brief import in_this_process
from tests.synthetic import small_config, write_study

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a project with two datasets of different cases, of which one is prepared."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("data", "other"):
        write_study(folder / name, 4)
        (folder / name / "splits.json").unlink()
    shutil.rmtree(folder / "other" / "labelsTr")
    shutil.copytree(folder / "data" / "labelsTr", folder / "other" / "labelsTr")
    for path in sorted((folder / "other" / "imagesTr").iterdir())[:1]:
        nib.save(nib.Nifti1Image(np.ones((36, 40, 20), np.int16), np.eye(4)), path)
    with in_this_process():
        medhybrid.preprocess(small_config(folder))
    return folder


def with_overrides(project: Path, *overrides: str) -> StudyConfig:
    return load_config(project / "small.yaml", overrides)


def folder_of(project: Path) -> Path:
    return project / "prepared" / "blobs"


@pytest.mark.parametrize("with_record", [True, False])
def test_another_dataset_is_refused(project: Path, with_record: bool, tmp_path: Path) -> None:
    prepared = tmp_path / "prepared"
    shutil.copytree(folder_of(project), prepared)
    if not with_record:  # state of an earlier version
        (prepared / FILE).unlink()
    assert check_source(prepared, with_overrides(project)) == []
    for root in (project / "other", project / "nowhere"):
        with pytest.raises(DataError, match="prepared from another dataset"):
            check_source(prepared, with_overrides(project, f"data.root={root}"))


def test_training_with_another_dataset_is_refused_before_a_run_is_created(project: Path) -> None:
    with pytest.raises(DataError, match="prepared from another dataset"):
        medhybrid.train(with_overrides(project, f"data.root={project / 'other'}", "tracking.kind=none"))
    assert not (project / "runs").exists()


def test_a_moved_dataset_is_accepted(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "data", tmp_path / "copy")
    (message,) = check_source(folder_of(project), with_overrides(project, f"data.root={tmp_path / 'copy'}"))
    assert message.endswith(f"to {tmp_path / 'copy'}, with the same files")


@pytest.mark.parametrize(
    "change",
    [
        "data.n_folds=2",
        "data.split_seed=7",
        "data.subject_pattern=^(case)",
        "data.mask_pattern=seg",
        "data.overlaps=last",
        "scans.keep_sheared=true",
        "prepare.max_patch_voxels=9000",
        "data.splits=null",
    ],
)
def test_changed_settings_are_refused_with_their_key(project: Path, change: str) -> None:
    with pytest.raises(DataError, match=change.split("=")[0]):
        check_source(folder_of(project), with_overrides(project, change))


def test_regions_in_place_of_labels_of_the_same_values_are_refused(project: Path) -> None:
    config = with_overrides(project)
    names = list(config.data.labels)
    regions = {names[0]: tuple(config.data.labels.values())[:1], names[1]: tuple(config.data.labels.values())[1:]}
    other = config.model_copy(update={"data": config.data.model_copy(update={"regions": regions})})

    assert other.data.labels == config.data.labels
    with pytest.raises(DataError, match=r"data\.regions"):
        check_source(folder_of(project), other)


@pytest.mark.parametrize("key", ["patch_size", "batch_size"])
def test_a_setting_removed_since_is_refused_with_its_key(project: Path, key: str) -> None:
    dataset = PreparedDataset(folder_of(project))
    assert dataset.plan_for(with_overrides(project)).batch_size == 2
    with pytest.raises(DataError, match=f"(?s)has other settings.*{key} .* by the plan's rules"):
        dataset.plan_for(with_overrides(project, f"prepare.{key}=null"))


def new_splits(data: Path) -> None:
    fold = {"train": ["case_00", "case_01"], "validation": ["case_02", "case_03"]}
    (data / "splits.json").write_text(json.dumps([fold]))


def corrected_mask(data: Path) -> None:
    path = data / "labelsTr" / "case_01.nii.gz"
    image = nib.load(path)  # type: ignore[attr-defined]
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine), path)


def lost_image(data: Path) -> None:
    (data / "imagesTr" / "case_01.nii.gz").unlink()


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> tuple[StudyConfig, Path]:
    """Copy the project, and prepare it at its new place."""
    shutil.copytree(project / "data", tmp_path / "data")
    config = small_config(tmp_path)
    medhybrid.preprocess(config)
    return config, tmp_path


def test_folds_written_after_preprocessing_are_refused_until_it_is_run_again(copy: tuple[StudyConfig, Path]) -> None:
    config, folder = copy
    new_splits(folder / "data")
    with pytest.raises(DataError, match=r"folds .* differ from those of splits\.json"):
        check_source(folder_of(folder), config)

    assert medhybrid.preprocess(config).n_prepared == 0
    assert check_source(folder_of(folder), config) == []


@pytest.mark.parametrize("change", [corrected_mask, lost_image])
def test_files_changed_since_are_reported(copy: tuple[StudyConfig, Path], change: Callable[[Path], None]) -> None:
    config, folder = copy
    change(folder / "data")
    (message,) = check_source(folder_of(folder), config)
    assert "files of 1 cases have changed" in message
    assert "case_01" in message


def test_a_touched_file_with_the_same_content_is_unchanged(copy: tuple[StudyConfig, Path]) -> None:
    config, folder = copy
    for path in (folder / "data" / "imagesTr").iterdir():
        path.touch()
    assert check_source(folder_of(folder), config) == []


def test_a_file_of_folds_without_known_cases_is_refused_by_preprocess(copy: tuple[StudyConfig, Path]) -> None:
    config, folder = copy
    (folder / "data" / "splits.json").write_text(json.dumps([{"train": ["case_00"], "validation": ["typo"]}]))
    with pytest.raises(DataError, match="none of the names under validation of fold 0"):
        medhybrid.preprocess(config)


def test_another_dataset_with_the_same_names_and_sizes_is_refused(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "data", tmp_path / "copy")
    path = tmp_path / "copy" / "imagesTr" / "case_01.nii.gz"
    content = bytearray(path.read_bytes())
    content[9] ^= 1  # the operating system in gzip's header: the values are the same, the file is not
    path.write_bytes(content)
    with pytest.raises(DataError, match="prepared from another dataset"):
        check_source(folder_of(project), with_overrides(project, f"data.root={tmp_path / 'copy'}"))


def test_an_edited_list_of_cases_is_refused_and_new_cases_are_reported(
    copy: tuple[StudyConfig, Path],
) -> None:
    config, folder = copy
    path = folder / "data" / "dataset.json"
    values = json.loads(path.read_text())
    values["training"][0]["label"] = "./labelsTr/case_03.nii.gz"
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"lists of cases have changed .* found dataset\.json|Found dataset\.json"):
        check_source(folder_of(folder), config)

    medhybrid.preprocess(config)
    assert check_source(folder_of(folder), config) == []


def test_a_reformatted_list_is_unchanged(copy: tuple[StudyConfig, Path]) -> None:
    config, folder = copy
    new_splits(folder / "data")
    medhybrid.preprocess(config)
    for name in ("dataset.json", "splits.json"):
        path = folder / "data" / name
        values = json.loads(path.read_text())
        if isinstance(values, dict):
            values = {"description": "new", **values, "training": values["training"][::-1]}
        path.write_text(json.dumps(values, indent=3))
    assert check_source(folder_of(folder), config) == []

    record = folder_of(folder) / "source.json"  # in the form of an earlier version
    record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "contents_sha256"}))
    with pytest.raises(DataError, match="un medhybrid preprocess again"):
        check_source(folder_of(folder), config)


def test_masks_swapped_by_renaming_are_detected_if_sizes_and_times_agree(tmp_path: Path) -> None:
    data, config = tmp_path / "data", small_config(tmp_path)
    write_study(data, 2)
    (data / "splits.json").unlink()
    for path in sorted(data.rglob("*.nii.gz")):  # uncompressed, so that the sizes agree
        nib.save(nib.load(path), path.with_suffix(""))
        path.unlink()
    (data / "dataset.json").write_text((data / "dataset.json").read_text().replace(".nii.gz", ".nii"))
    for path in data.rglob("*.nii"):
        os.utime(path, (1.6e9, 1.6e9))
    medhybrid.preprocess(config)

    first, second = data / "labelsTr" / "case_00.nii", data / "labelsTr" / "case_01.nii"
    first.rename(data / "x")
    second.rename(first)
    (data / "x").rename(second)

    (change,) = check_source(tmp_path / "prepared" / "blobs", config)
    assert "files of 2 cases have changed" in change
    assert medhybrid.preprocess(config).n_prepared == 2


def test_a_removed_case_is_forgotten_and_the_moved_dataset_is_accepted(tmp_path: Path) -> None:
    data, config = tmp_path / "data", small_config(tmp_path)
    write_study(data, 4)
    (data / "splits.json").unlink()
    medhybrid.preprocess(config)
    stale = (tmp_path / "prepared" / "blobs" / "checks" / "case_03.json").read_bytes()
    listed = json.loads((data / "dataset.json").read_text())["training"]
    (data / "dataset.json").write_text(json.dumps({"training": listed[:3]}))
    for folder in ("imagesTr", "labelsTr"):
        (data / folder / "case_03.nii.gz").unlink()
    medhybrid.preprocess(config)

    checks = tmp_path / "prepared" / "blobs" / "checks"
    assert sorted(p.stem for p in checks.glob("*.json")) == ["case_00", "case_01", "case_02"]
    (checks / "case_03.json").write_bytes(stale)  # state of earlier versions
    assert check_source(checks.parent, config) == []
    data.rename(tmp_path / "moved")
    (message,) = check_source(checks.parent, load_config(tmp_path / "small.yaml", [f"data.root={tmp_path / 'moved'}"]))
    assert "moved, with the same files" in message


def test_the_value_file_of_a_header_is_among_the_files_of_a_case(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkUInt8), tmp_path / "m.mhd")
    case = Case("c", "c", (Files((tmp_path / "i.nii",)),), Files((tmp_path / "m.mhd",)))
    names = [p.name for p in sources_of(case, small_config(tmp_path))]
    assert names == ["i.nii", "m.mhd", "m.raw"]
