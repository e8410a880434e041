"""Tests of reference masks from DICOM SEG and RTSTRUCT: on the correct voxels in any patient position, or refused."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, RTStructureSetStorage, generate_uid

from medhybrid.config import DataConfig, ScansConfig
from medhybrid.data.layouts import Case, Files
from medhybrid.data.load import load_mask
from medhybrid.data.segments import read_label_map
from medhybrid.errors import DataError, ScanError
from medhybrid.scans import Scan
from medhybrid.scans.dicom.references import read_masks, reference_kind, reference_names
from medhybrid.scans.dicom.seg import SegInfo, write_seg
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan
from tests.conftest import SHARED
from tests.scans.dicom.test_awkward import edit_all, right_angled, shift, tilted, uneven
from tests.scans.dicom.test_header_oddities import hide_vrs
from tests.scans.dicom.test_output import TURNS

SHAPE = (24, 17, 7)  # columns, rows, slices: not square
SPACING = (1.2, 0.8, 3.0)

Contours = dict[str, list[np.ndarray]]
"""By name of the structure: contours (N, 3) in LPS mm."""


def write_rtstruct(
    path: Path, contours: Contours, *, frame: str = "", kind: str = "CLOSED_PLANAR", series: str = ""
) -> Path:
    d = Dataset()
    if series:  # the image series to which it refers
        d.ReferencedFrameOfReferenceSequence = [
            _with(RTReferencedStudySequence=[_with(RTReferencedSeriesSequence=[_with(SeriesInstanceUID=series)])])
        ]
    d.SOPClassUID, d.SOPInstanceUID, d.Modality = RTStructureSetStorage, generate_uid(), "RTSTRUCT"
    d.StudyInstanceUID, d.SeriesInstanceUID = generate_uid(entropy_srcs=["s", "study"]), generate_uid()
    d.StructureSetLabel, d.StructureSetROISequence, d.ROIContourSequence = "x", [], []
    for number, (name, outlines) in enumerate(contours.items(), start=1):
        region, outline_set = Dataset(), Dataset()
        region.ROINumber, region.ROIName, region.ReferencedFrameOfReferenceUID = number, name, frame
        outline_set.ReferencedROINumber, outline_set.ContourSequence = number, []
        for points in outlines:
            item = Dataset()
            item.ContourGeometricType, item.NumberOfContourPoints = kind, len(points)
            item.ContourData = [f"{v:.4f}" for v in points.ravel()]
            outline_set.ContourSequence.append(item)
        d.StructureSetROISequence.append(region)
        d.ROIContourSequence.append(outline_set)
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    d.save_as(path, enforce_file_format=True)
    return path


def _with(**values: object) -> Dataset:
    d = Dataset()
    for name, value in values.items():
        setattr(d, name, value)
    return d


def on_slice(dataset: Dataset, columns: Sequence[float], rows: Sequence[float]) -> np.ndarray:
    """Convert points of a slice to LPS mm, by its header."""
    turn, (row_mm, column_mm) = np.array(dataset.ImageOrientationPatient, float), np.array(dataset.PixelSpacing, float)
    c, r = np.asarray(columns)[:, None], np.asarray(rows)[:, None]
    return np.array(dataset.ImagePositionPatient, float) + c * column_mm * turn[:3] + r * row_mm * turn[3:]


def ellipse(dataset: Dataset, centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    return on_slice(dataset, centre[0] + radii[0] * np.cos(t), centre[1] + radii[1] * np.sin(t))


def inside_ellipse(centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    x, y = np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]), indexing="ij")
    return ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 <= 1


def write_series(folder: Path, turn: str = "axial") -> list[Path]:
    affine = np.eye(4)
    affine[:3, :3] = np.array(TURNS[turn]) * (SPACING if turn != "oblique" else 1)
    affine[:3, 3] = (-10, 20, 30)
    values = np.random.default_rng(0).integers(0, 4000, SHAPE)
    return write_mr_series(folder, values, right_angled(affine), description="T1", study="s", case="c")


def frame_of(scan: Scan) -> str:
    return str(scan.source.header[0].FrameOfReferenceUID)


CENTRE, OUTER, INNER = (13.3, 7.2), (7.6, 5.3), (3.4, 2.1)


@pytest.mark.parametrize("turn", TURNS)
def test_contours_fill_the_voxels_with_enclosed_centres(turn: str, tmp_path: Path) -> None:
    write_series(tmp_path / "in", turn)
    scan = read_scan(tmp_path / "in")
    headers = scan.source.header  # in the order of the scan's slices
    contours = {
        "ring": [ellipse(headers[k], CENTRE, r) for k in (2, 3, 4) for r in (OUTER, INNER)],
        "spot": [ellipse(headers[1], (5, 4), (2.3, 1.7))],
    }
    path = write_rtstruct(tmp_path / "rt.dcm", contours, frame=frame_of(scan))

    masks = read_masks(path, scan, ["ring", "spot"])

    ring = np.zeros(SHAPE, bool)
    ring[:, :, 2:5] = (inside_ellipse(CENTRE, OUTER) & ~inside_ellipse(CENTRE, INNER))[:, :, None]
    np.testing.assert_array_equal(masks["ring"], ring)
    spot = np.zeros(SHAPE, bool)
    spot[:, :, 1] = inside_ellipse((5, 4), (2.3, 1.7))
    np.testing.assert_array_equal(masks["spot"], spot)


def test_voxels_on_a_contour_belong_to_it_regardless_of_direction(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    square = on_slice(scan.source.header[3], [4, 4, 9, 9], [2, 8, 8, 2])
    expected = np.zeros(SHAPE, bool)
    expected[4:10, 2:9, 3] = True

    for points in (square, square[::-1]):
        path = write_rtstruct(tmp_path / "rt.dcm", {"square": [points]})
        np.testing.assert_array_equal(read_masks(path, scan, ["square"])["square"], expected)


def test_contours_fit_the_same_scan_as_nifti(tmp_path: Path) -> None:
    """Read contours on a NIfTI file with another axis order than the DICOM series."""
    write_series(tmp_path / "in", "sagittal")
    dicom = read_scan(tmp_path / "in")
    path = write_rtstruct(
        tmp_path / "rt.dcm", {"spot": [ellipse(dicom.source.header[k], CENTRE, OUTER) for k in (2, 3)]}
    )
    turned = Scan(dicom.array.transpose(0, 3, 1, 2), dicom.affine[:, [2, 0, 1, 3]], dicom.source, "c", ("",))

    mask = read_masks(path, turned, ["spot"])["spot"]

    np.testing.assert_array_equal(mask, read_masks(path, dicom, ["spot"])["spot"].transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda points, normal: points + 1.2 * normal, "lie between the slices of the image"),
        (lambda points, normal: points + 30 * normal, "lie outside the image"),
        (lambda points, normal: points + 40 * (points[0] - points[200]) / 18, "lie outside the image"),
        (lambda points, normal: points[:2], "encloses no area"),
    ],
)
def test_contours_outside_the_slices_of_the_image_are_refused(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    points = ellipse(scan.source.header[3], CENTRE, OUTER)
    path = write_rtstruct(tmp_path / "rt.dcm", {"x": [change(points, np.array([0, 0, 1.0]))]})

    with pytest.raises(ScanError, match=message):
        read_masks(path, scan, ["x"])


def test_a_structure_drawn_on_every_other_slice_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    path = write_rtstruct(
        tmp_path / "rt.dcm", {"x": [ellipse(scan.source.header[k], CENTRE, OUTER) for k in (0, 2, 4)]}
    )

    with pytest.raises(ScanError, match="drawn on some slices only"):
        read_masks(path, scan, ["x"])


def test_a_folder_with_one_reference_is_read(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    path = write_rtstruct(tmp_path / "rt" / "1-1.dcm", {"x": [ellipse(scan.source.header[3], CENTRE, OUTER)]})
    (tmp_path / "rt" / "._1-1.dcm").write_bytes(b"\0\5\26\7")
    case = Case("c", "c", (Files((tmp_path / "in",)),), Files((path.parent,)))
    data = DataConfig(channels=[{"name": "MR", "modality": "MR"}], labels={"x": 1})

    mask = load_mask(case, scan, data, ScansConfig())

    assert mask.array.sum() == inside_ellipse(CENTRE, OUTER).sum()


def test_a_structure_of_points_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    path = write_rtstruct(tmp_path / "rt.dcm", {"x": [ellipse(scan.source.header[3], CENTRE, OUTER)]}, kind="POINT")

    with pytest.raises(ScanError, match="encloses no area"):
        read_masks(path, scan, ["x"])


def test_another_frame_of_reference_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    path = write_rtstruct(tmp_path / "rt.dcm", {"x": [ellipse(scan.source.header[3], CENTRE, OUTER)]}, frame="1.2.3")

    with pytest.raises(ScanError, match="another frame of reference"):
        read_masks(path, scan, ["x"])


@pytest.mark.parametrize("edit", [tilted, uneven])
def test_masks_of_irregular_slices_are_resampled_with_them(tmp_path: Path, edit) -> None:  # type: ignore[no-untyped-def]
    """Read masks of tilted or uneven slices: they were drawn on the slices, but the image is on the regular grid."""
    paths = write_series(tmp_path / "in")
    edit(paths)
    scan = read_scan(tmp_path / "in", options=ScansConfig(resample_irregular=True))
    on_slices = np.zeros(scan.source.regular.slices_shape, np.uint8)
    on_slices[:, :, 2:5] = inside_ellipse(CENTRE, OUTER)[:, :, None]
    expected = scan.source.regular.labels_from_slices(on_slices)
    outlines = [ellipse(scan.source.header[k], CENTRE, OUTER) for k in (2, 3, 4)]
    write_rtstruct(tmp_path / "rt.dcm", {"x": outlines}, frame=frame_of(scan))
    write_seg(tmp_path / "seg.dcm", expected, scan, SegInfo({"x": 1}, "0"))

    for path in (tmp_path / "rt.dcm", tmp_path / "seg.dcm"):
        mask = read_masks(path, scan, ["x"])["x"]

        overlap = 2 * (mask & (expected > 0)).sum() / (mask.sum() + expected.sum())
        assert overlap > 0.97  # resampled to the grid and back, labels differ by at most the nearest voxel
    np.testing.assert_array_equal(read_masks(tmp_path / "rt.dcm", scan, ["x"])["x"], expected > 0)


def keyhole(dataset: Dataset) -> np.ndarray:
    """Return a square with a square hole, drawn as one line there and back along a row of pixels."""
    outer = [(3, 8), (3, 3), (16, 3), (16, 14), (3, 14), (3, 8)]
    hole = [(7, 8), (7, 11), (12, 11), (12, 6), (7, 6), (7, 8)]
    columns, rows = zip(*outer, *hole, strict=True)
    return on_slice(dataset, columns, rows)


def test_the_channel_of_a_keyhole_belongs_to_the_structure(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    points = keyhole(scan.source.header[3])
    expected = np.zeros(SHAPE[:2], bool)
    expected[3:17, 3:15] = True
    expected[8:12, 7:11] = False

    for way in (points, points[::-1]):
        write_rtstruct(tmp_path / "rt.dcm", {"x": [way]})
        np.testing.assert_array_equal(read_masks(tmp_path / "rt.dcm", scan, ["x"])["x"][:, :, 3], expected)


def square(dataset: Dataset, low: tuple[float, float], high: tuple[float, float]) -> np.ndarray:
    return on_slice(dataset, [low[0], high[0], high[0], low[0]], [low[1], low[1], high[1], high[1]])


def test_contours_of_a_slice_are_joined_unless_one_lies_in_the_other(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    h = scan.source.header[3]
    outer, touching, hole = square(h, (2, 2), (9, 9)), square(h, (9, 2), (14, 9)), square(h, (4.5, 4.5), (6.5, 6.5))
    island = square(h, (4.8, 4.8), (5.2, 5.2))

    def pixels(*contours: np.ndarray, kind: str = "CLOSED_PLANAR") -> np.ndarray:
        write_rtstruct(tmp_path / "rt.dcm", {"x": list(contours)}, kind=kind)
        return read_masks(tmp_path / "rt.dcm", scan, ["x"])["x"][:, :, 3]

    one = np.zeros(SHAPE[:2], bool)
    one[2:10, 2:10] = True
    np.testing.assert_array_equal(pixels(outer, outer), one)  # exported twice
    both = one.copy()
    both[9:15, 2:10] = True
    np.testing.assert_array_equal(pixels(outer, touching), both)  # the common line belongs to both
    ring = one.copy()
    ring[5:7, 5:7] = False
    np.testing.assert_array_equal(pixels(hole, outer), ring)
    ring[5, 5] = True
    np.testing.assert_array_equal(pixels(hole, outer, island), ring)
    np.testing.assert_array_equal(pixels(outer, outer, kind="CLOSEDPLANAR_XOR"), np.zeros(SHAPE[:2], bool))
    with pytest.raises(ScanError, match="partly overlap"):
        pixels(outer, square(h, (6, 6), (12, 12)))


def test_a_repeated_contour_counts_once_regardless_of_start_and_direction(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    h = scan.source.header[3]
    outer, hole = square(h, (1.5, 1.5), (12.5, 12.5)), square(h, (4.5, 4.5), (8.5, 8.5))
    expected = np.zeros(SHAPE[:2], bool)
    expected[2:13, 2:13] = True
    expected[5:9, 5:9] = False
    closed = np.vstack([outer, outer[:1]])
    more_points = on_slice(h, [1.5, 7, 12.5, 12.5, 12.5, 1.5], [1.5, 1.5, 1.5, 6, 12.5, 12.5])

    for again in (outer[::-1], np.roll(outer, 1, axis=0), np.roll(outer[::-1], 2, axis=0), closed, more_points):
        write_rtstruct(tmp_path / "rt.dcm", {"x": [outer, hole, again, np.roll(hole, 1, axis=0)]})
        np.testing.assert_array_equal(read_masks(tmp_path / "rt.dcm", scan, ["x"])["x"][:, :, 3], expected)


ROUND = np.arange(0, 360, 2)


@pytest.mark.parametrize(
    "degrees",
    [
        np.arange(0, 720, 2),
        np.arange(0, 400, 2),
        np.arange(0, 1080, 2),
        np.arange(90, 541, 1.5),
        [*ROUND, 0, *ROUND[::-1]],
    ],
    ids=["twice", "a bit more", "three times", "with other points", "there and back"],
)
def test_a_polygon_drawn_round_several_times_encloses_the_same_pixels(degrees: Sequence[int], tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    t = np.radians(degrees)
    drawn = on_slice(scan.source.header[3], CENTRE[0] + OUTER[0] * np.cos(t), CENTRE[1] + OUTER[1] * np.sin(t))

    write_rtstruct(tmp_path / "rt.dcm", {"x": [drawn]})

    mask = read_masks(tmp_path / "rt.dcm", scan, ["x"])["x"][:, :, 3]
    np.testing.assert_array_equal(mask, inside_ellipse(CENTRE, OUTER))


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("n_rounds", [1, 2])
def test_the_hole_of_a_keyhole_contour_is_kept_in_both_directions(
    n_rounds: int, direction: int, tmp_path: Path
) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    h = scan.source.header[3]
    outer, hole = square(h, (1.5, 1.5), (12.5, 12.5)), square(h, (4.5, 4.5), (8.5, 8.5))[::direction]
    expected = np.zeros(SHAPE[:2], bool)
    expected[2:13, 2:13] = True
    expected[5:9, 5:9] = False
    drawn = np.vstack([outer, outer[:1], hole, hole[:1]] * n_rounds)

    write_rtstruct(tmp_path / "rt.dcm", {"x": [drawn]})

    np.testing.assert_array_equal(read_masks(tmp_path / "rt.dcm", scan, ["x"])["x"][:, :, 3], expected)


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_contours_through_border_voxel_centres_include_these_voxels(kind: str, tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    h = scan.source.header[3]
    expected = np.zeros(SHAPE[:2], bool)
    expected[2:14, 2:14] = True
    expected[6:9, 6:9] = False
    cavity = on_slice(h, [5, 5, 6, 8, 9, 9, 8, 6], [6, 8, 9, 9, 8, 6, 5, 5])  # as OpenCV follows the voxels around it

    write_rtstruct(tmp_path / "rt.dcm", {"x": [square(h, (2, 2), (13, 13)), cavity]}, kind=kind)

    np.testing.assert_array_equal(read_masks(tmp_path / "rt.dcm", scan, ["x"])["x"][:, :, 3], expected)


def test_a_hole_in_a_second_item_of_its_structure_is_a_hole(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    h = scan.source.header[3]
    path = write_rtstruct(
        tmp_path / "rt.dcm", {"x": [square(h, (1.5, 1.5), (12.5, 12.5))], "y": [square(h, (4.5, 4.5), (8.5, 8.5))]}
    )
    d = pydicom.dcmread(path)
    d.ROIContourSequence[1].ReferencedROINumber = 1
    d.save_as(path)

    assert read_masks(path, scan, ["x"])["x"].sum() == 11 * 11 - 4 * 4


def test_structures_with_one_number_are_refused_and_unnamed_ones_are_named(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    outline = ellipse(scan.source.header[3], CENTRE, OUTER)
    path = write_rtstruct(tmp_path / "rt.dcm", {"x": [outline], "y": [outline], "": [outline]})
    d = pydicom.dcmread(path)
    d.StructureSetROISequence[1].ROINumber = 1
    d.save_as(path)

    assert reference_names(path) == ["x", "y", "structure 2", "structure 3"]
    with pytest.raises(ScanError, match="2 structures with number 1"):
        read_masks(path, scan, ["x"])


@pytest.mark.parametrize("size", [4, 9])
def test_a_hole_with_a_wall_of_one_voxel_excludes_the_voxels_on_its_contour(size: int, tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    h = scan.source.header[3]
    wall = square(h, (2, 2), (2 + size, 2 + size)), square(h, (3, 3), (1 + size, 1 + size))
    expected = np.zeros(SHAPE[:2], bool)
    expected[2 : 3 + size, 2 : 3 + size] = True
    expected[4 : 1 + size, 4 : 1 + size] = False

    write_rtstruct(tmp_path / "rt.dcm", {"x": list(wall)})

    np.testing.assert_array_equal(read_masks(tmp_path / "rt.dcm", scan, ["x"])["x"][:, :, 3], expected)


@pytest.mark.parametrize(
    ("radius", "n_points", "is_refused"), [(6.0, 14, False), (5.8, 400, False), (5.4, 400, True), (6.0, 5, True)]
)
def test_a_contour_drawn_twice_with_different_points_has_no_hole(
    radius: float, n_points: int, is_refused: bool, tmp_path: Path
) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    h, t = scan.source.header[3], np.linspace(0, 2 * np.pi, n_points, endpoint=False)
    again = on_slice(h, 12 + radius * np.cos(t), 8 + radius * np.sin(t))
    path = write_rtstruct(tmp_path / "rt.dcm", {"x": [again, ellipse(h, (12, 8), (6.05, 6.05))]})

    if is_refused:
        with pytest.raises(ScanError, match=r"drawn twice.*found a wall of 0\.\d"):
            read_masks(path, scan, ["x"])
        return
    np.testing.assert_array_equal(read_masks(path, scan, ["x"])["x"][:, :, 3], inside_ellipse((12, 8), (6.05, 6.05)))


def test_halves_combined_by_exclusive_or_keep_the_line_that_they_share(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    h = scan.source.header[3]
    halves = [square(h, (2, 2), (7, 9)), square(h, (7, 2), (14, 9))]
    expected = np.zeros(SHAPE[:2], bool)
    expected[2:15, 2:10] = True

    write_rtstruct(tmp_path / "rt.dcm", {"x": halves}, kind="CLOSEDPLANAR_XOR")

    np.testing.assert_array_equal(read_masks(tmp_path / "rt.dcm", scan, ["x"])["x"][:, :, 3], expected)


def test_contours_without_a_type_are_closed(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    path = write_rtstruct(tmp_path / "rt.dcm", {"x": [square(h, (2, 2), (7, 9)) for h in scan.source.header[2:4]]})
    expected = read_masks(path, scan, ["x"])["x"]
    d = pydicom.dcmread(path)
    for item in d.ROIContourSequence[0].ContourSequence:
        del item.ContourGeometricType
    d.save_as(path)

    np.testing.assert_array_equal(read_masks(path, scan, ["x"])["x"], expected)
    assert expected.any()


def test_an_open_contour_beside_closed_ones_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    path = write_rtstruct(tmp_path / "rt.dcm", {"x": [square(h, (2, 2), (7, 9)) for h in scan.source.header[2:4]]})
    d = pydicom.dcmread(path)
    d.ROIContourSequence[0].ContourSequence[1].ContourGeometricType = "OPEN_PLANAR"
    d.save_as(path)

    with pytest.raises(ScanError, match=r"not closed.*found OPEN_PLANAR"):
        read_masks(path, scan, ["x"])


@pytest.mark.parametrize(("slices", "found"), [((0, 2, 4, 5), "1 .* slices 1 and 3"), ((1, 5), "3 .* slices 2 and 6")])
def test_skipped_slices_within_a_part_are_refused(slices: tuple[int, ...], found: str, tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    parts = [ellipse(scan.source.header[k], CENTRE, OUTER) for k in slices]
    path = write_rtstruct(tmp_path / "rt.dcm", {"x": parts})

    with pytest.raises(ScanError, match=found):
        read_masks(path, scan, ["x"])


def test_pairs_of_slices_at_regular_distances_are_refused(tmp_path: Path) -> None:
    write_mr_series(tmp_path / "in", np.zeros((24, 17, 12)), np.eye(4), description="T1", study="s", case="c")
    scan = read_scan(tmp_path / "in")
    pairs = [ellipse(scan.source.header[k], CENTRE, OUTER) for k in (0, 1, 5, 6, 10, 11)]
    path = write_rtstruct(tmp_path / "rt.dcm", {"pairs": pairs, "two": pairs[:4]})

    with pytest.raises(ScanError, match=r"drawn on some slices only.*3 slices without a contour at 2 places"):
        read_masks(path, scan, ["pairs"])
    assert np.flatnonzero(read_masks(path, scan, ["two"])["two"].any((0, 1))).tolist() == [0, 1, 5, 6]


def test_separate_parts_may_have_slices_between_them(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    h = scan.source.header
    beside = [ellipse(h[1], (5, 8), (3, 3)), ellipse(h[4], (17, 8), (3, 3))]
    above = [ellipse(h[k], CENTRE, OUTER) for k in (0, 1, 5, 6)]
    path = write_rtstruct(tmp_path / "rt.dcm", {"beside": beside, "above": above})

    masks = read_masks(path, scan, ["beside", "above"])

    assert [k for k in range(SHAPE[2]) if masks["beside"][:, :, k].any()] == [1, 4]
    assert [k for k in range(SHAPE[2]) if masks["above"][:, :, k].any()] == [0, 1, 5, 6]


def test_a_fault_of_one_structure_does_not_affect_others(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    h = scan.source.header[3]
    contours = {
        "x": [ellipse(h, CENTRE, OUTER)],
        "broken": [ellipse(h, CENTRE, OUTER)],
        "": [ellipse(h, CENTRE, OUTER)],
    }
    path = write_rtstruct(tmp_path / "rt.dcm", contours)
    d = pydicom.dcmread(path)
    d.ROIContourSequence[0].ContourSequence.append(copy.deepcopy(d.ROIContourSequence[1].ContourSequence[0]))
    d.ROIContourSequence[0].ContourSequence[1].ContourData = [
        "1",
        "2",
        "3",
    ]  # a single point with the type of a closed contour
    d.ROIContourSequence[1].ContourSequence[0].ContourData = [str(i) for i in range(10)]
    d.ROIContourSequence[2].ReferencedROINumber = 99
    d.save_as(path)

    assert reference_names(path) == ["x", "broken", "structure 99"]
    assert read_masks(path, scan, ["x"])["x"].any()
    with pytest.raises(ScanError, match="cannot be read"):
        read_masks(path, scan, ["broken"])


@pytest.mark.filterwarnings("ignore:The string")
def test_segments_of_a_label_map_are_read_separately(tmp_path: Path) -> None:
    """Read a LABELMAP with one frame per slice, and segment numbers above 255 as values."""
    write_series(tmp_path / "in", "oblique")
    scan = read_scan(tmp_path / "in")
    mask = np.zeros(SHAPE, np.uint16)
    mask[3:9, 4:9, 1:3], mask[9:14, 4:9, 2:6] = 1, 300
    write_labelmap(tmp_path / "seg.dcm", mask, scan, {1: "near", 300: "far"})

    masks = read_masks(tmp_path / "seg.dcm", scan, ["near", "far"])

    np.testing.assert_array_equal(masks["near"], mask == 1)
    np.testing.assert_array_equal(masks["far"], mask == 300)


@pytest.mark.filterwarnings("ignore")
def test_the_background_of_a_label_map_is_not_a_segment(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:9, 4:9, 1:3] = 1
    write_labelmap(tmp_path / "seg.dcm", mask, scan, {1: "near"})
    d = pydicom.dcmread(tmp_path / "seg.dcm")
    background = copy.deepcopy(d.SegmentSequence[0])
    background.SegmentNumber, background.SegmentLabel = 0, "Background"
    d.SegmentSequence = [background, *(s for s in d.SegmentSequence if s.SegmentNumber != 0)]
    d.save_as(tmp_path / "seg.dcm")

    assert reference_names(tmp_path / "seg.dcm") == ["near"]
    np.testing.assert_array_equal(read_masks(tmp_path / "seg.dcm", scan, ["near"])["near"], mask > 0)


def test_a_segmentation_with_surplus_frames_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    write_seg(tmp_path / "seg.dcm", np.ones(SHAPE, np.uint8), scan, SegInfo({"x": 1}, "0"))
    d = pydicom.dcmread(tmp_path / "seg.dcm")
    d.PerFrameFunctionalGroupsSequence = d.PerFrameFunctionalGroupsSequence[:4]
    d.NumberOfFrames = 4
    d.save_as(tmp_path / "seg.dcm")

    with pytest.raises(ScanError, match="more frames than NumberOfFrames 4"):
        read_masks(tmp_path / "seg.dcm", scan, ["x"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("has_fewer", ["rows", "frames"])
def test_a_compressed_segmentation_with_surplus_data_is_refused(has_fewer: str, tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    write_labelmap(tmp_path / "seg.dcm", np.ones(SHAPE, np.uint8), scan, {1: "x"})
    d = pydicom.dcmread(tmp_path / "seg.dcm")
    d.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    if has_fewer == "rows":
        d.Rows -= 1
    else:
        d.PerFrameFunctionalGroupsSequence, d.NumberOfFrames = d.PerFrameFunctionalGroupsSequence[:4], 4
    d.save_as(tmp_path / "seg.dcm")

    with pytest.raises(ScanError, match="408 values" if has_fewer == "rows" else "7 frames"):
        read_masks(tmp_path / "seg.dcm", scan, ["x"])


def write_labelmap(path: Path, mask: np.ndarray, scan: Scan, segments: dict[int, str]) -> None:
    algorithm = hd.AlgorithmIdentificationSequence("x", codes.DCM.ArtificialIntelligence, "1")
    described = [
        hd.seg.SegmentDescription(
            number,
            name,
            codes.SCT.MorphologicallyAbnormalStructure,
            codes.SCT.Lesion,
            hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm,
        )
        for number, name in segments.items()
    ]
    hd.seg.Segmentation(
        source_images=[pydicom.dcmread(p) for p in scan.source.paths],
        pixel_array=np.ascontiguousarray(mask.transpose(2, 1, 0)),
        segmentation_type=hd.seg.SegmentationTypeValues.LABELMAP,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
    ).save_as(path)


def test_a_segmentation_is_placed_by_position_regardless_of_its_references(tmp_path: Path) -> None:
    """Read masks of a tilted series that was anonymised after the segmentation, and of one with a missing slice."""
    paths = write_series(tmp_path / "in")
    tilted(paths)
    options = ScansConfig(resample_irregular=True)
    scan = read_scan(tmp_path / "in", options=options)
    mask = np.zeros(scan.grid.shape, np.uint8)
    mask[4:12, 3:9, 2:5] = 1
    write_seg(tmp_path / "seg.dcm", mask, scan, SegInfo({"x": 1}, "0"))
    before = read_masks(tmp_path / "seg.dcm", scan, ["x"])["x"]

    edit_all(paths, lambda d, _: setattr(d, "SOPInstanceUID", generate_uid()))
    after = read_masks(tmp_path / "seg.dcm", read_scan(tmp_path / "in", options=options), ["x"])["x"]

    assert before.any()
    np.testing.assert_array_equal(after, before)
    paths[3].unlink()
    with pytest.raises(ScanError, match="does not lie on the image's voxels"):
        read_masks(tmp_path / "seg.dcm", read_scan(tmp_path / "in", options=options), ["x"])


@pytest.mark.parametrize(("step", "message"), [((2, 2, 1), "pixels of another size"), ((1, 1, 2), "further apart")])
def test_a_segmentation_of_a_coarser_image_is_refused(tmp_path: Path, step: tuple[int, ...], message: str) -> None:
    """Refuse a mask with pixels on voxels of the image, and empty voxels between them."""
    write_series(tmp_path / "fine")
    fine = read_scan(tmp_path / "fine")
    every = tuple(slice(None, None, s) for s in step)
    affine = fine.affine @ np.diag([*step, 1.0])
    write_mr_series(tmp_path / "coarse", fine.array[0][every], affine, description="T1", study="s", case="c")
    coarse = read_scan(tmp_path / "coarse")
    write_seg(tmp_path / "seg.dcm", np.ones(coarse.grid.shape, np.uint8), coarse, SegInfo({"x": 1}, "0"))

    with pytest.raises(ScanError, match=message):
        read_masks(tmp_path / "seg.dcm", fine, ["x"])
    d = pydicom.dcmread(tmp_path / "seg.dcm")
    del d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
    d.save_as(tmp_path / "seg.dcm")
    with pytest.raises(ScanError, match=message):
        read_masks(tmp_path / "seg.dcm", fine, ["x"])


@pytest.mark.parametrize("stated_mm", [None, 2.0, 4.0])
@pytest.mark.parametrize("chosen", ["x", "y"])
def test_a_segmentation_on_every_second_slice_is_refused_regardless_of_its_spacing(
    stated_mm: float | None, chosen: str, tmp_path: Path
) -> None:
    """Refuse a coarse segmentation, even if the requested segment lies on a single slice."""
    affine = np.diag([4.0, 4.0, 2.0, 1.0])
    write_mr_series(tmp_path / "in", np.zeros((9, 8, 12)), affine, description="T1", study="s", case="c")
    scan = read_scan(tmp_path / "in")
    mask = np.zeros((9, 8, 12), np.uint8)
    mask[2:6, 2:6, 2:9:2], mask[7, 7, 6] = 1, 2
    write_seg(tmp_path / "seg.dcm", mask, scan, SegInfo({"x": 1, "y": 2}, "0"))
    state_spacing(tmp_path / "seg.dcm", stated_mm)

    with pytest.raises(ScanError, match="further apart"):
        read_masks(tmp_path / "seg.dcm", scan, [chosen])


@pytest.mark.parametrize("slices", [(0, 3, 9), (2, 4, 6)])
@pytest.mark.parametrize("stated_mm", [None, 3.0])
def test_separate_lesions_on_single_slices_are_read(
    slices: tuple[int, ...], stated_mm: float | None, tmp_path: Path
) -> None:
    write_mr_series(
        tmp_path / "in", np.zeros((9, 8, 12)), np.diag([1, 1, 3, 1.0]), description="T1", study="s", case="c"
    )
    scan = read_scan(tmp_path / "in")
    mask = np.zeros((9, 8, 12), np.uint8)
    for j, k in enumerate(slices):
        mask[1 + 2 * j : 3 + 2 * j, 2:4, k] = 1
    write_seg(tmp_path / "seg.dcm", mask, scan, SegInfo({"x": 1}, "0"))
    state_spacing(tmp_path / "seg.dcm", stated_mm)

    np.testing.assert_array_equal(read_masks(tmp_path / "seg.dcm", scan, ["x"])["x"], mask > 0)


def state_spacing(path: Path, spacing_mm: float | None) -> None:
    d = pydicom.dcmread(path)
    measures = d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    if spacing_mm is None:
        del measures.SpacingBetweenSlices
    else:
        measures.SpacingBetweenSlices = spacing_mm
    d.save_as(path)


def test_segments_on_slices_with_gaps_are_read_without_a_spacing(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:9, 3:6, [1, 4, 6]] = 1
    write_seg(tmp_path / "seg.dcm", mask, scan, SegInfo({"x": 1}, "0"))
    d = pydicom.dcmread(tmp_path / "seg.dcm")
    del d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
    d.save_as(tmp_path / "seg.dcm")

    np.testing.assert_array_equal(read_masks(tmp_path / "seg.dcm", scan, ["x"])["x"], mask > 0)


def test_a_tilt_of_half_a_pixel_per_slice_keeps_every_row(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in")
    edit_all(paths, lambda d, k: shift(d, 0.4 * k * np.array(d.ImageOrientationPatient[3:], float)))  # rows of 0.8 mm
    scan = read_scan(tmp_path / "in", options=ScansConfig(resample_irregular=True))
    slices = np.zeros(scan.source.regular.slices_shape, np.uint8)
    slices[5, 1:16, 3] = np.arange(1, 16)

    there = scan.source.regular.labels_from_slices(slices)
    back = scan.source.regular.to_slices(there)

    assert np.diff(there[5, :, 3][there[5, :, 3] > 0]).tolist() == [1] * 14
    np.testing.assert_array_equal(back[5, :, 3], slices[5, :, 3])


def test_a_segment_on_a_single_slice_is_placed(tmp_path: Path) -> None:
    write_series(tmp_path / "in", "oblique")
    scan = read_scan(tmp_path / "in")
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:9, 3:5, 2] = 1
    write_seg(tmp_path / "seg.dcm", mask, scan, SegInfo({"x": 1}, "0"))

    np.testing.assert_array_equal(read_masks(tmp_path / "seg.dcm", scan, ["x"])["x"], mask > 0)


# --- names and labels ---------------------------------------------------------------------------------------------


def config(**changes: object) -> DataConfig:
    values = {"channels": [{"name": "T1"}], "labels": {"lesion": 1, "rim": 4}, **changes}
    return DataConfig.model_validate(values)


@pytest.fixture
def structures(tmp_path: Path) -> tuple[Path, Scan]:
    """Write two lesions, an overlapping rim around the first, and the body."""
    write_series(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    h = scan.source.header
    contours = {
        "GTV 1": [ellipse(h[2], CENTRE, INNER)],
        "GTV 2": [ellipse(h[4], CENTRE, INNER)],
        "rim": [ellipse(h[2], CENTRE, (INNER[0] + 1, INNER[1] + 1))],
        "BODY": [ellipse(h[k], CENTRE, OUTER) for k in range(7)],
    }
    return write_rtstruct(tmp_path / "rt.dcm", contours), scan


def test_structures_become_labels_by_name_or_pattern(structures: tuple[Path, Scan]) -> None:
    path, scan = structures
    chosen = config(segments={"lesion": "gtv*"}, other_segments="ignore", overlaps="last")

    labels = read_label_map([path], scan, chosen, case="c")

    inner = inside_ellipse(CENTRE, INNER)
    rim = inside_ellipse(CENTRE, (INNER[0] + 1, INNER[1] + 1))
    np.testing.assert_array_equal(labels[:, :, 2] == 4, rim)  # the later label is used
    np.testing.assert_array_equal(labels[:, :, 4] == 1, inner)
    assert set(np.unique(labels)) == {0, 1, 4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segments": {"lesion": "GTV*"}, "overlaps": "last"}, "some segments are not among the labels.*BODY"),
        ({"segments": {"lesion": "GTV*"}, "other_segments": "ignore"}, "segments of lesion and rim overlap.*voxels"),
        ({"segments": {"lesion": "*"}, "other_segments": "ignore"}, "matches two labels.*rim"),
        ({"labels": {"liver": 1}, "other_segments": "ignore"}, "no segment is among the labels"),
    ],
)
def test_unknown_or_ambiguous_structures_are_refused(
    structures: tuple[Path, Scan], changes: dict[str, object], message: str
) -> None:
    path, scan = structures

    with pytest.raises(DataError, match=message):
        read_label_map([path], scan, config(**changes), case="c")


# --- real files -----------------------------------------------------------------------------------------------------


@pytest.mark.shared_data
def test_overlapping_real_segments_are_read_separately(shared: Path) -> None:
    folder = SHARED / "data" / "dicom" / "ct_with_seg"
    scan, path = read_scan(folder / "ct"), folder / "seg_five_overlapping" / "partial_overlaps.dcm"

    names = reference_names(path)
    masks = read_masks(path, scan, names)

    assert len(names) == len(masks) == 5
    d = pydicom.dcmread(path)
    for number, name in enumerate(names, start=1):
        frames = [
            pixels
            for pixels, groups in zip(d.pixel_array, d.PerFrameFunctionalGroupsSequence, strict=True)
            if groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number
        ]
        assert masks[name].sum() == np.sum(frames)
    assert sum(m.astype(int) for m in masks.values()).max() > 1


@pytest.mark.shared_data
def test_a_real_structure_set_of_missing_slices_is_refused(shared: Path) -> None:
    folder = SHARED / "data" / "dicom" / "ct_with_rtstruct"
    path = folder / "rtstruct" / "invalid_reference_rt.dcm"
    assert reference_kind(path) == "RTSTRUCT"
    names = reference_names(path)
    assert len(names) == 4

    for name in names:
        with pytest.raises(ScanError):
            read_masks(path, read_scan(folder / "ct"), [name])


# --- files as other systems leave them ------------------------------------------------------------------------------


def bare(path: Path) -> None:
    """Write a file without preamble and file meta information."""
    content = path.read_bytes()
    path.write_bytes(content[content.index(b"\x08\x00\x16\x00") :])


def without_preamble(path: Path) -> None:
    path.write_bytes(path.read_bytes()[132:])


def of_unknown_vrs(path: Path) -> None:
    edit_all([path], lambda d, _: hide_vrs(d))


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    write_series(tmp_path / "in")
    return read_scan(tmp_path / "in")


@pytest.mark.parametrize("change", [bare, without_preamble, of_unknown_vrs], ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
def test_a_reference_is_read_from_any_encoding(kind: str, change, scan: Scan, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "reference.dcm"
    if kind == "SEG":
        write_seg(path, small_mask(), scan, SegInfo({"a": 1}, "0"))
    else:
        write_rtstruct(path, {"a": [ellipse(scan.source.header[k], CENTRE, OUTER) for k in (2, 3)]})
    expected = read_masks(path, scan, ["a"])["a"]

    change(path)

    assert reference_kind(path) == kind
    assert reference_names(path) == ["a"]
    np.testing.assert_array_equal(read_masks(path, scan, ["a"])["a"], expected)
    assert expected.any()


def small_mask() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:9, 5:11, 2:5] = 1
    return mask


@pytest.mark.filterwarnings("ignore:.*exceeds the size of 64 kByte")
def test_a_contour_above_64_kib_is_read_from_explicit_vr(scan: Scan, tmp_path: Path) -> None:
    header = scan.source.header[3]
    t = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    outline = on_slice(header, CENTRE[0] + OUTER[0] * np.cos(t), CENTRE[1] + OUTER[1] * np.sin(t))
    path = write_rtstruct(tmp_path / "rt.dcm", {"a": [outline]})
    contour = pydicom.dcmread(path).ROIContourSequence[0].ContourSequence[0]
    assert contour.get_item("ContourData").VR == "UN"

    mask = read_masks(path, scan, ["a"])["a"]

    np.testing.assert_array_equal(mask[:, :, 3], inside_ellipse(CENTRE, OUTER))
    assert mask.sum() == mask[:, :, 3].sum()


SEGMENT_ATTRIBUTES = (
    "SegmentAlgorithmType",
    "SegmentedPropertyCategoryCodeSequence",
    "SegmentedPropertyTypeCodeSequence",
    "SegmentNumber",
)


@pytest.mark.parametrize(
    "name", [*SEGMENT_ATTRIBUTES, "Modality", "SegmentationType", "PatientID", "ContentLabel", "DimensionIndexSequence"]
)
def test_a_segmentation_without_an_attribute_that_masks_do_not_need_is_read(
    name: str, scan: Scan, tmp_path: Path
) -> None:
    path = tmp_path / "seg.dcm"
    write_seg(path, small_mask(), scan, SegInfo({"a": 1}, "0"))

    def remove(d: Dataset, _: int) -> None:
        delattr(d.SegmentSequence[0] if name in SEGMENT_ATTRIBUTES else d, name)

    edit_all([path], remove)

    assert reference_kind(path) == "SEG"
    np.testing.assert_array_equal(read_masks(path, scan, ["a"])["a"], small_mask() > 0)


def test_frames_without_a_segment_number_are_refused(scan: Scan, tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    write_seg(path, small_mask(), scan, SegInfo({"a": 1, "b": 2}, "0"))

    def remove(d: Dataset, _: int) -> None:
        del d.PerFrameFunctionalGroupsSequence[1].SegmentIdentificationSequence

    edit_all([path], remove)

    with pytest.raises(ScanError, match="without the number of its segment"):
        read_masks(path, scan, ["a"])


@pytest.mark.parametrize("value", [1, 255])
def test_a_fractional_segmentation_of_two_values_is_a_mask(value: int, scan: Scan, tmp_path: Path) -> None:
    """Read masks that some programs write as FRACTIONAL, also with 1 in place of MaximumFractionalValue."""
    path = tmp_path / "seg.dcm"
    write_seg(path, small_mask(), scan, SegInfo({"a": 1}, "0"), probabilities=small_mask()[None].astype(np.float32))
    edit_all([path], lambda d, _: setattr(d, "PixelData", d.PixelData.replace(b"\xff", bytes([value]))))

    assert reference_names(path) == ["a"]
    np.testing.assert_array_equal(read_masks(path, scan, ["a"])["a"], small_mask() > 0)


def test_probabilities_are_refused_as_a_mask(scan: Scan, tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    half = small_mask()[None].astype(np.float32) / 2
    write_seg(path, small_mask(), scan, SegInfo({"a": 1}, "0"), probabilities=half)

    with pytest.raises(ScanError, match=r"holds probabilities.*0 and 255 only.*values 0, 12[78]"):
        read_masks(path, scan, ["a"])
