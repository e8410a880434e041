"""Scores of masks against references of the same name; cases that cannot be scored are listed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import medhybrid
from medhybrid.cli import main
from medhybrid.errors import ConfigError, DataError
from medhybrid.steps.annotated import annotated_labels
from medhybrid.steps.evaluate import log_evaluation
from tests.steps.test_scoring_names import Messages
from tests.synthetic import AFFINE, StudyFolder, blob_case, save_nifti, small_config

LABELS = {"left": 1, "right": 4}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for i in range(3):
        _, mask = blob_case(i)
        save_nifti(tmp_path / "reference" / f"c{i}.nii.gz", mask)
        save_nifti(tmp_path / "prediction" / f"c{i}.nii.gz", np.roll(mask, i, 0))
    return tmp_path / "reference", tmp_path / "prediction"


def test_scores_by_case_and_label_and_their_summary(folders: tuple[Path, Path], tmp_path: Path) -> None:
    result = medhybrid.evaluate(*folders, labels=LABELS, out=tmp_path / "out")

    assert [s.dice for s in result.scores[:2]] == [1.0, 1.0]
    assert result.scores[2].dice < 1
    with (tmp_path / "out" / "scores.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["summary"]["n_cases"] == 3


def test_masks_on_another_grid_and_missing_ones_count_as_empty_and_are_listed(folders: tuple[Path, Path]) -> None:
    reference, prediction = folders
    moved = AFFINE.copy()
    moved[2, 3] += 3
    save_nifti(prediction / "c0.nii.gz", blob_case(0)[1], moved)
    (prediction / "c1.nii.gz").unlink()

    result = medhybrid.evaluate(reference, prediction, labels=LABELS, cases=["c0", "c1", "c2"])

    assert "another grid than the reference" in result.problems["c0"]
    assert "no prediction" in result.problems["c1"]
    assert [s.dice for s in result.scores if s.case in ("c0", "c1")] == [0, 0, 0, 0]


def test_references_are_found_by_their_names_without_words_for_masks(tmp_path: Path) -> None:
    image, mask = blob_case(0)
    save_nifti(tmp_path / "data" / "a01.nii.gz", image)  # images beside their masks
    save_nifti(tmp_path / "data" / "a01_mask.nii.gz", mask)
    save_nifti(tmp_path / "prediction" / "a01.nii.gz", mask)

    result = medhybrid.evaluate(tmp_path / "data", tmp_path / "prediction", labels=LABELS)

    assert [(s.case, s.dice) for s in result.scores] == [("a01", 1.0), ("a01", 1.0)]


def test_references_with_and_without_a_word_for_masks_are_found(tmp_path: Path) -> None:
    _, mask = blob_case(0)
    for name in ("reference/a", "reference/b_seg", "prediction/a", "prediction/b"):
        save_nifti(tmp_path / f"{name}.nii.gz", mask)

    result = medhybrid.evaluate(tmp_path / "reference", tmp_path / "prediction", labels=LABELS)

    assert {s.case: s.dice for s in result.scores} == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(
    ("reference", "prediction"),
    [
        ("c{}", "c{}_pred"),
        ("c{}_seg", "c{}_prediction"),
        ("gt_c{}", "pred_c{}"),
        ("sub-0{}_dseg", "sub-0{}_desc-pred_dseg"),
        ("C{}", "c{}"),
    ],
)
def test_references_are_found_by_names_without_words_for_results(
    reference: str, prediction: str, tmp_path: Path
) -> None:
    for i in range(2):
        save_nifti(tmp_path / "r" / f"{reference.format(i)}.nii.gz", blob_case(i)[1])
        save_nifti(tmp_path / "p" / f"{prediction.format(i)}.nii.gz", blob_case(i)[1])

    result = medhybrid.evaluate(tmp_path / "r", tmp_path / "p", labels=LABELS)

    assert (result.summary["dice"], result.problems) == (1.0, {})


def test_references_without_a_file_for_a_label_are_named(tmp_path: Path) -> None:
    labels = blob_case(0)[1]
    name, value = next(iter(LABELS.items()))
    save_nifti(tmp_path / "r" / "c0" / f"{name}.nii.gz", (labels == value).astype(np.uint8))
    save_nifti(tmp_path / "p" / "c0.nii.gz", labels)
    reporter = Messages()

    medhybrid.evaluate(tmp_path / "r", tmp_path / "p", labels=LABELS, reporter=reporter)

    assert [t for t in reporter.texts if "1 of 1 references have no file or segment for a label" in t]


@pytest.mark.parametrize("place", ["", "segmentations"])
def test_a_reference_may_be_a_folder_with_a_file_for_each_label(place: str, tmp_path: Path) -> None:
    for i in range(2):
        _, mask = blob_case(i)
        save_nifti(tmp_path / "whole" / f"c{i}.nii.gz", mask)
        save_nifti(tmp_path / "prediction" / f"c{i}.nii.gz", np.roll(mask, 1, axis=0))
        for name, value in LABELS.items():
            if i == 0 or name == "left":  # a label that a case does not have has no file
                file = tmp_path / "reference" / f"c{i}" / place / f"{name.upper()}.nii.gz"
                save_nifti(file, (mask == value).astype(np.uint8))
        save_nifti(tmp_path / "reference" / f"c{i}" / place / "other.nii.gz", mask)
    given = {"labels": LABELS, "other_values": "ignore"}

    found = medhybrid.evaluate(tmp_path / "reference", tmp_path / "prediction", **given)  # type: ignore[arg-type]
    expected = medhybrid.evaluate(tmp_path / "whole", tmp_path / "prediction", **given)  # type: ignore[arg-type]

    assert found.problems == {}
    assert found.scores[:2] == expected.scores[:2]
    assert {s.label: s.reference_ml for s in found.scores[2:]}[list(LABELS)[1]] == 0


def test_image_files_are_references_of_predictions_on_their_pixels(tmp_path: Path) -> None:
    mask = np.zeros((6, 9), np.uint8)  # (Y, X)
    mask[1:4, 2:7] = 255
    affine = np.diag([-0.2, -0.2, 1.0, 1.0])  # the pixel size, which the reference does not state
    (tmp_path / "reference").mkdir()
    Image.fromarray(mask).save(tmp_path / "reference" / "a.png")
    save_nifti(tmp_path / "prediction" / "a.nii.gz", np.roll(mask, 1, axis=1).T[..., None], affine)

    (score,) = medhybrid.evaluate(tmp_path / "reference", tmp_path / "prediction", labels={"lesion": 255}).scores

    assert score.dice == pytest.approx(2 * 12 / 30)
    assert score.hd95_mm == pytest.approx(0.2)


def test_folders_without_common_cases_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(DataError, match="no case to score"):
        medhybrid.evaluate(folders[0], tmp_path / "empty", labels=LABELS)
    (tmp_path / "empty" / "sub-01").mkdir()
    with pytest.raises(DataError, match=r"empty into one folder: folders below are not searched"):
        medhybrid.evaluate(folders[0], tmp_path / "empty", labels=LABELS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_result_is_added_to_the_record_of_the_run(
    trained: tuple[StudyFolder, Path], folders: tuple[Path, Path], tmp_path: Path
) -> None:
    result = medhybrid.evaluate(*folders, labels=LABELS, out=tmp_path / "out")

    log_evaluation(trained[1], tmp_path / "out", result.summary)

    events = [json.loads(line) for line in (trained[1] / "log.jsonl").read_text().splitlines()]
    added = [e["values"] for e in events if "evaluation/dice" in e.get("values", {})]
    assert added[-1]["evaluation/dice"] == pytest.approx(result.summary["dice"])


def test_a_failed_scan_counts_as_empty_and_a_mask_of_another_model_is_listed(
    trained: tuple[StudyFolder, Path], tmp_path: Path
) -> None:
    for n in range(3):
        save_nifti(tmp_path / "scans" / f"c{n}.nii.gz", blob_case(20 + n)[0])
        save_nifti(tmp_path / "references" / f"c{n}.nii.gz", blob_case(20 + n)[1])
    (tmp_path / "scans" / "c2.nii.gz").write_bytes(b"x")
    medhybrid.predict(tmp_path / "scans", model=trained[1], out=tmp_path / "out")
    record = tmp_path / "out" / "done" / "c1.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"made_by": "another"}))

    result = medhybrid.evaluate(
        tmp_path / "references", tmp_path / "out", labels=trained[0].config.data.labels, out=tmp_path / "scores"
    )

    assert {s.case for s in result.scores} == {"c0", "c2"}
    assert "of another model" in result.problems["c1"]
    assert "scored as empty" in result.problems["c2"]


def test_a_mask_with_several_channels_is_refused(folders: tuple[Path, Path]) -> None:
    references, predictions = folders
    path = sorted(predictions.glob("*.nii.gz"))[0]
    image = nib.load(path)
    save_nifti(path, np.stack([np.asarray(image.dataobj)] * 2, -1), image.affine)

    result = medhybrid.evaluate(references, predictions, labels={"left": 1, "right": 4})

    assert "is not a mask" in result.problems[path.name.removesuffix(".nii.gz")]


def write_pairs(folder: Path, names: str) -> None:
    _, mask = blob_case(0)
    for part in ("references", "predictions"):
        for name in names:
            save_nifti(folder / part / f"{name}.nii.gz", mask)


def test_an_invalid_prediction_counts_as_empty(tmp_path: Path) -> None:
    write_pairs(tmp_path, "abc")
    (tmp_path / "predictions" / "a.nii.gz").unlink()
    damaged = tmp_path / "predictions" / "b.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:200])

    result = medhybrid.evaluate(tmp_path / "references", tmp_path / "predictions", labels=LABELS)

    assert result.summary["n_cases"] == 3
    assert result.summary["dice"] == pytest.approx(1 / 3)
    assert result.problems["a"] == "no prediction: scored as empty"
    assert result.problems["b"].startswith("scored as empty: ")


def test_a_case_with_two_masks_is_listed_as_a_problem(tmp_path: Path) -> None:
    write_pairs(tmp_path, "ab")
    _, mask = blob_case(0)
    save_nifti(tmp_path / "predictions" / "a.nii", mask)

    result = medhybrid.evaluate(tmp_path / "references", tmp_path / "predictions", labels=LABELS)

    assert "two masks of a" in result.problems["a"]
    assert {s.case for s in result.scores} == {"b"}


def test_a_folder_is_not_scored_against_itself(tmp_path: Path) -> None:
    write_pairs(tmp_path, "a")
    with pytest.raises(DataError, match="scored against itself"):
        medhybrid.evaluate(tmp_path / "references", tmp_path / "references", labels=LABELS)


def test_values_that_are_not_labels_are_refused_or_ignored(tmp_path: Path) -> None:
    write_pairs(tmp_path, "a")
    folders = tmp_path / "references", tmp_path / "predictions"
    with pytest.raises(DataError, match=r"has values that are not labels. Expected 1 \(left\), found 4"):
        medhybrid.evaluate(*folders, labels={"left": 1})
    assert medhybrid.evaluate(*folders, labels={"left": 1}, other_values="ignore").summary["dice"] == 1.0


def test_a_case_without_prediction_gets_the_worst_score_if_its_reference_is_empty(tmp_path: Path) -> None:
    _, mask = blob_case(0)
    for name in ("a", "b", "c", "d"):
        save_nifti(tmp_path / "ref" / f"{name}.nii.gz", mask if name == "a" else np.zeros_like(mask))
    save_nifti(tmp_path / "pred" / "a.nii.gz", mask)
    save_nifti(tmp_path / "pred" / "d.nii.gz", np.zeros_like(mask))
    (tmp_path / "pred" / "b.nii.gz").write_bytes(b"damaged")

    result = medhybrid.evaluate(tmp_path / "ref", tmp_path / "pred", labels=LABELS)

    assert {s.case: s.dice for s in result.scores if s.label == "left"} == {"a": 1, "b": 0, "c": 0, "d": 1}
    assert result.summary["dice"] == 0.5
    assert result.summary["lesion_f1"] == 0.5
    diagonal = np.linalg.norm(np.array(mask.shape) * np.abs(np.diag(AFFINE)[:3]))
    assert {s.case: s.hd95_mm for s in result.scores if s.label == "left"} == {
        "a": 0,
        "b": pytest.approx(diagonal, rel=1e-4),
        "c": pytest.approx(diagonal, rel=1e-4),
        "d": 0,
    }


def test_a_case_given_twice_is_scored_once(folders: tuple[Path, Path]) -> None:
    assert medhybrid.evaluate(*folders, labels=LABELS, cases=["c0", "c0", "c1"]).summary["n_cases"] == 2


@pytest.mark.parametrize("place", [".", "masks"])
def test_an_edited_mask_is_not_scored(trained: tuple[StudyFolder, Path], tmp_path: Path, place: str) -> None:
    for n in range(2):
        save_nifti(tmp_path / "scans" / f"s{n}.nii.gz", blob_case(20 + n)[0])
        save_nifti(tmp_path / "ref" / f"s{n}.nii.gz", blob_case(20 + n)[1])
    medhybrid.predict(tmp_path / "scans", model=trained[1], out=tmp_path / "out")
    save_nifti(tmp_path / "out" / "masks" / "s1.nii.gz", blob_case(1)[1])

    result = medhybrid.evaluate(tmp_path / "ref", tmp_path / "out" / place, labels=LABELS)

    assert {s.case for s in result.scores} == {"s0"}
    assert "was edited after predict wrote it" in result.problems["s1"]


@pytest.mark.parametrize(
    "labels", [{"left": 4, "right": 1}, {"right": 1}, {"left": 1}, {"left": 1, "right": 4, "other": 2}]
)
def test_labels_with_other_values_than_the_record_are_refused(
    trained: tuple[StudyFolder, Path], tmp_path: Path, labels: dict[str, int]
) -> None:
    for folder in ("scans", "ref"):
        save_nifti(tmp_path / folder / "a.nii.gz", blob_case(20)[folder == "ref"])
    medhybrid.predict(tmp_path / "scans", model=trained[1], out=tmp_path / "out")

    for place in (tmp_path / "out", tmp_path / "out" / "masks"):
        with pytest.raises(DataError, match=r"(?s)have other labels.*model.*1 \(left\), 4 \(right\)"):
            medhybrid.evaluate(tmp_path / "ref", place, labels=labels)
        assert medhybrid.evaluate(tmp_path / "ref", place, labels={"left": 1}, other_values="ignore").scores


def test_of_a_fold_only_the_training_scans_are_refused(trained: tuple[StudyFolder, Path], tmp_path: Path) -> None:
    study, run = trained
    images = [study.folder / "data" / "imagesTr" / f"case_0{n}.nii.gz" for n in (0, 9)]
    medhybrid.predict(images, model=run, out=tmp_path)

    found = medhybrid.evaluate(
        study.folder / "data" / "labelsTr", tmp_path, labels={"left": 1, "right": 4}, predicted_only=True
    )

    assert {s.case for s in found.scores} == {"case_09"}
    assert "data leakage" in found.problems["case_00"]


def write_row(folder: Path, case: str, reference: list[int], prediction: list[int]) -> None:
    """Write a case whose masks have the given values along X."""
    for part, values in (("ref", reference), ("pred", prediction)):
        save_nifti(folder / part / f"{case}.nii.gz", np.array(values, np.uint8).reshape(-1, 1, 1))


CLASSES = {"whole_rest": 1, "core_rest": 2, "enhancing": 3}
REGIONS = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


def test_regions_that_nest_are_scored_as_wholes(tmp_path: Path) -> None:
    write_row(tmp_path, "a", [0, 1, 1, 2, 3, 3, 0, 0], [0, 1, 2, 2, 3, 0, 0, 1])

    result = medhybrid.evaluate(tmp_path / "ref", tmp_path / "pred", labels=CLASSES, regions=REGIONS)

    whole, core, enhancing = result.scores
    assert (whole.dice, core.dice, enhancing.dice) == pytest.approx((2 * 4 / 10, 2 * 2 / 6, 2 * 1 / 3))
    assert result.summary["dice"] == pytest.approx(np.mean([0.8, 2 / 3, 2 / 3]))
    voxel_ml = abs(np.linalg.det(AFFINE)) / 1000
    assert (whole.reference_ml, core.reference_ml) == pytest.approx((5 * voxel_ml, 3 * voxel_ml))


def test_voxels_of_unknown_label_are_not_scored(tmp_path: Path) -> None:
    write_row(tmp_path, "a", [0, 1, 1, 9, 9, 9, 0, 0], [1, 1, 0, 1, 1, 4, 0, 0])

    result = medhybrid.evaluate(
        tmp_path / "ref", tmp_path / "pred", labels={"left": 1}, ignore_value=9, other_values="ignore"
    )

    (score,) = result.scores
    assert score.dice == pytest.approx(2 * 1 / (2 + 2))
    assert np.isnan([score.hd95_mm, score.surface_dice, score.lesion_f1, score.volume_error_ml]).all()
    assert result.summary["labelled_share"] == pytest.approx(5 / 8)
    assert "hd95_mm" not in result.summary
    with pytest.raises(DataError, match="values that are not labels"):
        medhybrid.evaluate(tmp_path / "ref", tmp_path / "pred", labels={"left": 1})


def test_a_reference_without_a_known_voxel_is_listed(tmp_path: Path) -> None:
    write_row(tmp_path, "a", [9, 9], [1, 0])
    write_row(tmp_path, "b", [9, 1], [1, 1])

    result = medhybrid.evaluate(tmp_path / "ref", tmp_path / "pred", labels={"left": 1}, ignore_value=9)

    assert "no voxel of known label" in result.problems["a"]
    assert [s.case for s in result.scores] == ["b"]


def test_labels_that_a_reference_does_not_have_are_a_gap(tmp_path: Path) -> None:
    write_row(tmp_path, "a", [1, 1, 0, 0], [1, 1, 4, 4])
    write_row(tmp_path, "b", [1, 0, 4, 4], [1, 0, 4, 0])
    folders = tmp_path / "ref", tmp_path / "pred"

    result = medhybrid.evaluate(*folders, labels=LABELS, annotated={"a": ["left"]})

    assert {(s.case, s.label): s.dice for s in result.scores} == {
        ("a", "left"): 1,
        ("b", "left"): 1,
        ("b", "right"): pytest.approx(2 / 3),
    }
    assert result.summary["dice.right"] == pytest.approx(2 / 3)
    with pytest.raises(ConfigError, match="case a has an unknown label"):
        medhybrid.evaluate(*folders, labels=LABELS, annotated={"a": ["liver"]})
    with pytest.raises(ConfigError, match="case a has no label"):
        medhybrid.evaluate(*folders, labels=LABELS, annotated={"a": []})


def test_the_dataset_of_the_config_says_which_labels_its_references_have(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_nifti(tmp_path / f"{name}.nii.gz", blob_case(0)[0])
        save_nifti(tmp_path / f"{name}_mask.nii.gz", blob_case(0)[1])
    (tmp_path / "cases.csv").write_text(
        "case,T1,mask,labels\na,a.nii.gz,a_mask.nii.gz,right\nb,b.nii.gz,b_mask.nii.gz,all\n"
    )
    data = small_config(tmp_path / "config").data

    found = annotated_labels(data.model_copy(update={"root": str(tmp_path)}))

    assert found == {"a": ("right",), "a_mask": ("right",)}


def test_regions_other_than_those_of_the_record_are_refused(tmp_path: Path) -> None:
    write_row(tmp_path, "a", [1, 2], [1, 2])
    record = {
        "medhybrid": "", "python": "", "time": "", "device": "", "runtime": "", "precision": "", "model_weights_sha256": "",
        "made_by": "x", "n_done": 1, "n_unchanged": 0, "n_failed": 0, "n_waiting": 0, "skipped_files": [], "n_other_files": 0,
        "channels": {}, "labels": {"whole_rest": 1, "core": 2}, "regions": {"whole": [1, 2], "core": [2]},
    }  # fmt: skip
    (tmp_path / "pred" / "run.json").write_text(json.dumps(record))
    folders = tmp_path / "ref", tmp_path / "pred"

    labels = {"whole_rest": 1, "core": 2}
    assert medhybrid.evaluate(*folders, labels=labels, regions={"whole": [1, 2], "core": [2]}).summary["dice"] == 1
    assert medhybrid.evaluate(*folders, labels=labels, regions={"another name": [1, 2]}).summary["dice"] == 1
    with pytest.raises(DataError, match=r"(?s)have other labels.*1\+2.*2 \(whole\)"):
        medhybrid.evaluate(*folders, labels=labels, regions={"whole": [2]})


def test_labels_come_from_the_record_of_the_masks_and_counts_are_integers(
    trained: tuple[StudyFolder, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("scans", "ref"):
        save_nifti(tmp_path / folder / "a.nii.gz", blob_case(40)[folder == "ref"])
    medhybrid.predict(tmp_path / "scans", model=trained[1], out=tmp_path / "out")

    assert main(["evaluate", str(tmp_path / "ref"), str(tmp_path / "out")]) == 0

    cells = [[c.strip() for c in line.split("│")] for line in capsys.readouterr().out.splitlines()]
    assert ["n_cases", "1"] in cells
    assert any(row[0] == "dice.left" for row in cells)
    text = (tmp_path / "out" / "evaluation" / "summary.json").read_text()
    assert '"n_cases": 1,' in text

    (tmp_path / "out" / "run.json").unlink()
    assert main(["evaluate", str(tmp_path / "ref"), str(tmp_path / "out")]) == 2
    assert "--config with their labels" in capsys.readouterr().err
