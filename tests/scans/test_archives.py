"""Tests of zip archives and media with a DICOMDIR: scans are found, and unsafe archives are refused."""

from __future__ import annotations

import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medhybrid.errors import ScanError
from medhybrid.scans import archives, discover
from medhybrid.scans.dicom import deflated
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_entry
from tests.synthetic import AFFINE

VALUES = np.arange(6 * 5 * 4).reshape(6, 5, 4)


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    return write_mr_series(tmp_path / "made", VALUES, AFFINE, description="T1", study="s", case="c")


def test_a_series_in_an_archive_is_read_under_the_name_of_the_archive(series: list[Path], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "patient.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for path in series:
            file.write(path, f"T1/{path.name}")

    found = discover(tmp_path / "in")

    assert [e.name for e in found.entries] == ["patient__T1"]
    assert read_entry(found.entries[0], "c").array.max() == VALUES.max()
    folder = found.unpacked[0].path
    del found
    assert not folder.exists()


def add_link(file: zipfile.ZipFile, name: str, to: str) -> None:
    """Add a symbolic link to an archive, as `zip --symlinks` writes it."""
    link = zipfile.ZipInfo(name)
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    file.writestr(link, to)


def test_a_link_in_an_archive_to_one_of_its_files_is_this_file(series: list[Path], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "patient.zip", "w") as file:
        for i, path in enumerate(series):
            file.write(path, f".git/annex/{i}")
            add_link(file, f"links/{i}", f"../.git/annex/{i}")
            add_link(file, f"T1/{path.name}", f"../links/{i}")

    found = discover(tmp_path / "in")

    assert {e.name: e.problem for e in found.entries if "T1" in e.name} == {"patient__T1": ""}
    entry = next(e for e in found.entries if e.name == "patient__T1")
    np.testing.assert_array_equal(np.sort(read_entry(entry, "c").array.ravel()), np.sort(VALUES.ravel()))


@pytest.mark.parametrize("to", ["/etc/hostname", "../../outside", "T1", "nowhere.dcm", "b.dcm", "x" * 5000])
def test_a_link_in_an_archive_to_another_file_is_left_out_with_its_name(
    to: str, series: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "patient.zip", "w") as file:
        for path in series:
            file.write(path, f"T1/{path.name}")
        add_link(file, "a.dcm", to)
        add_link(file, "b.dcm", "a.dcm" if to == "b.dcm" else "missing")

    found = discover(tmp_path / "in")

    problems = {e.name: e.problem for e in found.entries}
    assert problems["patient__T1"] == ""
    assert "symbolic link to a file that is not in the archive" in problems["patient__a"]
    assert not any(p.is_symlink() for p in found.unpacked[0].path.rglob("*"))


def test_copies_of_linked_files_count_to_the_size_of_an_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MIN_CHECKED_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", bytes(1 << 18))
        for i in range(100):
            add_link(file, f"b{i}", "a")

    with pytest.raises(ScanError, match="far more than images of this size"):
        archives.unpack(tmp_path / "bomb.zip", tmp_path)


def test_names_that_differ_in_case_do_not_stop_an_archive(series: list[Path], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "patient.zip", "w") as file:
        for path in series:
            file.write(path, f"T1/{path.name}")
        for name in ("T1/README.txt", "T1/readme.txt", "T1/Thumb.jpg", "T1/thumb.JPG", "LICENSE", "license"):
            file.writestr(name, name)

    found = discover(tmp_path / "in")  # its unpacked files are removed with it
    (entry,) = [e for e in found.entries if e.kind == "dicom"]

    assert entry.problem == ""
    np.testing.assert_array_equal(np.sort(read_entry(entry, "c").array.ravel()), np.sort(VALUES.ravel()))


def test_a_name_that_is_too_long_is_refused_without_the_temporary_path(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "patient.zip", "w") as file:
        file.writestr("a" * 300, "x")

    (entry,) = discover(tmp_path).entries

    assert "File name too long" in entry.problem
    assert "medhybrid-" not in entry.problem


def test_an_archive_inside_an_archive_is_skipped_with_an_entry(series: list[Path], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as file:
        file.writestr("x.txt", "x")
    with zipfile.ZipFile(tmp_path / "in" / "patient.zip", "w") as file:
        file.write(tmp_path / "inner.zip", "more.zip")
        for path in series:
            file.write(path, f"T1/{path.name}")

    entries = {e.name: e for e in discover(tmp_path / "in").entries}

    assert sorted(entries) == ["patient__T1", "patient__more"]
    assert entries["patient__more"].skip_reason == "an archive inside an archive"


@pytest.mark.parametrize("name", ["../evil.dcm", "/etc/evil.dcm", "a/../../evil.dcm", "..\\evil.dcm", "C:\\evil.dcm"])
def test_a_member_whose_path_leads_outside_is_refused(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        file.writestr(name, b"x")
    (tmp_path / "out").mkdir()

    with pytest.raises(ScanError, match="leads upwards"):
        archives.unpack(tmp_path / "bad.zip", tmp_path / "out")

    assert not list(tmp_path.rglob("evil.dcm"))


def test_an_archive_with_an_excessive_unpacked_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MIN_CHECKED_BYTES", 10 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(20 << 20))

    (entry,) = discover(tmp_path).entries

    assert "far more" in entry.problem


@pytest.mark.parametrize("shift", [0, 1])
def test_members_that_share_bytes_are_refused(tmp_path: Path, shift: int) -> None:
    """Refuse overlapping members, as in zip bombs that unpack 30 KB to gigabytes."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("0.nii", bytes(1 << 20))
        (first,) = file.infolist()
        file.writestr("1.nii", b"")
        file.infolist()[1].header_offset = first.header_offset + shift
        file.infolist()[1].compress_size = first.compress_size
    (tmp_path / "out").mkdir()

    with pytest.raises(ScanError, match="members that overlap"):
        archives.unpack(path, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_damaged_archive_is_reported_and_other_scans_are_found(series: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04nothing")

    found = discover(tmp_path)

    assert [(e.name, bool(e.problem)) for e in found.entries] == [("cut", True), ("made", False)]


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_changed_byte_in_an_archive_is_detected(packing: int, tmp_path: Path) -> None:
    content = np.random.default_rng(0).integers(0, 50, 4000).astype(np.uint8).tobytes()
    with zipfile.ZipFile(tmp_path / "x.zip", "w", packing) as file:
        file.writestr("x.nii", content)
    packed = bytearray((tmp_path / "x.zip").read_bytes())
    packed[len(packed) // 2] ^= 1
    (tmp_path / "x.zip").write_bytes(bytes(packed))
    (tmp_path / "out").mkdir()

    with pytest.raises(ScanError, match=r"x\.zip cannot be unpacked"):
        archives.unpack(tmp_path / "x.zip", tmp_path / "out")


MAKE_MEDIUM = """
import sys, pydicom
from pydicom.fileset import FileSet
files = FileSet()
for path in sys.argv[2:]:
    dataset = pydicom.dcmread(path)
    dataset.StudyID = "1"
    files.add(dataset)
files.write(sys.argv[1])
"""


@pytest.fixture
def medium(series: list[Path], tmp_path: Path) -> Path:
    """Create a DICOMDIR in a separate process: pydicom leaves temporary folders to the garbage collector."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", MAKE_MEDIUM, tmp_path / "cd", *series], check=True)
    return tmp_path / "cd"


@pytest.mark.parametrize("by", ["folder", "DICOMDIR"])
def test_a_medium_is_read_from_its_folder_or_its_dicomdir(by: str, medium: Path) -> None:
    found = discover(medium if by == "folder" else medium / "DICOMDIR")

    (entry,) = [e for e in found.entries if not e.skip_reason]
    assert read_entry(entry, "c").array.shape == (1, 6, 5, 4)


def test_missing_files_of_a_medium_are_reported(medium: Path) -> None:
    next(p for p in medium.rglob("*") if p.is_file() and p.name != "DICOMDIR").unlink()

    problems = [e.problem for e in discover(medium).entries if e.problem]

    assert any("lists 1 files that do not exist" in p for p in problems)


def test_a_dicomdir_that_inflates_to_far_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflated, "MIN_CHECKED_BYTES", 1 << 20)
    directory = pydicom.Dataset()
    directory.add_new(0x7FE00010, "OW", bytes(4 << 20))
    directory.file_meta = pydicom.dataset.FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    directory.file_meta.MediaStorageSOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    pydicom.dcmwrite(tmp_path / "DICOMDIR", directory, enforce_file_format=True)

    with pytest.raises(ScanError, match="inflate to more"):
        archives.files_of_dicomdir(tmp_path / "DICOMDIR")


def test_archives_of_a_large_ratio_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MIN_CHECKED_BYTES", 10 << 20)
    (tmp_path / "in").mkdir()
    for n in range(4):
        with zipfile.ZipFile(tmp_path / "in" / f"{n}.zip", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("zeros.bin", bytes(4 << 20))

    found = discover(tmp_path / "in")

    unpacked = [p.stat().st_size for hold in found.unpacked for p in hold.path.rglob("*") if p.is_file()]
    assert sum(unpacked) == 8 << 20
    assert len(found.unpacked) == 2, "refused ones leave nothing"
    assert [e.name for e in found.entries if "after 8 MiB of other archives" in e.problem] == ["2", "3"]


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_a_dicomdir_that_lists_files_outside_its_folder_is_refused(medium: Path, tmp_path: Path) -> None:
    directory = pydicom.dcmread(medium / "DICOMDIR")
    for record in directory.DirectoryRecordSequence:
        if "ReferencedFileID" in record:
            record.ReferencedFileID = ["..", "made", "0001.dcm"]
    directory.save_as(medium / "DICOMDIR")

    with pytest.raises(ScanError, match="outside its folder"):
        archives.files_of_dicomdir(medium / "DICOMDIR")


def test_a_medium_with_names_in_lower_case_is_read_completely(medium: Path) -> None:
    for path in sorted(medium.rglob("*"), reverse=True):
        path.rename(path.with_name(path.name.lower()))

    found = discover(medium / "dicomdir")

    assert [e.problem for e in found.entries] == [""] * len(found.entries)
    assert archives.files_of_dicomdir(medium / "dicomdir")[1] == 0
    assert found.entries


@pytest.mark.parametrize("folder", ["", "empty/"])
def test_an_archive_without_files_is_refused_in_words(tmp_path: Path, folder: str) -> None:
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as file:
        if folder:
            file.mkdir(folder)

    (entry,) = discover(tmp_path).entries

    assert "no files in it" in entry.problem


def test_an_archive_beside_its_unpacked_files_gives_one_scan_with_the_name_of_the_folder(
    series: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "in" / "patient" / "T1"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "in" / "patient.zip", "w") as file:
        for path in series:
            file.write(path, f"T1/{path.name}")
            (folder / path.name).write_bytes(path.read_bytes())

    (entry,) = [e for e in discover(tmp_path / "in").entries if e.paths]

    assert (entry.name, entry.problem) == ("patient__T1", "")
    np.testing.assert_array_equal(np.sort(read_entry(entry, "c").array.ravel()), np.sort(VALUES.ravel()))
