"""Scoring finds the reference, the record and the labels of each case: accented names, suffixes, and crops of 3D Slicer.

Accented letters have two forms in Unicode: one character (NFC), or a letter and its accent (NFD, of macOS).
"""

from __future__ import annotations

import json
from pathlib import Path
from unicodedata import normalize

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

import medhybrid
from medhybrid.cli import main
from medhybrid.errors import DataError
from medhybrid.progress import Silent
from medhybrid.steps.annotated import annotated_labels
from medhybrid.steps.compare import compare
from medhybrid.steps.predict import predict
from medhybrid.steps.report import report
from tests.synthetic import AFFINE, blob_case, save_nifti, small_config, write_csv
from tests.test_masks_on_grid import with_box
from tests.test_names import model

LABELS = {"left": 1, "right": 4}
LESION = {"lesion": 255}
FORMS = [("NFC", "NFC"), ("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")]


class Messages(Silent):
    """Reporter that keeps the messages."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        """Keep a message."""
        self.texts.append(text)


def box_and_mask() -> tuple[np.ndarray, np.ndarray]:
    array, box = with_box((8, 7, 6))
    mask = np.zeros(array.shape, np.uint8)
    mask[box] = 255
    return array, mask


# --- accented names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scans", "references"), FORMS)
def test_records_of_accented_cases_are_found(tmp_path: Path, scans: str, references: str) -> None:
    array, mask = box_and_mask()
    for name in ("Müller", "édité", "étude", "échec"):
        save_nifti(tmp_path / "scans" / f"{normalize(scans, name)}.nii.gz", array)
        save_nifti(tmp_path / "references" / f"{normalize(references, name)}.nii.gz", mask)
    (tmp_path / "scans" / f"{normalize(scans, 'échec')}.nii.gz").write_bytes(b"no scan")
    out = tmp_path / "out"
    predict(tmp_path / "scans", model=model(), out=out)
    paths = {normalize("NFC", p.name.removesuffix(".nii.gz")): p for p in (out / "masks").iterdir()}
    save_nifti(paths["édité"], np.full_like(mask, 255))
    (record,) = (p for p in (out / "done").iterdir() if normalize("NFC", p.stem) == "étude")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"is_training_scan": True}))

    result = medhybrid.evaluate(tmp_path / "references", out, labels=LESION)

    assert {s.case: s.dice for s in result.scores} == {"Müller": 1, "échec": 0}
    assert "was edited after predict wrote it" in result.problems["édité"]
    assert "data leakage: the model was trained on" in result.problems["étude"]
    assert "no prediction" in result.problems["échec"]


def test_a_leftover_mask_of_a_failed_accented_scan_is_not_scored(tmp_path: Path) -> None:
    array, mask = box_and_mask()
    name = normalize("NFD", "échec")
    save_nifti(tmp_path / "scans" / "a.nii.gz", array)
    (tmp_path / "scans" / f"{name}.nii.gz").write_bytes(b"no scan")
    for case in ("a", name):
        save_nifti(tmp_path / "references" / f"{case}.nii.gz", mask)
    predict(tmp_path / "scans", model=model(), out=tmp_path / "out")
    save_nifti(tmp_path / "out" / "masks" / f"{name}.nii.gz", mask)

    result = medhybrid.evaluate(tmp_path / "references", tmp_path / "out", labels=LESION)

    assert {s.case: s.dice for s in result.scores} == {"a": 1, "échec": 0}


@pytest.mark.parametrize("given", ["NFC", "NFD"])
@pytest.mark.parametrize(("predictions", "references"), FORMS)
def test_given_cases_and_labels_match_accented_masks(
    tmp_path: Path, predictions: str, references: str, given: str
) -> None:
    _, mask = blob_case(0)
    for name in ("Zoë", "b"):
        save_nifti(tmp_path / "references" / f"{normalize(references, name)}.nii.gz", mask)
        save_nifti(tmp_path / "predictions" / f"{normalize(predictions, name)}.nii.gz", mask)
    case = normalize(given, "Zoë")

    result = medhybrid.evaluate(
        tmp_path / "references", tmp_path / "predictions", labels=LABELS, cases=[case], annotated={case: ["left"]}
    )

    assert [(s.case, s.label, s.dice) for s in result.scores] == [("Zoë", "left", 1)]
    assert result.problems == {}


# --- labels of partly labelled references -----------------------------------------------------------------------------


def write_partly_labelled(tmp_path: Path) -> Path:
    """Write a dataset whose case P0 has the mask scan_0_seg, with one label; return the path of a config."""
    data = tmp_path / "data"
    rows = []
    for n in range(2):
        image, mask = blob_case(n)
        save_nifti(data / "images" / f"scan_{n}.nii.gz", image)
        save_nifti(data / "labels" / f"scan_{n}_seg.nii.gz", mask)
        save_nifti(tmp_path / "predictions" / f"scan_{n}.nii.gz", mask)
        rows.append(
            {
                "case": f"P{n}",
                "T1": f"images/scan_{n}.nii.gz",
                "mask": f"labels/scan_{n}_seg.nii.gz",
                "labels": "right" if n == 0 else "all",
            }
        )
    write_csv(data, rows)
    small_config(tmp_path)
    return tmp_path / "small.yaml"


def test_annotated_labels_are_found_by_the_file_of_the_reference(tmp_path: Path) -> None:
    config = write_partly_labelled(tmp_path)
    messages = Messages()

    result = medhybrid.evaluate(
        tmp_path / "data" / "labels",
        tmp_path / "predictions",
        labels=LABELS,
        annotated=annotated_labels(medhybrid.load_config(str(config)).data),
        reporter=messages,
    )

    assert {(s.case, s.label) for s in result.scores} == {("scan_0", "right"), ("scan_1", "left"), ("scan_1", "right")}
    assert "1 of 2 references are partly labelled; their other labels are not scored" in messages.texts


def test_the_command_scores_only_annotated_labels_and_says_so_if_the_dataset_is_absent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_partly_labelled(tmp_path)
    arguments = [str(tmp_path / "data" / "labels"), str(tmp_path / "predictions"), "--config", str(config)]
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "first")]) == 0
    first = capsys.readouterr()
    (tmp_path / "data").rename(tmp_path / "moved")
    arguments[0] = str(tmp_path / "moved" / "labels")

    assert main(["evaluate", *arguments, "--out", str(tmp_path / "second")]) == 0

    second = capsys.readouterr()
    assert len((tmp_path / "first" / "scores.csv").read_text().splitlines()) == 1 + 3
    assert len((tmp_path / "second" / "scores.csv").read_text().splitlines()) == 1 + 4
    assert "counts as annotated" not in first.out + first.err
    assert "every label counts as annotated in every reference" in " ".join((second.out + second.err).split())


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    data = small_config(tmp_path, f"data.root={tmp_path / 'absent'}").data
    messages = Messages()

    assert annotated_labels(data, messages) == {}

    (text,) = messages.texts
    assert "every label counts as annotated in every reference" in text
    assert f"data.root {tmp_path / 'absent'} does not exist" in text


# --- crops of 3D Slicer -----------------------------------------------------------------------------------------------


def write_segments(path: Path, image: sitk.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for n, (name, value) in enumerate(LABELS.items()):
        for key, text in {"Name": name, "LabelValue": str(value), "Layer": "0"}.items():
            image.SetMetaData(f"Segment{n}_{key}", text)
    sitk.WriteImage(image, str(path))


def crop_of(mask: np.ndarray, margin: int = 0) -> tuple[slice, ...]:
    where = np.argwhere(mask)
    return tuple(slice(int(a) - margin, int(b) + 1 + margin) for a, b in zip(where.min(0), where.max(0), strict=True))


@pytest.mark.parametrize("order", ["as predicted", "LPS", "SAR"])
def test_a_cropped_segmentation_is_scored_on_the_grid_of_the_prediction(tmp_path: Path, order: str) -> None:
    _, mask = blob_case(3)
    path = save_nifti(tmp_path / "predictions" / "a.nii.gz", mask)
    cropped = sitk.ReadImage(str(path))[crop_of(mask, margin=1)]
    turned = cropped if order == "as predicted" else sitk.DICOMOrient(cropped, order)
    write_segments(tmp_path / "references" / "a.seg.nrrd", turned)

    result = medhybrid.evaluate(tmp_path / "references", tmp_path / "predictions", labels=LABELS)

    assert result.problems == {}
    assert {s.label: (s.dice, s.hd95_mm, s.surface_dice) for s in result.scores} == dict.fromkeys(LABELS, (1, 0, 1))
    ml = abs(np.linalg.det(AFFINE[:3, :3])) / 1000
    for score in result.scores:
        assert score.reference_ml == pytest.approx((mask == LABELS[score.label]).sum() * ml)


@pytest.mark.parametrize("order", ["as it is", "LPS"])
def test_two_cropped_segmentations_are_scored_on_the_grid_around_both(tmp_path: Path, order: str) -> None:
    """Two readers save other extents, of which neither contains the other."""
    _, mask = blob_case(3)
    moved = np.roll(mask, (2, -1, 1), axis=(0, 1, 2))
    for name, values in (("references", mask), ("predictions", moved)):
        path = save_nifti(tmp_path / "whole" / name / "a.nii.gz", values)
        cropped = sitk.ReadImage(str(path))[crop_of(values)]
        cropped = sitk.DICOMOrient(cropped, order) if name == "references" and order == "LPS" else cropped
        write_segments(tmp_path / name / "a.seg.nrrd", cropped)

    found = medhybrid.evaluate(tmp_path / "references", tmp_path / "predictions", labels=LABELS)
    expected = medhybrid.evaluate(tmp_path / "whole" / "references", tmp_path / "whole" / "predictions", labels=LABELS)

    assert found.problems == {}
    for one, other in zip(found.scores, expected.scores, strict=True):
        assert 0 < one.dice < 1
        assert (one.dice, one.hd95_mm, one.volume_error_ml) == pytest.approx(
            (other.dice, other.hd95_mm, other.volume_error_ml)
        )


def test_differences_from_a_cropped_segmentation_count_also_outside_of_the_crop(tmp_path: Path) -> None:
    _, mask = blob_case(3)
    path = save_nifti(tmp_path / "whole" / "a.nii.gz", mask)
    write_segments(tmp_path / "references" / "a.seg.nrrd", sitk.ReadImage(str(path))[crop_of(mask)])
    prediction = mask.copy()
    prediction[0, 0, 0] = 1
    save_nifti(tmp_path / "predictions" / "a.nii.gz", prediction)

    left, right = medhybrid.evaluate(tmp_path / "references", tmp_path / "predictions", labels=LABELS).scores

    n = (mask == 1).sum()
    assert left.dice == pytest.approx(2 * n / (2 * n + 1))
    assert right.dice == 1


@pytest.mark.parametrize("kind", ["half a voxel away", "beyond the grid", "without segments"])
def test_a_crop_that_does_not_fit_is_not_scored_as_equal(tmp_path: Path, kind: str) -> None:
    _, mask = blob_case(3)
    path = save_nifti(tmp_path / "predictions" / "a.nii.gz", mask)
    cropped = sitk.ReadImage(str(path))[crop_of(mask)]
    if kind == "without segments":
        (tmp_path / "references").mkdir()
        sitk.WriteImage(cropped, str(tmp_path / "references" / "a.nrrd"))
    else:
        away = 0.75 if kind == "half a voxel away" else -45.0
        cropped.SetOrigin(tuple(v + away for v in cropped.GetOrigin()))
        write_segments(tmp_path / "references" / "a.seg.nrrd", cropped)

    result = medhybrid.evaluate(tmp_path / "references", tmp_path / "predictions", labels=LABELS)

    assert "another grid than the reference" in result.problems["a"]
    assert all(s.dice == 0 for s in result.scores)


# --- references of a comparison ---------------------------------------------------------------------------------------


def write_scored(folder: Path, references: Path, **options: object) -> Path:
    """Write an output folder of two accurate masks, and its scores."""
    for name in ("a", "b"):
        mask = np.asarray(nib.load(references / f"{name}.nii.gz").dataobj)
        save_nifti(folder / "masks" / f"{name}.nii.gz", mask, nib.load(references / f"{name}.nii.gz").affine)
    texts = ("medhybrid", "python", "time", "device", "runtime", "precision", "model_weights_sha256", "made_by")
    counts = ("n_done", "n_unchanged", "n_failed", "n_waiting", "n_other_files")
    record = {**dict.fromkeys(texts, ""), **dict.fromkeys(counts, 0), "skipped_files": [], "channels": {}}
    (folder / "run.json").write_text(json.dumps({**record, "labels": LABELS}))
    medhybrid.evaluate(references, folder, labels=LABELS, out=folder / "evaluation", **options)  # type: ignore[arg-type]
    return folder


def test_folders_that_were_scored_with_different_labels_of_a_case_are_refused(tmp_path: Path) -> None:
    for n, name in enumerate("ab"):
        save_nifti(tmp_path / "references" / f"{name}.nii.gz", blob_case(n)[1])
    whole = write_scored(tmp_path / "whole", tmp_path / "references")
    partly = write_scored(tmp_path / "partly", tmp_path / "references", annotated={"b": ["left"]})

    with pytest.raises(DataError, match=r"scored with different labels of the same cases. Found b\..*same --config"):
        compare(whole, partly, out=tmp_path / "out")
    with pytest.raises(DataError, match="scored with different labels"):
        compare(partly, whole, out=tmp_path / "out")
    assert compare(partly, partly, out=tmp_path / "out").difference.interval.mean == 0


@pytest.mark.parametrize("is_same", [False, True])
def test_small_references_that_differ_are_refused(tmp_path: Path, is_same: bool) -> None:
    affine = np.diag([0.05, 0.05, 0.05, 1])
    for folder, n in (("first", 2), ("second", 2 if is_same else 3)):
        mask = np.zeros((12, 12, 12), np.uint8)
        mask[2 : 2 + n, 2:5, 2:5], mask[8:10, 8:10, 8:10] = 1, 4
        for name in ("a", "b"):
            save_nifti(tmp_path / "references" / folder / f"{name}.nii.gz", mask, affine)
        write_scored(tmp_path / folder, tmp_path / "references" / folder)

    if is_same:
        assert len(compare(tmp_path / "first", tmp_path / "second", out=tmp_path / "out").cases) == 2
    else:
        with pytest.raises(DataError, match=r"scored with different references. Found a, b"):
            compare(tmp_path / "first", tmp_path / "second", out=tmp_path / "out")


# --- references of a report -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scan", "reference"),
    [
        ("c0", "c0_seg"),
        ("c0_T1", "c0_T1_mask"),
        ("c0_scan", "c0_mask"),
        (normalize("NFD", "Zoë"), normalize("NFC", "Zoë")),
        (normalize("NFD", "Zoë"), "seg_" + normalize("NFC", "Zoë")),
    ],
)
def test_a_report_finds_references_by_their_names_without_words_for_masks(
    tmp_path: Path, scan: str, reference: str
) -> None:
    array, mask = box_and_mask()
    save_nifti(tmp_path / "scans" / f"{scan}.nii.gz", array)
    save_nifti(tmp_path / "references" / f"{reference}.nii.gz", mask)
    predict(tmp_path / "scans", model=model(), out=tmp_path / "out")

    text = report(tmp_path / "out", references=tmp_path / "references").read_text()

    assert text.count('data-kind="reference"') == 1
    assert "Against the reference" in text


def test_a_report_uses_no_reference_of_an_unclear_name(tmp_path: Path) -> None:
    array, mask = box_and_mask()
    for name in ("c0", "c0_scan"):
        save_nifti(tmp_path / "scans" / f"{name}.nii.gz", array)
    save_nifti(tmp_path / "references" / "c0_seg.nii.gz", mask)
    predict(tmp_path / "scans", model=model(), out=tmp_path / "out")

    text = report(tmp_path / "out", references=tmp_path / "references").read_text()

    assert "Against the reference" not in text


@pytest.mark.parametrize(
    "names",
    [("c0", "c1_seg"), ("c0", "c0_seg", "c1", "c1_seg"), ("c0_gt", "c0_img", "c1_gt", "c1_img")],
    ids=["mixed names", "beside the images", "beside images with a word"],
)
def test_a_report_finds_the_references_that_evaluate_finds(tmp_path: Path, names: tuple[str, ...]) -> None:
    array, mask = box_and_mask()
    has_images = len(names) == 4
    for name in ("c0", "c1"):
        save_nifti(tmp_path / "scans" / f"{name}.nii.gz", array)
    for name in names:
        is_image = has_images and not name.endswith(("seg", "gt"))
        save_nifti(tmp_path / "references" / f"{name}.nii.gz", array if is_image else mask)
    predict(tmp_path / "scans", model=model(), out=tmp_path / "out")
    result = medhybrid.evaluate(tmp_path / "references", tmp_path / "out", labels=LESION)
    assert {s.case: s.dice for s in result.scores} == {"c0": 1, "c1": 1}

    text = report(tmp_path / "out", references=tmp_path / "references", layout="single").read_text()

    assert text.count('data-kind="reference"') == 2


# --- grids that differ a little ---------------------------------------------------------------------------------------


def test_a_reference_within_the_accepted_distance_is_scored(tmp_path: Path) -> None:
    _, mask = box_and_mask()
    shifted = AFFINE.copy()
    shifted[0, 3] += 0.07
    save_nifti(tmp_path / "masks" / "a.nii.gz", mask)
    save_nifti(tmp_path / "references" / "a.nii.gz", mask, shifted)

    strict = medhybrid.evaluate(tmp_path / "references", tmp_path / "masks", labels=LESION)
    wide = medhybrid.evaluate(tmp_path / "references", tmp_path / "masks", labels=LESION, max_gap_mm=0.2)

    assert [s.dice for s in strict.scores] == [0]
    assert "corners within 0.01 mm" in strict.problems["a"]
    assert [s.dice for s in wide.scores] == [1]


@pytest.mark.parametrize("place", ["a.dcm", "a/SEG/1.dcm"])
def test_references_in_dicom_are_refused_with_the_reason(place: str, tmp_path: Path) -> None:
    _, mask = box_and_mask()
    save_nifti(tmp_path / "masks" / "a.nii.gz", mask)
    (tmp_path / "references" / place).parent.mkdir(parents=True)
    (tmp_path / "references" / place).write_bytes(b"DICM")

    with pytest.raises(DataError, match="does not read SEG and RTSTRUCT"):
        medhybrid.evaluate(tmp_path / "references", tmp_path / "masks", labels=LESION)
