"""In studies of several series, masks determine the image; sides are found in names and in places."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from medhybrid.config import ChannelConfig, DataConfig, ScansConfig
from medhybrid.data.layouts import Listing, list_dataset
from medhybrid.data.load import load_image, load_mask
from medhybrid.data.missing_segments import missing_segment_findings
from medhybrid.data.sides import find_sides
from medhybrid.draft.segments import count_names
from medhybrid.errors import DataError
from medhybrid.scans.dicom.seg import SegInfo, write_seg
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan
from medhybrid.steps.init import Initialised, init_study
from tests.scans.dicom.test_awkward import edit_all

SHAPE = (16, 14, 8)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def write_series(folder: Path, seed: int, description: str, *, modality: str = "MR", step: float = 2.0) -> None:
    affine = np.diag([-1.0, -1.0, step, 1.0])
    array = np.random.default_rng(seed).integers(0, 900, SHAPE).astype(np.uint16)
    paths = write_mr_series(folder, array, affine, description=description, study=f"s{seed % 100}", case=f"c{seed}")
    edit_all(paths, lambda d, _: d.update({"Modality": modality, "PatientID": f"P{seed % 100}"}))


def write_mask(folder: Path, series: Path, labels: dict[str, int], *, seed: int = 0) -> None:
    scan = read_scan(series)
    mask = np.zeros(scan.array.shape[1:], np.uint8)
    mask[2:6, 3:7, 2:5] = 1
    if len(labels) > 1:
        mask[10:14, 3:7, 2:5] = 2
    folder.mkdir(parents=True, exist_ok=True)
    write_seg(folder / "seg.dcm", mask, scan, SegInfo(labels, "0"))


def drafted(root: Path) -> tuple[Initialised, Listing]:
    made = init_study(root / "d", root / "study.yaml")
    return made, list_dataset(made.config.data)


def test_one_study_without_its_series_does_not_change_the_image_of_the_others(tmp_path: Path) -> None:
    for i in range(4):
        study = tmp_path / "d" / f"P{i}"
        write_series(study / "CT", i, "Planning CT", modality="CT")
        write_series(study / "CBCT", 100 + i, "CBCT", modality="CT")
        write_mask(study / "SEG", study / "CT", {"GTV": 1})
    shutil.rmtree(tmp_path / "d" / "P3" / "CT")

    _, listing = drafted(tmp_path)

    used = {c.name: [f.paths[0].parent.name for f in c.images if f] for c in listing.cases if c.problem is None}
    assert used == {f"P{i}": ["CT"] for i in range(3)}
    (problem,) = (str(c.problem) for c in listing.cases if c.problem is not None)
    assert "study P3: its mask was drawn on a series that is not in the study" in problem


def test_masks_whose_references_an_anonymiser_lost_are_used(tmp_path: Path) -> None:
    for i in range(4):
        study = tmp_path / "d" / f"P{i}"
        write_series(study / "CT", i, "CT", modality="CT")
        write_mask(study / "SEG", study / "CT", {"GTV": 1})
        d = pydicom.dcmread(study / "SEG" / "seg.dcm")
        d.ReferencedSeriesSequence[0].SeriesInstanceUID = generate_uid()
        d.save_as(study / "SEG" / "seg.dcm")

    _, listing = drafted(tmp_path)

    assert [c.problem for c in listing.cases] == [None] * 4


@pytest.mark.parametrize(("other", "drawn"), [("ADC", "T2 ax"), ("AC PET", "CT WB"), ("Z last", "A first")])
def test_the_series_that_masks_were_drawn_on_is_the_grid(other: str, drawn: str, tmp_path: Path) -> None:
    for i in range(4):
        study = tmp_path / "d" / f"P{i}"
        write_series(study / "one", 100 + i, other, step=4.0)
        write_series(study / "two", i, drawn)
        write_series(study / "three", 200 + i, "3-plane localizer", step=5.0)
        write_mask(study / "SEG", study / "two", {"GTV": 1})

    made, listing = drafted(tmp_path)

    assert [c.name for c in made.config.data.channels] == [d.replace(" ", "_") for d in (drawn, other)]
    assert [f.paths[0].parent.name for f in listing.cases[0].images if f] == ["two", "one"]


def test_each_of_two_series_of_a_patient_gets_the_mask_that_was_drawn_on_it(tmp_path: Path) -> None:
    for i in range(3):
        for k in range(2 if i < 2 else 1):
            folder = tmp_path / "d" / f"COLL/P{i}/study"
            write_series(folder / f"{k}-CT", 10 * i + k, "CT", modality="CT")
            write_mask(folder / f"{k}-SEG", folder / f"{k}-CT", {"GTV": 1})
            edit_all(sorted((folder / f"{k}-CT").iterdir()), lambda d, _, i=i: d.update({"PatientID": f"Q{i}"}))  # type: ignore[misc]

    _, listing = drafted(tmp_path)

    pairs = {
        (c.images[0].paths[0].name[0], c.mask.paths[0].parent.name[0]) for c in listing.cases if c.images[0] and c.mask
    }
    assert pairs == {("0", "0"), ("1", "1")}
    assert len(listing.cases) == 5
    assert len({c.subject for c in listing.cases}) == 3


@pytest.mark.parametrize(
    ("image", "mask"),
    [("images/P{i}/CT", "segmentations/P{i}"), ("manifest-1/COLL/P{i}/st/1-CT", "manifest-2/COLL/P{i}/st/300-Seg")],
)
def test_masks_in_another_tree_are_joined_by_their_references(image: str, mask: str, tmp_path: Path) -> None:
    for i in range(3):
        write_series(tmp_path / "d" / image.format(i=i), i, "CT", modality="CT")
        write_mask(tmp_path / "d" / mask.format(i=i), tmp_path / "d" / image.format(i=i), {"GTV": 1})

    _, listing = drafted(tmp_path)

    assert [c.problem for c in listing.cases] == [None] * 3
    for case in listing.cases:
        assert case.mask is not None
        assert case.images[0] is not None
        patient = next(p for p in case.mask.paths[0].parts if p in ("P0", "P1", "P2"))
        assert patient in case.images[0].paths[0].parts


def test_masks_of_one_image_are_named_as_not_used(tmp_path: Path) -> None:
    for i in range(4):
        write_series(tmp_path / "d" / f"P{i}/CT", i, "CT", modality="CT")
        for k in range(2 if i == 3 else 1):
            write_mask(
                tmp_path / "d" / f"P{i}/S{k}", tmp_path / "d" / f"P{i}/CT", {"GTV": 1} if k == 0 else {"gtv 2": 1}
            )

    made, _ = drafted(tmp_path)

    remarks = " ".join(made.draft.remarks)
    assert "2 masks are not used, such as P3__S0, P3__S1: an image has several masks" in remarks


def test_studies_with_masks_that_share_a_segment_are_refused_with_their_labels(tmp_path: Path) -> None:
    for i in range(3):
        write_series(tmp_path / "d" / f"P{i}/CT", i, "CT", modality="CT")
        for reader, labels in (("r1", {"liver": 1}), ("r2", {"liver": 1, "tumor": 2})):
            write_mask(tmp_path / "d" / f"P{i}/{reader}", tmp_path / "d" / f"P{i}/CT", labels)

    with pytest.raises(
        DataError, match=r"each study has several SEG.*with liver; .*with liver, tumor.*join those of an image"
    ):
        drafted(tmp_path)


def organs() -> list[np.ndarray]:
    """Return the masks of liver and spleen."""
    liver, spleen = np.zeros((2, *SHAPE), np.uint8)
    liver[2:6, 3:7, 2:5], spleen[10:14, 3:7, 2:5] = 1, 1
    return [liver, spleen]


def write_organs(study: Path, seed: int, folders: tuple[str, ...] = ("liver", "spleen")) -> None:
    """Write a CT, a SEG of the liver and one of the spleen."""
    write_series(study / "CT", seed, "CT", modality="CT")
    scan = read_scan(study / "CT")
    for name, folder, values in zip(("liver", "spleen"), folders, organs(), strict=True):
        (study / folder).mkdir(parents=True, exist_ok=True)
        write_seg(study / folder / f"{name}.dcm", values, scan, SegInfo({name: 1}, "0"))


@pytest.mark.parametrize("folders", [("liver", "spleen"), ("SEG", "SEG")])
@pytest.mark.parametrize("where", ["P{}", "P{}/visit{}", "north/P{}"])
def test_a_seg_for_each_organ_is_joined_to_one_mask(where: str, folders: tuple[str, str], tmp_path: Path) -> None:
    for i in range(3):
        write_organs(tmp_path / "d" / where.format(i, i), i, folders)

    made, listing = drafted(tmp_path)

    assert sorted(made.config.data.labels) == ["liver", "spleen"]
    assert "6 SEG or RTSTRUCT are 3 masks: those of an image have different segments" in " ".join(made.draft.remarks)
    values = made.config.data.labels
    liver, spleen = organs()
    assert len(listing.cases) == 3
    for case in listing.cases:
        assert case.problem is None
        image = load_image(case, made.config.data, ScansConfig())
        mask = load_mask(case, image, made.config.data, ScansConfig())
        assert np.array_equal(mask.array[0], liver * values["liver"] + spleen * values["spleen"])
    assert not missing_segment_findings(listing.cases, made.config.data)


def test_a_case_without_the_seg_of_an_organ_is_named(tmp_path: Path) -> None:
    for i in range(4):
        write_organs(tmp_path / "d" / f"P{i}", i)
    shutil.rmtree(tmp_path / "d" / "P2" / "spleen")

    made, listing = drafted(tmp_path)

    assert all(c.problem is None for c in listing.cases)
    found = missing_segment_findings(listing.cases, made.config.data)
    assert [(f.where, f.found) for f in found] == [("P2", "none for spleen")]


@pytest.mark.parametrize(
    "names",
    [
        ("GTV_1", "GTV_2"),
        ("GTV_JS", "GTV_MK"),
        ("Liver", "Liver AI"),
        ("Left Kidney", "Kidney, left"),
        ("CTV Dr Smith", "CTV Dr Jones"),
        ("Parotid_L", "Parotid L new"),
    ],
)
def test_masks_of_an_image_whose_names_share_a_word_may_be_those_of_readers(
    names: tuple[str, str], tmp_path: Path
) -> None:
    for i in range(3):
        write_series(tmp_path / "d" / f"P{i}/CT", i, "CT", modality="CT")
        for k, name in enumerate(names):
            write_mask(tmp_path / "d" / f"P{i}/{k}", tmp_path / "d" / f"P{i}/CT", {name: 1})

    with pytest.raises(DataError, match=f"each study has several SEG.*with {names[0]}; .*with {names[1]}"):
        drafted(tmp_path)


def test_the_seg_of_the_two_sides_are_joined(tmp_path: Path) -> None:
    for i in range(3):
        write_series(tmp_path / "d" / f"P{i}/CT", i, "CT", modality="CT")
        scan = read_scan(tmp_path / "d" / f"P{i}/CT")
        for name, values in zip(("Left Kidney", "Kidney, right"), organs(), strict=True):
            (tmp_path / "d" / f"P{i}/{name[:4]}").mkdir()
            write_seg(tmp_path / "d" / f"P{i}/{name[:4]}" / "seg.dcm", values, scan, SegInfo({name: 1}, "0"))

    made, listing = drafted(tmp_path)

    assert set(made.config.data.labels) == {"Left Kidney", "Kidney, right"}
    assert all(c.problem is None for c in listing.cases)


@pytest.mark.parametrize("names", [("JS", "MK"), ("CTV L Smith", "CTV R Jones")])
def test_masks_that_nearly_coincide_are_those_of_readers_whatever_their_names(
    names: tuple[str, str], tmp_path: Path
) -> None:
    for i in range(3):
        write_series(tmp_path / "d" / f"P{i}/CT", i, "CT", modality="CT")
        scan = read_scan(tmp_path / "d" / f"P{i}/CT")
        for k, name in enumerate(names):
            mask = np.zeros(SHAPE, np.uint8)
            mask[2 + k : 8 + k, 3:9, 2:6] = 1
            (tmp_path / "d" / f"P{i}/{k}").mkdir()
            write_seg(tmp_path / "d" / f"P{i}/{k}" / "seg.dcm", mask, scan, SegInfo({name: 1}, "0"))

    with pytest.raises(DataError, match=r"are nearly the same \(Dice 0\.83\), as the masks of two observers"):
        drafted(tmp_path)


def test_one_corrected_mask_beside_the_original_excludes_its_study(tmp_path: Path) -> None:
    for i in range(6):
        write_series(tmp_path / "d" / f"P{i}/CT", i, "CT", modality="CT")
        for name in ("GTV", "GTV corrected")[: 2 if i == 3 else 1]:
            write_mask(tmp_path / "d" / f"P{i}/{name}", tmp_path / "d" / f"P{i}/CT", {name: 1})

    made, listing = drafted(tmp_path)

    assert dict(made.config.data.labels) == {"GTV": 1}
    assert sorted(c.name for c in listing.cases if c.problem is None) == ["P0", "P1", "P2", "P4", "P5"]
    assert "2 masks are not used, such as P3__GTV, P3__GTV corrected" in " ".join(made.draft.remarks)


def test_a_folder_that_is_named_mask_does_not_hide_the_seg_of_other_organs(tmp_path: Path) -> None:
    for i in range(3):
        write_organs(tmp_path / "d" / f"P{i}", i, ("liver_mask", "spleen"))

    made, listing = drafted(tmp_path)

    assert sorted(made.config.data.labels) == ["liver", "spleen"]
    assert [len(c.mask.paths) for c in listing.cases if c.mask] == [2, 2, 2]


def test_labels_of_masks_on_different_series_are_named_as_missing(tmp_path: Path) -> None:
    for i in range(3):
        for name, description in (("prostate", "T2"), ("lesion", "ADC")):
            write_series(tmp_path / "d" / f"P{i}/{description}", 100 * len(name) + i, description)
            write_mask(tmp_path / "d" / f"P{i}/{name}", tmp_path / "d" / f"P{i}/{description}", {name: 1})

    made, _ = drafted(tmp_path)

    assert any("masks have no file or segment for a label" in r for r in made.draft.remarks)


@pytest.mark.parametrize("cell", ["P{0}/liver/liver.dcm; P{0}/spleen/spleen.dcm", "P{0}/liver;P{0}/spleen"])
def test_init_reads_a_table_with_several_masks_in_a_cell_as_it_is(cell: str, tmp_path: Path) -> None:
    for i in range(3):
        write_organs(tmp_path / "d" / f"P{i}", i)
    rows = [f"c{i},{'test' if i == 2 else 'train'},P{i}/CT,{cell.format(i)}" for i in range(3)]
    (tmp_path / "d" / "cases.csv").write_text("\n".join(["case,split,CT,mask", *rows]))

    made, listing = drafted(tmp_path)

    assert sorted(made.config.data.labels) == ["liver", "spleen"]
    assert [c.name for c in listing.cases if c.problem is None] == ["c0", "c1"]


def test_a_table_lists_several_masks_of_a_case_in_one_cell(tmp_path: Path) -> None:
    write_organs(tmp_path / "P0", 0)
    write_organs(tmp_path / "P1", 1, ("SEG", "SEG"))
    lines = ["case,CT,mask", "a,P0/CT,P0/liver/liver.dcm; P0/spleen/spleen.dcm", "b,P1/CT,P1/SEG"]
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    labels = {"liver": 3, "spleen": 5}
    config = DataConfig(root=str(tmp_path), layout="csv", channels=(ChannelConfig(name="CT"),), labels=labels)

    cases = list_dataset(config).cases

    liver, spleen = organs()
    for case in cases:
        mask = load_mask(case, load_image(case, config, ScansConfig()), config, ScansConfig())
        assert np.array_equal(mask.array[0], liver * 3 + spleen * 5)


def test_files_of_readers_in_the_folder_of_a_mask_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "CT", 0, "CT", modality="CT")
    (tmp_path / "masks").mkdir()
    for reader in ("r1", "r2"):
        write_mask(tmp_path / reader, tmp_path / "CT", {"liver": 1})
        shutil.copy(tmp_path / reader / "seg.dcm", tmp_path / "masks" / f"{reader}.dcm")
    (tmp_path / "cases.csv").write_text("case,CT,mask\na,CT,masks")
    config = DataConfig(root=str(tmp_path), layout="csv", channels=(ChannelConfig(name="CT"),), labels={"liver": 1})
    (case,) = list_dataset(config).cases
    image = load_image(case, config, ScansConfig())

    with pytest.raises(DataError, match=r"may be of several readers.*found r1\.dcm, r2\.dcm"):
        load_mask(case, image, config, ScansConfig())


def test_series_that_share_one_folder_are_refused_with_the_way_to_sort_them(tmp_path: Path) -> None:
    for i in range(3):
        write_series(tmp_path / "in" / f"P{i}", i, "CT", modality="CT")
        write_mask(tmp_path / "in" / f"M{i}", tmp_path / "in" / f"P{i}", {"GTV": 1})
    (tmp_path / "d").mkdir()
    for path in sorted((tmp_path / "in").glob("*/*")):
        shutil.copy(path, tmp_path / "d" / f"{path.parent.name}_{path.name}")

    with pytest.raises(DataError, match=r"share the folder d.*by StudyInstanceUID and SeriesInstanceUID"):
        init_study(tmp_path / "d", tmp_path / "study.yaml")


def test_segments_that_always_lie_on_opposite_sides_are_not_mirrored(tmp_path: Path) -> None:
    for i in range(4):
        study = tmp_path / "d" / f"P{i}"
        write_series(study / "CT", i, "CT", modality="CT")
        write_mask(study / "SEG", study / "CT", {"PG1": 1, "PG2": 2})

    made, _ = drafted(tmp_path)

    assert made.config.prepare.mirror_axes == ()
    assert set(made.draft.sided[0]) == {"PG1", "PG2"}


@pytest.mark.parametrize(
    "name", ["Parotid_L", "Parotid L", "Lt parotid", "RT_Kidney", "Kidney-R", "Lung_LT", "L Femur"]
)
def test_a_single_side_in_the_form_of_treatment_planning_is_not_mirrored(name: str) -> None:
    assert find_sides([name, "GTV"]).obstacle == f"{name} names a side, and no label is its other side"


@pytest.mark.parametrize(
    "name", ["L5", "GTV", "Rib", "T1_L", "LV", "label", "lesion", "class r2", "Vertebra_L1", "ctr"]
)
def test_other_letters_are_no_sides(name: str) -> None:
    assert find_sides([name, "other"]).obstacle == ""


def test_a_pair_of_such_names_is_exchanged() -> None:
    assert find_sides(["Parotid_L", "Parotid_R", "GTV"]).pairs == (("Parotid_L", "Parotid_R"),)


def test_numbers_in_names_of_segments_stay_apart() -> None:
    assert count_names([["LN 1-1", "Node 1.1"], ["LN 11", "node 1-1"], ["ln_1_1", "Node11"]]) == {
        "LN 1-1": 2,
        "Node 1.1": 2,
        "LN 11": 1,
        "Node11": 1,
    }
