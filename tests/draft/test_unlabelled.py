"""Voxels without a label, in masks of datasets that do not declare their value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from medhybrid.errors import DataError
from medhybrid.steps.init import Initialised, init_study
from tests.synthetic import blob_case, save_nifti

SHAPE = (12, 14, 8)


def scribbled(values: Mapping[int, int], rest: int) -> np.ndarray:
    """Return a mask with lines of some voxels for each value; all other voxels have the value `rest`."""
    mask = np.full(SHAPE, rest, np.uint8)
    for row, (value, n_voxels) in enumerate(values.items()):
        mask[row, :n_voxels, 3] = value
    return mask


def drafted(root: Path, masks: list[np.ndarray], names: Mapping[str, str] | None) -> Initialised:
    for i, mask in enumerate(masks):
        save_nifti(root / "d" / "imagesTr" / f"p{i}.nii.gz", blob_case(i, mask.shape)[0])
        save_nifti(root / "d" / "labelsTr" / f"p{i}.nii.gz", mask)
    if names is not None:
        pairs = [{"image": f"imagesTr/p{i}.nii.gz", "label": f"labelsTr/p{i}.nii.gz"} for i in range(len(masks))]
        about = {"modality": {"0": "MRI"}, "labels": {"0": "background", **names}, "training": pairs}
        (root / "d" / "dataset.json").write_text(json.dumps(about))
    return init_study(root / "d", root / "study.yaml")


@pytest.mark.parametrize(
    "word",
    ["unlabelled", "Unlabeled", "not-annotated", "no label", "void", "Unknown region", "ignore_label", "don’t care"],
)
def test_words_for_no_label_give_the_ignore_value(word: str, tmp_path: Path) -> None:
    made = drafted(tmp_path, [scribbled({0: 9, 1: 5, 2: 4}, 3)] * 3, {**NAMES, "3": word})

    assert (dict(made.config.data.labels), made.config.data.ignore_value) == ({"atrium": 1, "ventricle": 2}, 3)


@pytest.mark.parametrize("word", ["Unknown", "void", "unlabelled", "unannotated", "none"])
def test_such_words_for_0_are_the_background(word: str, tmp_path: Path) -> None:
    made = drafted(tmp_path, [scribbled({1: 9, 2: 8}, 0)] * 3, {**NAMES, "0": word})

    assert (dict(made.config.data.labels), made.config.data.ignore_value) == ({"atrium": 1, "ventricle": 2}, None)


NAMES = {"1": "atrium", "2": "ventricle"}


@pytest.mark.parametrize("rest", [3, 4, 9, 255])
def test_the_unnamed_value_of_most_voxels_beside_scribbles_is_no_label(rest: int, tmp_path: Path) -> None:
    made = drafted(tmp_path, [scribbled({0: 9, 1: 5, 2: 4}, rest)] * 3, NAMES)

    assert (dict(made.config.data.labels), made.config.data.ignore_value) == ({"atrium": 1, "ventricle": 2}, rest)
    assert any(f"the value {rest} is taken for voxels without a label" in r for r in made.draft.remarks)
    assert not any("in each corner" in r for r in made.draft.remarks)


@pytest.mark.parametrize("rest", ["", "3 unlabelled", "3 Unlabeled", "3 void", "3 don't care"])
def test_voxels_without_a_label_are_known_by_a_list_of_names(rest: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "labels.txt").write_text(f"0 background\n1 atrium\n2 ventricle\n{rest}\n")

    made = drafted(tmp_path, [scribbled({0: 9, 1: 5, 2: 4}, 3)] * 3, None)

    assert (dict(made.config.data.labels), made.config.data.ignore_value) == ({"atrium": 1, "ventricle": 2}, 3)


def test_255_beside_named_labels_is_no_label(tmp_path: Path) -> None:
    made = drafted(tmp_path, [scribbled({255: 9, 1: 9, 2: 4}, 0)] * 3, NAMES)

    assert (dict(made.config.data.labels), made.config.data.ignore_value) == ({"atrium": 1, "ventricle": 2}, 255)


@pytest.mark.parametrize(
    ("masks", "names"),
    [
        ([scribbled({1: 5, 2: 4}, 3)] * 3, NAMES),  # no voxel is background: 3 may be it
        ([scribbled({0: 9, 1: 5, 2: 4}, 3), *[scribbled({1: 5, 2: 4, 3: 8}, 0)] * 2], NAMES),  # a structure in others
        ([scribbled({1: 9, 2: 4, 3: 8}, 0)] * 3, NAMES),
        ([scribbled({0: 9, 1: 5, 2: 4}, 3)] * 3, None),
        ([scribbled({0: 9, 2: 5, 4: 4}, 3)] * 3, {"2": "atrium", "4": "ventricle"}),
        ([scribbled({0: 9, 1: 5, 3: 4}, 4)] * 3, NAMES),  # two values without a name
    ],
)
def test_a_value_that_may_be_a_structure_stays_a_label(
    masks: list[np.ndarray], names: Mapping[str, str] | None, tmp_path: Path
) -> None:
    made = drafted(tmp_path, masks, names)

    assert made.config.data.ignore_value is None
    if names is None:
        assert any("the value 3 has most voxels of the masks" in r for r in made.draft.remarks)
    assert set(made.config.data.labels.values()) >= {int(v) for m in masks for v in np.unique(m)} - {0}


def test_255_stays_a_label_where_it_has_a_name_or_masks_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "named" / "d").mkdir(parents=True)
    (tmp_path / "named" / "d" / "labels.csv").write_text("value,name\n1,left lung\n2,right lung\n255,trachea\n")
    named = drafted(tmp_path / "named", [scribbled({255: 9, 1: 9, 2: 4}, 0)] * 3, None)
    masks = [scribbled({1: 9, 2: 4}, 0)] * 3 + [scribbled({255: 9}, 0)] * 3
    apart = drafted(tmp_path / "apart", masks, NAMES)

    assert dict(named.config.data.labels) == {"left lung": 1, "right lung": 2, "trachea": 255}
    assert (apart.config.data.ignore_value, named.config.data.ignore_value) == (None, None)
    assert 255 in apart.config.data.labels.values()


def test_the_names_of_a_list_count_from_0_if_the_first_is_no_label(tmp_path: Path) -> None:
    pairs = [{"image": f"imagesTr/p{i}.nii.gz", "label": f"labelsTr/p{i}.nii.gz"} for i in range(3)]
    for i in range(3):
        save_nifti(tmp_path / "d" / "imagesTr" / f"p{i}.nii.gz", blob_case(i, SHAPE)[0])
        save_nifti(tmp_path / "d" / "labelsTr" / f"p{i}.nii.gz", scribbled({1: 9, 2: 8}, 0))
    about = {"modality": {"0": "MRI"}, "labels": ["Unknown", "a", "b"], "training": pairs}
    (tmp_path / "d" / "dataset.json").write_text(json.dumps(about))

    data = init_study(tmp_path / "d", tmp_path / "study.yaml").config.data

    assert (dict(data.labels), data.ignore_value) == ({"a": 1, "b": 2}, None)


@pytest.mark.parametrize("first", ["air", "Nothing", "Hintergrund", "Clear Label", "normal tissue", "bg"])
def test_a_list_may_begin_with_other_words_for_the_background(first: str, tmp_path: Path) -> None:
    drafted(tmp_path, [scribbled({1: 9, 2: 8}, 0)] * 3, NAMES)
    about = json.loads((tmp_path / "d" / "dataset.json").read_text()) | {"labels": [first, "a", "b"]}
    (tmp_path / "d" / "dataset.json").write_text(json.dumps(about))

    made = init_study(tmp_path / "d", tmp_path / "second.yaml")

    assert dict(made.config.data.labels) == {"a": 1, "b": 2}


@pytest.mark.parametrize("text", ["0 unlabeled\n1 background\n2 a\n3 b\n", "0 x\n1 Background\n2 a\n3 b\n"])
def test_a_list_in_which_the_background_is_not_0_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "labels.txt").write_text(text)

    with pytest.raises(DataError, match=r"labels\.txt: the background has another value than 0"):
        drafted(tmp_path, [scribbled({1: 9, 2: 8, 3: 7}, 0)] * 3, None)


@pytest.mark.parametrize(("word", "is_named"), [("CSF", True), ("background", False), ("non-brain", False)])
def test_a_structure_with_the_value_0_is_named(word: str, is_named: bool, tmp_path: Path) -> None:
    made = drafted(tmp_path, [scribbled({1: 9, 2: 8}, 0)] * 3, {**NAMES, "0": word})

    assert any(f"gives 0 the name {word}" in r for r in made.draft.remarks) is is_named


def test_scribbles_of_the_background_with_another_value_than_0_are_refused(tmp_path: Path) -> None:
    names = {"0": "unlabelled", "1": "background scribble", "2": "liver"}

    with pytest.raises(DataError, match="the background has the value 1"):
        drafted(tmp_path, [scribbled({1: 9, 2: 8}, 0)] * 3, names)


def test_masks_of_0_and_255_with_a_name_for_1_keep_their_label(tmp_path: Path) -> None:
    made = drafted(tmp_path, [scribbled({255: 9}, 0)] * 3, {"1": "atrium"})

    assert made.config.data.ignore_value is None
