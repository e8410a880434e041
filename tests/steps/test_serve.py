"""The HTTP service: scans in, masks out; limits, tokens, restarts, many clients."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

import medhybrid
from medhybrid.errors import ConfigError, DataError, OutputError
from medhybrid.runs.models import load_model
from medhybrid.steps.import_nnunet import import_nnunet
from medhybrid.steps.models import models as list_models
from medhybrid.steps.predict import predict
from medhybrid.steps.serve import Jobs, RefusedError, ServeOptions
from medhybrid.steps.serve_http import check_start, make_app
from tests.inference.nnunet.recorded_model import write_recorded
from tests.patience import wait_until
from tests.servers import free_port

TOKEN = {"Authorization": "Bearer secret"}

N_JOBS = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small model (`model`) and scans (`images`)."""
    folder = tmp_path_factory.mktemp("served")
    recorded = write_recorded("ct", folder / "theirs")
    import_nnunet(recorded.folder, out=folder / "model")
    return folder


@pytest.fixture
def scan(place: Path) -> Path:
    return place / "theirs" / "images" / "case0_0000.nii.gz"


def jobs_of(place: Path, spool: Path, **limits: Any) -> Jobs:
    return Jobs(spool, {"brain": partial(load_model, place / "model", device="cpu")}, ServeOptions(**limits))


@pytest.fixture
def client(place: Path, tmp_path: Path) -> Iterator[TestClient]:
    listed = {"brain": list_models([place / "model"]).models[0]}
    with TestClient(make_app(jobs_of(place, tmp_path / "spool"), listed, token="secret")) as client:
        client.headers.update(TOKEN)
        yield client


def submit(client: Any, path: Path, **query: str) -> str:
    answer = client.post("/jobs", params={"model": "brain", "name": path.name, **query}, content=path.read_bytes())
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job"])


def ended(client: Any, job: str) -> dict[str, Any]:
    def state() -> dict[str, Any] | None:
        found: dict[str, Any] = client.get(f"/jobs/{job}").json()
        return found if found["state"] in ("done", "failed") else None

    result: dict[str, Any] = wait_until(state, f"job {job} ends", found=lambda: client.get(f"/jobs/{job}").text)
    return result


def test_the_mask_of_an_uploaded_scan_is_that_of_predict(
    client: TestClient, place: Path, scan: Path, tmp_path: Path
) -> None:
    result = ended(client, job := submit(client, scan))
    assert result["state"] == "done", result
    (one,) = result["scans"]
    assert one["verdict"] == "needs review"
    assert set(one["measures"]) == {"one", "two"}
    (name,) = [n for n in result["files"] if n.startswith("masks/")]
    (tmp_path / "mask.nii.gz").write_bytes(client.get(f"/jobs/{job}/files/{name}").content)
    predict(scan, model=place / "model", out=tmp_path / "out", device="cpu")
    expected = medhybrid.read_scan(next((tmp_path / "out" / "masks").iterdir())).array
    np.testing.assert_array_equal(medhybrid.read_scan(tmp_path / "mask.nii.gz").array, expected)


def test_names_of_uploaded_files_are_not_kept(client: TestClient, scan: Path, tmp_path: Path) -> None:
    answer = client.post("/jobs", params={"model": "brain", "name": "Jane_Doe.nii.gz"}, content=scan.read_bytes())
    ended(client, answer.json()["job"])
    assert not [p for p in (tmp_path / "spool").rglob("*") if "Doe" in p.name]


def test_a_zip_archive_of_scans_is_one_job(client: TestClient, place: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for path in sorted((place / "theirs" / "images").iterdir()):
            archive.write(path, path.name)
    result = ended(client, submit(client, tmp_path / "scans.zip"))
    assert len(result["scans"]) == 2


def test_a_file_that_is_not_a_scan_fails_with_the_reason(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(b"no scan")
    result = ended(client, submit(client, tmp_path / "scan.nii.gz"))
    assert result["state"] == "failed"
    assert result["reason"]
    assert result["files"] == []


def test_events_end_with_the_job(client: TestClient, scan: Path) -> None:
    job = submit(client, scan)
    with client.stream("GET", f"/jobs/{job}/events") as stream:
        states = [json.loads(line[6:])["state"] for line in stream.iter_lines() if line.startswith("data: ")]
    assert states[-1] == "done"
    assert set(states) <= {"queued", "running", "done"}


@pytest.mark.parametrize("path", ["/models", "/metrics", "/jobs/" + "0" * 32])
def test_a_token_is_needed(path: str, client: TestClient) -> None:
    for sent in ({"Authorization": "Bearer wrong"}, {"Authorization": ""}, {"Authorization": "secret"}):
        answer = client.get(path, headers=sent)
        assert answer.status_code == 401
        assert "WWW-Authenticate" in answer.headers
    assert client.get("/health", headers={"Authorization": ""}).json()["status"] == "ok"


def test_other_computers_need_a_token(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can be reached from other computers"):
        check_start(jobs_of(place, tmp_path / "other"), host="0.0.0.0", token="")


def test_a_second_service_on_the_same_folder_does_not_start(client: TestClient, place: Path, tmp_path: Path) -> None:
    wait_until((tmp_path / "spool" / "unpacked").is_dir, "the first service runs")
    with pytest.raises(OutputError, match="another service uses"):
        check_start(jobs_of(place, tmp_path / "spool"), host="127.0.0.1", token="")


def test_scans_that_a_killed_service_unpacked_are_removed(place: Path, tmp_path: Path) -> None:
    left = tmp_path / "spool" / "unpacked" / "medhybrid-x" / "DOE^JANE.dcm"
    jobs = jobs_of(place, tmp_path / "spool")
    left.parent.mkdir(parents=True)
    left.write_bytes(b"patient")
    with TestClient(make_app(jobs, {})):
        wait_until(lambda: not left.exists(), "the scan is removed")


def test_archives_are_unpacked_in_the_folder_of_the_service(
    place: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    make = tempfile.mkdtemp
    monkeypatch.setattr("tempfile.mkdtemp", lambda **given: made.append(make(**given)) or made[-1])
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        archive.write(scan, scan.name)
    with TestClient(make_app(jobs_of(place, tmp_path / "spool"), {})) as client:
        assert ended(client, submit(client, tmp_path / "scans.zip"))["state"] == "done"
    assert [Path(p).parent for p in made if "medhybrid-" in p] == [tmp_path / "spool" / "unpacked"]
    assert not list((tmp_path / "spool" / "unpacked").iterdir())


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"model": "none", "name": "scan.nii"}, "unknown model"),
        ({"model": "brain", "name": "scan.exe"}, "type of file"),
        ({"model": "brain", "name": ""}, "type of file"),
        ({"model": "brain", "name": "scan.nii"}, "empty"),
        ({"model": "brain", "study": "1.2.3"}, "fetches no studies"),
    ],
)
def test_a_bad_request_is_explained_and_leaves_nothing(
    query: dict[str, str], said: str, client: TestClient, tmp_path: Path
) -> None:
    answer = client.post("/jobs", params=query, content=b"")
    assert answer.status_code == 400
    assert said in answer.json()["detail"]
    assert not list((tmp_path / "spool" / "incoming").iterdir())


@pytest.mark.parametrize("is_stated", [True, False])
def test_an_upload_that_is_too_large_is_refused_and_removed(is_stated: bool, place: Path, tmp_path: Path) -> None:
    jobs = jobs_of(place, tmp_path / "spool", max_upload_mb=1)
    with TestClient(make_app(jobs, {})) as client:
        block = b"0" * (1 << 20)
        content: Any = block + b"0" if is_stated else iter([block, b"0"])
        answer = client.post("/jobs", params={"model": "brain", "name": "scan.nii"}, content=content)
        assert answer.status_code == 413
    assert not list((tmp_path / "spool" / "incoming").iterdir())


def test_an_upload_that_is_too_slow_is_closed_and_removed(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minutes = count(step=100.0)  # each look at the clock is 100 s later
    monkeypatch.setattr("medhybrid.steps.serve_http.time", SimpleNamespace(monotonic=lambda: next(minutes)))
    with TestClient(make_app(jobs_of(place, tmp_path / "spool"), {})) as client:
        answer = client.post("/jobs", params={"model": "brain", "name": "scan.nii"}, content=iter([b"0", b"0"]))
        enough = client.post("/jobs", params={"model": "brain", "name": "scan.nii"}, content=b"0" * (4 << 20))

    assert (answer.status_code, enough.status_code) == (408, 202)
    assert "slower than" in answer.json()["detail"]
    assert not list((tmp_path / "spool" / "incoming").iterdir())


def test_a_full_queue_or_disk_refuses_for_now(place: Path, tmp_path: Path) -> None:
    jobs = jobs_of(place, tmp_path / "spool", max_queued=1)
    jobs.begin("brain", "scan.nii")
    with pytest.raises(RefusedError, match="queue is full"):
        jobs.begin("brain", "scan.nii")
    with TestClient(make_app(jobs_of(place, tmp_path / "full", min_free_mb=10**9), {})) as client:
        answer = client.post("/jobs", params={"model": "brain", "name": "scan.nii"}, content=b"0")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]


def test_jobs_survive_a_restart_and_unfinished_uploads_are_removed(place: Path, scan: Path, tmp_path: Path) -> None:
    first = jobs_of(place, tmp_path / "spool")
    upload = first.begin("brain", scan.name)
    upload.write_bytes(scan.read_bytes())
    job = first.finish(upload)
    first.begin("brain", scan.name).write_bytes(b"the first half")
    with TestClient(make_app(jobs_of(place, tmp_path / "spool"), {})) as client:
        assert ended(client, job)["state"] == "done"
    assert not list((tmp_path / "spool" / "incoming").iterdir())


def test_a_removed_job_leaves_no_file(client: TestClient, scan: Path, tmp_path: Path) -> None:
    ended(client, job := submit(client, scan))
    assert client.delete(f"/jobs/{job}").status_code == 204
    assert client.get(f"/jobs/{job}").status_code == 404
    assert not list((tmp_path / "spool").rglob(f"*{job}*"))


def test_ended_jobs_are_removed_after_their_time(place: Path, scan: Path, tmp_path: Path) -> None:
    jobs = jobs_of(place, tmp_path / "spool", keep_hours=1e-9)
    upload = jobs.begin("brain", scan.name)
    upload.write_bytes(scan.read_bytes())
    job = jobs.finish(upload)
    jobs.work()
    assert jobs.status(job) is not None
    jobs.remove_old()
    assert jobs.status(job) is None


def test_a_model_that_cannot_be_loaded_fails_its_jobs_only(place: Path, scan: Path, tmp_path: Path) -> None:
    def broken() -> Any:
        raise DataError("the model is broken")

    jobs = Jobs(tmp_path / "spool", {"broken": broken, "brain": partial(load_model, place / "model", device="cpu")})
    names = []
    for model in ("broken", "brain"):
        upload = jobs.begin(model, scan.name)
        upload.write_bytes(scan.read_bytes())
        names.append(jobs.finish(upload))
    jobs.work()
    states = [jobs.status(name) for name in names]
    assert [s.state for s in states if s] == ["failed", "done"]


@pytest.mark.parametrize("state", ["queued", "done"])
def test_a_damaged_request_fails_its_job_only(state: str, place: Path, scan: Path, tmp_path: Path) -> None:
    jobs = jobs_of(place, tmp_path / "spool")
    names = []
    for _ in range(2):
        upload = jobs.begin("brain", scan.name)
        upload.write_bytes(scan.read_bytes())
        names.append(jobs.finish(upload))
    if state == "done":
        jobs.work()
    (tmp_path / "spool" / state / names[0] / "job.json").write_text("")
    jobs.remove_old()
    jobs.work()
    damaged, other = (jobs.status(name) for name in names)
    assert damaged is not None
    assert "upload the scan again" in damaged.reason
    assert other is not None
    assert other.state == "done"


def test_a_study_that_was_fetched_in_part_is_fetched_again(
    place: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(_: Any, folder: Path) -> None:
        folder.mkdir()
        (folder / "first.nii.gz").write_bytes(scan.read_bytes())
        if not calls.append(folder) and len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        (folder / "second.nii.gz").write_bytes(scan.read_bytes())

    calls: list[Path] = []
    monkeypatch.setattr("medhybrid.steps.serve.fetch_study", fetch)
    monkeypatch.setattr("medhybrid.steps.serve.RETRY_S", 0.0)
    jobs = jobs_of(place, tmp_path / "spool", dicomweb="dicomweb://pacs/dicom-web")
    job = jobs.submit_study("brain", "1.2.3")
    jobs.work()
    assert jobs.status(job) is not None
    jobs.work()
    result = jobs.status(job)
    assert result is not None
    assert len(result.scans) == 2


def test_at_its_start_the_service_removes_uploads_of_an_earlier_one_only(
    place: Path, scan: Path, tmp_path: Path
) -> None:
    earlier = jobs_of(place, tmp_path / "spool").begin("brain", scan.name)
    jobs = jobs_of(place, tmp_path / "spool")
    upload = jobs.begin("brain", scan.name)  # before the worker has begun
    stop = threading.Event()
    stop.set()

    jobs.run(stop)

    assert not earlier.parent.exists()
    upload.write_bytes(scan.read_bytes())
    assert jobs.status(jobs.finish(upload)) is not None


@pytest.mark.parametrize("at", ["begin", "write"])
def test_a_disk_that_fills_during_an_upload_answers_for_now(
    at: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    jobs = jobs_of(place, tmp_path / "spool")
    monkeypatch.setattr("medhybrid.steps.serve.write_atomically", full) if at == "begin" else None
    monkeypatch.setattr(Jobs, "finish", full) if at == "write" else None
    with TestClient(make_app(jobs, {})) as client:
        answer = client.post("/jobs", params={"model": "brain", "name": "scan.nii"}, content=b"0")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert not list((tmp_path / "spool" / "incoming").iterdir())


def test_the_service_ends_while_a_long_job_runs_and_the_job_waits(
    place: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(*_: Any, **__: Any) -> None:
        while True:
            time.sleep(0.01)

    monkeypatch.setattr("medhybrid.steps.serve.predict", endless)
    monkeypatch.setattr("medhybrid.steps.serve_http.END_S", 0.0)
    with TestClient(make_app(jobs_of(place, tmp_path / "spool"), {})) as client:
        job = submit(client, scan)
        wait_until(lambda: client.get(f"/jobs/{job}").json()["state"] == "running", "the job runs")
    monkeypatch.undo()
    waiting = jobs_of(place, tmp_path / "spool").status(job)
    assert waiting is not None
    assert waiting.state == "queued"


def test_the_page_of_the_interface_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/").text
    assert "/jobs" in page
    assert "http" not in page.replace("http-equiv", "")


def test_no_request_makes_the_service_fail(place: Path, tmp_path: Path) -> None:
    import schemathesis

    app = make_app(jobs_of(place, tmp_path / "spool"), {"brain": list_models([place / "model"]).models[0]})
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    for operation in schema.get_all_operations():
        _fuzz(operation.ok().as_strategy())


def _fuzz(strategy: Any) -> None:
    import hypothesis
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    @hypothesis.settings(
        max_examples=15, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), database=None
    )
    @hypothesis.given(strategy)
    def call(case: Any) -> None:
        case.call_and_validate(excluded_checks=[positive_data_acceptance])  # names of models are not in the schema

    call()


class Served:
    """`medhybrid serve` in a process of its own."""

    def __init__(self, place: Path, spool: Path) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "medhybrid", "serve", "--model", f"brain={place / 'model'}"]
        command += ["--spool", str(spool), "--port", str(self.port), "--device", "cpu"]
        self.process = subprocess.Popen(command, env=os.environ | {"MEDHYBRID_TOKEN": "secret"})
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=TOKEN, timeout=120)
        wait_until(self.is_up, "the service answers", process=self.process)

    def is_up(self) -> bool:
        try:
            return self.client.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def end(self, with_signal: int = signal.SIGTERM) -> None:
        self.client.close()
        self.process.send_signal(with_signal)
        self.process.wait()


def test_no_job_is_lost_or_done_twice_when_the_process_is_killed(place: Path, scan: Path, tmp_path: Path) -> None:
    first = Served(place, tmp_path / "spool")
    jobs: list[str] = []
    lock = threading.Lock()

    def send(_: int) -> None:
        name = submit(first.client, scan)
        with lock:
            jobs.append(name)

    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(send, range(N_JOBS)))
        wait_until(lambda: any((tmp_path / "spool" / "done").iterdir()), "a job ends", process=first.process)
    finally:
        first.end(signal.SIGKILL)
    began = time.time()
    second = Served(place, tmp_path / "spool")
    try:
        results = [ended(second.client, job) for job in jobs]
        assert [r["state"] for r in results] == ["done"] * N_JOBS
        assert len(set(jobs)) == N_JOBS
        before = [p for p in (tmp_path / "spool" / "results").glob("*/done/*.json") if p.stat().st_mtime < began]
        assert before  # those that were done are not predicted again
        assert f'medhybrid_jobs{{state="done"}} {N_JOBS}' in second.client.get("/metrics").text
    finally:
        second.end()
