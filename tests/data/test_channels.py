"""Channel assignment by header fields and names, with reasons; ambiguous and missing channels are errors."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Literal

import pydicom
import pytest

from medhybrid.config import ChannelRule, config_from_dict
from medhybrid.data.channel_words import is_other_mask, names_channel
from medhybrid.data.channels import explain, match_channels, read_channel_table
from medhybrid.errors import ConfigError, DataError
from medhybrid.inference.worklist import make_worklist
from medhybrid.scans import Discovery, ScanEntry, discover
from tests.conftest import SHARED
from tests.synthetic import AFFINE, blob_case


def entry(name: str, **acquisition: str | float) -> ScanEntry:
    description = str(acquisition.get("description", ""))
    return ScanEntry(
        name, "dicom", (Path(name),), "MR", description, "s", (9, 9, 9), (1, 1, 1), "RAS", "", acquisition=acquisition
    )


STUDY = [
    entry("1", description="t1 ax", contrast_agent="", echo_time_ms=9.0),
    entry("2", description="t1 ax", contrast_agent="GADOVIST", echo_time_ms=9.0),
    entry("3", description="dark fluid", inversion_time_ms=2600.0, echo_time_ms=120.0),
]
RULES = {
    "T1": ChannelRule(description="*t1*", contrast=False),
    "T1Gd": ChannelRule(description="*t1*", contrast=True),
    "FLAIR": ChannelRule(inversion_time_ms=(2000, 3000), echo_time_ms=(80, 200)),
}
CHANNELS = [("T1", False), ("T1Gd", False), ("FLAIR", False)]


def test_conditions_on_the_header_distinguish_channels_and_the_reason_is_given() -> None:
    found = match_channels(STUDY, CHANNELS, RULES, case="s")

    assert [m.entry.name for m in found if m.entry] == ["1", "2", "3"]
    assert found[1].reason == "T1Gd: 2 (matches *t1*, contrast agent)"
    assert found[2].reason == "FLAIR: 3 (echo time 120 ms, inversion time 2600 ms)"


@pytest.mark.parametrize(
    ("agent", "channel"),
    [("GADAVIST", "T1Gd"), ("NO CONTRAST", "T1"), ("None given", "T1"), ("N/A", "T1"), ("0", "T1"), ("UNKNOWN", None)],
)
def test_words_for_no_contrast_agent_are_recognised_and_unknown_words_match_no_rule(
    agent: str, channel: str | None
) -> None:
    scan = entry("1", description="t1 ax", contrast_agent=agent)

    found = [name for name in ("T1", "T1Gd") if explain(scan, RULES[name], name)]

    assert found == ([channel] if channel else [])


def test_an_ambiguous_channel_is_refused_with_the_candidates() -> None:
    with pytest.raises(DataError, match=r"T1 is ambiguous.*1 .*2 "):
        match_channels(STUDY, [("T1", False)], {"T1": "*t1*"}, case="s")


def test_a_missing_channel_is_refused_unless_it_is_optional() -> None:
    with pytest.raises(DataError, match="T2 is missing"):
        match_channels(STUDY, [("T2", False)], {}, case="s")

    (match,) = match_channels(STUDY, [("T2", True)], {}, case="s")
    assert match.entry is None


def test_a_series_is_not_assigned_to_two_channels() -> None:
    with pytest.raises(DataError, match="one scan matches two channels"):
        match_channels(STUDY[:1], [("T1", False), ("other", False)], {"T1": "*t1*", "other": "*ax*"}, case="s")


def test_a_table_of_channels_overrides_the_rules(tmp_path: Path) -> None:
    (tmp_path / "channels.csv").write_text("scan,channel\n2,T1\n")

    found = match_channels(STUDY, [("T1", False)], {"T1": "*t1*"}, case="s", table=read_channel_table(tmp_path))

    assert found[0].reason == "T1: 2 (channels.csv)"


def test_a_condition_on_a_missing_field_does_not_match() -> None:
    with pytest.raises(DataError, match="missing"):
        match_channels(STUDY[:2], [("FLAIR", False)], RULES, case="s")


def test_a_rule_without_a_condition_is_refused() -> None:
    values = {
        "name": "x",
        "data": {"channels": [{"name": "T1"}], "labels": {"a": 1}, "channel_map": {"T1": {}}},
    }

    with pytest.raises(ConfigError):
        config_from_dict(values, source="test")


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="no public data here")
def test_the_channels_of_a_real_study_are_matched_and_its_crop_is_not() -> None:
    found = discover(SHARED / "data" / "dicom" / "study_glioma_like")
    channels = [("T1", False), ("FLAIR", False), ("T1Gd", False)]
    rules = {
        "T1": ChannelRule(description="*t1pre*"),
        "T1Gd": ChannelRule(description="*t1*", contrast=True),
        "FLAIR": ChannelRule(inversion_time_ms=(2000, 3000)),
    }

    (item,) = make_worklist(found, channels, rules).items

    assert item.problem == ""
    assert [e.name for e in item.entries if e] == ["T1pre", "FLAIR", "T1post"]


# --- channels on different grids ----------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path) -> Discovery:
    from medhybrid.scans.dicom.write import write_mr_series

    image, _ = blob_case(0)
    write_mr_series(tmp_path / "T1", image, AFFINE, description="T1", study="s", case="c")
    coarse = AFFINE.copy()
    coarse[:3, :2] *= 2
    coarse[:3, 3] += AFFINE[:3, :2].sum(1) / 2
    halved = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
    halved = (halved[::2, ::2] + halved[1::2, ::2] + halved[::2, 1::2] + halved[1::2, 1::2]) / 4
    write_mr_series(tmp_path / "FLAIR", halved, coarse, description="FLAIR", study="s", case="c")
    return discover(tmp_path)


def read(found: Discovery, **options: str) -> object:
    from medhybrid.config import ScansConfig

    names = [("T1", False), ("FLAIR", False)]
    (item,) = make_worklist(found, names, {}).items
    return item.read(["T1", "FLAIR"], ScansConfig.model_validate(options))


def test_channels_of_one_frame_of_reference_are_resampled_to_the_grid_of_the_first(study: Discovery) -> None:
    import numpy as np

    from medhybrid.scans import Scan

    scan = read(study)

    assert isinstance(scan, Scan)
    assert any("FLAIR was resampled" in n for n in scan.notes)
    inner = scan.array[:, 4:-4, 4:-4, 1:-1]
    assert np.corrcoef(inner[0].ravel(), inner[1].ravel())[0, 1] > 0.9


def test_channels_of_different_frames_of_reference_are_refused_by_default(study: Discovery) -> None:
    from medhybrid.errors import ScanError

    for path in (study.root / "FLAIR").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.FrameOfReferenceUID = "1.2.3"
        dataset.save_as(path)
    again = discover(study.root)

    with pytest.raises(ScanError, match="no common frame of reference"):
        read(again)
    assert read(again, other_grids="resample") is not None


def test_a_rotated_and_shifted_channel_is_registered_on_request(tmp_path: Path) -> None:
    import numpy as np
    from scipy.ndimage import gaussian_filter
    from scipy.spatial.transform import Rotation

    from medhybrid.scans import Scan
    from medhybrid.scans.dicom.write import write_mr_series

    rng = np.random.default_rng(0)
    image = gaussian_filter(rng.random((40, 40, 30)), 3)
    image = (image - image.min()) / np.ptp(image) * 1000
    image[:4], image[-4:], image[:, :4], image[:, -4:] = 0, 0, 0, 0
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_euler("z", 4, degrees=True).as_matrix()
    moved[:3, 3] = (3, -2, 1)
    write_mr_series(tmp_path / "T1", image, np.eye(4), description="T1", study="s", case="c")
    paths = write_mr_series(tmp_path / "FLAIR", image, moved, description="FLAIR", study="s", case="c")
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.FrameOfReferenceUID = "1.2.3"
        dataset.save_as(path)

    scan = read(discover(tmp_path), other_grids="register")

    assert isinstance(scan, Scan)
    assert any("registered rigidly" in n for n in scan.notes)
    assert np.corrcoef(scan.array[0].ravel(), scan.array[1].ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
    ("channel", "text"),
    [
        ("T1", "ax_T1w_3mm"),
        ("T1", "axT1"),
        ("FLAIR", "T2FLAIR"),
        ("FLAIR", "T2_FLAIR"),
        ("T1Gd", "t1_gd"),
        ("T1Gd", "T1GD"),
        ("FLAIR", "flair3d"),
        ("FLAIR", "sub01FLAIR"),
        ("CT", "contrast_ct"),
        ("T1c", "T1c"),
        ("T1w", "sub-1_T1w"),
        ("MR", "s1_mr"),
        ("a", "a"),
        ("b", "b_0"),
        ("ü", "x_ü"),
        ("T1pre", "t1_pre"),
        ("T2", "t2w"),
        ("T1", "T1_mprage_sag"),
        ("T1", "T1W"),
        ("image 1", "image_1"),
        ("image", "image1"),
        ("DWI", "DWI1000"),
        ("T1", "T1_pre_contrast"),
        ("T1", "T1_without_contrast"),
        ("T1", "t1_tse_sag_c-spine"),
        ("PD", "PDw"),
        ("PD", "pd"),
        ("ADC", "dwi_ADC"),
        ("FLAIR", "FLAIR_to_T1"),
        ("T1", "T1_native"),
        ("T1", "t1_posterior_fossa"),
        ("T1", "T1_posteroanterior"),
        ("T1", "t1_no_contrast"),
        ("T2", "t2_tse_tra"),
        ("mask", "lesion_mask"),
        ("T1", "__T1__image"),
        ("PET", "pet_SUV"),
        ("T1", "T1pre"),
        ("T1ce", "t1ce"),
        ("T1", "T1_to_MNI"),
        ("DWI", "dwi_b1000"),
    ],
)
def test_a_channel_without_a_rule_is_found_by_its_name_as_a_word(channel: str, text: str) -> None:
    assert names_channel(text, channel)


@pytest.mark.parametrize(
    ("channel", "text"),
    [
        ("T1", "t1ce"),
        ("T1", "T1Gd"),
        ("T1", "T12"),
        ("T1", "t1 post"),
        ("T2", "T2FLAIR"),
        ("T2", "T2_FLAIR"),
        ("T2", "T2*"),
        ("CT", "direct"),
        ("T1", "T1+C"),
        ("T1", "T1c"),
        ("T1", "T1 c+"),
        ("T1", "ce-gad_T1w"),
        ("T1", "post_T1"),
        ("T1", "postgad_T1"),
        ("T1", "T1_postcontrast"),
        ("T1", "Gd T1"),
        ("T1", "ce_T1"),
        ("DWI", "dwi_ADC"),
        ("T1", "T1_seg"),
        ("T1", "T1_brain_mask"),
        ("T1", "T1_label"),
        ("T1", "FLAIR_to_T1"),
        ("T1", "FLAIR_space-T1w"),
        ("T2", "t2star"),
        ("T1", "T1_C"),
        ("T1", "T1 ax KM"),
        ("PD", "update"),
    ],
)
def test_a_scan_whose_name_only_contains_the_channel_is_not_matched(channel: str, text: str) -> None:
    assert not names_channel(text, channel)


@pytest.mark.parametrize("rules", [{}, {"T1": "*T1*"}])
def test_the_name_of_the_studys_folder_does_not_match_a_channel(rules: dict[str, str]) -> None:
    flair = entry("T1_study__flair")

    with pytest.raises(DataError, match=r"T1 is missing.*T1_study__flair"):
        match_channels([flair], [("T1", False)], rules, case="T1_study", folder="T1_study")

    (found,) = match_channels([flair], [("FLAIR", False)], {}, case="T1_study", folder="T1_study")
    assert found.entry is flair


def test_a_folder_within_the_study_can_name_the_channel() -> None:
    scan = entry("study__T1__image")

    for rules in ({}, {"T1": "*__T1__*"}, {"T1": "T1*"}):
        (found,) = match_channels([scan], [("T1", False)], rules, case="study", folder="study")
        assert found.entry is scan


def test_other_masks_are_recognised_by_their_names() -> None:
    for name in ("brainmask", "mask_brain", "bet mask", "T1_brain_mask", "head_mask"):
        assert is_other_mask(name, ("lesion",))
    for name in ("mask", "lesion_mask", "femoral_head_mask", "vertebral_body_mask"):
        assert not is_other_mask(name, ("lesion",))
    assert not is_other_mask("brain_mask", ("Brain",))
    assert not is_other_mask("pancreas_head_mask", ("pancreas_head",))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_letter_with_a_mark_is_another_letter(form: Literal["NFC", "NFD"]) -> None:
    text = unicodedata.normalize(form, "s0_Ä")

    assert not names_channel(text, "A")
    assert names_channel(text, "Ä")
    assert not names_channel("s0_x\u0304", "x")
