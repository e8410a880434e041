"""Multi-frame series in several files, incomplete series, and masks of other patients.

Truth: the arrays that were written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage, generate_uid

from medhybrid.errors import ScanError, SeriesError
from medhybrid.scans import discover
from medhybrid.scans.dicom.references import read_masks, reference_names
from medhybrid.scans.dicom.seg import SegInfo, write_seg
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_entry, read_scan
from medhybrid.steps.convert import convert
from tests.scans.dicom.enhanced import write_enhanced
from tests.scans.dicom.test_awkward import edit_all
from tests.scans.dicom.test_nuclear import write_tomogram
from tests.scans.dicom.test_projections import write_radiograph
from tests.scans.dicom.test_references import CENTRE, OUTER, ellipse, write_rtstruct

SHAPE = (6, 5, 4)
ARRAYS = [np.random.default_rng(n).integers(1, 4000, SHAPE).astype(np.uint16) for n in range(2)]
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def divide(path: Path, cuts: Sequence[int], *, is_concatenation: bool = True) -> list[Path]:
    """Divide a multi-frame file before some frames into files of the same series, and remove it."""
    d = pydicom.dcmread(path)
    pixels = np.frombuffer(d.PixelData, np.uint16).reshape(int(d.NumberOfFrames), -1)
    groups = list(d.PerFrameFunctionalGroupsSequence)
    bounds = [0, *cuts, len(groups)]
    uid, parts = generate_uid(), []
    for n, (start, end) in enumerate(pairwise(bounds), start=1):
        part = pydicom.dcmread(path)
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        part.PerFrameFunctionalGroupsSequence = Items(groups[start:end])
        part.NumberOfFrames, part.PixelData = end - start, pixels[start:end].tobytes()
        if is_concatenation:
            part.ConcatenationUID, part.InConcatenationNumber = uid, n
            part.InConcatenationTotalNumber, part.ConcatenationFrameOffsetNumber = len(bounds) - 1, start
        part.save_as(path.with_name(f"part{n}.dcm"))
        parts.append(path.with_name(f"part{n}.dcm"))
    path.unlink()
    return parts


@given(
    cuts=st.lists(st.integers(1, 2 * SHAPE[2] - 1), min_size=1, max_size=3, unique=True).map(sorted),
    is_concatenation=st.booleans(),
)
def test_volumes_of_a_series_are_the_same_however_it_is_divided_into_files(
    cuts: list[int], is_concatenation: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("divided")
    path = write_enhanced(folder / "whole.dcm", ARRAYS, AFFINE)
    whole = [read_entry(e, "x") for e in discover(folder).entries]
    divide(path, cuts, is_concatenation=is_concatenation)

    found = [read_entry(e, "x") for e in discover(folder).entries]

    assert len(found) == len(whole) == 2
    for n, (one, other) in enumerate(zip(found, whole, strict=True)):
        np.testing.assert_array_equal(one.array[0], (1 + n) * ARRAYS[n].astype(float) - 10 * n)
        np.testing.assert_array_equal(one.array, other.array)
        np.testing.assert_array_equal(one.affine, other.affine)


@pytest.mark.parametrize("uids", ["one for each", "none"])
def test_parts_without_a_common_uid_are_one_concatenation(uids: str, tmp_path: Path) -> None:
    for path in divide(write_enhanced(tmp_path / "whole.dcm", ARRAYS, AFFINE), [4, 6]):
        d = pydicom.dcmread(path)
        d.ConcatenationUID = generate_uid() if uids == "one for each" else ""
        d.save_as(path)

    assert [e.problem for e in discover(tmp_path).entries] == ["", ""]


@pytest.mark.parametrize("missing", [[1], [2], [3], [1, 3]], ids=str)
def test_a_missing_part_of_a_concatenation_is_refused(missing: list[int], tmp_path: Path) -> None:
    parts = divide(write_enhanced(tmp_path / "whole.dcm", ARRAYS, AFFINE), [4, 6])
    for n in missing:
        parts[n - 1].unlink()

    (entry,) = discover(tmp_path).entries

    left = [str(n) for n in (1, 2, 3) if n not in missing]
    assert f"Expected the parts 1 to 3, found part{'s' * (len(left) > 1)} {', '.join(left)}" in entry.problem
    with pytest.raises(SeriesError, match="parts of a concatenation are missing"):
        read_scan(tmp_path)


def written_series(folder: Path, *, seed: int = 0, patient: str = "P0") -> Path:
    array = np.random.default_rng(seed).integers(0, 4000, (24, 17, 5)).astype(np.uint16)
    paths = write_mr_series(folder, array, AFFINE, description="T1", study=f"s{seed}", case=f"c{seed}")
    edit_all(paths, lambda d, _: d.update({"PatientID": patient}))
    return folder


MASK = np.zeros((24, 17, 5), np.uint8)
MASK[3:9, 4:8, 1:4] = 1


def test_a_part_of_a_segmentation_is_refused(tmp_path: Path) -> None:
    scan = read_scan(written_series(tmp_path / "in"))
    write_seg(tmp_path / "seg.dcm", MASK, scan, SegInfo({"a": 1}, "0"))
    d = pydicom.dcmread(tmp_path / "seg.dcm")
    d.ConcatenationUID, d.InConcatenationNumber, d.InConcatenationTotalNumber = generate_uid(), 1, 2
    d.save_as(tmp_path / "seg.dcm")

    with pytest.raises(ScanError, match="part 1 of 2"):
        read_masks(tmp_path / "seg.dcm", scan, ["a"])

    del d.InConcatenationTotalNumber  # a whole file of some programs
    d.save_as(tmp_path / "seg.dcm")
    assert read_masks(tmp_path / "seg.dcm", scan, ["a"])["a"].any()


@pytest.mark.parametrize("content", [b"", bytes(700), bytes(60)], ids=["empty", "zeros", "cut in the preamble"])
def test_blank_files_beside_the_slices_are_named(content: bytes, tmp_path: Path) -> None:
    """Files of an export often have no suffix, so that a blank one is not recognised as DICOM."""
    for k, path in enumerate(sorted(written_series(tmp_path / "in").iterdir())):
        path.rename(path.with_name(f"IM{k}"))
    (tmp_path / "in" / "IM4").write_bytes(content)
    (tmp_path / "in" / "readme.txt").touch()

    convert(tmp_path / "in", out=tmp_path / "out")

    table = (tmp_path / "out" / "table.csv").read_text()
    assert "empty files beside its slices: 1, such as IM4. Slices may be missing" in table


@pytest.mark.parametrize(("stated", "note"), [(9, "the header states 9 slices, of which 5 are there"), (5, "")])
def test_a_pet_with_fewer_slices_than_its_header_states_is_noted(stated: int, note: str, tmp_path: Path) -> None:
    def change(d: Dataset, _: int) -> None:
        d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
        d.Modality, d.NumberOfSlices, d.Units, d.RescaleSlope, d.RescaleIntercept = "PT", stated, "BQML", 1, 0

    edit_all(sorted(written_series(tmp_path / "in").iterdir()), change)

    (entry,) = discover(tmp_path / "in").entries

    assert entry.note == note


# --- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
def test_a_mask_of_another_patient_without_frame_of_reference_is_refused(kind: str, tmp_path: Path) -> None:
    own, other = (read_scan(written_series(tmp_path / p, seed=n, patient=p)) for n, p in enumerate(("P1", "P2")))
    path = tmp_path / "mask.dcm"
    if kind == "SEG":
        write_seg(path, MASK, other, SegInfo({"a": 1}, "0"))
    else:
        write_rtstruct(path, {"a": [ellipse(other.source.header[k], CENTRE, OUTER) for k in (2, 3)]})
    d = pydicom.dcmread(path)
    d.PatientID, d.FrameOfReferenceUID = "P2", ""
    for roi in d.get("StructureSetROISequence", []):
        roi.ReferencedFrameOfReferenceUID = ""
    d.save_as(path)

    with pytest.raises(ScanError, match="is of another patient than its image") as caught:
        read_masks(path, own, ["a"])

    assert not re.search("P1|P2", str(caught.value)), "no identifiers in messages"
    assert read_masks(path, other, ["a"])["a"].any()


@pytest.mark.parametrize("patient", ["anonymous", "", "P1"])
def test_a_mask_without_a_patient_is_accepted(patient: str, tmp_path: Path) -> None:
    scan = read_scan(written_series(tmp_path / "in", patient="P1"))
    write_seg(tmp_path / "seg.dcm", MASK, scan, SegInfo({"a": 1}, "0"))
    d = pydicom.dcmread(tmp_path / "seg.dcm")
    d.PatientID, d.FrameOfReferenceUID = patient, ""
    d.ReferencedSeriesSequence[0].SeriesInstanceUID = generate_uid()
    d.save_as(tmp_path / "seg.dcm")

    np.testing.assert_array_equal(read_masks(tmp_path / "seg.dcm", scan, ["a"])["a"], MASK > 0)


@pytest.mark.parametrize("keeps", ["frame of reference", "series", "study", "patient in other letters"])
def test_a_mask_that_refers_to_its_image_is_accepted_whatever_its_patient(keeps: str, tmp_path: Path) -> None:
    """Anonymisers may rename the patients of masks and of images in different ways."""
    scan = read_scan(written_series(tmp_path / "in", patient="P1"))
    write_seg(tmp_path / "seg.dcm", MASK, scan, SegInfo({"a": 1}, "0"))
    d = pydicom.dcmread(tmp_path / "seg.dcm")
    d.PatientID = "p1" if keeps == "patient in other letters" else "A17"
    if keeps != "frame of reference":
        d.FrameOfReferenceUID = ""
    if keeps != "series":
        d.ReferencedSeriesSequence[0].SeriesInstanceUID = generate_uid()
    if keeps != "study":
        d.StudyInstanceUID = generate_uid()
    d.save_as(tmp_path / "seg.dcm")

    np.testing.assert_array_equal(read_masks(tmp_path / "seg.dcm", scan, ["a"])["a"], MASK > 0)


def test_the_segmentation_of_another_radiograph_is_refused(tmp_path: Path) -> None:
    first, second = (
        read_scan(
            write_radiograph(
                tmp_path / f"{n}.dcm",
                number=n,
                PatientID=f"P{n}",
                SeriesInstanceUID=f"1.2.{n}",
                StudyInstanceUID=f"1.3.{n}",
            )
        )
        for n in (1, 2)
    )
    mask = np.ones(first.array.shape[1:], np.uint8)
    write_seg(tmp_path / "seg.dcm", mask, second, SegInfo({"a": 1}, "0"))

    with pytest.raises(ScanError, match="is of another patient"):
        read_masks(tmp_path / "seg.dcm", first, ["a"])

    assert read_masks(tmp_path / "seg.dcm", second, ["a"])["a"].all()


@pytest.mark.parametrize("padding", [255, None])
def test_the_background_of_a_label_map_is_the_padding_value(padding: int | None, tmp_path: Path) -> None:
    scan = read_scan(written_series(tmp_path / "in"))
    write_seg(tmp_path / "seg.dcm", np.ones_like(MASK), scan, SegInfo({"a": 1}, "0"))
    d = pydicom.dcmread(tmp_path / "seg.dcm")
    values = np.where(MASK > 0, 0, 255).astype(np.uint8) if padding else MASK * 2
    d.SegmentationType, d.BitsAllocated, d.BitsStored, d.HighBit = "LABELMAP", 8, 8, 7
    d.PixelData = b"".join(values[:, :, k].T.tobytes() for k in range(MASK.shape[2]))
    d["PixelData"].VR, d.file_meta.TransferSyntaxUID = "OB", ExplicitVRLittleEndian
    d.SegmentSequence[0].SegmentNumber = 0 if padding else 2
    background = Dataset()
    background.SegmentNumber, background.SegmentLabel = (255, "nothing") if padding else (0, "nothing")
    d.SegmentSequence.append(background)
    if padding:
        d.PixelPaddingValue = padding
        d["PixelPaddingValue"].VR = "US"
    else:
        d.pop("PixelPaddingValue", None)
    d.save_as(tmp_path / "seg.dcm")

    assert reference_names(tmp_path / "seg.dcm") == ["a"]
    by_position = read_masks(tmp_path / "seg.dcm", scan, ["a"])["a"]
    assert by_position.sum() == (MASK > 0).sum()


@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
def test_names_in_undeclared_utf8_are_recognised(kind: str, tmp_path: Path) -> None:
    scan = read_scan(written_series(tmp_path / "in"))
    path = tmp_path / "mask.dcm"
    name = "Ösophagus"
    if kind == "SEG":
        write_seg(path, MASK, scan, SegInfo({name: 1}, "0"))
    else:
        write_rtstruct(path, {name: [ellipse(scan.source.header[k], CENTRE, OUTER) for k in (2, 3)]})
    d = pydicom.dcmread(path)
    d.SpecificCharacterSet = "ISO_IR 192"
    d.save_as(path)
    declared = path.read_bytes()
    assert declared.count(b"ISO_IR 192") == 1
    path.write_bytes(declared.replace(b"ISO_IR 192", b" " * 10))

    assert reference_names(path) == [name]


# --- single headers ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
@pytest.mark.parametrize("modality", ["", "ct", "CT"])
def test_values_of_a_ct_are_kept_without_its_modality(modality: str, tmp_path: Path) -> None:
    """MONOCHROME1 inverts images whose values are no quantity."""
    folder = written_series(tmp_path / "in")

    def change(d: Dataset, _: int) -> None:
        d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = CTImageStorage
        d.Modality, d.PhotometricInterpretation = modality, "MONOCHROME1"
        d.RescaleSlope, d.RescaleIntercept = 1, -1024

    stored = read_scan(folder).array.astype(float)
    edit_all(sorted(folder.iterdir()), change)

    np.testing.assert_array_equal(read_scan(folder).array, stored - 1024)


def test_a_plain_series_with_one_image_in_a_mosaic_is_read(tmp_path: Path) -> None:
    folder = written_series(tmp_path / "in")
    stored = read_scan(folder).array

    def change(d: Dataset, _: int) -> None:
        block = d.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0A, "US", 1)

    edit_all(sorted(folder.iterdir()), change)

    np.testing.assert_array_equal(read_scan(folder).array, stored)


@pytest.mark.parametrize(
    "change",
    [{"SliceVector": None, "NumberOfSlices": 2}, {"SliceVector": [1, 2]}],
    ids=["two phases without numbers", "too few numbers"],
)
def test_frames_of_nuclear_medicine_without_their_slices_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    path = write_tomogram(tmp_path / "a.dcm", **change)

    with pytest.raises(ScanError, match="SliceVector"):
        read_scan(path)


@pytest.mark.parametrize("syntax", ["1.2.840.113619.5.2", "1.3.46.670589.33.1.4.1"])
def test_a_private_transfer_syntax_is_named(syntax: str, tmp_path: Path) -> None:
    folder = written_series(tmp_path / "in")
    for path in folder.iterdir():
        content = path.read_bytes()
        old = b"1.2.840.10008.1.2.1\0"
        assert content.count(old) == 1
        place = content.index(old)
        padded = syntax.encode() + b"\0" * (len(syntax) % 2)
        content = content[: place - 2] + len(padded).to_bytes(2, "little") + padded + content[place + len(old) :]
        path.write_bytes(content)
        group_length = int.from_bytes(content[140:144], "little") + len(padded) - len(old)
        path.write_bytes(content[:140] + group_length.to_bytes(4, "little") + content[144:])

    with pytest.raises(
        SeriesError, match=re.escape(f"its transfer syntax cannot be decoded. Found {syntax}")
    ) as caught:
        read_scan(folder)

    assert caught.value.code == "unsupported_codec"
