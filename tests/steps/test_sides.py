"""Labels that name sides are learnt: mirroring left-right exchanges them."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import medhybrid
from medhybrid.config import StudyConfig
from medhybrid.data.prepare import prepare_image
from medhybrid.data.sides import Sides, exchange_of, find_sides, side_pairs
from medhybrid.geometry import Grid
from tests.synthetic import make_test_plan, save_nifti, small_values

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def write_kidneys(root: Path, n_cases: int = 8) -> None:
    """Write scans with two equal blobs, which differ only in their side."""
    names = [f"case_{i:02d}" for i in range(n_cases)]
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (32, 24, 16)), indexing="ij"))
    for i, name in enumerate(names):
        rng = np.random.default_rng(i)
        mask = np.zeros((32, 24, 16), np.uint8)
        for value, x in ((1, 8), (2, 24)):
            centre = np.array([x, 12, 8]) + rng.uniform(-1.5, 1.5, 3)
            mask[((index - centre[:, None, None, None]) ** 2).sum(0) < 16] = value
        image = 100 + 80 * (mask > 0) + rng.normal(0, 8, mask.shape)
        save_nifti(root / "imagesTr" / f"{name}.nii.gz", image.astype(np.int16), AFFINE)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", mask, AFFINE)
    listed = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    (root / "dataset.json").write_text(json.dumps({"training": listed}))
    (root / "splits.json").write_text(json.dumps([{"train": names[:-2], "validation": names[-2:]}]))


def test_a_side_labelled_phantom_is_learnt(tmp_path: Path) -> None:
    write_kidneys(tmp_path / "data")
    values = small_values(tmp_path)
    values["data"]["labels"] = {"right_kidney": 1, "left_kidney": 2}
    values["prepare"] |= {"patch_size": [32, 24, 16], "mirror_axes": None}
    values["training"]["iterations"] = 100
    values["inference"]["tta_mirroring"] = True
    values["tracking"] = {"kind": "none"}
    config = StudyConfig.model_validate(values)

    plan = medhybrid.preprocess(config).plan
    run = medhybrid.train(config)

    assert plan.mirror_axes == (0,)
    assert plan.mirror_pairs == (("left_kidney", "right_kidney"),)
    assert run.metrics["val_label/left_kidney/dice"] > 0.7
    assert run.metrics["val_label/right_kidney/dice"] > 0.7


def test_pairs_of_sides_are_found_by_words() -> None:
    found = side_pairs(["Left-Kidney", "kidneyRight", "kidney_L", "R_kidney", "L1", "L2", "left_atrium", "lung"])

    assert found == {}, "words in another order are another name"
    assert side_pairs(["Left-Kidney", "right kidney", "hippocampus_L", "hippocampus_R", "L1", "left_atrium"]) == {
        "Left-Kidney": "right kidney",
        "hippocampus_L": "hippocampus_R",
    }


@pytest.mark.parametrize(
    "pair",
    [
        *(("leftkidney", "rightkidney"), ("lkidney", "rkidney"), ("KidneyL", "KidneyR"), ("kidneyl", "kidneyr")),
        *(("linke_niere", "rechte_niere"), ("linkeNiere", "rechteNiere"), ("Niere links", "Niere rechts")),
        *(("rein_gauche", "rein_droit"), ("rene_sinistro", "rene_destro"), ("rim_esquerdo", "rim_direito")),
        *(("LMCA", "RMCA"), ("LICA", "RICA"), ("lungleft", "lungright"), ("femurlinks", "femurrechts")),
    ],
)
def test_sides_are_found_without_separators_and_in_other_languages(pair: tuple[str, str]) -> None:
    assert find_sides(["liver", *pair]) == Sides((pair,))


@pytest.mark.parametrize(
    ("labels", "is_allowed"),
    [
        (["LCA", "RCA"], False),
        (["LUL", "LLL", "RUL", "RML", "RLL"], False),
        (["LVmyo", "RVmyo"], False),
        (["lventricle", "rventricle"], False),
        (["LVOT", "RVOT"], False),
        (["lamyocardium", "ramyocardium"], False),
        (["LSPV", "RSPV"], False),
        (["leftkidney", "liver"], False),
        (["LV", "RV", "MYO"], True),  # chambers in slices of any direction
        (["lung", "rung", "cleft", "bright"], True),
        (["lad", "lcx"], True),
    ],
)
def test_doubtful_sides_turn_mirroring_off(labels: list[str], is_allowed: bool) -> None:
    assert (not find_sides(labels).obstacle) is is_allowed


def test_pairs_must_be_complete_mirror_images() -> None:
    assert find_sides(["liver", "kidney_left", "kidney_right"]).pairs == (("kidney_left", "kidney_right"),)
    assert find_sides(["lung_upper_left", "lung_upper_right", "lung_middle_right"]).obstacle.startswith(
        "lung_middle_right"
    )
    assert "no mirror images" in find_sides(["heart_atrium_left", "heart_atrium_right"]).obstacle
    assert find_sides(["left_atrium"]) == Sides(), "a heart is on one side of every scan"
    assert find_sides(["Left-Lateral-Ventricle", "Right-Lateral-Ventricle"]).obstacle == ""
    assert find_sides(["L1", "L2", "R1x"]) == Sides()


def test_codes_name_the_sides_of_labels_whose_names_do_not() -> None:
    codes = {"k1": "Kidney Left kidney", "k2": "Kidney Right kidney"}

    assert find_sides(["k1", "k2"], codes=codes) == Sides((("k1", "k2"),))
    assert find_sides(["k1", "k2", "k3"], codes=codes | {"k3": codes["k1"]}).obstacle.startswith("k1 names a side")


def test_an_exchange_keeps_regions_whole() -> None:
    labels = ["left_kidney_rest", "left_tumour", "right_kidney_rest", "right_tumour"]
    sides = {"left_kidney": (1, 2), "right_kidney": (3, 4), "both": (1, 2, 3, 4)}

    assert find_sides(labels, sides).obstacle == ""
    assert "the regions of one side" in find_sides(labels, {**sides, "right_kidney": (3,)}).obstacle
    assert "the regions of one side" in find_sides(labels, {"one of both": (1, 4)}).obstacle


def test_an_exchange_is_its_own_inverse() -> None:
    labels = ["a", "left", "b", "right"]

    order = exchange_of(labels, find_sides(labels).pairs)

    assert order == (0, 1, 4, 3, 2)
    assert tuple(order[i] for i in order) == tuple(range(5))


@pytest.mark.parametrize("axes", list(permutations(range(3))))
@pytest.mark.parametrize("degrees", [0, 25, 40])
def test_the_mirrored_axis_is_the_patients_left_right_also_in_oblique_scans(
    axes: tuple[int, int, int], degrees: float
) -> None:
    """The phantom has its only structure on the patient's left: in the prepared image, it is at the start of axis 0."""
    turn = Rotation.from_euler("xyz", [degrees, -degrees / 2, degrees / 3], degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = (turn * [1.0, -1.0, 1.0])[:, axes]
    shape = (20, 20, 20)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    world = np.einsum("ij,jxyz->ixyz", affine[:3, :3], index) + affine[:3, 3][:, None, None, None]
    image = 100.0 + 50 * (((world - np.array([-6, 0, 0])[:, None, None, None]) ** 2).sum(0) < 9)
    plan = make_test_plan(spacing_mm=(1.0, 1.0, 1.0))

    prepared = prepare_image(image[None], Grid(shape, affine), plan)

    along = prepared.image[0].max(axis=(1, 2))
    n = len(along) // 2
    assert along[:n].max() > along[n:].max()
