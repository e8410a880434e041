"""Tests of mosaics and other sheets of tiled slices: each slice is at its position, or the sheet is refused."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Mapping, Sequence
from math import ceil, sqrt
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from medhybrid.errors import ScanError, SeriesError
from medhybrid.scans import Scan, discover
from medhybrid.scans.dicom.seg import SegInfo, write_seg
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_entry, read_scan
from tests.conftest import SHARED
from tests.scans.dicom.test_awkward import right_angled

COLUMNS, ROWS, N = 6, 5, 7
AFFINES = {
    "axial": np.diag([-1.2, -0.8, 3.0, 1]),
    "downwards": np.diag([-1.2, -0.8, -3.0, 1]),
    "oblique": right_angled(
        np.array([[0.9, -0.12, 0.3, -20], [0.2, 1.1, 0.4, 10], [-0.3, -0.1, 2.9, 5], [0, 0, 0, 1]])
    ),
}


def csa(values: Mapping[str, tuple[str, Sequence[str]]]) -> bytes:
    """Return a private CSA header (version 2)."""
    out = b"SV10\4\3\2\1" + struct.pack("<2I", len(values), 77)
    for name, (vr, items) in values.items():
        out += struct.pack("<64si4s3i", name.encode(), len(items), vr.encode(), 0, len(items), 77)
        for item in items:
            content = item.encode() + b"\0"
            out += struct.pack("<4i", len(content), len(content), 77, len(content)) + content
            out += bytes(-len(content) % 4)
    return out


def protocol(centres: np.ndarray) -> str:
    """Return the part of a scan protocol that lists the slice centres (LPS mm)."""
    lines = ["### ASCCONV BEGIN ###", f"sSliceArray.lSize                        = {len(centres)}"]
    for k, centre in enumerate(centres):
        lines += [
            f"sSliceArray.asSlice[{k}].sPosition.d{axis} = {value:.10g}"
            for axis, value in zip(("Sag", "Cor", "Tra"), centre, strict=True)
            if value
        ]
    return "\n".join([*lines, "### ASCCONV END ###", ""])


class Sheet:
    """Mosaic of a volume, which tests can change before it is written."""

    def __init__(self, folder: Path, affine: np.ndarray) -> None:
        self.array = np.random.default_rng(0).integers(1, 4000, (COLUMNS, ROWS, N)).astype(np.uint16)
        paths = write_mr_series(folder, self.array, affine, description="T2", study="s", case="c")
        slices = [pydicom.dcmread(p) for p in paths]
        for path in paths[1:]:
            path.unlink()
        self.affine, self.path, self.dataset = affine, paths[0], slices[0]
        places = np.array([d.ImagePositionPatient for d in slices], float)
        turn = np.array(slices[0].ImageOrientationPatient, float)
        row_mm, column_mm = map(float, slices[0].PixelSpacing)
        right, down = turn[:3] * column_mm, turn[3:] * row_mm
        self.centres = places + right * COLUMNS / 2 + down * ROWS / 2
        n = ceil(sqrt(N))
        sheet = np.zeros((n * ROWS, n * COLUMNS), np.uint16)
        for k in range(N):
            r, c = k // n * ROWS, k % n * COLUMNS
            sheet[r : r + ROWS, c : c + COLUMNS] = self.array[:, :, k].T
        self.corner = places[0] - right * (n - 1) * COLUMNS / 2 - down * (n - 1) * ROWS / 2
        step = places[1] - places[0]
        normal = step / np.linalg.norm(step)
        d = self.dataset
        d.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
        d.Rows, d.Columns, d.PixelData = *sheet.shape, sheet.tobytes()
        d.ImagePositionPatient = [f"{v:.6f}" for v in self.corner]
        d.SpacingBetweenSlices = f"{np.linalg.norm(step):.6f}"
        d.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
        d.add_new(0x0019100A, "US", N)
        self.image = {
            "NumberOfImagesInMosaic": ("US", [str(N)]),
            "SliceNormalVector": ("FD", [f"{v:.8f}" for v in normal]),
        }
        self.protocol = protocol(self.centres)

    def write(self) -> Path:
        d = self.dataset
        d.add_new(0x00290010, "LO", "SIEMENS CSA HEADER")
        d.add_new(0x00291010, "OB", csa(self.image))
        d.add_new(
            0x00291020,
            "OB",
            csa({"MrPhoenixProtocol": ("UN", [self.protocol])} if self.protocol else {"x": ("UN", [])}),
        )
        d.save_as(self.path)
        return self.path


@pytest.fixture(params=AFFINES)
def sheet(request: pytest.FixtureRequest, tmp_path: Path) -> Sheet:
    return Sheet(tmp_path / "in", AFFINES[request.param])


def assert_right(scan: Scan, array: np.ndarray, affine: np.ndarray) -> None:
    assert sorted(scan.array.shape[1:]) == sorted(array.shape)
    index = np.argwhere(np.ones(array.shape))
    to_scan = np.linalg.inv(scan.affine) @ affine
    where = index @ to_scan[:3, :3].T + to_scan[:3, 3]
    np.testing.assert_allclose(where, np.rint(where), atol=1e-3)
    np.testing.assert_array_equal(scan.array[0][tuple(np.rint(where).astype(int).T)], array[tuple(index.T)])


def whole(s: Sheet) -> None:
    """Leave the sheet complete."""


def without_protocol(s: Sheet) -> None:
    s.protocol = ""


def without_normal(s: Sheet) -> None:
    del s.image["SliceNormalVector"]


def without_spacing(s: Sheet) -> None:
    del s.dataset.SpacingBetweenSlices


def without_count(s: Sheet) -> None:
    del s.image["NumberOfImagesInMosaic"], s.dataset[0x0019100A]


def listed_backwards(s: Sheet) -> None:
    s.protocol = protocol(s.centres[::-1])


def compressed(s: Sheet) -> None:
    s.write()
    s.dataset = pydicom.dcmread(s.path)
    s.dataset.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)


@pytest.mark.parametrize(
    "change",
    [whole, without_protocol, without_normal, without_spacing, without_count, listed_backwards, compressed],
    ids=lambda f: f.__name__,
)
def test_every_slice_of_a_mosaic_is_at_its_position(sheet: Sheet, change: Callable[[Sheet], None]) -> None:
    change(sheet)

    assert_right(read_scan([sheet.write()]), sheet.array, sheet.affine)


def nothing_says_which_way(s: Sheet) -> None:
    without_protocol(s)
    without_normal(s)


def no_count_at_all(s: Sheet) -> None:
    without_count(s)
    without_protocol(s)


def two_counts(s: Sheet) -> None:
    s.dataset[0x0019100A].value = N + 1


def another_distance(s: Sheet) -> None:
    s.dataset.SpacingBetweenSlices = "3.3"


def another_place(s: Sheet) -> None:
    s.dataset.ImagePositionPatient = [float(v) + 1 for v in s.dataset.ImagePositionPatient]


def one_slice_elsewhere(s: Sheet) -> None:
    s.centres[3] += 0.5
    s.protocol = protocol(s.centres)


def a_normal_across(s: Sheet) -> None:
    turn = np.array(s.dataset.ImageOrientationPatient, float)
    s.image["SliceNormalVector"] = ("FD", [f"{v:.6f}" for v in turn[:3]])


def an_odd_sheet(s: Sheet) -> None:
    s.dataset.Rows -= 1
    s.dataset.PixelData = s.dataset.PixelData[: s.dataset.Rows * s.dataset.Columns * 2]


REFUSED = {
    nothing_says_which_way: "SliceNormalVector in the CSA header",
    no_count_at_all: "does not give the number of slices",
    two_counts: "found 7 and 8",
    another_distance: "not lie at the positions in its protocol",
    another_place: "not lie at the positions in its protocol",
    one_slice_elsewhere: "not lie at the positions in its protocol",
    a_normal_across: "not at right angles",
    an_odd_sheet: "multiples of 3 for 7 slices, found 14 x 18",
}


@pytest.mark.parametrize(("change", "message"), REFUSED.items(), ids=[f.__name__ for f in REFUSED])
def test_a_mosaic_whose_header_does_not_place_each_slice_is_refused(
    change: Callable[[Sheet], None], message: str, tmp_path: Path
) -> None:
    sheet = Sheet(tmp_path / "in", AFFINES["oblique"])
    change(sheet)

    with pytest.raises(SeriesError, match=message) as caught:
        read_scan([sheet.write()])

    assert caught.value.code == "mosaic"


def test_each_sheet_of_a_series_is_a_volume(tmp_path: Path) -> None:
    sheet = Sheet(tmp_path / "in", AFFINES["axial"])
    first = sheet.write()
    again = first.with_name("again.dcm")
    d = pydicom.dcmread(first)
    d.SOPInstanceUID, d.AcquisitionNumber = "1.2.3", 2
    d.PixelData = (np.frombuffer(d.PixelData, np.uint16) + 1).tobytes()
    d.save_as(again)

    entries = discover(tmp_path).entries

    assert [e.part for e in entries] == ["volume_1", "volume_2"]
    scans = {int(read_entry(e, e.name).array.astype(int).sum()) for e in entries}
    total = int(sheet.array.astype(int).sum())
    assert scans == {total, total + sheet.array.size}


def test_the_same_private_tag_of_another_vendor_is_not_a_mosaic(tmp_path: Path) -> None:
    array = np.arange(60).reshape(5, 4, 3)
    paths = write_mr_series(tmp_path, array, np.eye(4), description="T2", study="s", case="c")
    for path in paths:
        d = pydicom.dcmread(path)
        d.add_new(0x00190010, "LO", "GEMS_ACQU_01")
        d.add_new(0x0019100A, "DS", "35")
        d.save_as(path)

    assert_right(read_scan(paths), array, np.eye(4))


def test_a_segmentation_of_a_mosaic_is_refused_with_the_reason(tmp_path: Path) -> None:
    sheet = Sheet(tmp_path / "in", AFFINES["axial"])
    scan = read_scan([sheet.write()])

    with pytest.raises(ScanError, match="tiled into one image"):
        write_seg(tmp_path / "seg.dcm", np.ones(scan.grid.shape, np.uint8), scan, SegInfo({"a": 1}, "0"))


@pytest.mark.shared_data
@pytest.mark.parametrize("folder", ["mr_mosaic_coronal_siemens", "mr_mosaic_nine_syntaxes"])
def test_real_mosaics_agree_with_nibabel(shared: Path, folder: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nibabel.nicom.dicomwrappers import wrapper_from_file
    entries = discover(SHARED / "data" / "dicom" / folder).entries

    for entry in entries[:2]:
        scan = read_entry(entry, entry.name)
        judge = wrapper_from_file(scan.source.paths[0])

        assert_right(scan, np.asarray(judge.get_data()), np.diag([-1, -1, 1, 1]) @ judge.affine)


@pytest.mark.shared_data
def test_the_nine_encodings_of_a_real_mosaic_give_one_volume(shared: Path) -> None:
    entries = discover(SHARED / "data" / "dicom" / "mr_mosaic_nine_syntaxes").entries
    scans = [read_entry(e, e.name) for e in entries]

    assert len(scans) == 9
    for scan in scans[1:]:
        np.testing.assert_array_equal(scan.array, scans[0].array)
        np.testing.assert_array_equal(scan.affine, scans[0].affine)


@pytest.mark.shared_data
def test_real_vframe_slices_are_at_the_positions_of_their_private_sequence(shared: Path) -> None:
    entry = discover(SHARED / "data" / "dicom" / "mr_vframe_uih").entries[0]
    scan = read_entry(entry, entry.name)
    d: Dataset = pydicom.dcmread(scan.source.paths[0])
    row, column = np.array(d.ImageOrientationPatient, float).reshape(2, 3)
    sheet, to_voxel = d.pixel_array, np.linalg.inv(scan.affine)

    for k, item in enumerate(d[0x00651051].value):
        r, c = k // 5 * 64, k % 5 * 64
        for x, y in ((0, 0), (63, 0), (20, 41)):
            lps = np.array(item.ImagePositionPatient, float) + row * 3.5 * x + column * 3.5 * y
            voxel = to_voxel @ [*(lps * (-1, -1, 1)), 1]
            np.testing.assert_allclose(voxel, np.rint(voxel), atol=0.02)
            assert scan.array[0][tuple(np.rint(voxel[:3]).astype(int))] == sheet[r + y, c + x]
