"""A config that contradicts its dataset is refused, with the difference in two columns and the line to change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medhybrid.config import DataConfig, load_config
from medhybrid.data.agreement import absent_labels_error, refuse_other_dataset
from medhybrid.data.layouts import list_dataset
from medhybrid.data.workers import Processes
from medhybrid.errors import DataError
from medhybrid.progress import Silent
from medhybrid.steps.survey import survey_dataset
from tests.synthetic import save_nifti, small_config, write_study

HIPPOCAMPUS = {"anterior": 1, "posterior": 2}


def dataset(root: Path, n_files: int = 1, n_cases: int = 3, **values: object) -> Path:
    """Write empty files in nnU-Net's layout, with a dataset.json of these values."""
    for name in ("imagesTr", "labelsTr"):
        (root / name).mkdir(parents=True)
    for i in range(n_cases):
        (root / "labelsTr" / f"c{i}.nii.gz").touch()
        for k in range(n_files):
            (root / "imagesTr" / f"c{i}_{k:04d}.nii.gz").touch()
    if values:
        (root / "dataset.json").write_text(json.dumps(values))
    return root


def config(root: Path, *channels: str, labels: object = None, **values: object) -> DataConfig:
    named = [{"name": n.rstrip("?"), "optional": n.endswith("?")} for n in channels]
    given = {"root": str(root), "channels": named, "labels": labels or HIPPOCAMPUS, **values}
    return DataConfig.model_validate(given)


def refused(data: DataConfig) -> str:
    """Return the message for a refused config, or an empty text."""
    try:
        refuse_other_dataset(data, list_dataset(data).cases)
    except DataError as error:
        return str(error)
    return ""


def test_a_dataset_of_two_channels_is_refused_by_a_config_of_one(tmp_path: Path) -> None:
    names = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "anterior": 1, "posterior": 2}}
    root = dataset(tmp_path / "two", 2, **names)

    message = refused(load_config("hippocampus.yaml", [f"data.root={root}"]).data)

    assert message.splitlines() == [
        "the config contradicts the dataset two.",
        "                            dataset    config",
        "  channels in dataset.json  T1, FLAIR  T1",
        "  channels in the files     2          1",
        "In the config, section data, change",
        "  channels: [{name: T1, modality: MR}, {name: FLAIR, modality: MR}]",
        f"or write a config for this dataset: medhybrid init {root}.",
    ]
    assert all(len(line) < 80 for line in message.splitlines()[:6])


def test_the_lines_to_change_make_the_config_fit(tmp_path: Path) -> None:
    labels = {"background": 0, "liver": 1, "liver tumour": 2}
    root = dataset(tmp_path / "d", 2, channel_names={"0": "CT", "1": "PET"}, labels=labels)
    wrong = config(root, "T1", labels={"liver": 1})

    lines = [line for line in refused(wrong).splitlines() if line.startswith(("  channels: ", "  labels: "))]
    changes: dict[str, Any] = yaml.safe_load("\n".join(lines))

    assert changes["channels"][0] == {"name": "CT", "modality": "CT"}
    assert not refused(DataConfig.model_validate({"root": str(root), **changes}))


@pytest.mark.parametrize(
    ("n_files", "named", "channels", "is_refused"),
    [
        (2, (), ["T1"], True),
        (2, ("T1",), ["T1"], True),  # the list names one channel, as the config does, but there are two
        (1, ("T1", "FLAIR"), ["T1"], False),  # the files decide if the list is wrong
        (1, (), ["T1", "FLAIR"], True),
        (1, (), ["T1", "FLAIR?"], False),
        (3, (), ["T1", "FLAIR?"], True),
        (2, ("T1", "FLAIR"), ["T1", "FLAIR"], False),
        (1, ("MRI",), ["T1"], False),
    ],
)
def test_channels_of_list_files_and_config_are_compared(
    tmp_path: Path, n_files: int, named: tuple[str, ...], channels: list[str], is_refused: bool
) -> None:
    values = {"channel_names": {str(i): n for i, n in enumerate(named)}} if named else {}
    root = dataset(tmp_path / "d", n_files, labels=HIPPOCAMPUS, **values)
    assert bool(refused(config(root, *channels))) is is_refused


def test_colours_of_one_picture_may_be_channels(tmp_path: Path) -> None:
    root = dataset(tmp_path / "d", channel_names={"0": "R", "1": "G", "2": "B"})
    for path in (root / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace(".nii.gz", ".png")))
    assert not refused(config(root, "R", "G", "B"))
    assert refused(config(root, "R"))


def test_one_case_with_a_further_file_does_not_refuse_the_dataset(tmp_path: Path) -> None:
    root = dataset(tmp_path / "d")
    (root / "imagesTr" / "c0_0001.nii.gz").touch()
    assert not refused(config(root, "T1"))


@pytest.mark.parametrize(
    ("channel", "modality", "is_refused"), [("CT", "MR", True), ("MRI", "CT", True), ("CT", "CT", False)]
)
def test_a_modality_other_than_the_datasets_is_refused(
    tmp_path: Path, channel: str, modality: str, is_refused: bool
) -> None:
    root = dataset(tmp_path / "d", channel_names={"0": channel})
    data = config(root, "image")
    data = data.model_copy(update={"channels": (data.channels[0].model_copy(update={"modality": modality}),)})
    assert bool(refused(data)) is is_refused


REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3]}


@pytest.mark.parametrize(
    ("theirs", "ours", "is_refused"),
    [
        ({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2}, True),
        ({"0": "background", "1": "a", "2": "b"}, {"a": 1}, True),
        ({"a": 1, "b": 2}, {"hinten": 2, "vorn": 1}, False),  # names may differ, values decide
        (REGIONS, {"whole": [1, 2, 3], "core": [2, 3]}, False),
        (REGIONS, {"edema": 1, "necrosis": 2, "enhancing": 3}, False),
        (REGIONS, {"edema": 1, "necrosis": 2}, True),
        ({"a": 1, "ignore": 2}, {"a": 1}, True),
    ],
)
def test_values_of_labels_are_compared(tmp_path: Path, theirs: object, ours: object, is_refused: bool) -> None:
    root = dataset(tmp_path / "d", labels=theirs)
    assert bool(refused(config(root, "T1", labels=ours))) is is_refused


def test_a_value_of_unknown_label_is_named_with_its_line(tmp_path: Path) -> None:
    root = dataset(tmp_path / "d", labels={"a": 1, "ignore": 2})
    assert "  ignore_value: 2\n" in refused(config(root, "T1", labels={"a": 1}))
    assert not refused(config(root, "T1", labels={"a": 1}, ignore_value=2))


def test_labels_that_neither_masks_nor_list_have_are_refused(tmp_path: Path) -> None:
    root = dataset(tmp_path / "d", labels={"anterior": 1})
    data = config(root, "T1")

    error = absent_labels_error(["posterior"], data)

    assert error is not None
    assert "  labels: {anterior: 1}" in str(error)
    assert absent_labels_error(["anterior"], data) is None, "the list names it: a warning is enough"


def test_volumes_of_one_file_are_its_channels(tmp_path: Path) -> None:
    entries = [{"image": f"imagesTr/c{i}.nii.gz", "label": f"labelsTr/c{i}.nii.gz"} for i in range(2)]
    for i in range(2):
        save_nifti(tmp_path / "imagesTr" / f"c{i}.nii.gz", np.zeros((4, 4, 4, 2), np.uint8))
    (tmp_path / "dataset.json").write_text(json.dumps({"training": entries}))
    assert "channels in the files  2        1" in refused(config(tmp_path, "T1"))
    assert not refused(config(tmp_path, "T1", "FLAIR"))


def test_images_of_an_entry_are_its_channels(tmp_path: Path) -> None:
    entries = [{"image": [f"a{i}.nii", f"b{i}.nii"], "label": f"m{i}.nii"} for i in range(2)]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    assert "channels in the files  2        1" in refused(config(tmp_path, "T1"))
    assert not refused(config(tmp_path, "T1", "FLAIR"))


def test_other_layouts_assign_channels_by_name_and_are_accepted(tmp_path: Path) -> None:
    root = dataset(tmp_path / "d", 2, channel_names={"0": "T1", "1": "FLAIR"})
    (root / "cases.csv").write_text("case,T1,mask\nc0,imagesTr/c0_0000.nii.gz,labelsTr/c0.nii.gz\n")
    assert not refused(config(root, "T1", layout="csv"))


def test_a_number_of_cases_other_than_listed_is_a_note(tmp_path: Path) -> None:
    data = config(dataset(tmp_path / "d", numTraining=7), "T1")
    (note,) = refuse_other_dataset(data, list_dataset(data).cases)
    assert note.message == "numTraining is 7, but the dataset has 3 cases with masks"


def test_nothing_is_prepared_for_a_config_of_another_dataset(tmp_path: Path) -> None:
    write_study(tmp_path / "data", n_cases=2)
    (tmp_path / "data" / "splits.json").unlink()
    path = tmp_path / "data" / "dataset.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "modality": {"0": "T1", "1": "T2"}, "labels": {"a": 3}})
    )
    study = small_config(tmp_path, "data.channels=[{name: T1},{name: T2}]")

    with Processes(1) as processes, pytest.raises(DataError, match="contradicts the dataset data"):
        survey_dataset(study, tmp_path / "prepared", processes, Silent())

    assert not (tmp_path / "prepared").exists()
