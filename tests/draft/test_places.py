"""Labels that lie anywhere in the scans, as lesions do, are pasted in training; organs stay where they belong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from medhybrid.draft.draft import Draft, DraftChannel, DraftLabel
from medhybrid.draft.places import Place, do_places_vary, place_of
from medhybrid.draft.text import config_text
from medhybrid.steps.init import init_study
from tests.synthetic import AFFINE, save_nifti

SHAPE = (40, 36, 30)


def write_dataset(root: Path, spread: float, size: int, n_cases: int = 10) -> None:
    """Write cases with a cube of `size` voxels whose centre varies by up to `spread` of the free space."""
    rng = np.random.default_rng(0)
    for i in range(n_cases):
        free = np.array(SHAPE) - size
        start = np.rint(free / 2 + spread * (rng.random(3) - 0.5) * free).astype(int)
        mask = np.zeros(SHAPE, np.uint8)
        mask[tuple(slice(s, s + size) for s in start)] = 1
        save_nifti(root / f"images/P{i}.nii.gz", rng.normal(100, 20, SHAPE) + 40 * mask)
        save_nifti(root / f"labels/P{i}.nii.gz", mask)


@pytest.mark.parametrize(
    ("spread", "size", "n_cases", "is_pasted"),
    [
        (1.0, 8, 10, True),  # a lesion
        (0.2, 16, 10, False),  # an organ
        (0.2, 3, 10, False),  # a small organ, in a head that is placed by hand
        (1.0, 8, 5, False),  # too few cases
    ],
)
def test_pasting_is_drafted_for_labels_that_lie_anywhere(
    spread: float, size: int, n_cases: int, is_pasted: bool, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "d", spread, size, n_cases)

    made = init_study(tmp_path / "d", tmp_path / "study.yaml")

    assert made.config.augment.paste_probability == (0.5 if is_pasted else 0)


@pytest.mark.parametrize(
    ("is_anywhere", "modality", "expected"), [(True, "MR", (0.5, 0.5)), (True, "CT", (None, 0.5)), (False, "MR", ())]
)
def test_lesions_in_mr_get_stronger_changes_of_intensity(
    is_anywhere: bool, modality: str, expected: tuple[float | None, ...]
) -> None:
    draft = Draft(
        name="study",
        root=Path("data"),
        layout="nnunet",
        source="files",
        channels=(DraftChannel("image", modality, "its name"),),
        labels=(DraftLabel("organ", (1,)),),
        cases=("a", "b"),
        n_sampled=2,
        subject_pattern=None,
        subject_reason="names",
        is_anywhere=is_anywhere,
    )

    augment = yaml.safe_load(config_text(draft, Path("data"))).get("augment")

    assert (() if augment is None else (augment.get("contrast"), augment.get("paste_probability"))) == expected


def test_a_place_is_relative_to_the_scan_and_along_the_axes_of_the_patient() -> None:
    mask = np.zeros((10, 20, 8), np.uint8)
    mask[2:4, 5:15, 0:2] = 3

    assert place_of(mask, np.eye(4)) == Place((0.3, 0.5, 0.125), (0.2, 0.5, 0.25), {3: ((0.3, 0.5, 0.125), 40)})
    turned = np.array([[0, 0, 1.0, 0], [-1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])  # array axes run to P, S, R
    assert place_of(mask, turned) == Place((0.125, 0.7, 0.5), (0.25, 0.2, 0.5), {3: ((0.125, 0.7, 0.5), 40)})
    assert place_of(0 * mask, AFFINE) is None


def test_scans_that_begin_anywhere_along_one_axis_do_not_count() -> None:
    rng = np.random.default_rng(1)
    places = [Place((0.5, 0.5, float(z)), (0.3, 0.3, 0.2)) for z in rng.uniform(0.1, 0.9, 12)]

    assert not do_places_vary(places)
    assert do_places_vary([Place((p.centre[2], 0.5, 1 - p.centre[2]), p.extent) for p in places])
