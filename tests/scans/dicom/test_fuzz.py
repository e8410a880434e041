"""Fuzz tests of damaged DICOM headers: the result is the correct volume or an error, without a hang."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom.dataelem import DataElement, RawDataElement

from medhybrid.errors import MedHybridError
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan
from tests.patience import slowness
from tests.scans.dicom.enhanced import write_enhanced
from tests.synthetic import AFFINE

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

VALUES = np.random.default_rng(0).integers(0, 4000, (8, 7, 4)).astype(np.uint16)
VRS = ("LO", "UI", "DS", "IS", "US", "SS", "FD", "OB", "SQ", "UN", "CS", "PN", "AT")
GARBAGE = (b"\xff\xfe", b"abc ", b"1\\2\\3\\4\\5\\", b"-1e999 ", b"NaN ", b"\0" * 8, b"9" * 64, b"\\\\\\ ")
"""Values that are not valid for any element. The number of values is that of none, with the backslash at the end or without."""

EXAMPLES = settings(
    max_examples=300,
    deadline=20_000 * slowness(),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

damages = st.one_of(
    st.tuples(st.just("delete"), st.integers(0, 10_000), st.none()),
    st.tuples(st.just("empty"), st.integers(0, 10_000), st.none()),
    st.tuples(st.just("garbage"), st.integers(0, 10_000), st.sampled_from(GARBAGE)),
    st.tuples(st.just("vr"), st.integers(0, 10_000), st.sampled_from(VRS)),
    st.tuples(st.just("cut"), st.integers(0, 10_000), st.none()),
)


def damage(path: Path, kind: str, where: int, what: object) -> None:
    """Change one element at any depth, or truncate the file."""
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[: where * len(content) // 10_000])
        return
    try:
        dataset = pydicom.dcmread(path)
        places = [(d, e.tag) for d in _levels(dataset) for e in d]
        owner, tag = places[where % len(places)]
        if kind == "delete":
            del owner[tag]
        elif kind == "empty":
            owner[tag] = DataElement(tag, owner[tag].VR, [] if owner[tag].VR == "SQ" else None)
        elif kind == "garbage":
            owner._dict[tag] = RawDataElement(tag, owner[tag].VR, len(what), what, 0, False, True)  # type: ignore[arg-type]
        else:
            raw = dataset_bytes(owner[tag])
            owner._dict[tag] = RawDataElement(tag, what, len(raw), raw, 0, False, True)
        dataset.save_as(path)
    except Exception:
        path.write_bytes(content)  # a value that cannot be written does not occur in files


def dataset_bytes(element: DataElement) -> bytes:
    value = element.value
    return value if isinstance(value, bytes) else str(value).encode()[:64]


def _levels(dataset: pydicom.Dataset) -> list[pydicom.Dataset]:
    out = [dataset]
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                out += _levels(item)
    return out


def check(target: Path, expected: np.ndarray, affine: np.ndarray) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scan = read_scan(target)
    except MedHybridError:
        return
    np.testing.assert_array_equal(scan.array, expected)
    np.testing.assert_allclose(scan.affine, affine, atol=1e-6)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[Path, bytes], np.ndarray, np.ndarray]:
    folder = tmp_path_factory.mktemp("fuzz") / "series"
    paths = write_mr_series(folder, VALUES, AFFINE, description="T1", study="s", case="c")
    for k, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept = 1 + k, -5 * k
        dataset.save_as(path)
    scan = read_scan(folder)
    return {p: p.read_bytes() for p in paths}, scan.array, scan.affine


@EXAMPLES
@example(damage_done=("vr", 169, "AT"), n=1)  # an intercept that is read as a tag
@given(damage_done=damages, n=st.integers(0, 3))
def test_a_series_with_one_damaged_file_is_read_correctly_or_refused(
    plain: tuple[dict[Path, bytes], np.ndarray, np.ndarray], damage_done: tuple[str, int, object], n: int
) -> None:
    files, array, affine = plain
    for path, content in files.items():
        path.write_bytes(content)
    victim = list(files)[n]
    damage(victim, *damage_done)

    check(victim.parent, array, affine)


@pytest.fixture(scope="module")
def enhanced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, np.ndarray, np.ndarray]:
    path = write_enhanced(tmp_path_factory.mktemp("fuzz") / "mr.dcm", [VALUES], AFFINE)
    scan = read_scan(path)
    return path, path.read_bytes(), scan.array, scan.affine


@EXAMPLES
@given(damage_done=damages)
def test_a_damaged_multi_frame_file_is_read_correctly_or_refused(
    enhanced: tuple[Path, bytes, np.ndarray, np.ndarray], damage_done: tuple[str, int, object]
) -> None:
    path, content, array, affine = enhanced
    path.write_bytes(content)
    damage(path, *damage_done)

    check(path, array, affine)
