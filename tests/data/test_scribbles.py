"""Voxels beyond the scribbles of a case."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import medhybrid
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.fingerprint import UNKNOWN
from medhybrid.data.scribbles import fill_beyond
from medhybrid.steps.init import init_study
from tests.synthetic import blob_case, save_nifti

SHAPE = (24, 20, 6)
PLANE = (1.0, 1.0, 5.0)


def scribbles(*, ring: bool = True) -> np.ndarray:
    """Return labels with a structure in two slices and, in each, a line of background on both or one side of it."""
    labels = np.full(SHAPE, UNKNOWN, np.uint8)
    labels[9:13, 8:11, 2:4] = 1
    labels[6, 6:15, 2:4] = labels[6:16, 6, 2:4] = 0
    if ring:
        labels[15, 6:15, 2:4] = labels[6:16, 14, 2:4] = 0
    return labels


def test_voxels_outside_the_box_of_enclosing_scribbles_are_background() -> None:
    labels = scribbles()

    filled = fill_beyond(labels, PLANE, 1)

    beyond = np.ones(SHAPE, bool)
    beyond[6:16, 6:15] = False
    beyond[:, :, [0, 1, 4, 5]] = False  # thick slices without a scribble, where the structure may lie elsewhere
    assert not filled[beyond].any()
    assert np.array_equal(filled[~beyond], labels[~beyond])


def test_thin_slices_beyond_the_scribbles_are_background_too() -> None:
    labels = scribbles()
    labels[9, 9, 1] = labels[9, 9, 4] = 0  # beside the structure along the third axis

    filled = fill_beyond(labels, (1.0, 1.0, 1.0), 1)

    assert not filled[:, :, [0, 5]].any()
    assert np.array_equal(filled[6:16, 6:15, 1:5], labels[6:16, 6:15, 1:5])


@pytest.mark.parametrize("labels", [scribbles(ring=False), np.full(SHAPE, UNKNOWN, np.uint8)])
def test_scribbles_that_enclose_nothing_leave_all_voxels_unknown(labels: np.ndarray) -> None:
    assert np.array_equal(fill_beyond(labels, PLANE, 1), labels)


def test_a_single_slice_has_a_plane_only() -> None:
    labels = scribbles()[:, :, 2:3]

    filled = fill_beyond(labels, (1.0, 1.0, 1.0), 1)

    assert not filled[:6].any()
    assert np.array_equal(filled[6:16, 6:15], labels[6:16, 6:15])


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 30), thick=st.booleans())
def test_known_labels_never_change(seed: int, n: int, thick: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = np.full(SHAPE, UNKNOWN, np.uint8)
    at = tuple(rng.integers(0, size, n) for size in SHAPE)
    labels[at] = rng.integers(0, 3, n)

    filled = fill_beyond(labels, PLANE if thick else (1.0, 1.0, 1.0), 2)

    changed = filled != labels
    assert not filled[changed].any()
    assert (labels[changed] == UNKNOWN).all()


def test_a_label_without_a_scribble_leaves_all_voxels_unknown() -> None:
    assert np.array_equal(fill_beyond(scribbles(), PLANE, 2), scribbles())


@pytest.mark.parametrize("area", [np.s_[4:17, 4:17, 1:5], np.s_[4:17, 4:17, 3]])
def test_annotated_areas_are_no_scribbles(area: tuple[slice | int, ...]) -> None:
    labels = np.full(SHAPE, UNKNOWN, np.uint8)
    labels[area] = 0
    labels[9:13, 8:11, 3] = 1

    assert np.array_equal(fill_beyond(labels, PLANE, 1), labels)


def dataset(root: Path, *, ring: bool, second: bool = True) -> Path:
    for i in range(3):
        mask = scribbles(ring=ring)
        mask[10:12, 8, 2:4] = 3 if second else 1
        save_nifti(root / "imagesTr" / f"p{i}.nii.gz", blob_case(i, SHAPE)[0], np.diag([*PLANE, 1.0]))
        save_nifti(root / "labelsTr" / f"p{i}.nii.gz", np.where(mask == UNKNOWN, 9, mask), np.diag([*PLANE, 1.0]))
    pairs = [{"image": f"imagesTr/p{i}.nii.gz", "label": f"labelsTr/p{i}.nii.gz"} for i in range(3)]
    labels = {"0": "background", "1": "liver", **({"3": "vessel"} if second else {})}
    (root / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}, "labels": labels, "training": pairs}))
    return root


@pytest.mark.parametrize("ring", [True, False])
def test_init_drafts_background_beyond_enclosing_scribbles_and_preprocess_fills_it(ring: bool, tmp_path: Path) -> None:
    made = init_study(dataset(tmp_path / "d", ring=ring), tmp_path / "study.yaml")
    config = medhybrid.load_config(str(tmp_path / "study.yaml"), [f"prepare.folder={tmp_path}/prepared"])

    folder = medhybrid.preprocess(config).folder

    assert config.data.beyond_scribbles == ("background" if ring else "unknown")
    assert any("remove this line if a scan has structures without a scribble" in r for r in made.draft.remarks) is ring
    case = next(iter(PreparedDataset(folder).open(["p0"])))
    assert (case.record.known_share > 0.3) is ring  # the two slices with scribbles, of six


def test_scribbles_of_one_label_may_be_those_of_some_lesions(tmp_path: Path) -> None:
    made = init_study(dataset(tmp_path / "d", ring=True, second=False), tmp_path / "study.yaml")

    assert made.config.data.beyond_scribbles == "unknown"
    assert any("if each of its objects has a scribble, data.beyond_scribbles" in r for r in made.draft.remarks)


def test_another_choice_prepares_the_cases_again(tmp_path: Path) -> None:
    init_study(dataset(tmp_path / "d", ring=True), tmp_path / "study.yaml")
    places = [f"prepare.folder={tmp_path}/prepared"]

    def known_share(choice: str) -> float:
        config = medhybrid.load_config(str(tmp_path / "study.yaml"), [*places, f"data.beyond_scribbles={choice}"])
        folder = medhybrid.preprocess(config).folder
        return next(iter(PreparedDataset(folder).open(["p0"]))).record.known_share

    assert known_share("unknown") < 0.1 < 0.3 < known_share("background")
    assert known_share("unknown") < 0.1
