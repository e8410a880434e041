"""Tests with a real PACS: a pushed study is returned with segmentation and report, by DIMSE and DICOMweb."""

from __future__ import annotations

import base64
import errno
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medhybrid.config import ListenConfig, SenderConfig
from medhybrid.errors import OutputError
from medhybrid.geometry import Grid, turn_to_ras
from medhybrid.inference.model import Model
from medhybrid.scans.dicom.seg import SegInfo, write_seg
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.pacs import fetch_study, parse_endpoint, send_files
from medhybrid.scans.pacs.exchange import PacsError
from medhybrid.scans.reader import read_scan
from medhybrid.steps import listen as listen_module
from medhybrid.steps.listen import Listener
from medhybrid.steps.predict import predict
from medhybrid.steps.predict_pacs import fetch, send_results
from tests.patience import patience_s, slowness, wait_until
from tests.scans.pacs.orthanc import Orthanc, is_installed, running_orthanc
from tests.servers import free_port
from tests.synthetic import AFFINE, make_test_plan
from tests.test_masks_on_grid import BRIGHT, level_of, thresholding_model, with_box

SHAPE = (18, 16, 8)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
needs_orthanc = pytest.mark.skipif(not is_installed(), reason="Orthanc with its DICOMweb plugin is not installed")


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    array, _ = with_box(SHAPE)
    return write_mr_series(tmp_path / "series", array, AFFINE, description="T1", study="s", case="c")


@pytest.fixture
def model() -> Model:
    array, _ = with_box(SHAPE)
    x, y, z = turn_to_ras(AFFINE).grid(Grid(SHAPE, AFFINE)).spacing_mm
    plan = make_test_plan(spacing_mm=(x, y, z))
    return thresholding_model(plan, level_of(array, Grid(SHAPE, AFFINE), plan))


class Running:
    """Listener in a thread."""

    def __init__(self, config: ListenConfig, model: Model) -> None:
        self.events: list[tuple[str, str]] = []
        self.stop = threading.Event()
        self.listener = Listener(config, model, on_event=lambda *e: self.events.append(e))
        self.thread = threading.Thread(target=self.listener.run, args=(self.stop,))
        self.n_rounds = 0
        work = self.listener.work

        def counted() -> None:
            work()
            self.n_rounds += 1

        self.listener.work = counted  # type: ignore[method-assign]

    def __enter__(self) -> Running:
        self.thread.start()
        wait_until(self.is_listening, "an answer of the listener")
        return self

    def is_listening(self) -> bool:
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.listener.config.port)) == 0

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(patience_s())
        assert not self.thread.is_alive()

    def wait_for(self, state: str, n: int = 1) -> None:
        wait_until(
            lambda: sum(s == state for _, s in self.events) >= n, f"a study that is {state}", found=lambda: self.events
        )


def config_for(folder: Path, port: int, send_to: str, sender: str = "ORTHANC") -> ListenConfig:
    return ListenConfig(
        port=port,
        senders=(SenderConfig(ae_title=sender),),
        send_to=send_to,
        spool=str(folder / "spool"),
        wait_s=2.0 * slowness(),  # instances of one push must not be processed as two parts of a study
        min_free_mb=1,
    )


def assert_valid(content: bytes, folder: Path) -> None:
    if shutil.which("dciodvfy"):
        (folder / "check.dcm").write_bytes(content)
        verdict = subprocess.run(["dciodvfy", "-new", str(folder / "check.dcm")], capture_output=True, text=True)
        assert not [s for s in (verdict.stdout + verdict.stderr).splitlines() if s.startswith("Error")]


@needs_orthanc
@pytest.mark.orthanc
class TestWithOrthanc:
    port = 0

    @pytest.fixture
    def pacs(self, tmp_path: Path) -> Iterator[Orthanc]:
        self.port = free_port()
        (tmp_path / "orthanc").mkdir()
        with running_orthanc(tmp_path / "orthanc", self.port) as server:
            yield server

    def test_a_pushed_study_comes_back_with_segmentation_and_report(
        self, pacs: Orthanc, series: list[Path], model: Model, tmp_path: Path
    ) -> None:
        pacs.push(series)
        study = pacs.call("/studies")[0]
        with Running(config_for(tmp_path, self.port, f"dimse://ORTHANC@127.0.0.1:{pacs.dicom}"), model) as running:
            pacs.call("/modalities/medhybrid/store", json.dumps({"Resources": [study]}).encode())
            running.wait_for("done")

        (seg,), (report,) = pacs.instances("SEG"), pacs.instances("SR")
        assert_valid(seg, tmp_path)
        assert_valid(report, tmp_path)
        (tmp_path / "seg.dcm").write_bytes(seg)
        assert pydicom.dcmread(tmp_path / "seg.dcm").pixel_array.sum() == (with_box(SHAPE)[0] == BRIGHT).sum()

    @pytest.mark.parametrize("kind", ["dicomweb", "dimse"])
    def test_a_study_is_fetched_predicted_and_stored(
        self, kind: str, pacs: Orthanc, series: list[Path], model: Model, tmp_path: Path
    ) -> None:
        pacs.push(series)
        web, dimse = f"dicomweb://127.0.0.1:{pacs.http}/dicom-web", f"dimse://ORTHANC@127.0.0.1:{pacs.dicom}"
        target = web if kind == "dicomweb" else dimse
        uid = pydicom.dcmread(series[0]).StudyInstanceUID

        folder = fetch(f"{target}?StudyInstanceUID={uid}", tmp_path / "out")
        result = predict(folder, model=model, out=tmp_path / "out")

        assert result.n_done == 1
        assert send_results(result, target) == 2
        assert len(pacs.instances("SEG")) == len(pacs.instances("SR")) == 1

    def test_an_unknown_study_is_reported(self, pacs: Orthanc, tmp_path: Path) -> None:
        with pytest.raises(PacsError):
            fetch_study(
                parse_endpoint(f"dimse://ORTHANC@127.0.0.1:{pacs.dicom}?StudyInstanceUID=1.2.3"), tmp_path / "x"
            )


# --- the listener on its own: a second server of pynetdicom is the destination ------------------------------------


@pytest.fixture
def destination() -> Iterator[tuple[int, list[str]]]:
    from pynetdicom import AE, AllStoragePresentationContexts, evt

    arrived: list[str] = []

    def on_store(event: evt.Event) -> int:
        arrived.append(str(event.dataset.Modality))
        return 0x0000

    ae, port = AE(ae_title="DEST"), free_port()
    ae.supported_contexts = AllStoragePresentationContexts
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
    yield port, arrived
    server.shutdown()


def listener_config(tmp_path: Path, destination_port: int) -> ListenConfig:
    return config_for(tmp_path, free_port(), f"dimse://DEST@127.0.0.1:{destination_port}", sender="MEDHYBRID")


def push(config: ListenConfig, paths: list[Path]) -> None:
    send_files(parse_endpoint(f"dimse://{config.ae_title}@127.0.0.1:{config.port}"), paths)


def test_a_study_received_before_a_restart_is_processed_once_after_it(
    destination: tuple[int, list[str]], series: list[Path], model: Model, tmp_path: Path
) -> None:
    port, arrived = destination
    config = listener_config(tmp_path, port)
    with Running(config.model_copy(update={"wait_s": 1000.0}), model):
        push(config, series)
    assert arrived == []

    with Running(config, model) as running:
        running.wait_for("done")
    with Running(config, model) as running:
        wait_until(lambda: running.n_rounds >= 3, "three more rounds of the listener")

    assert sorted(arrived) == ["SEG", "SR"]


def test_late_instances_restart_the_processing_of_the_complete_study(
    destination: tuple[int, list[str]], series: list[Path], model: Model, tmp_path: Path
) -> None:
    port, _ = destination
    config = listener_config(tmp_path, port)
    with Running(config, model) as running:
        push(config, series[:5])
        running.wait_for("done")
        push(config, series[5:])
        running.wait_for("done", n=2)

    (done,) = (tmp_path / "spool" / "done").iterdir()
    assert len(list(done.glob("*.dcm"))) == len(series)


def test_an_unchanged_study_that_is_sent_again_gets_one_result(
    destination: tuple[int, list[str]], series: list[Path], model: Model, tmp_path: Path
) -> None:
    port, arrived = destination
    config = listener_config(tmp_path, port)
    with Running(config, model) as running:
        push(config, series)
        running.wait_for("done")
        push(config, series)
        running.wait_for("unchanged")

    assert sorted(arrived) == ["SEG", "SR"]
    assert not list((tmp_path / "spool" / "incoming").iterdir())


def test_a_study_waits_while_the_disk_is_full_and_is_processed_later(
    destination: tuple[int, list[str]],
    series: list[Path],
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("medhybrid.steps.listen.RESEND_S", 0.2)
    config = listener_config(tmp_path, destination[0])
    is_full = threading.Event()
    is_full.set()
    tried = threading.Event()
    plain = listen_module.predict

    def on_a_full_disk(*args: Any, **options: Any) -> Any:
        if is_full.is_set():
            tried.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(*args, **options)

    monkeypatch.setattr(listen_module, "predict", on_a_full_disk)
    with Running(config, model) as running:
        push(config, series)
        assert tried.wait(patience_s())
        assert not list((tmp_path / "spool" / "failed").iterdir())
        is_full.clear()
        running.wait_for("done")


def test_a_spool_accepts_only_one_listener(destination: tuple[int, list[str]], model: Model, tmp_path: Path) -> None:
    config = listener_config(tmp_path, destination[0])
    with Running(config, model), pytest.raises(OutputError, match="another listener uses"):
        Listener(config.model_copy(update={"port": free_port()}), model).run(threading.Event())
    with Running(config, model):
        pass


def test_a_clock_set_back_does_not_delay_a_study(
    destination: tuple[int, list[str]], series: list[Path], model: Model, tmp_path: Path
) -> None:
    config = listener_config(tmp_path, destination[0])
    listener = Listener(config.model_copy(update={"wait_s": 0.0}), model)
    study = tmp_path / "spool" / "incoming" / ("a" * 32)
    study.mkdir()
    shutil.copy(series[0], study / "x.dcm")
    os.utime(study, (time.time() + 10**6,) * 2)

    listener.queue_complete()

    assert (tmp_path / "spool" / "queued" / study.name).is_dir()


@pytest.mark.parametrize("is_new", [False, True], ids=["results", "results and a new slice"])
def test_results_that_the_pacs_returns_are_not_a_changed_study(
    is_new: bool, series: list[Path], model: Model, tmp_path: Path
) -> None:
    """Do not predict a study again for its own SEG: a PACS that forwards each new instance would get it without end."""
    listener = Listener(listener_config(tmp_path, 1).model_copy(update={"wait_s": 0.0}), model)
    spool, name = tmp_path / "spool", "a" * 32
    scan = read_scan(series[0].parent)
    for state in ("incoming", "done"):
        (spool / state / name).mkdir()
    for path in series[1:]:
        shutil.copy(path, spool / "done" / name)
    write_seg(spool / "incoming" / name / "seg.dcm", np.ones(SHAPE, np.uint8), scan, SegInfo({"a": 1}, "0"))
    if is_new:
        shutil.copy(series[0], spool / "incoming" / name)

    listener.queue_complete()

    assert not list((spool / "incoming").iterdir())
    assert bool(list((spool / "queued").iterdir())) == is_new
    kept = spool / ("queued" if is_new else "done") / name
    assert sorted(p.name for p in series[not is_new :]) == sorted(p.name for p in kept.glob("0*.dcm"))


@pytest.mark.parametrize("problem", ["an instance arrives", "it cannot be removed"])
def test_an_unchanged_study_whose_removal_is_disturbed_stops_nothing(
    problem: str, series: list[Path], model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener(listener_config(tmp_path, 1).model_copy(update={"wait_s": 0.0}), model)
    spool, name = tmp_path / "spool", "a" * 32
    for state in ("incoming", "done"):
        (spool / state / name).mkdir()
        shutil.copy(series[0], spool / state / name / "x.dcm")
    remove, calls = listen_module.remove_tree, []

    def disturbed(path: Path, *, owner: Path) -> None:
        calls.append(path)
        if problem == "an instance arrives" and len(calls) == 1:
            (spool / "incoming" / name).mkdir(exist_ok=True)
            shutil.copy(series[1], spool / "incoming" / name / "y.dcm")
        if problem == "it cannot be removed" and len(calls) == 1:
            raise OutputError("it cannot be removed")
        remove(path, owner=owner)

    monkeypatch.setattr(listen_module, "remove_tree", disturbed)
    monkeypatch.setattr(listen_module, "RESEND_S", 0.0)
    listener.queue_complete()
    listener.queue_complete()

    left = sorted(p.relative_to(spool).as_posix() for p in spool.rglob("*.dcm"))
    if problem == "an instance arrives":
        assert left == [f"queued/{name}/x.dcm", f"queued/{name}/y.dcm"], "the whole study is predicted again"
    else:
        assert left == [f"done/{name}/x.dcm"]


def test_a_failed_study_is_moved_with_its_reason(
    destination: tuple[int, list[str]], series: list[Path], model: Model, tmp_path: Path
) -> None:
    port, arrived = destination
    config = listener_config(tmp_path, port)
    with Running(config, model) as running:
        push(config, series[:1])
        running.wait_for("failed")

    (failed,) = (tmp_path / "spool" / "failed").iterdir()
    assert "a single slice" in (failed / "reason.txt").read_text()
    assert arrived == []


def test_a_study_waits_while_its_destination_is_unreachable(
    series: list[Path],
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("medhybrid.steps.listen.RESEND_S", 0.5)
    config = listener_config(tmp_path, free_port())
    with Running(config, model):
        push(config, series)
        wait_until(lambda: sum("is delayed" in r.message for r in caplog.records) >= 2, "two tries to send the study")

    assert len(list((tmp_path / "spool" / "queued").iterdir())) == 1


def test_a_late_notice_of_a_claimed_study_creates_no_file(model: Model, tmp_path: Path) -> None:
    listener = Listener(listener_config(tmp_path, free_port()), model)

    listener._touch(tmp_path / "spool" / "incoming" / "taken")

    assert not list((tmp_path / "spool" / "incoming").iterdir())


@pytest.mark.parametrize("change", [{"ae_title": "OTHER"}, {"address": "10.0.0.1"}])
def test_an_unlisted_sender_is_refused(
    change: dict[str, str],
    destination: tuple[int, list[str]],
    series: list[Path],
    model: Model,
    tmp_path: Path,
) -> None:
    config = listener_config(tmp_path, destination[0])
    sender = config.senders[0].model_copy(update=change)
    with Running(config.model_copy(update={"senders": (sender,)}), model), pytest.raises(PacsError):
        push(config, series)

    assert not list((tmp_path / "spool" / "incoming").iterdir())


def test_an_instance_over_the_limit_is_refused(
    destination: tuple[int, list[str]], model: Model, tmp_path: Path
) -> None:
    config = listener_config(tmp_path, destination[0]).model_copy(update={"max_instance_mb": 1})
    large = write_mr_series(tmp_path / "large", np.zeros((800, 800, 2)), AFFINE, description="T1", study="s", case="c")
    with Running(config, model), pytest.raises(PacsError, match="0xa700"):
        push(config, large)


def test_an_instance_that_inflates_to_more_than_the_limit_is_refused(
    destination: tuple[int, list[str]],
    series: list[Path],
    model: Model,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = listener_config(tmp_path, destination[0]).model_copy(update={"max_instance_mb": 1})
    bomb = pydicom.dcmread(series[0])
    bomb.add_new(0x00091010, "OB", bytes(3 << 20))
    bomb.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    bomb.save_as(tmp_path / "bomb.dcm")
    assert (tmp_path / "bomb.dcm").stat().st_size < 100_000
    with Running(config, model), pytest.raises(PacsError, match="0xa700"):
        push(config, [tmp_path / "bomb.dcm"])
    assert "inflates to more than 1 MB" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "http://x",
        "dimse://host:104",
        "dimse://A@host",
        "dicomweb://h/p?Nonsense=1",
        "dimse://A@h:x",
    ],
)
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(PacsError, match="is not a valid PACS address"):
        parse_endpoint(text)


def test_credentials_for_dicomweb_come_from_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login reader password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(PacsError) as caught:
            fetch_study(parse_endpoint(f"dicomweb://127.0.0.1:{server.server_port}/x?StudyInstanceUID=1.2"), tmp_path)
        server.shutdown()

    assert seen == ["Basic " + base64.b64encode(b"reader:secret").decode()]
    assert "secret" not in str(caught.value)
