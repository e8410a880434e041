"""Each layout lists the same cases; ambiguous ones are skipped with a reason."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import medhybrid
from medhybrid.config import DataConfig
from medhybrid.data.layouts import Files, list_cases, list_dataset
from medhybrid.data.splits import make_folds
from medhybrid.errors import DataError
from medhybrid.scans.dicom.seg import SegInfo, write_seg
from medhybrid.scans.dicom.write import write_mr_series
from tests.synthetic import AFFINE, blob_case, save_nifti, write_csv, write_study

CHANNELS = ({"name": "T1"}, {"name": "FLAIR", "optional": True})


def config(root: Path, **changes: object) -> DataConfig:
    return DataConfig.model_validate({"root": str(root), "channels": CHANNELS, "labels": {"lesion": 1}, **changes})


def test_decathlon(tmp_path: Path) -> None:
    write_study(tmp_path, n_cases=3)

    cases = list_cases(config(tmp_path))

    assert [c.name for c in cases] == ["case_00", "case_01", "case_02"]
    assert cases[0].images == (Files((tmp_path / "imagesTr" / "case_00.nii.gz",)),)
    assert cases[0].mask == Files((tmp_path / "labelsTr" / "case_00.nii.gz",))


def test_decathlon_entries_outside_the_dataset_are_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [{"image": "../../x.nii", "label": "y.nii"}]}))

    (case,) = list_cases(config(tmp_path))

    assert "outside the dataset's folder" in str(case.problem)


def test_nnunet_with_a_channel_that_is_missing_for_one_case(tmp_path: Path) -> None:
    image, mask = blob_case(0)
    for name, channels in (("p1", 2), ("p2", 1)):
        for i in range(channels):
            save_nifti(tmp_path / "imagesTr" / f"{name}_{i:04d}.nii.gz", image)
        save_nifti(tmp_path / "labelsTr" / f"{name}.nii.gz", mask)
    (tmp_path / "dataset.json").write_text(json.dumps({"numTraining": 2, "channel_names": {"0": "T1"}}))

    cases = list_cases(config(tmp_path))

    assert [c.name for c in cases] == ["p1", "p2"]
    assert cases[0].images[1] == Files((tmp_path / "imagesTr" / "p1_0001.nii.gz",))
    assert cases[1].images[1] is None
    assert cases[1].problem is None


def test_a_case_without_a_required_channel_is_skipped(tmp_path: Path) -> None:
    image, mask = blob_case(0)
    for name, channels in (("p1", 2), ("p2", 1)):
        for i in range(channels):
            save_nifti(tmp_path / "nnunet" / "imagesTr" / f"{name}_{i:04d}.nii.gz", image)
        save_nifti(tmp_path / "nnunet" / "labelsTr" / f"{name}.nii.gz", mask)
    (tmp_path / "table").mkdir()
    write_csv(
        tmp_path / "table",
        [{"case": f"p{i}", "T1": "a.nii", "FLAIR": "b.nii" * (i == 1), "mask": "m.nii"} for i in (1, 2)],
    )

    for layout in ("nnunet", "table"):
        good, bad = list_cases(config(tmp_path / layout, channels=[{"name": "T1"}, {"name": "FLAIR"}]))
        assert good.problem is None
        assert "channel FLAIR is missing" in str(bad.problem)


def test_a_table_lists_files_and_subjects(tmp_path: Path) -> None:
    write_csv(tmp_path, [{"case": "a_1", "subject": "a", "T1": "a.nii.gz", "FLAIR": "", "mask": "m.nii.gz"}])

    (case,) = list_cases(config(tmp_path))

    assert case.subject == "a"
    assert case.images == (Files((tmp_path / "a.nii.gz",)), None)


def test_a_table_without_a_required_column_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path, [{"case": "a", "FLAIR": "a.nii.gz", "mask": "m.nii.gz"}])

    with pytest.raises(DataError, match=r"lacks columns.*T1"):
        list_cases(config(tmp_path))


def write_studies(root: Path) -> None:
    image, mask = blob_case(0)
    save_nifti(root / "s1" / "scan_T1.nii.gz", image)
    save_nifti(root / "s1" / "scan_FLAIR.nii.gz", image)
    save_nifti(root / "s1" / "mask.nii.gz", mask)
    write_mr_series(root / "s2" / "x" / "001", image, AFFINE, description="T1 pre", study="s2", case="c")
    write_mr_series(root / "s2" / "x" / "002", np.flip(image, 0), AFFINE, description="FLAIR", study="s2", case="c")
    save_nifti(root / "s2" / "lesion_mask.nii.gz", mask)


def test_image_files_are_masks_beside_single_dicom_slices_only(tmp_path: Path) -> None:
    for study, n_slices in (("slice", 1), ("volume", 3)):
        values = np.ones((6, 5, n_slices), np.uint16)
        write_mr_series(tmp_path / study / "s", values, AFFINE, description="T1", study=study, case=study)
        for name in ("mask.png", "view.png"):
            Image.new("L", (6, 5)).save(tmp_path / study / name)
    settings = config(tmp_path, layout="studies", channels=[{"name": "T1"}])

    listing = list_dataset(settings)
    unlabelled = list_cases(settings.model_copy(update={"labelled": False}))

    one, several = listing.cases
    assert one.mask == Files((tmp_path / "slice" / "mask.png",))
    assert "no mask, SEG or RTSTRUCT" in str(several.problem)
    note = next(n for n in listing.notes if "previews" in n.message).message
    assert note.endswith(": slice/view.png, volume/mask.png, volume/view.png")
    assert {c.name: c.is_labelled for c in unlabelled} == {"slice__s": True, "volume__s": False}


def test_studies_of_files_and_of_dicom_series(tmp_path: Path) -> None:
    write_studies(tmp_path)

    first, second = list_cases(config(tmp_path, channel_map={"T1": "*T1*", "FLAIR": "*FLAIR*"}))

    assert [p.name for p in first.files] == ["scan_T1.nii.gz", "scan_FLAIR.nii.gz", "mask.nii.gz"]
    assert second.images[0] is not None
    assert {p.parent.name for p in second.images[0].paths} == {"001"}
    assert second.images[1] is not None
    assert {p.parent.name for p in second.images[1].paths} == {"002"}


def test_a_brain_mask_is_the_reference_only_with_a_pattern_for_it(tmp_path: Path) -> None:
    write_studies(tmp_path)
    _, mask = blob_case(0)
    save_nifti(tmp_path / "s1" / "brainmask.nii.gz", np.ones_like(mask))
    (tmp_path / "s2" / "lesion_mask.nii.gz").rename(tmp_path / "s2" / "brain_mask.nii.gz")

    first, second = list_cases(config(tmp_path, channel_map={"T1": "*T1*", "FLAIR": "*FLAIR*"}))
    assert first.mask is not None
    assert first.mask.paths[0].name == "mask.nii.gz"
    assert "no mask" in str(second.problem)

    wanted = config(tmp_path, channel_map={"T1": "*T1*", "FLAIR": "*FLAIR*"}, mask_pattern="*brain*mask*")
    assert [c.mask.paths[0].name for c in list_cases(wanted) if c.mask] == ["brainmask.nii.gz", "brain_mask.nii.gz"]

    (tmp_path / "s1" / "brainmask.nii.gz").rename(tmp_path / "s1" / "T1_brain_mask.nii.gz")
    (case,) = [c for c in list_cases(config(tmp_path)) if c.name == "s1"]
    assert case.problem is None, "it is no image either"


def test_unknown_scans_and_channels_in_the_table_of_channels_are_reported(tmp_path: Path) -> None:
    write_studies(tmp_path)
    (tmp_path / "channels.csv").write_text(
        "scan,channel\ns1__scan_T1,T1\ns1/scan_T1x.nii.gz,T1\ns1__scan_FLAIR,FLIAR\n"
    )

    listing = list_dataset(config(tmp_path, channel_map={"T1": "*T1*", "FLAIR": "*FLAIR*"}))

    (note,) = [n for n in listing.notes if n.where == "channels.csv"]
    assert note.message == "2 rows of channels.csv have an unknown scan or channel"
    assert "s1__scan_T1x: T1 (unknown scan)" in note.found
    assert "s1__scan_FLAIR: FLIAR" in note.found


def test_an_ambiguous_study_is_skipped_and_the_others_are_kept(tmp_path: Path) -> None:
    write_studies(tmp_path)
    save_nifti(tmp_path / "s1" / "other_T1.nii.gz", blob_case(1)[0])
    save_nifti(tmp_path / "s3" / "scan_T1.nii.gz", blob_case(1)[0])

    first, second, third = list_cases(config(tmp_path, channel_map={"T1": "*T1*", "FLAIR": "*FLAIR*"}))

    assert "channel T1 is ambiguous" in str(first.problem)
    assert second.problem is None
    assert "no mask, SEG or RTSTRUCT matches" in str(third.problem)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "contains no case"),
        (lambda root: (root / "dataset.json").write_text("{"), "cannot be read as JSON"),
        (lambda root: (root / "dataset.json").write_text('{"training": 3}'), "without a list of cases: dataset.json"),
    ],
)
def test_reject_unusable_datasets(tmp_path: Path, make, message: str) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path)

    with pytest.raises(DataError, match=message):
        list_cases(config(tmp_path))


def test_a_missing_dataset_is_refused_with_the_key_to_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Check data\.root"):
        list_cases(config(tmp_path / "nowhere"))


# --- scans without masks ----------------------------------------------------------------------------------------------


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Write two studies of two scans, one with a mask, and a separate file."""
    image, mask = blob_case(0)
    for study in ("p1", "p2"):
        for name in ("FLAIR", "T1"):
            save_nifti(tmp_path / study / f"{name}.nii.gz", image)
    save_nifti(tmp_path / "p1" / "mask.nii.gz", mask)
    save_nifti(tmp_path / "alone_T1.nii.gz", image)
    return tmp_path


def test_without_masks_every_scan_is_a_case_and_a_folder_a_subject(scans: Path) -> None:
    cases = list_cases(config(scans, channels=[{"name": "MR"}], labelled=False))

    assert {(c.name, c.subject) for c in cases} == {
        ("p1__FLAIR", "p1"),
        ("p1__T1", "p1"),
        ("p2__FLAIR", "p2"),
        ("p2__T1", "p2"),
        ("alone_T1", "alone_T1"),
    }
    assert all(c.mask is None for c in cases)


def test_without_masks_and_with_channels_every_study_is_a_case(scans: Path) -> None:
    cases = {
        c.name: c for c in list_cases(config(scans, labelled=False, channel_map={"T1": "*T1*", "FLAIR": "*FLAIR*"}))
    }

    assert cases.keys() == {"p1", "p2", "alone_T1"}
    assert [files and files.paths[0].name for files in cases["p1"].images] == ["T1.nii.gz", "FLAIR.nii.gz"]
    assert cases["alone_T1"].images[1] is None
    assert all(c.mask is None for c in cases.values())


def test_a_single_folder_of_all_scans_is_not_a_subject(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_nifti(tmp_path / "scans" / f"{name}.nii.gz", blob_case(0)[0])

    cases = list_cases(config(tmp_path, channels=[{"name": "MR"}], labelled=False))

    assert len({c.subject for c in cases}) == 2


@pytest.mark.parametrize("layout", ["decathlon", "nnunet", "csv"])
def test_masks_may_be_missing_if_they_are_not_read(tmp_path: Path, layout: str) -> None:
    for name in ("a", "b"):
        save_nifti(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", blob_case(0)[0])
    if layout == "decathlon":
        listed = [{"image": f"imagesTr/{name}_0000.nii.gz"} for name in ("a", "b")]
        (tmp_path / "dataset.json").write_text(json.dumps({"training": listed}))
    if layout == "csv":
        write_csv(tmp_path, [{"case": name, "MR": f"imagesTr/{name}_0000.nii.gz"} for name in ("a", "b")])

    asked = {"layout": layout, "channels": [{"name": "MR"}]}
    cases = list_cases(config(tmp_path, labelled=False, **asked))

    assert [c.name.removesuffix("_0000") for c in cases] == ["a", "b"]
    assert all(c.images[0] and c.images[0].paths[0].is_file() and c.mask is None for c in cases)
    if layout == "decathlon":
        assert all("no label for" in str(c.problem) for c in list_cases(config(tmp_path, **asked)))
        return
    with pytest.raises(DataError, match=r"contains no case|lacks columns"):
        list_cases(config(tmp_path, **asked))


@pytest.mark.parametrize("layout", ["nnunet", "csv", "studies"])
def test_folds_are_the_same_without_masks_and_further_scans_train_in_each(tmp_path: Path, layout: str) -> None:
    names = [f"p{i}" for i in range(8)]
    labelled = names[1:6]
    write_some_labelled(tmp_path, layout, names, labelled)
    data: dict[str, object] = {"layout": layout, "channels": [{"name": "MR"}], "n_folds": 3}
    if layout == "studies":
        data["channel_map"] = {"MR": "*image*"}

    with_masks = make_folds([c for c in list_cases(config(tmp_path, **data)) if c.mask], 3, seed=5)
    alone = make_folds(list_cases(config(tmp_path, labelled=False, **data)), 3, seed=5)

    others = {"p0", "p6", "p7"}
    for ours, scans in zip(with_masks, alone, strict=True):
        of = [{n.removesuffix("__image") for n in part} for part in (scans.train, scans.validation)]
        assert of == [{*ours.train} | others, {*ours.validation}]


def test_a_study_whose_image_is_broken_or_whose_mask_is_a_seg_does_not_change_the_folds(tmp_path: Path) -> None:
    image, mask = blob_case(0)
    for i in range(8):
        write_mr_series(tmp_path / f"p{i}" / "t1", image, AFFINE, description="T1", study=f"s{i}", case=f"c{i}")
        if i > 4:
            continue
        if i % 2:
            save_nifti(tmp_path / f"p{i}" / "mask.nii.gz", mask)
        else:
            scan = medhybrid.read_scan(tmp_path / f"p{i}" / "t1")
            write_seg(tmp_path / f"p{i}" / "seg.dcm", mask, scan, SegInfo({"a": 1, "b": 4}, "1", "0" * 64, {}))
    for path in (tmp_path / "p3" / "t1").iterdir():
        path.write_bytes(b"broken")
    data: dict[str, object] = {"layout": "studies", "channels": [{"name": "T1"}], "n_folds": 2}
    data |= {"channel_map": {"T1": "*T1*"}}

    labelled, scans = (list_cases(config(tmp_path, labelled=x, **data)) for x in (True, False))

    subjects = {c.name: c.subject for c in [*labelled, *scans]}
    validating = [
        [{subjects[n] for n in fold.validation} for fold in make_folds(cases, 2, seed=1)] for cases in (labelled, scans)
    ]
    assert validating[0] == validating[1]
    assert set.union(*validating[0]) == {f"p{i}" for i in range(5)}
    assert "no readable image" in str(next(c for c in scans if c.subject == "p3").problem)


@pytest.mark.parametrize("stray", ["templates/brain_mask.nii.gz", "sub-1/mask.nii.gz"])
def test_a_mask_without_a_subject_does_not_prevent_pretraining(tmp_path: Path, stray: str) -> None:
    image, mask = blob_case(0)
    for i in range(3):
        save_nifti(tmp_path / f"sub-{i}" / f"sub-{i}_T1w.nii.gz", image)
    save_nifti(tmp_path / stray, mask)

    cases = list_cases(
        config(tmp_path, labelled=False, channels=[{"name": "MR"}], subject_pattern=r"(sub-\d+)_", layout="studies")
    )

    assert {c.subject for c in cases} == {"sub-0", "sub-1", "sub-2"}


def write_some_labelled(root: Path, layout: str, names: list[str], labelled: list[str]) -> None:
    """Write scans of these names, some of them with masks."""
    image, mask = blob_case(0)
    for name in names:
        if layout == "studies":
            save_nifti(root / name / "image.nii.gz", image)
            if name in labelled:
                save_nifti(root / name / "mask.nii.gz", mask)
            continue
        end = "_0000" if layout == "nnunet" else ""
        save_nifti(root / "imagesTr" / f"{name}{end}.nii.gz", image)
        if name in labelled:
            save_nifti(root / "labelsTr" / f"{name}.nii.gz", mask)
    paths = {n: (f"imagesTr/{n}.nii.gz", f"labelsTr/{n}.nii.gz" if n in labelled else "") for n in names}
    if layout == "csv":
        write_csv(root, [{"case": n, "MR": i, "mask": m} for n, (i, m) in paths.items()])


def test_without_masks_a_file_with_all_channels_is_a_case(tmp_path: Path) -> None:
    image, _ = blob_case(0)
    for name in ("a", "b"):
        both = np.stack([image, image + 1], axis=-1)
        save_nifti(tmp_path / f"{name}.nii.gz", both)

    cases = list_cases(config(tmp_path, labelled=False))

    assert [(c.name, c.subject, len(c.images)) for c in cases] == [("a", "a", 1), ("b", "b", 1)]


def test_masks_of_a_layout_are_not_listed_if_they_are_not_read(tmp_path: Path) -> None:
    write_study(tmp_path, n_cases=3)

    cases = list_cases(config(tmp_path, labelled=False))

    assert [c.name for c in cases] == ["case_00", "case_01", "case_02"]
    assert all(c.mask is None for c in cases)


@pytest.mark.parametrize("table", ["context.csv", "channels.csv"])
def test_a_table_of_other_values_does_not_list_cases(scans: Path, table: str) -> None:
    (scans / table).write_text("scan,channel\n" if table == "channels.csv" else "case,sex\n")

    cases = list_cases(config(scans, labelled=False, channel_map={"T1": "*T1*", "FLAIR": "*FLAIR*"}))

    assert {c.name for c in cases} == {"p1", "p2", "alone_T1"}


@pytest.mark.parametrize("labelled", [True, False])
def test_an_optional_channel_with_a_damaged_file_is_not_treated_as_missing(tmp_path: Path, labelled: bool) -> None:
    write_studies(tmp_path)
    damaged = tmp_path / "s1" / "scan_FLAIR.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:60])

    case, other = list_cases(config(tmp_path, labelled=labelled))

    assert other.problem is None
    assert "the channel in s1__scan_FLAIR cannot be used" in str(case.problem)


@pytest.mark.parametrize("pattern", ["*lesion*", "*mask*"])
def test_a_brain_mask_is_no_scan_and_no_reference_mask_without_labels(tmp_path: Path, pattern: str) -> None:
    for name in ("s1/T1", "s1/brainmask", "s2/T1", "s2/lesion_mask"):
        save_nifti(tmp_path / f"{name}.nii.gz", blob_case(0)[0])

    listing = list_dataset(config(tmp_path, channels=[{"name": "T1"}], labelled=False, mask_pattern=pattern))

    assert [(c.name, c.is_labelled) for c in listing.cases] == [("s1__T1", False), ("s2__T1", True)]
    assert [n.found for n in listing.notes] == ["s1__brainmask"]
