"""Scans of one person stay together: subjects in names of public datasets, in lists, and in both parts of a dataset."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.config import ChannelConfig, DataConfig
from medhybrid.data.layouts import Listing, list_dataset
from medhybrid.draft.subjects import subject_pattern
from medhybrid.steps.init import Initialised, init_study
from tests.draft.test_draft import write_pair
from tests.draft.test_tables import drafted


def subjects_by_name(names: list[str]) -> dict[str, str]:
    """Return the subject of each name by the pattern that is found for all of them."""
    pattern, _ = subject_pattern(names)
    return {n: m[1] if pattern and (m := re.search(pattern, n)) else n for n in names}


@pytest.mark.parametrize(
    ("form", "people", "scans"),
    [
        ("{}-{}", ["P001", "P002", "P003"], ["1-ED", "1-ES", "2-ED", "2-ES"]),
        ("{}_{}", ["1", "2", "3"], ["1_1", "1_2", "2_1", "2_2"]),
        ("{}_{}", [f"training0{i}" for i in range(1, 6)], ["01", "02", "03", "04"]),
        ("{}_{}", ["case101", "case102"], ["day20_slice_0001", "day20_slice_0002", "day22_slice_0001"]),
        ("{}_{}", ["tumor_001", "tumor_002"], [f"{x:04d}_{y:04d}" for x in (100, 101, 102) for y in (580, 581, 582)]),
        ("ADNI_{}_{}", ["002_S_0295", "002_S_0413", "005_S_0221"], ["MR_MPRAGE_I45108", "MR_I7"]),
        ("{}_{}", ["fdg_0a1b", "fdg_3c4d", "fdg_5e6f"], ["01-11-2004-NA-PET-CT", "03-12-2005-NA-PET-CT"]),
        ("{}_{}", ["seq1", "seq2"], [f"{side}_frame{z:03d}" for side in ("left", "right") for z in range(3)]),
        ("{}_{}", ["video_1", "video_2"], [f"{z:03d}" for z in range(12)]),
    ],
)
def test_subjects_are_found_in_names_of_public_datasets(form: str, people: list[str], scans: list[str]) -> None:
    truth = {form.format(p, s): p for p in people for s in scans}

    assert subjects_by_name(list(truth)) == truth


def test_dates_that_differ_from_scan_to_scan_are_visits() -> None:
    people = ["fdg_0a1b", "fdg_3c4d", "fdg_5e6f"]
    truth = {f"{p}_0{v}-1{i}-200{i}-NA-PET-CT": p for i, p in enumerate(people) for v in (1, 2)}

    assert subjects_by_name(list(truth)) == truth


@pytest.mark.parametrize(
    ("people", "scans"),
    [
        (["AB", "CD", "XYZ"], ["20181118", "20200708"]),
        (["a87ff679", "cfcd2084", "eccbc87e"], ["3416a75f", "e4da3b7f"]),
    ],
    ids=["initials and dates", "hexadecimal identifiers"],
)
def test_people_are_the_first_word_before_a_date_or_another_identifier(people: list[str], scans: list[str]) -> None:
    """Each scan has a date or identifier of its own, so that only the first word is shared."""
    truth = {
        f"{p}_{s[:-1]}{n}" if not s.isdecimal() else f"{p}_{int(s) + 10 * n}": p
        for n, p in enumerate(people)
        for s in scans
    }

    assert subjects_by_name(list(truth)) == truth


@given(st.integers(2, 9), st.sampled_from(["FU", "fu2", "post", "20200131", "followup"]), st.sampled_from("_-."))
def test_a_follow_up_is_of_the_person_without_it(n: int, word: str, separator: str) -> None:
    people = [f"LUNG-{i}" for i in range(1, n + 1)]
    truth = {p: p for p in people} | {f"{p}{separator}{word}": p for p in people[: n // 2 + 1]}

    assert subjects_by_name(list(truth)) == truth


@pytest.mark.parametrize(
    "form", ["timepoint{v}_{p}", "year{v}_{p}", "time_point_{v}_{p}", "{p}_2019_0{v}_02", "{p}_2019.0{v}.02"]
)
def test_visits_are_not_people(form: str) -> None:
    truth = {form.format(v=v, p=p): p for v in (1, 2) for p in ("smith", "jones", "doe")}

    assert subjects_by_name(list(truth)) == truth


@pytest.mark.parametrize(
    "names",
    [
        [f"{site}_{i}" for site in ("utrecht", "singapore", "amsterdam") for i in range(1, 7)],
        [f"{site}_Case0{i}" for site in ("BIDMC", "HK", "I2CVB") for i in range(3)],
        [f"{site}_{10 * k + i}" for k, site in enumerate(("utrecht", "singapore")) for i in range(3)],
    ],
)
def test_sites_are_not_people(names: list[str]) -> None:
    assert subjects_by_name(names) == {n: n for n in names}


@pytest.mark.parametrize(("group", "is_said"), [("center_0{}_patient_0{}", True), ("ses-{}_sub-0{}", False)])
def test_equal_numbers_of_several_sites_are_joined_with_a_remark(group: str, is_said: bool) -> None:
    """They may be one person who travelled, or several."""
    _, reason = subject_pattern([group.format(c, i) for c in (1, 7) for i in (1, 2, 3)])

    assert ("Equal numbers in 2 sites are taken for one person" in reason) == is_said


def test_two_sequences_with_the_dates_of_the_same_visits_are_not_two_people() -> None:
    names = [f"{kind}_{date}" for kind in ("CT", "MR") for date in ("20190101", "20200303")]

    assert subjects_by_name(names) == {n: n for n in names}


def test_four_groups_called_training_are_not_taken_for_people() -> None:
    names = [f"training0{i}_0{v}" for i in range(1, 5) for v in range(1, 5)]

    assert subjects_by_name(names) == {n: n for n in names}


@given(people=st.sets(st.integers(1, 999), min_size=2, max_size=6), visits=st.integers(2, 3))
def test_visits_and_phases_of_any_number_of_people_are_grouped(people: set[int], visits: int) -> None:
    truth = {
        f"P{p:03d}-{v}-{phase}": f"P{p:03d}" for p in people for v in range(1, visits + 1) for phase in ("ED", "ES")
    }

    assert subjects_by_name(list(truth)) == truth


@given(
    form=st.sampled_from(
        [
            ("P{:02d}_V{}", range(1, 3)),
            ("P{:02d}{}", "ab"),
            ("P{:02d}v{}", range(1, 3)),
            ("ADNI{:02d}M{}", ("00", "12")),
            ("{:03d}_{}", ("2019-01-07", "2020-02-03")),
            ("P{:02d}_{}", ("left", "right")),
        ]
    ),
    part=st.sampled_from(["", "_slice_{:03d}", "_z{}", "-frame{:02d}", "_x0_y{}", "_aug{}"]),
    people=st.sets(st.integers(1, 60), min_size=2, max_size=5),
)
def test_parts_of_visits_are_of_one_person(form: tuple[str, Any], part: str, people: set[int]) -> None:
    names = {form[0].format(p, v) + part.format(z): p for p in people for v in form[1] for z in range(3 if part else 1)}

    found = subjects_by_name(list(names))

    assert len(set(found.values())) == len(people)
    assert all(len({found[n] for n, p in names.items() if p == q}) == 1 for q in people)


@pytest.mark.parametrize(
    "copies",
    [("{}", "{}_flip", "{}_rot90"), ("original_{}", "hflip_{}", "rotated_{}"), ("{}", "aug_1_{}"), ("{}", "{}_noisy")],
)
@pytest.mark.parametrize("name", ["{:03d}", "P{:02d}_V1", "scan{}"])
def test_augmented_copies_stay_with_their_original(copies: tuple[str, ...], name: str) -> None:
    truth = {c.format(name.format(i)): i for i in range(1, 6) for c in copies}

    found = subjects_by_name(list(truth))

    assert {i: len({found[n] for n, of in truth.items() if of == i}) for i in range(1, 6)} == dict.fromkeys(
        range(1, 6), 1
    )
    assert len(set(found.values())) == 5


def test_hospitals_with_numbers_of_people_are_no_subjects() -> None:
    names = [f"{site}-{i:03d}" for site in ("CHUM", "CHUP", "MDA") for i in range(1, 5)]

    assert subjects_by_name(names) == {n: n for n in names}
    people = {f"{p}_{i:03d}": p for p in ("alice", "bob", "carol") for i in (1, 2)}
    assert subjects_by_name(list(people)) == people


def write_parts(root: Path, train: list[str], val: list[str]) -> Initialised:
    """Write images and masks in `train/` and `val/`, and return the draft."""
    for part, names in (("train", train), ("val", val)):
        for i, name in enumerate(names):
            write_pair(root / "d", f"{part}/images/{name}.nii.gz", f"{part}/masks/{name}.nii.gz", i)
    return init_study(root / "d", root / "study.yaml")


def test_subjects_in_the_folders_of_both_parts_give_no_parts_and_a_remark(tmp_path: Path) -> None:
    made = write_parts(tmp_path, ["p1_a", "p1_b", "p2_a"], ["p2_b", "p3_a"])

    cases = list_dataset(made.config.data).cases

    assert [c.fold for c in cases] == [None] * 5
    assert [(c.name[-4:], c.subject) for c in cases] == [(n, n[:2]) for n in ("p1_a", "p1_b", "p2_a", "p2_b", "p3_a")]
    remark = (
        "parts for training and validation are not used: 1 subjects are in both, such as p2; folds are drawn by subject"
    )
    assert any(r.endswith(remark) for r in made.draft.remarks)


def test_numbers_that_start_anew_in_each_part_keep_the_parts(tmp_path: Path) -> None:
    made = write_parts(tmp_path, ["p1_a", "p1_b", "p2_a"], ["p1_a", "p1_b"])

    cases = list_dataset(made.config.data).cases

    assert [c.fold for c in cases] == [-1, -1, -1, 0, 0]
    assert [c.subject for c in cases] == ["train_p1", "train_p1", "train_p2", "validation_p1", "validation_p1"]
    assert not any("are not used" in r for r in made.draft.remarks)


def test_other_subjects_in_each_part_keep_the_parts(tmp_path: Path) -> None:
    made = write_parts(tmp_path, ["p1_a", "p1_b", "p2_a"], ["p3_a", "p3_b"])

    assert sorted(c.fold for c in list_dataset(made.config.data).cases if c.fold is not None) == [-1, -1, -1, 0, 0]


def messages_of(listing: Listing) -> str:
    """Return the messages of the notes on the subjects of a listing."""
    return "; ".join(n.message for n in listing.notes if n.where == "subjects")


def test_an_image_in_two_lines_of_a_table_is_of_one_subject_with_a_note(tmp_path: Path) -> None:
    rows = ["liver,img/0.nii.gz,M", "spleen,img/0.nii.gz,M", "other,I,M"]

    _, listing = drafted(tmp_path, "id,image,label", rows)

    assert {c.name: c.subject for c in listing.cases} == {"liver": "liver", "spleen": "liver", "other": "other"}
    assert messages_of(listing) == "1 cases have the image file of another case: they are of its subject"


def test_given_subjects_of_an_image_in_two_lines_are_kept(tmp_path: Path) -> None:
    rows = ["liver,A,img/0.nii.gz,M", "spleen,B,img/0.nii.gz,M", "other,C,I,M"]

    _, listing = drafted(tmp_path, "id,patient,image,label", rows)

    assert [c.subject for c in sorted(listing.cases, key=lambda c: c.name)] == ["A", "C", "B"]
    assert not messages_of(listing)


def listed(root: Path, keys: list[dict[str, str]]) -> Listing:
    """Return the cases of a JSON list whose entries have further keys."""
    entries = []
    for i, more in enumerate(keys):
        write_pair(root, f"imagesTr/c{i}.nii.gz", f"labelsTr/c{i}.nii.gz", i)
        entries.append({"image": f"imagesTr/c{i}.nii.gz", "label": f"labelsTr/c{i}.nii.gz", **more})
    (root / "dataset.json").write_text(json.dumps({"training": entries}))
    return list_dataset(DataConfig(root=str(root), channels=(ChannelConfig(name="CT"),), labels={"a": 1, "b": 4}))


@pytest.mark.parametrize("key", ["patient_id", "PatientID", "participant", "MRN"])
def test_the_patient_of_an_entry_in_a_json_list_is_the_subject(tmp_path: Path, key: str) -> None:
    listing = listed(tmp_path, [{key: "A"}, {key: "A"}, {key: "B"}])

    assert [c.subject for c in listing.cases] == ["A", "A", "B"]
    assert not any("are not used" in n.message for n in listing.notes)


def test_the_key_subject_comes_before_that_of_the_patient(tmp_path: Path) -> None:
    listing = listed(tmp_path, [{"patient_id": "A", "subject": s} for s in "XXY"])

    assert [c.subject for c in listing.cases] == ["X", "X", "Y"]
    assert [n.found for n in listing.notes if "are not used" in n.message] == ["patient_id"]


@pytest.mark.parametrize(
    "form",
    [
        "ADNI{v}/img/ADNI_{p:04d}_m{v}2",
        "{scanner}/img/OAS{p:04d}_d0{v}00",
        "{part}/images/{p:04d}_{side}",
        "x{v}/img/S{p:02d}FU{v}",
    ],
)
def test_scans_of_a_person_in_several_folders_stay_together(tmp_path: Path, form: str) -> None:
    people: dict[str, int] = {}
    for p in range(1, 4):
        for v in (1, 2):
            words = {"scanner": ("GE", "Siemens")[v - 1], "part": ("set1", "more")[v - 1], "side": "LR"[v - 1]}
            image = form.format(p=p, v=v, **words)
            folder, _, name = image.rpartition("/")
            mask = f"{folder.rpartition('/')[0]}/seg/{name}"
            write_pair(tmp_path / "d", f"{image}.nii.gz", f"{mask}.nii.gz", 10 * p + v)
            people[f"{mask}.nii.gz"] = p

    cases = list_dataset(init_study(tmp_path / "d", tmp_path / "study.yaml").config.data).cases

    of_person: dict[int, set[str]] = {}
    for case in cases:
        assert case.mask is not None
        of_person.setdefault(people[str(case.mask.paths[0].relative_to(tmp_path / "d"))], set()).add(case.subject)
    assert [len(s) for s in of_person.values()] == [1, 1, 1]
    assert len(set.union(*of_person.values())) == 3


def test_folders_of_years_are_no_subjects(tmp_path: Path) -> None:
    for n, year in enumerate((2015, 2017, 2019)):
        for i in range(4):
            write_pair(tmp_path / "d", f"{year}/P{10 * n + i}/flair.nii.gz", f"{year}/P{10 * n + i}/seg.nii.gz", n)

    cases = list_dataset(init_study(tmp_path / "d", tmp_path / "study.yaml").config.data).cases

    assert len({c.subject for c in cases}) == 12


def test_folders_of_ranges_of_cases_are_no_subjects(tmp_path: Path) -> None:
    for low in (1, 101, 201):
        for i in range(low, low + 10):
            name = f"{low}-{low + 99}/{i}"
            write_pair(tmp_path / "d", f"{name}.img.nii.gz", f"{name}.label.nii.gz", i)

    cases = list_dataset(init_study(tmp_path / "d", tmp_path / "study.yaml").config.data).cases

    assert len({c.subject for c in cases}) == 30


def test_subjects_and_copies_of_images_for_testing_do_not_train(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for i in range(1, 6):
        write_pair(root, f"train/images/sub-{i:02d}_ses-1.nii.gz", f"train/masks/sub-{i:02d}_ses-1.nii.gz", i)
    write_pair(root, "test/images/sub-01_ses-2.nii.gz", "test/masks/sub-01_ses-2.nii.gz", 21)
    write_pair(root, "test/images/x.nii.gz", "test/masks/x.nii.gz", 2)  # a copy of the second

    listing = list_dataset(init_study(root, tmp_path / "study.yaml").config.data)

    assert [c.name for c in listing.cases] == ["sub-03_ses-1", "sub-04_ses-1", "sub-05_ses-1"]


@pytest.mark.parametrize("form", ["{i}_{p}_MG_R_CC", "00{i}_{p}_T2"])
def test_an_identifier_within_the_names_is_named(form: str) -> None:
    names = [
        form.format(i=2050 + i, p=p) for i, p in enumerate(["6c613a14b80a", "6c613a14b80a", "a1b2c3d4e5", "MRN123"])
    ]

    pattern, reason = subject_pattern(names)

    assert pattern is None
    assert "set data.subject_pattern to ^[^_]+_([^_]+)" in reason


def test_names_of_images_for_testing_do_not_join_the_others(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for i in range(1, 8):
        write_pair(root, f"train/images/train_{i:02d}.nii.gz", f"train/masks/train_{i:02d}.nii.gz", i)
    for name in ("testA_01", "testA_02", "testB_01"):
        write_pair(root, f"test/images/{name}.nii.gz", f"test/masks/{name}.nii.gz", 20)

    listing = list_dataset(init_study(root, tmp_path / "study.yaml").config.data)

    assert len({c.subject for c in listing.cases}) == 7


@pytest.mark.parametrize("form", ["P{p}_v{v}/{{}}.nii.gz", "P0{p}/v{v}/{{}}.nii.gz"])
def test_visits_for_testing_in_folders_of_cases_are_of_their_persons(tmp_path: Path, form: str) -> None:
    root = tmp_path / "d"
    for p in range(1, 6):
        place = f"train/{form.format(p=p, v=1)}"
        write_pair(root, place.format("t1"), place.format("mask"), p)
    place = f"test/{form.format(p=2, v=2)}"
    write_pair(root, place.format("t1"), place.format("t2"), 30)

    listing = list_dataset(init_study(root, tmp_path / "study.yaml").config.data)

    assert len(listing.cases) == 4
    assert not any(str(2) in c.name.split("_")[0] for c in listing.cases)
