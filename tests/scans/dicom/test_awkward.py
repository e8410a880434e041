"""Tests of unusual series: each is read correctly, or refused with its code."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    MPEG2MPML,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from medhybrid.errors import SeriesError
from medhybrid.scans import discover
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_entry, read_scan
from tests.scans.dicom.truth import is_right

SHAPE = (40, 34, 6)
OBLIQUE = np.array([[0.9, -0.12, 0.3, -20], [0.2, 1.1, 0.4, 10], [-0.3, -0.1, 2.9, 5], [0, 0, 0, 1.0]])


def right_angled(affine: np.ndarray) -> np.ndarray:
    """Return the nearest affine with orthogonal axes."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    u, _, v = np.linalg.svd(affine[:3, :3] / lengths)
    out = affine.copy()
    out[:3, :3] = u @ v * lengths
    return out


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 4000, SHAPE).astype(np.uint16)
    return write_mr_series(tmp_path / "series", array, right_angled(OBLIQUE), description="T1", study="s", case="c")


Edit = Callable[[Dataset, int], None]


def edit_all(paths: list[Path], edit: Edit) -> None:
    for k, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        edit(dataset, k)
        dataset.save_as(path)


def copies(paths: list[Path], edit: Edit, prefix: str = "copy") -> list[Path]:
    """Add changed copies of the series' instances."""
    out = []
    for k, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = generate_uid()
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        edit(dataset, k)
        out.append(path.with_name(f"{prefix}{k}.dcm"))
        dataset.save_as(out[-1])
    return out


def shift(dataset: Dataset, by_mm: np.ndarray) -> None:
    moved = np.array(dataset.ImagePositionPatient, float) + by_mm
    dataset.ImagePositionPatient = [f"{v:.6f}" for v in moved]


def normal(dataset: Dataset) -> np.ndarray:
    turn = np.array(dataset.ImageOrientationPatient, float)
    return np.cross(turn[:3], turn[3:])


# --- read right ---------------------------------------------------------------------------------------------------


def reversed_numbers(p: list[Path]) -> None:
    edit_all(p, lambda d, k: setattr(d, "InstanceNumber", len(p) - k))


def scrambled_numbers(p: list[Path]) -> None:
    order = random.Random(1).sample(range(len(p)), len(p))
    edit_all(p, lambda d, k: setattr(d, "InstanceNumber", order[k]))


def no_numbers(p: list[Path]) -> None:
    edit_all(p, lambda d, _: delattr(d, "InstanceNumber"))


def slope_by_slice(p: list[Path]) -> None:
    def edit(d: Dataset, k: int) -> None:
        d.RescaleSlope, d.RescaleIntercept = 1 + k / 4, -100 * k

    edit_all(p, edit)


def monochrome1(p: list[Path]) -> None:
    def edit(d: Dataset, _: int) -> None:
        d.PhotometricInterpretation, d.BitsStored, d.HighBit = "MONOCHROME1", 12, 11

    edit_all(p, edit)


def jittered_orientation(p: list[Path]) -> None:
    def edit(d: Dataset, k: int) -> None:
        d.ImageOrientationPatient = [float(v) + 1e-8 * (-1) ** k for v in d.ImageOrientationPatient]

    edit_all(p, edit)


def no_frame_of_reference(p: list[Path]) -> None:
    edit_all(p, lambda d, _: delattr(d, "FrameOfReferenceUID"))


def positions_downwards(p: list[Path]) -> None:
    def edit(d: Dataset, k: int) -> None:
        shift(d, normal(d) * -2 * k * float(d.SliceThickness))

    edit_all(p, edit)


def a_file_copied(p: list[Path]) -> None:
    p[2].with_name("again.dcm").write_bytes(p[2].read_bytes())


def other_files_beside(p: list[Path]) -> None:
    (p[0].parent / "readme.txt").write_text("not DICOM")
    (p[0].parent / "thumb.db").write_bytes(b"\0" * 300)


def without_preamble(p: list[Path]) -> None:
    for path in p:
        path.write_bytes(path.read_bytes()[132:])


def localizer_beside(p: list[Path]) -> None:
    def edit(d: Dataset, _: int) -> None:
        d.SeriesInstanceUID, d.ImageType = "1.2.3", ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    for path in copies(p[:1], edit):
        path.rename(path.with_name("localizer"))


def compressed(syntax: str) -> Callable[[list[Path]], None]:
    def make(p: list[Path]) -> None:
        for path in p:
            dataset = pydicom.dcmread(path)
            dataset.compress(syntax, generate_instance_uid=False)
            dataset.save_as(path)

    return make


def compressed_by_gdcm(p: list[Path]) -> None:
    """Compress with GDCM as JPEG lossless (process 14), which pydicom cannot write."""
    import gdcm

    for path in p:
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == JPEGLosslessSV1


def htj2k(p: list[Path]) -> None:
    import imagecodecs
    from pydicom.encaps import encapsulate

    for path in p:
        dataset = pydicom.dcmread(path)
        stream = imagecodecs.htj2k_encode(dataset.pixel_array, reversible=True)
        dataset.PixelData = encapsulate([stream])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
        dataset.save_as(path)


RIGHT = {
    f.__name__: f
    for f in (
        reversed_numbers,
        scrambled_numbers,
        no_numbers,
        slope_by_slice,
        monochrome1,
        jittered_orientation,
        no_frame_of_reference,
        positions_downwards,
        other_files_beside,
        without_preamble,
        localizer_beside,
    )
} | {
    "rle": compressed(RLELossless),
    "jpeg_2000": compressed(JPEG2000Lossless),
    "jpeg_ls": compressed(JPEGLSLossless),
    "jpeg_lossless": compressed_by_gdcm,
    "htj2k": htj2k,
}


@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT)
def test_an_unusual_series_is_read_correctly(make: Callable[[list[Path]], None], series: list[Path]) -> None:
    make(series)

    scan = read_scan(series[0].parent)

    assert is_right(series, [scan])


def test_a_duplicate_file_is_used_once(series: list[Path]) -> None:
    a_file_copied(series)

    assert is_right(series, [read_scan(series[0].parent)])


# --- refused ------------------------------------------------------------------------------------------------------


def missing_slice(p: list[Path]) -> None:
    p[2].unlink()


def two_slices_at_one_place(p: list[Path]) -> None:
    copies(p[:1], lambda d, _: setattr(d, "PixelData", bytes(len(d.PixelData))))


def uneven(p: list[Path]) -> None:
    edit_all(p, lambda d, k: shift(d, normal(d) * 0.1 * k**2))


def tilted(p: list[Path]) -> None:
    edit_all(p, lambda d, k: shift(d, 0.4 * k * np.array(d.ImageOrientationPatient[3:], float)))


def two_series_in_a_folder(p: list[Path]) -> None:
    copies(p, lambda d, _: setattr(d, "SeriesInstanceUID", "1.2.3.4"))


def truncated(p: list[Path]) -> None:
    p[3].write_bytes(p[3].read_bytes()[:-50])


def truncated_last_compressed(p: list[Path]) -> None:
    compressed(JPEG2000Lossless)(p)
    p[-1].write_bytes(p[-1].read_bytes()[:-60])


def cut_in_the_header(p: list[Path]) -> None:
    p[-1].write_bytes(p[-1].read_bytes()[:200])


def an_empty_file(p: list[Path]) -> None:
    p[-1].write_bytes(b"")


def mixed_rows(p: list[Path]) -> None:
    def edit(d: Dataset, _: int) -> None:
        d.Rows -= 2
        d.PixelData = d.PixelData[: d.Rows * d.Columns * 2]

    edit_all(p[-1:], edit)


def mixed_pixel_spacing(p: list[Path]) -> None:
    edit_all(p[-2:], lambda d, _: setattr(d, "PixelSpacing", [2, 2]))


def mixed_orientation(p: list[Path]) -> None:
    edit_all(p[-1:], lambda d, _: setattr(d, "ImageOrientationPatient", [0, 1, 0, 0, 0, 1]))


def three_plane_localizer(p: list[Path]) -> None:
    turns = [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]]
    for path in p[3:]:
        path.unlink()
    edit_all(p[:3], lambda d, k: setattr(d, "ImageOrientationPatient", turns[k]))


def no_position(p: list[Path]) -> None:
    edit_all(p[1:2], lambda d, _: delattr(d, "ImagePositionPatient"))


def no_orientation(p: list[Path]) -> None:
    edit_all(p, lambda d, _: setattr(d, "ImageOrientationPatient", None))


def no_spacing(p: list[Path]) -> None:
    edit_all(p, lambda d, _: delattr(d, "PixelSpacing"))


def colour(p: list[Path]) -> None:
    def edit(d: Dataset, _: int) -> None:
        d.SamplesPerPixel, d.PhotometricInterpretation, d.PlanarConfiguration = 3, "RGB", 0
        d.BitsAllocated, d.BitsStored, d.HighBit = 8, 8, 7
        d.PixelData = bytes(d.Rows * d.Columns * 3)

    edit_all(p, edit)


def mosaic(p: list[Path]) -> None:
    edit_all(p, lambda d, _: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]))


def mosaic_beside_a_letter_that_no_code_has(p: list[Path]) -> None:
    mosaic(p)
    for path in p:
        path.write_bytes(path.read_bytes().replace(b"ORIGINAL\\PRIMARY\\M\\", b"ORIGINAL\\PRIMARY\\\xe9\\"))


def one_slope_lost(p: list[Path]) -> None:
    slope_by_slice(p)

    def edit(d: Dataset, _: int) -> None:
        del d.RescaleSlope, d.RescaleIntercept

    edit_all(p[2:3], edit)


def video(p: list[Path]) -> None:
    def edit(d: Dataset, _: int) -> None:
        from pydicom.encaps import encapsulate

        d.PixelData = encapsulate([bytes(100)])
        d["PixelData"].VR = "OB"
        d.file_meta.TransferSyntaxUID = MPEG2MPML

    edit_all(p, edit)


def repeats_that_nothing_tells_apart(p: list[Path]) -> None:
    edit_all(p, lambda d, _: delattr(d, "InstanceNumber"))
    copies(p, lambda d, _: setattr(d, "PixelData", bytes(len(d.PixelData))))


def part_of_the_slices_again(p: list[Path]) -> None:
    copies(p[:3], lambda d, _: setattr(d, "AcquisitionNumber", 2))


def an_echo_that_lacks_a_slice(p: list[Path]) -> None:
    two_echoes(p)[2].unlink()


def a_time_point_that_lacks_a_slice(p: list[Path]) -> None:
    two_time_points(p)[0].unlink()


REFUSED = {
    missing_slice: "missing_slice",
    two_slices_at_one_place: "duplicate_slice",
    uneven: "nonuniform",
    tilted: "gantry_tilt",
    two_series_in_a_folder: "multi_volume",
    truncated: "truncated",
    truncated_last_compressed: "truncated",
    cut_in_the_header: "truncated",
    an_empty_file: "encrypted_or_unreadable",
    mixed_rows: "mixed_shape",
    mixed_pixel_spacing: "mixed_shape",
    mixed_orientation: "mixed_orientation",
    three_plane_localizer: "localizer",
    no_position: "no_geometry",
    no_orientation: "no_geometry",
    no_spacing: "no_geometry",
    colour: "not_image",
    mosaic: "mosaic",
    mosaic_beside_a_letter_that_no_code_has: "mosaic",
    one_slope_lost: "not_image",
    video: "unsupported_codec",
    repeats_that_nothing_tells_apart: "multi_volume",
    part_of_the_slices_again: "duplicate_slice",
    an_echo_that_lacks_a_slice: "missing_slice",
    a_time_point_that_lacks_a_slice: "missing_slice",
}


@pytest.mark.parametrize(("make", "code"), REFUSED.items(), ids=[f.__name__ for f in REFUSED])
def test_an_unreadable_series_is_refused_with_its_code_and_a_reason(
    make: Callable[[list[Path]], None], code: str, series: list[Path]
) -> None:
    make(series)

    with pytest.raises(SeriesError) as caught:
        read_scan(series[0].parent)

    assert caught.value.code == code, str(caught.value)
    if code != "localizer":
        assert caught.value.remedy


# --- split --------------------------------------------------------------------------------------------------------


def two_echoes(p: list[Path]) -> list[Path]:
    return copies(p, lambda d, _: setattr(d, "EchoTime", "80"))


def two_time_points(p: list[Path]) -> list[Path]:
    edit_all(p, lambda d, _: setattr(d, "TemporalPositionIdentifier", 1))
    return copies(p, lambda d, _: setattr(d, "TemporalPositionIdentifier", 2))


def two_runs_of_numbers(p: list[Path]) -> list[Path]:
    return copies(p, lambda d, k: setattr(d, "InstanceNumber", 50 + k))


def cine_by_slice(p: list[Path]) -> list[Path]:
    """Write three phases per position, with each position acquired in separate heart beats."""

    def edit(phase: int) -> Edit:
        def at(d: Dataset, k: int) -> None:
            d.TriggerTime, d.InstanceNumber = str(30 * phase + 7 * ((k * 3) % 5) + 1), 3 * k + phase

        return at

    edit_all(p, edit(0))
    return [*copies(p, edit(1), "one"), *copies(p, edit(2), "two")]


def magnitude_and_phase(p: list[Path]) -> list[Path]:
    def edit(d: Dataset, _: int) -> None:
        d.ImageType, d.RescaleSlope, d.RescaleIntercept = ["ORIGINAL", "PRIMARY", "P"], 2, -4096

    return copies(p, edit)


def two_orientations(p: list[Path]) -> list[Path]:
    def edit(d: Dataset, k: int) -> None:
        d.ImageOrientationPatient, d.ImagePositionPatient = [0, 1, 0, 0, 0, -1], [3 * k, 0, 0]

    return copies(p, edit)


def differing(name: str, *values: object) -> Callable[[list[Path]], list[Path]]:
    """Write one volume per value of an attribute, with instance numbers that do not separate the volumes."""

    def make(p: list[Path]) -> list[Path]:
        def edit(value: object, v: int) -> Edit:
            def change(d: Dataset, k: int) -> None:
                setattr(d, name, value)
                d.InstanceNumber = 1 + k * len(values) + v if k % 2 else 1 + (k + 1) * len(values) - v

            return change

        more = [q for v, value in enumerate(values[1:], start=1) for q in copies(p, edit(value, v), f"copy{v}_")]
        edit_all(p, edit(values[0], 0))
        return more

    return make


two_inversions = differing("InversionTime", "150", "2500")
three_weightings = differing("DiffusionBValue", 0.0, 500.0, 1000.0)
two_triggers = differing("TriggerTime", "10", "400")
two_acquisitions = differing("AcquisitionNumber", 1, 2)
two_clocks = differing("AcquisitionTime", "120000", "120500.5")
two_stacks = differing("StackID", "A", "B")


def echoes_of_magnitude_and_phase(p: list[Path]) -> list[Path]:
    """Write four volumes that only a pair of attributes separates."""
    edit_all(p, lambda d, _: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "M"]))
    phases = magnitude_and_phase(p)
    return phases + copies([*p, *phases], lambda d, _: setattr(d, "EchoTime", "80"), "echo")


def echoes_of_magnitude_and_phase_in_time(p: list[Path]) -> list[Path]:
    """Write eight volumes that only three attributes together separate."""
    edit_all(p, lambda d, _: setattr(d, "TemporalPositionIdentifier", 1))
    first = [*p, *echoes_of_magnitude_and_phase(p)]
    later = copies(first, lambda d, _: setattr(d, "TemporalPositionIdentifier", 2), "later")
    return [*first[len(p) :], *later]


SPLIT = {
    "two_echoes": (two_echoes, ["echo_1", "echo_2"]),
    "two_time_points": (two_time_points, ["time_1", "time_2"]),
    "two_runs_of_numbers": (two_runs_of_numbers, ["time_1", "time_2"]),
    "magnitude_and_phase": (magnitude_and_phase, ["type_1", "type_2"]),
    "two_orientations": (two_orientations, ["axial", "sagittal"]),
    "two_inversions": (two_inversions, ["inversion_1", "inversion_2"]),
    "three_weightings": (three_weightings, ["b_0", "b_1000", "b_500"]),
    "two_triggers": (two_triggers, ["trigger_1", "trigger_2"]),
    "two_acquisitions": (two_acquisitions, ["acquisition_1", "acquisition_2"]),
    "cine_by_slice": (cine_by_slice, ["phase_1", "phase_2", "phase_3"]),
    "two_clocks": (two_clocks, ["time_1", "time_2"]),
    "two_stacks": (two_stacks, ["stack_1", "stack_2"]),
    "a_pair_of_attributes": (
        echoes_of_magnitude_and_phase,
        ["type_1_echo_1", "type_1_echo_2", "type_2_echo_1", "type_2_echo_2"],
    ),
    "three_attributes": (
        echoes_of_magnitude_and_phase_in_time,
        [f"type_{t}_echo_{e}_time_{n}" for t in (1, 2) for e in (1, 2) for n in (1, 2)],
    ),
}


@pytest.mark.parametrize(("make", "names"), SPLIT.values(), ids=list(SPLIT))
def test_a_series_of_several_volumes_is_split_into_named_volumes(
    make: Callable[[list[Path]], list[Path]], names: list[str], series: list[Path]
) -> None:
    more = make(series)

    found = discover(series[0].parent)

    assert sorted(e.part for e in found.entries) == names
    assert is_right([*series, *more], [read_entry(e, e.name) for e in found.entries])
    with pytest.raises(SeriesError) as caught:
        read_scan(series[0].parent)
    assert caught.value.code == "multi_volume"
    assert found.entries[0].part in str(caught.value)


def test_cine_slices_are_split_into_phases_by_trigger_times(series: list[Path]) -> None:
    paths = [*series, *cine_by_slice(series)]
    for path in paths:
        d = pydicom.dcmread(path)
        d.PixelData = np.full((d.Rows, d.Columns), d.InstanceNumber % 3, np.uint16).tobytes()
        d.save_as(path)

    scans = {e.part: read_entry(e, e.name) for e in discover(series[0].parent).entries}

    assert [np.unique(scans[f"phase_{n}"].array).tolist() for n in (1, 2, 3)] == [[0], [1], [2]]


def test_frames_with_contradictory_numbers_and_times_are_not_split_into_phases(series: list[Path]) -> None:
    for path in [*series, *cine_by_slice(series)]:
        d = pydicom.dcmread(path)
        d.InstanceNumber = 1000 - 7 * d.InstanceNumber if d.InstanceNumber % 4 else d.InstanceNumber
        d.save_as(path)

    (entry,) = discover(series[0].parent).entries

    assert entry.code == "multi_volume"
