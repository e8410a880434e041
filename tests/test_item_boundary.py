"""Fault isolation: an exception while one scan or case is processed fails only that item, with a reason."""

from __future__ import annotations

import builtins
import errno
import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

import medhybrid
from medhybrid.data.case_check import CheckTask, check_case
from medhybrid.data.dataset import PrepareTask, prepare_case
from medhybrid.data.layouts import list_cases
from medhybrid.data.plan import Plan
from medhybrid.errors import OutputError
from medhybrid.inference import folder as folder_module
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.steps.inspect import inspect
from medhybrid.steps.predict import predict
from tests.synthetic import AFFINE, blob_case, save_nifti, small_config, write_study
from tests.test_names import model, scan_bytes

POISON = "poison"

RECORDS = ("done", "failed", "started")
"""Folders of records: a failure to write a record is a failure of the disk, which ends the call."""

KINDS: dict[str, Callable[[], Exception]] = {
    "PermissionError": lambda: PermissionError(errno.EACCES, "Permission denied"),
    "OSError": lambda: OSError("a library's own"),
    "ValueError": lambda: ValueError("bad value"),
    "KeyError": lambda: KeyError("key"),
    "RuntimeError": lambda: RuntimeError("of a C++ library"),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    "MemoryError": MemoryError,
    "RecursionError": lambda: RecursionError("too deep"),
    "AssertionError": AssertionError,
    "AttributeError": lambda: AttributeError("no such attribute"),
    "zlib.error": lambda: zlib.error("incorrect data check"),
    "struct.error": lambda: struct.error("unpack requires a buffer"),
    "StopIteration": StopIteration,
}


class Injector:
    """Injector that counts accesses to the poisoned paths, and raises in one of them.

    Attributes
    ----------
    at : int
        Index of the access that raises; -1 raises in none.
    """

    def __init__(self) -> None:
        self.n_calls, self.at, self.make = 0, -1, KINDS["ValueError"]

    def touch(self, *arguments: Any) -> None:
        paths = [os.fsdecode(a) for a in arguments if isinstance(a, str | bytes | os.PathLike)]
        if any(POISON in p and Path(p).parent.name not in RECORDS for p in paths):
            number, self.n_calls = self.n_calls, self.n_calls + 1
            if number == self.at:
                raise self.make()

    @contextmanager
    def raising(self, at: int, make: Callable[[], Exception]) -> Iterator[None]:
        self.n_calls, self.at, self.make = 0, at, make
        try:
            yield
        finally:
            self.at = -1


@pytest.fixture
def injector(monkeypatch: pytest.MonkeyPatch) -> Injector:
    """Route every access to a file of a scan through the injector."""
    made = Injector()

    def watch(owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def watched(*arguments: Any, **keywords: Any) -> Any:
            made.touch(*arguments)
            return plain(*arguments, **keywords)

        monkeypatch.setattr(owner, name, watched)

    for owner, names in (
        (Path, ("open", "stat", "read_bytes", "read_text")),
        (io, ("open",)),
        (builtins, ("open",)),
        (os.path, ("getsize",)),
        (pydicom, ("dcmread",)),
        (np, ("fromfile", "memmap")),
    ):
        for name in names:
            watch(owner, name)
    monkeypatch.setattr(folder_module, "RETRY_AFTER_S", ())
    return made


def write_scans(folder: Path) -> None:
    """Write a valid scan, and a poisoned scan of each file format."""
    image = np.arange(8 * 7 * 6, dtype=np.int16).reshape(8, 7, 6)
    for name in ("good.nii", f"{POISON}.nii"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(scan_bytes())
    save_nifti(folder / f"{POISON}_gz.nii.gz", image)
    for name in (f"{POISON}.nrrd", f"{POISON}.mha"):
        sitk.WriteImage(sitk.GetImageFromArray(image), str(folder / name), useCompression=True)
    write_mr_series(folder / f"{POISON}_dicom", image, AFFINE, description="T1", study="s", case="c")


def calls_of(injector: Injector, command: Callable[[], object]) -> int:
    """Count the accesses of a command."""
    with injector.raising(-1, KINDS["ValueError"]):
        command()
        return injector.n_calls


def chosen(n_calls: int) -> list[tuple[int, str]]:
    """Return each access with one kind of error, and the first access with every kind."""
    names = list(KINDS)
    return [(i, names[i % len(names)]) for i in range(n_calls)] + [(0, name) for name in names]


def test_inspect_and_convert_continue_after_any_exception(tmp_path: Path, injector: Injector) -> None:
    write_scans(tmp_path / "scans")
    for number, command in enumerate(("inspect", "convert")):

        def run(command: str = command, number: int = number) -> dict[str, str]:
            if command == "inspect":
                return {r.entry.name: r.problem for r in inspect(tmp_path / "scans")[0]}
            rows = medhybrid.convert(tmp_path / "scans", out=tmp_path / f"out{number}")
            return {r.name: "" if r.state == "written" else r.reason for r in rows}

        for at, kind in chosen(calls_of(injector, run))[::2]:
            with injector.raising(at, KINDS[kind]):
                problems = run()
            assert problems["good"] == "", (command, at, kind)
            assert all("defect" not in p for p in problems.values())


def test_predict_continues_after_any_exception(tmp_path: Path, injector: Injector) -> None:
    write_scans(tmp_path / "scans")
    a_model = model()

    def run() -> dict[str, tuple[str, str]]:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        return {p.case: (p.status, p.message) for p in predict(tmp_path / "scans", model=a_model, out=out).predictions}

    for at, kind in chosen(calls_of(injector, run))[::7]:
        with injector.raising(at, KINDS[kind]):
            results = run()
        assert results["good"][0] == "done", (at, kind)
        assert all(status == "done" or message for status, message in results.values())


def test_an_exception_in_a_case_is_one_finding(tmp_path: Path, injector: Injector) -> None:
    write_study(tmp_path / "data", 3)
    for part in ("imagesTr", "labelsTr"):
        path = tmp_path / "data" / part / "case_01.nii.gz"
        path.rename(path.with_name(f"{POISON}.nii.gz"))
    listed = (tmp_path / "data" / "dataset.json").read_text().replace("case_01", POISON)
    (tmp_path / "data" / "dataset.json").write_text(listed)
    (tmp_path / "data" / "splits.json").unlink()
    config = small_config(tmp_path)
    medhybrid.preprocess(config)
    plan = Plan.load(tmp_path / "prepared" / "blobs" / "plan.json")
    case = next(c for c in list_cases(config.data) if c.name == POISON)

    def check() -> None:
        result = check_case(CheckTask(case=case, config=config))
        assert all("defect" not in f.message for f in result.findings)

    def prepare() -> None:
        folder = tmp_path / "cases"
        prepare_case(PrepareTask(case=case, config=config, plan=plan, sources_hash="", folder=folder))

    for command in (check, prepare):
        for at, kind in chosen(calls_of(injector, command))[::2]:
            with injector.raising(at, KINDS[kind]):
                command()


def test_evaluate_continues_after_any_exception(tmp_path: Path, injector: Injector) -> None:
    _, mask = blob_case(0)
    for folder in ("references", "predictions"):
        for name in ("good", POISON):
            save_nifti(tmp_path / folder / f"{name}.nii.gz", mask)

    def run() -> set[str]:
        result = medhybrid.evaluate(tmp_path / "references", tmp_path / "predictions", labels={"left": 1, "right": 4})
        assert "good" not in result.problems
        return {s.case for s in result.scores}

    for at, kind in chosen(calls_of(injector, run)):
        with injector.raising(at, KINDS[kind]):
            assert "good" in run()


def test_report_continues_after_any_exception(tmp_path: Path, injector: Injector) -> None:
    for name in ("good", POISON):
        (tmp_path / "scans").mkdir(exist_ok=True)
        (tmp_path / "scans" / f"{name}.nii").write_bytes(scan_bytes())
    predict(tmp_path / "scans", model=model(), out=tmp_path / "out")

    def run() -> None:
        page = medhybrid.report(tmp_path / "out").read_text()
        assert "good" in page
        assert POISON in page

    for at, kind in chosen(calls_of(injector, run))[::7]:
        with injector.raising(at, KINDS[kind]):
            run()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_not_the_failure_of_a_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.nii").write_bytes(scan_bytes())

    def full(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(folder_module, "write_outputs", full)
    with pytest.raises(OutputError, match="cannot be written to"):
        predict(tmp_path / "scans", model=model(), out=tmp_path / "out")
    assert not list((tmp_path / "out" / "failed").iterdir())


AWKWARD_FILES = {
    "complex.nrrd": b"NRRD0004\ntype: float\ndimension: 4\nsizes: 2 6 6 6\nendian: little\nencoding: raw\n"
    b"space: right-anterior-superior\nkinds: complex domain domain domain\n"
    b"space directions: none (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n\n" + bytes(1728),
    "broken.zip": b"PK\x03\x04"
    + bytes(60)
    + b"PK\x05\x06"
    + bytes([1, 0, 1, 0, 9, 0, 9, 0, 255, 255, 255, 255] + [9] * 10),
    "empty.nii": b"",
    "empty.dcm": b"",
    "text.nrrd": b"NRRD0004\nhello",
    "short.mha": b"ObjectType = Image\nNDims = 3\n",
    "random.nii.gz": bytes(range(256)) * 4,
    "DICOMDIR": b"nothing",
}


def test_unusual_files_are_refused_and_the_others_are_read(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "good.nii").write_bytes(scan_bytes())
    for name, content in AWKWARD_FILES.items():
        (scans / name).write_bytes(content)
    (scans / os.fsdecode(b"M\xfcller.nii")).write_bytes(scan_bytes())
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.complex64), np.eye(4)), scans / "complex.nii")

    rows, _ = inspect(scans)
    result = predict(scans, model=model(), out=tmp_path / "out")
    converted = medhybrid.convert(scans, out=tmp_path / "nifti")

    good = {"good", "M%FCller"}
    assert {r.entry.name for r in rows if not r.problem} == good
    assert {p.case for p in result.predictions if p.status == "done"} == good
    assert {r.name for r in converted if r.state == "written"} == good
    assert all(r.problem or r.entry.name in good for r in rows)
