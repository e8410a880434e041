"""Masks of named segments give labels by name, and overlaps stay with the smallest segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from medhybrid.config import ScansConfig
from medhybrid.data.layouts import list_dataset
from medhybrid.data.load import load_image, load_mask
from medhybrid.draft.segments import count_names
from medhybrid.errors import DataError
from medhybrid.scans.dicom.seg import SegInfo, write_seg
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan
from medhybrid.steps.init import init_study
from tests.scans.dicom.test_references import ellipse, frame_of, write_rtstruct
from tests.synthetic import AFFINE, save_nifti

SHAPE = (12, 10, 8)


def write_slicer_mask(path: Path, values: Mapping[str, int]) -> None:
    """Write a segmentation of 3D Slicer on the grid of `AFFINE`; segment `tumor` is a block of 8 voxels, another one of 27."""
    mask = np.zeros(SHAPE, np.uint8)
    for name, value in values.items():
        block = slice(1, 3) if name == "tumor" else slice(4, 7)
        mask[block, block, block] = value
    image = sitk.GetImageFromArray(mask.transpose(2, 1, 0))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ AFFINE
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    for number, (name, value) in enumerate(values.items()):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def test_labels_of_slicer_masks_are_their_names_though_values_differ(tmp_path: Path) -> None:
    for i, values in enumerate(({"tumor": 1, "edema": 2}, {"edema": 1, "tumor": 2})):
        save_nifti(tmp_path / "d" / f"c{i}/image.nii.gz", np.random.default_rng(i).normal(size=SHAPE))
        write_slicer_mask(tmp_path / "d" / f"c{i}/mask.seg.nrrd", values)

    data = init_study(tmp_path / "d", tmp_path / "study.yaml").config.data

    assert data.labels == {"tumor": 1, "edema": 2}
    for case in list_dataset(data).cases:
        mask = load_mask(case, load_image(case, data, ScansConfig()), data, ScansConfig()).array
        assert [int((mask == v).sum()) for v in data.labels.values()] == [8, 27]


@pytest.mark.parametrize("lesion_first", [True, False])
def test_a_lesion_inside_an_organ_keeps_its_voxels(tmp_path: Path, lesion_first: bool) -> None:
    for i in range(2):
        values = np.random.default_rng(i).integers(0, 900, (24, 20, 4))
        folder = tmp_path / "d" / f"p{i}"
        paths = write_mr_series(folder / "mr", values, np.eye(4), description="T1", study=f"s{i}", case=f"p{i}")
        slices = [pydicom.dcmread(p) for p in paths]
        outlines = {
            "Lung" if i else "lung": [ellipse(s, (12, 10), (9, 8)) for s in slices],
            "GTV": [ellipse(s, (12, 10), (3, 3)) for s in slices],
        }
        names = sorted(outlines, key=lambda n: (n == "GTV") is not lesion_first)
        frame = slices[0].FrameOfReferenceUID
        write_rtstruct(folder / "rt" / "rt.dcm", {n: outlines[n] for n in names}, frame=frame)

    data = init_study(tmp_path / "d", tmp_path / "study.yaml").config.data

    assert [n.casefold() for n in data.labels] == ["lung", "gtv"]
    for case in list_dataset(data).cases:
        mask = load_mask(case, load_image(case, data, ScansConfig()), data, ScansConfig()).array
        assert int((mask == data.labels["GTV"]).sum()) == 4 * 29, "voxels within 3 voxels of the centre, on 4 slices"


def test_spellings_of_a_segment_are_one_label() -> None:
    assert count_names([["Heart", "GTV_1"], ["heart", "gtv 1"], ["Heart"]]) == {"Heart": 3, "GTV_1": 2}


def write_dicom_study(folder: Path, case: str, masks: Sequence[str], *, patient: str = "") -> None:
    """Write a series to `folder/CT`, and masks of a label `GTV` beside it: SEG, or RTSTRUCT for names that begin with RT."""
    (folder / "CT").mkdir(parents=True)
    values = np.random.default_rng(0).integers(0, 4000, SHAPE)
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    write_mr_series(folder / "CT", values, affine, description="CT", study=case, case=patient or case)
    scan = read_scan(folder / "CT")
    for name in masks:
        if name.startswith("RT"):
            outlines = [ellipse(scan.source.header[k], (6, 5), (3, 2)) for k in (2, 3)]
            write_rtstruct(folder / name / "a.dcm", {"GTV": outlines}, frame=frame_of(scan))
        else:
            (folder / name).mkdir()
            write_seg(folder / name / "a.dcm", scan.array[0] > 3000, scan, SegInfo({"GTV": 1}, "0"))


@pytest.mark.parametrize("above", ["", "manifest/DICOM"])
def test_visits_and_deeper_folders_of_studies_are_cases_of_their_patients(tmp_path: Path, above: str) -> None:
    for patient, visits in (("P0", ("T1", "T2")), ("P1", ("T1", "T2"))):
        for visit in visits:
            write_dicom_study(tmp_path / "d" / above / patient / visit, f"{patient}{visit}", ["RT"])

    made = init_study(tmp_path / "d", tmp_path / "c.yaml")

    cases = list_dataset(made.config.data).cases
    assert [(c.name, c.subject, c.problem) for c in cases] == [
        (f"{p}__{v}", p, None) for p in ("P0", "P1") for v in ("T1", "T2")
    ]
    base = (tmp_path / "d" / above).resolve()
    assert [(c.images[0].paths, c.mask.paths) for c in cases if c.images[0] and c.mask] == [
        ((base / p / v / "CT",), (base / p / v / "RT" / "a.dcm",)) for p in ("P0", "P1") for v in ("T1", "T2")
    ]
    image = load_image(cases[0], made.config.data, made.config.scans)
    assert load_mask(cases[0], image, made.config.data, made.config.scans).array.any()


@pytest.mark.parametrize("mask", ["{}/mask.nii.gz", "labels/{}.nii.gz"])
def test_series_with_masks_of_other_formats_are_paired_by_the_names_of_their_folders(tmp_path: Path, mask: str) -> None:
    for patient in ("P0", "P1"):
        write_dicom_study(tmp_path / "d" / patient, patient, [])
        place = tmp_path / "d" / mask.format(patient)
        place.parent.mkdir(exist_ok=True)
        scan = read_scan(tmp_path / "d" / patient / "CT")
        save_nifti(place, (scan.array[0] > 3000).astype(np.uint8), scan.affine)

    data = init_study(tmp_path / "d", tmp_path / "c.yaml").config.data

    for case in list_dataset(data).cases:
        image = load_image(case, data, ScansConfig())
        np.testing.assert_array_equal(load_mask(case, image, data, ScansConfig()).array[0] > 0, image.array[0] > 3000)


@pytest.mark.parametrize("kind", ["SEG", "RT"])
@pytest.mark.parametrize("folder", ["P{}", "P{}/visit{}"])
def test_of_several_series_the_image_is_the_one_that_the_mask_refers_to(tmp_path: Path, folder: str, kind: str) -> None:
    for i in range(3):
        study = tmp_path / "d" / folder.format(i, i)
        for name in ("thick", "thin", "late"):  # with other descriptions in each study
            values = np.random.default_rng(len(name)).integers(0, 4000, SHAPE)
            write_mr_series(study / name, values, np.eye(4), description=f"{name}{i}", study=f"s{i}", case=f"P{i}")
        scan = read_scan(study / "thin")
        if kind == "SEG":
            (study / kind).mkdir()
            write_seg(study / kind / "a.dcm", scan.array[0] > 3000, scan, SegInfo({"GTV": 1}, "0"))
        else:
            outlines = [ellipse(scan.source.header[k], (6, 5), (3, 2)) for k in (2, 3)]
            series = scan.source.header[0].SeriesInstanceUID
            write_rtstruct(study / kind / "a.dcm", {"GTV": outlines}, frame=frame_of(scan), series=series)

    made = init_study(tmp_path / "d", tmp_path / "c.yaml")

    cases = list_dataset(made.config.data).cases
    assert [c.problem for c in cases] == [None] * 3
    assert all("thin" in str(c.images[0].paths[0].relative_to(tmp_path)) for c in cases if c.images[0])
    for case in cases:
        image = load_image(case, made.config.data, ScansConfig())
        assert load_mask(case, image, made.config.data, ScansConfig()).array.any()


def test_of_a_seg_and_an_rtstruct_of_a_study_the_seg_is_the_mask(tmp_path: Path) -> None:
    for patient in ("P0", "P1"):
        write_dicom_study(tmp_path / "d" / patient, patient, ["RT", "SEG"])

    made = init_study(tmp_path / "d", tmp_path / "c.yaml")

    masks = [c.mask.paths[0].parent.name for c in list_dataset(made.config.data).cases if c.mask and not c.problem]
    assert masks == ["SEG", "SEG"]


def test_the_seg_of_each_visit_is_its_mask(tmp_path: Path) -> None:
    for name, masks in (("P0/T1", ["RT", "SEG"]), ("P0/T2", ["RT", "SEG"]), ("P1/T1", ["RT"])):
        write_dicom_study(tmp_path / "d" / "manifest" / name, name, masks)

    made = init_study(tmp_path / "d", tmp_path / "c.yaml")

    masks_of = {c.name: c.mask.paths[0].parent.name for c in list_dataset(made.config.data).cases if c.mask}
    assert masks_of == {"P0__T1": "SEG", "P0__T2": "SEG", "P1": "RT"}


def test_studies_without_a_usable_one_are_refused_with_the_reason(tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "d" / "P0", "P0", ["RT1", "RT2"])

    with pytest.raises(DataError, match=r"each study has several SEG or RTSTRUCT.*P0__RT1 with GTV; P0__RT2"):
        init_study(tmp_path / "d", tmp_path / "c.yaml")


@pytest.mark.parametrize("group", ["siteA", "HGG", "train", "batch_1"])
def test_folders_of_groups_are_no_subjects_and_those_for_testing_do_not_train(tmp_path: Path, group: str) -> None:
    for name in (f"{group}/P1/T1", f"{group}/P1/T2", f"{group}/P2", "other/P3", "test/P4"):
        write_dicom_study(tmp_path / "d" / name, name, ["RT"], patient=name.split("/")[1])

    made = init_study(tmp_path / "d", tmp_path / "c.yaml")

    assert {c.name: c.subject for c in list_dataset(made.config.data).cases} == {
        f"{group}__P1__T1": f"{group}__P1",
        f"{group}__P1__T2": f"{group}__P1",
        f"{group}__P2": f"{group}__P2",
        "other": "other",
    }
    assert "2 series for testing, by the names of their folders" in made.draft.remarks


def test_studies_for_testing_that_no_table_can_omit_are_refused(tmp_path: Path) -> None:
    for name in ("Train-1", "Test-1"):
        write_dicom_study(tmp_path / "d" / name, name, ["RT"])
        for path in [*(tmp_path / "d" / name).glob("*/*.dcm")]:
            path.rename(tmp_path / "d" / name / f"{path.parent.name}{path.name}")

    with pytest.raises(DataError, match="has studies for testing, which would train"):
        init_study(tmp_path / "d", tmp_path / "c.yaml")


def test_studies_of_one_patient_in_the_headers_are_one_subject(tmp_path: Path) -> None:
    for name, patient in (("A1001", "x"), ("A1002", "y"), ("A1003", "x"), ("A1004", "z")):
        write_dicom_study(tmp_path / "d" / name, name, ["RT"], patient=patient)

    made = init_study(tmp_path / "d", tmp_path / "c.yaml")

    listing = list_dataset(made.config.data)
    assert {c.name: c.subject for c in listing.cases} == {n: "A1001" if n == "A1003" else n for n in made.draft.cases}
    assert any("1 studies have the patient of another study" in n.message for n in listing.notes)
    assert made.draft.subject_reason == "3 patients in the DICOM headers"
    scans = list_dataset(made.config.data.model_copy(update={"labelled": False, "layout": "studies"}))
    assert {c.subject for c in scans.cases} == {"A1001", "A1002", "A1004"}
