"""Images get the mask of their own scan, and results of models are no channels."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from medhybrid.draft.pairs import find_pairs


def paired(root: Path, names: list[str]) -> dict[str, dict[str, str]]:
    """Return mask to channels and their images, for empty files of these names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    pairs = find_pairs(root)
    return {} if pairs is None else {str(p.mask): {c: str(i) for c, i in p.images.items()} for p in pairs.pairs}


def test_a_scan_without_mask_does_not_get_that_of_the_swapped_numbers(tmp_path: Path) -> None:
    found = paired(tmp_path, ["p_1_2.nii", "p_2_1.nii", "p_2_1_mask.nii", "p_3_3.nii", "p_3_3_mask.nii"])

    assert found == {"p_2_1_mask.nii": {"image": "p_2_1.nii"}, "p_3_3_mask.nii": {"image": "p_3_3.nii"}}


@pytest.mark.parametrize("missing", ["1", "2", "3"])
def test_numbers_in_any_order_tell_scans_apart(tmp_path: Path, missing: str) -> None:
    dates = ["_".join(d) for d in permutations(("1", "2", "3"))]
    masks = [d for d in dates if not d.startswith(missing)]

    found = paired(tmp_path, [*(f"images/{d}.nii" for d in dates), *(f"masks/{d}.nii" for d in masks)])

    assert found == {f"masks/{d}.nii": {"image": f"images/{d}.nii"} for d in masks}


def test_an_image_of_another_case_is_no_channel(tmp_path: Path) -> None:
    found = paired(tmp_path, ["case_1.nii", "case_1_mask.nii", "case_2_run_1.nii", "case_3.nii", "case_3_mask.nii"])

    assert found == {"case_1_mask.nii": {"image": "case_1.nii"}, "case_3_mask.nii": {"image": "case_3.nii"}}


def test_a_number_in_the_folder_of_all_images_is_ignored(tmp_path: Path) -> None:
    found = paired(tmp_path, [n for i in (1, 2) for n in (f"scans_2019/p_{i}.nii", f"gt_2020/p_{i}.nii")])

    assert {m: list(i.values()) for m, i in found.items()} == {
        f"gt_2020/p_{i}.nii": [f"scans_2019/p_{i}.nii"] for i in (1, 2)
    }


@pytest.mark.parametrize("folder", ["predictions", "model_output", "results/probabilities"])
def test_results_of_a_model_are_no_channels(tmp_path: Path, folder: str) -> None:
    names = [n for i in (1, 2) for n in (f"images/p{i}.nii", f"labels/p{i}.nii", f"{folder}/p{i}.nii")]

    assert paired(tmp_path, names) == {f"labels/p{i}.nii": {"image": f"images/p{i}.nii"} for i in (1, 2)}


@pytest.mark.parametrize(
    ("folder", "is_used"),
    [("BraTS-GLI-00000-000", True), ("imagesTs", False), ("TestSet", False), ("test", False), ("ts", False)],
)
def test_folders_for_testing_are_known_by_whole_words(tmp_path: Path, folder: str, is_used: bool) -> None:
    assert bool(paired(tmp_path, [f"{folder}/x-t1.nii", f"{folder}/x-seg.nii"])) is is_used
