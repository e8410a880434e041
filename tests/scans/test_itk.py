"""Tests of NRRD and MetaImage reading against SimpleITK and nibabel, with any axis order."""

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.errors import ScanError
from medhybrid.geometry import Grid
from medhybrid.scans.reader import read_scan
from tests.geometry.test_resample import to_sitk
from tests.strategies import grids


@given(grid=grids(), suffix=st.sampled_from([".nrrd", ".mha"]))
def test_reading_agrees_with_the_same_image_as_nifti(
    tmp_path_factory: pytest.TempPathFactory, grid: Grid, suffix: str
) -> None:
    array = np.random.default_rng(0).integers(0, 999, grid.shape).astype(np.int16)
    folder = tmp_path_factory.mktemp("itk")
    sitk.WriteImage(to_sitk(array, grid), str(folder / f"x{suffix}"))
    sitk.WriteImage(to_sitk(array, grid), str(folder / "x.nii"))  # compared with SimpleITK's conversion to NIfTI

    scan = read_scan(folder / f"x{suffix}")

    judge = nib.load(folder / "x.nii")
    np.testing.assert_array_equal(scan.array[0], np.asarray(judge.dataobj))
    np.testing.assert_allclose(scan.affine, judge.affine, atol=1e-3)


def test_vectors_become_channels(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)  # (z, y, x, C)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / "x.mha"))

    scan = read_scan(tmp_path / "x.mha")

    np.testing.assert_array_equal(scan.array, array.transpose(3, 2, 1, 0))


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha"])
def test_images_of_two_and_four_axes_are_read_as_itk_writes_them(suffix: str, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 999, (3, 4, 5, 6)).astype(np.int16)  # (t, z, y, x)
    whole = sitk.JoinSeries([sitk.GetImageFromArray(volume) for volume in array])
    whole.SetSpacing((0.5, 0.6, 2, 7))
    whole.SetOrigin((1, 2, 3, 0))
    plane = sitk.GetImageFromArray(array[0, 0])
    plane.SetSpacing((0.5, 0.6))
    plane.SetOrigin((1, 2))
    for name, image in (("whole", whole), ("plane", plane)):
        sitk.WriteImage(image, str(tmp_path / f"{name}{suffix}"))

    in_time, slice_ = (read_scan(tmp_path / f"{name}{suffix}") for name in ("whole", "plane"))

    np.testing.assert_array_equal(in_time.array, array.transpose(0, 3, 2, 1))
    np.testing.assert_allclose(in_time.affine, np.diag([-0.5, -0.6, 2, 1]) + np.outer([-1, -2, 3, 0], [0, 0, 0, 1]))
    np.testing.assert_array_equal(slice_.array, array[:1, 0].transpose(0, 2, 1)[..., None])
    np.testing.assert_allclose(slice_.affine, np.diag([-0.5, -0.6, 1, 1]) + np.outer([-1, -2, 0, 0], [0, 0, 0, 1]))


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ("space directions: (1,0,0) (0,1,0) (0,0.6,2.5)\nspace: LPS", "refuse its NIfTI mask"),
        ('space directions: (1,0,0) (0,1,0) (0,0,2)\nspace: LPS\nspace units: "cm" "cm" "cm"', "at another position"),
        ("axis mins: 0 0 0\naxis maxs: 4 5 12", "at another position"),
    ],
)
def test_a_mask_position_that_differs_in_itk_is_noted(field: str, found: str, tmp_path: Path) -> None:
    header = f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 5 6\nencoding: raw\n{field}\n\n"
    (tmp_path / "x.nrrd").write_bytes(header.encode() + bytes(120))

    assert any(found in note for note in read_scan(tmp_path / "x.nrrd").notes)


def test_a_fourth_axis_that_lies_in_space_is_refused(tmp_path: Path) -> None:
    whole = sitk.JoinSeries([sitk.GetImageFromArray(np.zeros((4, 5, 6), np.int16))] * 2)
    sitk.WriteImage(whole, str(tmp_path / "x.nrrd"))
    content = (tmp_path / "x.nrrd").read_bytes()
    (tmp_path / "x.nrrd").write_bytes(content.replace(b"(0,0,0,1)", b"(0,0,1,1)"))

    with pytest.raises(ScanError, match="a fourth of time"):
        read_scan(tmp_path / "x.nrrd")


@pytest.mark.parametrize("content", [b"", b"NRRD0004\ntype: short\n", b"ObjectType = Image\nNDims = 3\n"])
def test_reject_damaged_files(tmp_path: Path, content: bytes) -> None:
    for name in ("x.nrrd", "x.mha"):
        (tmp_path / name).write_bytes(content)

        with pytest.raises(ScanError):
            read_scan(tmp_path / name)


@pytest.mark.parametrize("n", ["-1", "999999999999", "3.5", ""])
def test_a_number_of_axes_that_would_crash_itk_is_refused(tmp_path: Path, n: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16)), str(tmp_path / "x.mha"))
    content = (tmp_path / "x.mha").read_bytes()
    (tmp_path / "x.mha").write_bytes(content.replace(b"NDims = 3", b"NDims = " + n.encode()))

    with pytest.raises(ScanError, match=r"x\.mha has an unusable header"):
        read_scan(tmp_path / "x.mha")


@pytest.mark.parametrize(("name", "key"), [("x.mhd", "ElementDataFile = "), ("x.nhdr", "data file: ")])
def test_values_in_another_file_are_read_only_from_the_same_folder(tmp_path: Path, name: str, key: str) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for folder in ("here", "elsewhere"):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / folder / name))
    path = tmp_path / "here" / name
    np.testing.assert_array_equal(read_scan(path).array[0], array.transpose(2, 1, 0))

    lines = path.read_text().split("\n")
    for elsewhere in (f"../elsewhere/{name.split('.')[0]}.raw", str(tmp_path / "elsewhere" / "x.raw"), "LIST"):
        path.write_text("\n".join(key + elsewhere if line.startswith(key) else line for line in lines))
        with pytest.raises(ScanError, match="in several files" if elsewhere == "LIST" else "in another folder"):
            read_scan(path)


@pytest.mark.parametrize(
    "hidden",
    [
        b"Comment = ElementDataFile = LOCAL\nNDims = -1\n",
        b"Comment = ElementDataFile\nNDims = -3\n",
        b"NDims : -1\n",
    ],
)
def test_hidden_fields_that_would_crash_itk_are_detected(tmp_path: Path, hidden: bytes) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16)), str(tmp_path / "x.mha"))
    content = (tmp_path / "x.mha").read_bytes()
    (tmp_path / "x.mha").write_bytes(content.replace(b"NDims = 3\n", hidden))

    with pytest.raises(ScanError, match=r"x\.mha has an unusable header"):
        read_scan(tmp_path / "x.mha")


def test_a_hidden_path_to_another_folder_is_detected(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.raw").write_bytes(array.tobytes())
    for name, key in (("x.mhd", "ElementDataFile = "), ("x.nhdr", "data file: ")):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name))
        lines = (tmp_path / name).read_text().split("\n")
        there = tmp_path / "elsewhere" / "x.raw"
        bad = "\n".join(key.replace(" = ", " : ") + str(there) if line.startswith(key) else line for line in lines)
        padded = bad if name == "x.mhd" else bad.replace("type:", "#" * 2**20 + "\ntype:")
        (tmp_path / name).write_text(padded)
        with pytest.raises(ScanError, match=r"values in another folder|no end of the header"):
            read_scan(tmp_path / name)


RAW = np.arange(24, dtype="<i2")

NRRD = {
    "type": "short",
    "dimension": "3",
    "sizes": "4 3 2",
    "endian": "little",
    "encoding": "raw",
    "space": "left-posterior-superior",
    "space directions": "(1,0,0) (0,2,0) (0,0,3)",
    "space origin": "(5,6,7)",
}

META = {
    "NDims": "3",
    "DimSize": "4 3 2",
    "ElementType": "MET_SHORT",
    "ElementSpacing": "1 2 3",
    "Offset": "5 6 7",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "ElementDataFile": "LOCAL",
}

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

PLACE = LPS @ [[1, 0, 0, 5], [0, 2, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]]


def write_nrrd(path: Path, changes: dict[str, str | None], content: bytes = RAW.tobytes()) -> Path:
    fields = {k: v for k, v in (NRRD | changes).items() if v is not None}
    path.write_bytes("".join(["NRRD0005\n", *(f"{k}: {v}\n" for k, v in fields.items()), "\n"]).encode() + content)
    return path


def write_meta(path: Path, changes: dict[str, str | None], content: bytes = RAW.tobytes()) -> Path:
    fields = {k: v for k, v in (META | changes).items() if v is not None}
    fields["ElementDataFile"] = fields.pop("ElementDataFile")
    path.write_bytes("".join(f"{k} = {v}\n" for k, v in fields.items()).encode() + content)
    return path


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("microns", 0.001), ("um", 0.001), ("cm", 10), ("m", 1000), ("mm", 1), ("millimeter", 1), ("", 1)],
)
def test_lengths_of_nrrd_are_converted_to_mm_from_any_unit(tmp_path: Path, unit: str, factor: float) -> None:
    scan = read_scan(write_nrrd(tmp_path / "x.nrrd", {"space units": f'"{unit}" "{unit}" "{unit}"'}))

    np.testing.assert_allclose(scan.affine, np.diag([factor, factor, factor, 1]) @ PLACE)
    assert bool(scan.notes) == (factor != 1)


@pytest.mark.parametrize("units", ['"mm" "mm" "cm"', '"mm" "mm" "s"', '"furlong" "furlong" "furlong"'])
def test_units_of_nrrd_other_than_lengths_are_refused(tmp_path: Path, units: str) -> None:
    with pytest.raises(ScanError, match="unit"):
        read_scan(write_nrrd(tmp_path / "x.nrrd", {"space units": units}))


@pytest.mark.parametrize("space", ["3D-right-handed", "scanner-xyz", "3D-left-handed"])
def test_a_space_without_patient_is_noted(tmp_path: Path, space: str) -> None:
    scan = read_scan(write_nrrd(tmp_path / "x.nrrd", {"space": space}))

    np.testing.assert_allclose(scan.affine, PLACE)
    assert "LPS is assumed" in scan.notes[0]


def test_spacings_alone_are_used_and_noted(tmp_path: Path) -> None:
    changes = {"space": None, "space directions": None, "space origin": None, "thicknesses": "nan nan nan"}
    scan = read_scan(write_nrrd(tmp_path / "x.nrrd", changes | {"spacings": "1 2 nan"}))

    np.testing.assert_allclose(scan.affine, LPS @ np.diag([1, 2, 1, 1]))
    assert scan.notes == (
        "the header does not give position and orientation",
        "a spacing is unknown; 1 mm is assumed",
    )


@pytest.mark.parametrize(
    ("space", "at"), [("right-anterior-superior", (5, 6, 7)), ("left-posterior-superior", (-5, -6, 7))]
)
def test_an_origin_without_directions_is_kept_as_itk_keeps_it(
    tmp_path: Path, space: str, at: tuple[float, ...]
) -> None:
    path = write_nrrd(tmp_path / "x.nrrd", {"space": space, "space directions": None})

    scan = read_scan(path)

    np.testing.assert_allclose(scan.affine[:3, 3], at)
    np.testing.assert_allclose(LPS[:3, :3] @ sitk.ReadImage(str(path)).GetOrigin(), at)
    unknown = "the header does not give orientation; LPS is assumed"
    assert scan.notes == (unknown, "a spacing is unknown; 1 mm is assumed")
    for changed in ({"spacings": "1 2 3"}, {"spacings": "1 2 3", "space": None}):
        again = read_scan(write_nrrd(tmp_path / "y.nrrd", {"space": space, "space directions": None} | changed))
        np.testing.assert_allclose(again.affine[:3, :3], np.diag([-1, -2, 3]))
        assert again.notes == (unknown,)


@pytest.mark.parametrize(
    ("centers", "spacing", "first"), [(None, (2, 3, 4), (1, 1.5, 2)), ("node node node", (8 / 3, 4.5, 8), (0, 0, 0))]
)
def test_spacings_are_computed_from_axis_mins_and_maxs(
    tmp_path: Path, centers: str | None, spacing: tuple[float, ...], first: tuple[float, ...]
) -> None:
    changes = {"space": None, "space directions": None, "space origin": None, "centers": centers}
    scan = read_scan(write_nrrd(tmp_path / "x.nrrd", changes | {"axis mins": "0 0 0", "axis maxs": "8 9 8"}))

    np.testing.assert_allclose(scan.affine, LPS @ np.vstack([np.c_[np.diag(spacing), first], [0, 0, 0, 1]]))
    assert "axis mins and maxs" in " ".join(scan.notes)


def test_a_repeated_field_of_nrrd_is_refused(tmp_path: Path) -> None:
    path = write_nrrd(tmp_path / "x.nrrd", {})
    path.write_bytes(path.read_bytes().replace(b"\n\n", b"\nsizes: 3 4 2\n\n", 1))

    with pytest.raises(ScanError, match="'4 3 2' and '3 4 2'"):
        read_scan(path)


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("kind", ["list", "vector", "???", "domain"])
def test_the_non_spatial_axis_becomes_the_channels_at_any_position(tmp_path: Path, place: int, kind: str) -> None:
    vectors = NRRD["space directions"].split()
    vectors.insert(place, "none")
    kinds = ["domain"] * 3
    kinds.insert(place, kind)
    array = np.arange(48, dtype="<i2").reshape(2, 4, 3, 2)
    stored = np.moveaxis(array, 0, place)
    changes = {"dimension": "4", "sizes": " ".join(map(str, stored.shape)), "kinds": " ".join(kinds)}
    path = write_nrrd(tmp_path / "x.nrrd", changes | {"space directions": " ".join(vectors)}, stored.tobytes(order="F"))

    scan = read_scan(path)

    np.testing.assert_array_equal(scan.array, array)
    np.testing.assert_allclose(scan.affine, PLACE)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"kinds": "complex domain domain"}, "kind complex"),
        ({"kinds": "RGB-color domain domain"}, "holds colours"),
        ({"type": "block"}, "type: block"),
        ({"encoding": "zrl"}, "encoding: zrl"),
        ({"endian": None}, "endian: nothing"),
        ({"sizes": "4 3"}, "sizes: 4 3"),
        ({"sizes": "4 -3 2"}, "sizes: 4 -3 2"),
        ({"space": "right-up"}, "space: right-up"),
        ({"space directions": "(1,0,0) (0,2,0)"}, "space directions"),
        ({"space directions": "(1,0,0) (0,2,0) (nan,0,3)"}, "space directions"),
        ({"space directions": "(1,0,0) (1,0,0) (0,0,3)"}, "invalid affine: affine is singular"),
        ({"space origin": "(1,2,x)"}, "space origin"),
        ({"space directions": "none none (0,0,3)"}, "is not a volume"),
        ({"byte skip": "-2"}, "byte skip"),
        ({"line skip": "x"}, "line skip"),
        ({"data file": "LIST"}, "values in several files"),
        ({"data file": "x%03d.raw 1 2 1"}, "values in several files"),
        ({"data file": "./../x.raw"}, "values in another folder"),
    ],
)
def test_reject_nrrd_that_cannot_be_read_correctly(tmp_path: Path, changes: dict[str, str | None], found: str) -> None:
    with pytest.raises(ScanError, match=found):
        read_scan(write_nrrd(tmp_path / "x.nrrd", changes))


@pytest.mark.parametrize("name", ["x.raw", "./x.raw", "é.raw"])
def test_values_beside_the_header_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(RAW.tobytes())
    nrrd = write_nrrd(tmp_path / "x.nhdr", {"data file": name}, b"")
    meta = write_meta(tmp_path / "x.mhd", {"ElementDataFile": name}, b"")

    for path in (nrrd, meta):
        np.testing.assert_array_equal(read_scan(path).array[0].ravel(order="F"), RAW)


def test_values_as_text_are_read(tmp_path: Path) -> None:
    words = " ".join(map(str, RAW)).encode()
    paths = [write_nrrd(tmp_path / f"{e}.nrrd", {"encoding": "txt", "endian": e}, words) for e in ("little", "big")]
    paths.append(write_meta(tmp_path / "x.mha", {"BinaryData": "False"}, words))

    for path in paths:
        np.testing.assert_array_equal(read_scan(path).array[0].ravel(order="F"), RAW)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"TransformMatrix": None, "AnatomicalOrientation": "LPS"}, "AnatomicalOrientation LPS is not used"),
        ({"DistanceUnits": "cm"}, "lengths in cm were converted"),
        (
            {"NDims": "2", "DimSize": "4 6", "ElementSpacing": "1 2", "Offset": "5 6", "TransformMatrix": None},
            "thickness",
        ),
    ],
)
def test_doubtful_metaimage_is_noted(tmp_path: Path, changes: dict[str, str | None], note: str) -> None:
    scan = read_scan(write_meta(tmp_path / "x.mha", changes))

    assert note in " ".join(scan.notes)


@pytest.mark.parametrize(
    "changes",
    [
        {"BinaryDataByteOrderMSB": "True", "ElementByteOrderMSB": "False"},
        {"HeaderSize": "x"},
        {"HeaderSize": "-1", "CompressedData": "True"},
        {"ElementType": "MET_OTHER"},
        {"ElementSpacing": "1 2 0"},
        {"NDims": "4", "DimSize": "4 3 1 1", "ElementNumberOfChannels": "2"},
    ],
)
def test_reject_metaimage_that_cannot_be_read_correctly(tmp_path: Path, changes: dict[str, str | None]) -> None:
    with pytest.raises(ScanError, match=r"x\.mha"):
        read_scan(write_meta(tmp_path / "x.mha", changes))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"DimSize": "4 3"}, "Expected 3 whole numbers above 0, found dimsize: 4 3"),
        ({"DimSize": None}, "dimsize: nothing"),
        ({"ElementSpacing": "1"}, "Expected 3 finite numbers, found elementspacing: 1"),
        ({"TransformMatrix": "1 0 0"}, "Expected 9 finite numbers"),
        ({"Offset": "nan 0 0"}, "offset: nan 0 0"),
        ({"ElementType": "MET_STRING"}, "elementtype: MET_STRING"),
        ({"ElementNumberOfChannels": "-1"}, "elementnumberofchannels: -1"),
        ({"ElementNumberOfChannels": "0"}, "elementnumberofchannels: 0"),
        ({"CompressedData": "True", "CompressedDataSize": "-1"}, "compresseddatasize: -1"),
        ({"Comment": "x" * 5000}, "lines of at most 4096 characters, found comment"),
        ({"ElementDataFile": ""}, "found an empty name"),
        ({"Color": "1 1"}, "a value that ITK does not accept"),
    ],
)
def test_the_fault_of_a_metaimage_header_is_named(tmp_path: Path, changes: dict[str, str | None], found: str) -> None:
    with pytest.raises(ScanError, match=found):
        read_scan(write_meta(tmp_path / "x.mha", changes))


@pytest.mark.parametrize("n_more", [3, 200])
def test_bytes_after_a_compressed_stream_are_noted_or_refused(tmp_path: Path, n_more: int) -> None:
    packed = zlib.compress(RAW.tobytes())
    changes = {"CompressedData": "True", "CompressedDataSize": str(len(packed))}
    path = write_meta(tmp_path / "x.mha", changes, packed + b"x" * n_more)

    if n_more > 24:
        with pytest.raises(ScanError, match="more values"):
            read_scan(path)
        return
    assert "surplus bytes" in " ".join(read_scan(path).notes)


def test_upper_case_suffixes_are_recognised(tmp_path: Path) -> None:
    for path in (write_nrrd(tmp_path / "X.NRRD", {}), write_meta(tmp_path / "X.MHA", {})):
        np.testing.assert_allclose(read_scan(path).affine, PLACE)


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
@pytest.mark.parametrize("is_compressed", [True, False])
def test_the_file_of_the_values_may_be_spelt_with_other_letters(
    tmp_path: Path, suffix: str, is_compressed: bool
) -> None:
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"), useCompression=is_compressed)
    (values,) = [p for p in tmp_path.iterdir() if p.suffix != suffix]
    values.rename(values.with_name(values.name.upper()))

    np.testing.assert_array_equal(read_scan(tmp_path / f"a{suffix}").array[0].T, sitk.GetArrayFromImage(image))


def test_a_metaimage_without_spacing_or_position_has_a_note(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5), np.int16)), str(tmp_path / "a.mhd"))
    text = (tmp_path / "a.mhd").read_text()
    assert not [n for n in read_scan(tmp_path / "a.mhd").notes if "states no" in n]

    lines = [line for line in text.split("\n") if not line.startswith(("ElementSpacing", "Offset"))]
    (tmp_path / "a.mhd").write_text("\n".join(lines))

    notes = " ".join(read_scan(tmp_path / "a.mhd").notes)
    assert "states no spacing; 1 mm is assumed" in notes
    assert "states no position" in notes


def test_the_name_of_the_file_of_the_values_may_be_in_quotes(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5)), str(tmp_path / "a.mhd"))
    (tmp_path / "a.raw").rename(tmp_path / "my data.raw")
    text = (tmp_path / "a.mhd").read_text()
    (tmp_path / "a.mhd").write_text(text.replace("ElementDataFile = a.raw", 'ElementDataFile = "my data.raw"'))

    assert read_scan(tmp_path / "a.mhd").array.sum() == np.arange(60).sum()
