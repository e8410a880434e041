"""Scans, datasets and results on S3: fetched once, sent when finished, and kept while the store is unavailable."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from medhybrid.config import load_config
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.layouts import list_cases
from medhybrid.data.splits import load_folds
from medhybrid.errors import DataError
from medhybrid.remote import INDEX, Mirror, is_remote, local_copy
from medhybrid.runs.prepared import _fetched, prepared_folder
from medhybrid.steps.predict import predict
from medhybrid.steps.preprocess import preprocess
from tests.inference.test_engines import load, masks_of, rows_of, write_scans
from tests.synthetic import StudyFolder

pytestmark = [
    pytest.mark.skipif(find_spec("s3fs") is None, reason="s3fs (extra [scale]) is not installed"),
    pytest.mark.skipif(find_spec("moto") is None, reason="moto, a local S3, is not installed"),
    pytest.mark.usefixtures("in_this_process"),
    pytest.mark.filterwarnings("ignore"),  # of the S3 driver
]


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """Return the address of a local S3 server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Create a bucket and set the environment for it; return its URL."""
    import s3fs

    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": store,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"b{abs(hash(tmp_path)) % 10**9}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


def put(folder: Path, url: str) -> None:
    import s3fs

    s3fs.S3FileSystem().put(str(folder) + "/", url.removeprefix("s3://") + "/", recursive=True)


def names_in(url: str) -> set[str]:
    import s3fs

    fs = s3fs.S3FileSystem()
    fs.invalidate_cache()
    root = url.removeprefix("s3://")
    return {p[len(root) + 1 :] for p in fs.find(root)}


def forget_copies(tmp_path: Path) -> None:
    """Remove the local copies, as on another host."""
    _fetched.cache_clear()
    shutil.rmtree(tmp_path / "cache")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("s3://b/x", True),
        ("gs://b/x", True),
        ("/data/x", False),
        ("x", False),
        ("dimse://h", False),
        ("dicomweb://h/x", False),
        ("https://h/x", False),
        (Path("/x"), False),
    ],
)
def test_only_urls_of_stores_are_remote(place: Any, expected: bool) -> None:
    assert is_remote(place) == expected


@pytest.mark.parametrize("by", ["store", "index"])
def test_neither_a_store_nor_an_altered_index_removes_files_elsewhere(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "store" / "z").mkdir(parents=True)
    (tmp_path / "store" / "z" / "y").write_text("a file, later a folder")
    url, victim = f"file://{tmp_path / 'store'}", tmp_path / "thesis.txt"
    victim.write_text("my only copy")
    copy = local_copy(url)
    hostile = json.dumps({"../" * len(copy.relative_to(tmp_path).parts) + "thesis.txt": ["1", "1"]})
    if by == "store":
        shutil.rmtree(tmp_path / "store" / "z")
        (tmp_path / "store" / "z").write_text("a folder before: the fetch ends here")
        (tmp_path / "store" / INDEX).write_text(hostile)
        with pytest.raises(DataError):
            local_copy(url)
        (tmp_path / "store" / INDEX).unlink()
        (tmp_path / "store" / "z").unlink()
    else:
        (copy / INDEX).write_text(hostile)

    local_copy(url)

    assert victim.read_text() == "my only copy"


def test_a_copy_that_was_altered_with_its_size_and_time_kept_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.txt").write_text("good")
    file = local_copy(f"file://{tmp_path / 'store'}") / "a.txt"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    time.sleep(0.02)
    file.write_text("evil")
    os.utime(file, ns=times)

    local_copy(f"file://{tmp_path / 'store'}")

    assert file.read_text() == "good"


def test_only_changed_files_are_fetched_again(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for n in range(3):
        (tmp_path / "in" / "deep" / f"{n}.txt").write_text(f"{n}")
    put(tmp_path / "in", f"{bucket}/data")
    mirror = Mirror(f"{bucket}/data")
    folder = mirror.fetch()
    before = {p.name: p.stat().st_mtime_ns for p in (folder / "deep").iterdir()}
    assert sorted(before) == ["0.txt", "1.txt", "2.txt"]

    (tmp_path / "in" / "deep" / "1.txt").write_text("changed")
    put(tmp_path / "in" / "deep", f"{bucket}/data/deep")
    mirror._fs.rm_file(f"{bucket}/data/deep/2.txt")
    Mirror(f"{bucket}/data").fetch()

    after = {p.name: p.stat().st_mtime_ns for p in (folder / "deep").iterdir()}
    assert sorted(after) == ["0.txt", "1.txt"]
    assert (folder / "deep" / "1.txt").read_text() == "changed"
    assert after["0.txt"] == before["0.txt"]


def test_a_locally_changed_copy_is_fetched_again_but_a_result_is_kept(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("as it is there")
    put(tmp_path / "in", f"{bucket}/data")
    copy = local_copy(f"{bucket}/data") / "a.txt"

    copy.write_text("altered")
    Mirror(f"{bucket}/data").fetch()
    assert copy.read_text() == "altered", "a result that was not sent yet"
    local_copy(f"{bucket}/data")
    assert copy.read_text() == "as it is there"


def test_scans_on_s3_are_predicted_to_s3_and_a_second_call_skips_them(bucket: str, tmp_path: Path) -> None:
    put(write_scans(tmp_path / "scans", 4), f"{bucket}/scans")
    plain = predict(tmp_path / "scans", model=load(), out=tmp_path / "plain")

    done = predict(f"{bucket}/scans", model=load(), out=f"{bucket}/out")

    assert (done.n_done, done.n_skipped) == (plain.n_done, 0) == (4, 0)
    sent = names_in(f"{bucket}/out")
    expected = {f"{kind}/s{n}.{end}" for n in range(4) for kind, end in (("masks", "nii.gz"), ("done", "json"))}
    assert sent == expected | {"results.csv", "work.csv", "run.json"}
    copy = local_copy(f"{bucket}/out")
    assert masks_of(copy) == masks_of(tmp_path / "plain")

    forget_copies(tmp_path)
    assert predict(f"{bucket}/scans", model=load(), out=f"{bucket}/out").n_skipped == 4
    assert len(rows_of(copy / "results.csv")) == 4


def test_an_unsent_mask_is_sent_by_the_next_call(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans, plain = write_scans(tmp_path / "scans", 3), Mirror.send
    put(scans, f"{bucket}/scans")

    def fail_at_second(self: Mirror, names: Any) -> None:
        names = list(names)
        if any("s1" in n for n in names):
            raise DataError("the store is away")
        plain(self, names)

    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "send", fail_at_second)
        with pytest.raises(DataError, match="the store is away"):
            predict(f"{bucket}/scans", model=load(), out=f"{bucket}/out")
    assert "masks/s1.nii.gz" not in names_in(f"{bucket}/out")

    again = predict(f"{bucket}/scans", model=load(), out=f"{bucket}/out")

    assert (again.n_done, again.n_skipped) == (3, 2), "the second scan was predicted but not sent"
    assert {f"masks/s{n}.nii.gz" for n in range(3)} < names_in(f"{bucket}/out")


def test_a_dataset_on_s3_is_listed_from_its_copy(bucket: str, study: StudyFolder) -> None:
    put(study.folder / "data", f"{bucket}/data")
    config = load_config(study.folder / "small.yaml", [f"data.root={bucket}/data"])

    cases = list_cases(config.data)

    assert len(cases) == 10
    assert config.data.root == f"{bucket}/data", "the config has the URL of the data, not the local copy"


def test_prepared_cases_on_s3_are_used_by_another_host(bucket: str, study: StudyFolder, tmp_path: Path) -> None:
    place = [f"prepare.folder={bucket}/prepared"]
    config = load_config(study.folder / "small.yaml", place)
    made = preprocess(config)
    assert made.n_prepared == 10
    assert {"plan.json", "folds.json", "cases/case_00/case.json"} < names_in(f"{bucket}/prepared/blobs")
    assert not any(".part" in n or "/." in n for n in names_in(f"{bucket}/prepared/blobs"))

    forget_copies(tmp_path)  # another host
    dataset = PreparedDataset(prepared_folder(config))
    here = PreparedDataset(preprocess(load_config(study.folder / "small.yaml")).folder)
    assert dataset.data_hash() == here.data_hash()
    assert dataset.plan.settings == here.plan.settings

    forget_copies(tmp_path)
    again = preprocess(config)
    assert (again.n_prepared, again.n_unchanged) == (0, 10)


def test_an_interrupted_upload_leaves_no_record_of_an_incomplete_case(
    bucket: str, study: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(study.folder / "small.yaml", [f"prepare.folder={bucket}/prepared"])
    preprocess(config)
    finer = load_config(
        study.folder / "small.yaml", [f"prepare.folder={bucket}/prepared", "prepare.spacing_mm=[3,3,3]"]
    )
    plain = Mirror.send

    def fail_halfway(self: Mirror, names: Any) -> None:
        names = list(names)
        plain(self, names[: len(names) // 2])
        raise DataError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "send", fail_halfway)
        with pytest.raises(DataError, match="the store is away"):
            preprocess(finer)
    left = names_in(f"{bucket}/prepared/blobs")
    assert left, "a part was sent"
    assert "plan.json" not in left
    assert not any(n.endswith("case.json") for n in left), "no record of a case that may have files of two preparations"

    forget_copies(tmp_path)
    assert preprocess(finer).n_prepared == 10
    assert PreparedDataset(prepared_folder(finer)).plan.spacing_mm == (3, 3, 3)


def test_names_outside_the_folder_and_absent_stores_are_refused(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(f"{bucket}/data")
    with pytest.raises(DataError, match="points outside"):
        mirror._name_of(f"{mirror._root}/../x")
    put(write_scans(tmp_path / "scans", 1), f"{bucket}/scans")
    with pytest.raises(DataError, match=r"s0\.nii\.gz is a file.*the URL of a folder"):
        Mirror(f"{bucket}/scans/s0.nii.gz").fetch()
    with pytest.raises(DataError, match="cannot be read or written"):
        Mirror("s3://no-such-bucket-at-all/x").fetch()


def test_a_damaged_index_is_ignored(tmp_path: Path) -> None:
    for content in ("", "[]", '{"a": 1}', "\0", json.dumps({"a": ["x"]})):
        (tmp_path / INDEX).write_text(content)
        assert Mirror(f"file://{tmp_path}/there", tmp_path)._index == {}


def test_keys_of_folders_are_skipped_and_name_clashes_are_errors(bucket: str) -> None:
    import s3fs

    fs, root = s3fs.S3FileSystem(), bucket.removeprefix("s3://")
    for key in ("x/", "x/a.txt", "x/deep/", "x/empty/"):
        fs.call_s3("put_object", Bucket=root, Key=key, Body=b"" if key.endswith("/") else b"text")

    assert [p.name for p in Mirror(f"{bucket}/x").fetch().rglob("*.txt")] == ["a.txt"]

    for key in ("y/a", "y/a/b.txt"):
        fs.call_s3("put_object", Bucket=root, Key=key, Body=b"text")
    with pytest.raises(DataError):
        Mirror(f"{bucket}/y").fetch()


def test_the_folds_of_a_dataset_on_s3_are_read_from_it(bucket: str, study: StudyFolder) -> None:
    put(study.folder / "data", f"{bucket}/data")
    config = load_config(study.folder / "small.yaml", [f"data.root={bucket}/data"])

    folds, origin = load_folds(config.data, list_cases(config.data))

    assert origin == "splits.json"
    assert folds[0].validation == ("case_07", "case_08", "case_09")
