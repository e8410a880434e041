"""Fuzzing of scans, configs, plans, models and records: an error of medhybrid or a correct result, without hanging.

FUZZ_EXAMPLES=20000 python -m pytest tests/test_fuzz.py     runs for an hour.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medhybrid.config import load_config
from medhybrid.data.plan import Plan
from medhybrid.errors import MedHybridError
from medhybrid.inference.model_folder import load_model_folder
from medhybrid.inference.records import Prediction, Records
from medhybrid.scans.reader import read_scan
from tests.patience import slowness
from tests.synthetic import StudyFolder, make_test_plan, small_values

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

EXAMPLES = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")),
    deadline=20_000 * slowness(),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
VALUES = np.random.default_rng(0).integers(0, 4000, (6, 5, 4)).astype(np.int16)
MOST_VALUES = 10_000_000
"""Most voxels of a scan that is read from a file of a few hundred bytes."""

changes = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6)


def write(path: Path) -> None:
    if path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(VALUES, np.diag([1.0, 2.0, 3.0, 1.0])), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(VALUES), str(path))


def read_or_refuse(path: Path) -> None:
    try:
        scan = read_scan(path)
    except MedHybridError:
        return
    assert scan.array.ndim == 4
    assert scan.array.size < MOST_VALUES
    assert np.isfinite(scan.affine).all()
    assert abs(np.linalg.det(scan.affine[:3, :3])) > 0


@pytest.mark.parametrize("name", ["x.nii", "x.nrrd", "x.mha"])
@EXAMPLES
@given(changes=changes, cut=st.one_of(st.none(), st.integers(0, 600)))
def test_a_scan_with_changed_bytes_is_refused_or_read(
    name: str, changes: list[tuple[int, int]], cut: int | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        content = bytearray(path.read_bytes())
        header = 352 if name == "x.nii" else len(content) - VALUES.nbytes
        for where, value in changes:
            content[where % header] = value
        path.write_bytes(bytes(content[:cut]))

        read_or_refuse(path)


@EXAMPLES
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 20), st.sampled_from(["-1", "0", "1e400", "nan", "9" * 12, "abc", "1 2", "", "../x"])),
        min_size=1,
        max_size=3,
    ),
    name=st.sampled_from(["x.nrrd", "x.mha"]),
)
def test_a_text_header_with_changed_values_is_refused_or_read(changes: list[tuple[int, str]], name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        content = path.read_bytes()
        head = content[: len(content) - VALUES.nbytes].decode("latin-1").split("\n")
        for line, value in changes:
            at = line % len(head)
            key, separator, _ = head[at].partition(" = " if name == "x.mha" else ": ")
            head[at] = key + separator + value
        path.write_bytes("\n".join(head).encode("latin-1") + content[-VALUES.nbytes :])

        read_or_refuse(path)


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**18), 10**18), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


def changed(values: Any, path: list[int], what: Any, how: str) -> Any:
    """Return a copy in which one value, given by its index at each level, is changed, removed or added."""
    values = copy.deepcopy(values)
    at = values
    for place in path:
        keys = list(at) if isinstance(at, dict) else range(len(at))
        if not keys:
            break
        key = keys[place % len(keys)]
        if isinstance(at[key], (dict, list)) and at[key] and place != path[-1]:
            at = at[key]
            continue
        if how == "delete":
            del at[key]
        elif how == "add" and isinstance(at, dict):
            at[str(what)[:10]] = what
        else:
            at[key] = what
        break
    return values


places = st.lists(st.integers(0, 30), min_size=1, max_size=4)
ways = st.sampled_from(["replace", "delete", "add"])


@EXAMPLES
@given(path=places, what=anything, how=ways)
def test_a_changed_config_is_refused_with_its_key_or_used(path: list[int], what: Any, how: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.yaml"
        file.write_text(yaml.safe_dump(changed(small_values(Path(folder)), path, what, how), allow_unicode=True))
        with suppress(MedHybridError):
            load_config(file)


@EXAMPLES
@given(
    content=st.one_of(
        st.binary(max_size=200), st.text(alphabet="{}[]:-&*!|>#'\"\n\t ab01", max_size=80).map(str.encode)
    )
)
def test_invalid_yaml_is_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.yaml"
        file.write_bytes(content)
        with pytest.raises(MedHybridError):
            load_config(file)


@EXAMPLES
@given(path=places, what=anything, how=ways)
def test_a_changed_plan_is_refused_or_used(path: list[int], what: Any, how: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        file.write_text(json.dumps(changed(json.loads(make_test_plan().model_dump_json()), path, what, how)))
        with suppress(MedHybridError):
            Plan.load(file)


@settings(EXAMPLES, max_examples=60)
@given(path=places, what=anything, how=ways)
def test_the_record_of_a_model_is_refused_or_used(
    trained: tuple[StudyFolder, Path], path: list[int], what: Any, how: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        shutil.copytree(trained[1] / "model", model)
        file = model / "model.json"
        file.write_text(json.dumps(changed(json.loads(file.read_text()), path, what, how)))
        with suppress(MedHybridError):
            load_model_folder(model, device="cpu")


@EXAMPLES
@given(
    content=st.one_of(st.binary(max_size=60), anything.map(lambda v: json.dumps(v).encode())),
    name=st.text("ab.", max_size=3),
)
def test_a_damaged_record_of_a_scan_is_ignored(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        records = Records(Path(folder))
        for state in ("done", "failed", "started"):
            (Path(folder) / state).mkdir()
            (Path(folder) / state / f"c{name}.json").write_bytes(content)

        assert records.done(f"c{name}") is None
        assert [p.status for p in records.all([f"c{name}"])] == ["failed"], "it stays in tables and reports"
        assert records.begin(f"c{name}", []) == 1
        records.end(Prediction(case=f"c{name}", status="failed"))
        assert [p.status for p in records.all([f"c{name}"])] == ["failed"]
