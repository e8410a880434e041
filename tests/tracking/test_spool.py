"""Unsent events are stored and sent later in order, and a refused event neither blocks others nor is lost."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from medhybrid.tracking import spool as module
from medhybrid.tracking.spool import MAX_REFUSALS, ClosedStoreError, Event, GoneFileError, NotYetError, Spool
from tests.patience import patience_s


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", (0.01, 0.02))


class Server:
    """Server that answers or not, and records the events that it received."""

    def __init__(self) -> None:
        self.is_up = True
        self.got: list[int] = []

    def send(self, event: Event) -> None:
        if not self.is_up:
            raise ConnectionError("away")
        if event.get("poison"):
            raise ValueError("refused")
        self.got.append(event["n"])


def test_events_arrive_in_order(tmp_path: Path) -> None:
    server = Server()
    spool = Spool(server.send, tmp_path / "unsent.jsonl")
    for n in range(50):
        spool.put({"n": n})

    assert spool.close(patience_s()) == 0
    assert server.got == list(range(50))


def test_events_that_an_unreachable_server_missed_are_sent_by_the_next_run(tmp_path: Path) -> None:
    server = Server()
    server.is_up = False
    spool = Spool(server.send, tmp_path / "unsent.jsonl")
    for n in range(5):
        spool.put({"n": n})

    assert spool.close(0.1) == 5
    server.is_up = True
    later = Spool(server.send, tmp_path / "unsent.jsonl")
    later.put({"n": 5})
    later.close(5)

    assert server.got == [0, 1, 2, 3, 4, 5]
    assert not (tmp_path / "unsent.jsonl").exists()


def test_truncated_lines_do_not_block_other_events(tmp_path: Path) -> None:
    (tmp_path / "unsent.jsonl").write_text('{"n": 0}\n{"n": 1}\n{"n"')
    server = Server()

    assert Spool(server.send, tmp_path / "unsent.jsonl").close(patience_s()) == 0

    assert server.got == [0, 1]


def test_a_recovered_server_receives_all_events(tmp_path: Path) -> None:
    server = Server()
    server.is_up = False
    spool = Spool(server.send, tmp_path / "unsent.jsonl")
    spool.put({"n": 0})
    threading.Timer(0.1, lambda: setattr(server, "is_up", True)).start()

    assert spool.close(patience_s()) == 0
    assert server.got == [0]


def test_an_event_that_the_server_refuses_is_postponed_and_kept(tmp_path: Path) -> None:
    server = Server()
    spool = Spool(server.send, tmp_path / "unsent.jsonl", is_alive=lambda: True)
    for event in ({"n": 0}, {"n": 1, "poison": True}, {"n": 2}):
        spool.put(event)

    assert spool.close(patience_s()) == 1
    assert server.got == [0, 2]
    (kept,) = (json.loads(line) for line in (tmp_path / "unsent.jsonl").read_text().splitlines())
    assert kept["n"] == 1


def test_a_refused_event_is_tried_once_by_the_next_run_and_sent_if_its_cause_is_fixed(
    tmp_path: Path,
) -> None:
    tries: list[int] = []
    is_mended = False

    def send(event: Event) -> None:
        tries.append(event["n"])
        if not is_mended:
            raise ValueError("refused")

    for expected in (MAX_REFUSALS, 1, 1):
        tries.clear()
        spool = Spool(send, tmp_path / "unsent.jsonl", is_alive=lambda: True)
        if expected == MAX_REFUSALS:
            spool.put({"n": 0})
        assert spool.close(patience_s()) == 1
        assert len(tries) == expected
    is_mended = True

    assert Spool(send, tmp_path / "unsent.jsonl", is_alive=lambda: True).close(patience_s()) == 0


def test_a_closed_store_loses_no_event_and_does_not_delay_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def send(_: Event) -> None:
        raise ClosedStoreError("the experiment is deleted; restore it", is_lasting=True)

    spool = Spool(send, tmp_path / "unsent.jsonl", is_alive=lambda: True)
    for n in range(15):
        spool.put({"n": n, "call": "open" if n == 0 else "metrics"})
    start = time.monotonic()

    assert spool.close(60) == 15
    assert time.monotonic() - start < 10
    kept = [json.loads(line) for line in (tmp_path / "unsent.jsonl").read_text().splitlines()]
    assert [e["n"] for e in kept] == list(range(15))
    assert caplog.text.count("the experiment is deleted; restore it") == 1, "the reason is logged once"


def test_a_store_that_is_reopened_during_the_run_receives_all_events(tmp_path: Path) -> None:
    server, is_closed = Server(), threading.Event()
    is_closed.set()

    def send(event: Event) -> None:
        if is_closed.is_set():
            raise ClosedStoreError("deleted", is_lasting=True)
        server.send(event)

    spool = Spool(send, tmp_path / "unsent.jsonl")
    for n in range(3):
        spool.put({"n": n})
    is_closed.clear()

    assert spool.close(patience_s()) == 0
    assert server.got == [0, 1, 2]


def test_an_event_whose_file_is_gone_is_dropped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def send(event: Event) -> None:
        raise GoneFileError(event["path"])

    spool = Spool(send, tmp_path / "unsent.jsonl")
    spool.put({"n": 0, "path": "/gone.png"})

    assert spool.close(patience_s()) == 0
    assert "/gone.png" in caplog.text


@pytest.mark.parametrize("keeps_absolute", [False, True])
@pytest.mark.parametrize("is_copied", [False, True])
def test_paths_of_unsent_events_follow_a_moved_run_folder(
    tmp_path: Path, is_copied: bool, keeps_absolute: bool
) -> None:
    run = tmp_path / "old" / "runs" / "run-1"
    run.mkdir(parents=True)
    (run / "x.png").write_text("")
    server = Server()
    server.is_up = False
    spool = Spool(server.send, run / "unsent.jsonl")
    spool.put({"n": 0, "path": str(run / "x.png")})
    spool.close(0.05)
    if keeps_absolute:  # as earlier versions stored it
        (run / "unsent.jsonl").write_text(json.dumps({"n": 0, "path": str(run / "x.png")}) + "\n")
    (shutil.copytree if is_copied else shutil.move)(tmp_path / "old", tmp_path / "new")
    sent: list[Event] = []

    Spool(sent.append, tmp_path / "new" / "runs" / "run-1" / "unsent.jsonl").close(5)

    assert [e["path"] for e in sent] == [str(tmp_path / "new" / "runs" / "run-1" / "x.png")]


@pytest.mark.parametrize("by", ["relative", "absolute", "link", "folder with a link"])
def test_a_stored_event_sends_no_file_from_outside_the_run_folder(
    by: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, secret = tmp_path / "run", tmp_path / "netrc"
    (run / "plots").mkdir(parents=True)
    secret.write_text("password")
    (run / "link").symlink_to(secret)
    (run / "plots" / "x.png").symlink_to(secret)
    path = {"relative": "../netrc", "absolute": str(secret), "link": "link", "folder with a link": "plots"}[by]
    (run / "unsent.jsonl").write_text(json.dumps({"n": 0, "path": path}) + '\n{"n": 1}\n')
    sent: list[Event] = []

    assert Spool(sent.append, run / "unsent.jsonl").close(patience_s()) == 0

    assert sent == [{"n": 1}]
    assert "is not in the run folder" in caplog.text


def test_a_file_from_elsewhere_whose_event_waits_is_kept_in_the_run_folder(tmp_path: Path) -> None:
    scores = tmp_path / "out" / "scores.csv"
    scores.parent.mkdir()
    scores.write_text("dice")
    server = Server()
    server.is_up = False
    spool = Spool(server.send, tmp_path / "run" / "unsent.jsonl")
    spool.put({"n": 0, "path": str(scores)})
    assert spool.close(0.1) == 1
    sent: list[tuple[str, str, bool]] = []

    def send(event: Event) -> None:
        copy = Path(event["path"])
        sent.append((copy.name, copy.read_text(), copy.is_relative_to(tmp_path / "run")))

    Spool(send, tmp_path / "run" / "unsent.jsonl").close(patience_s())

    assert sent == [("scores.csv", "dice", True)]
    assert not list((tmp_path / "run").rglob("scores.csv")), "the copy is removed"


def test_an_event_that_cannot_be_sent_yet_is_tried_until_it_can(tmp_path: Path) -> None:
    asked: list[Event] = []

    def send(event: Event) -> None:
        asked.append(event)
        if len(asked) <= 2 * MAX_REFUSALS:
            raise NotYetError

    spool = Spool(send, tmp_path / "unsent.jsonl", is_alive=lambda: True)
    spool.put({"n": 0})

    assert spool.close(patience_s()) == 0
    assert len(asked) == 2 * MAX_REFUSALS + 1


def test_adding_an_event_never_waits_for_the_server(tmp_path: Path) -> None:
    started = threading.Event()
    release = threading.Event()

    def slow(_: Event) -> None:
        started.set()
        release.wait(patience_s())

    spool = Spool(slow, tmp_path / "unsent.jsonl")
    spool.put({"n": 0})
    assert started.wait(patience_s())
    for n in range(50):
        spool.put({"n": n})  # would take hours if it waited for the server
    release.set()
    spool.close(patience_s())


def test_unsent_events_are_lines_of_json(tmp_path: Path) -> None:
    server = Server()
    server.is_up = False
    spool = Spool(server.send, tmp_path / "unsent.jsonl")
    spool.put({"n": 3})
    spool.close(0.05)

    assert [json.loads(line) for line in (tmp_path / "unsent.jsonl").read_text().splitlines()] == [{"n": 3}]


def test_events_that_a_killed_run_was_sending_are_sent_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "unsent.jsonl").write_bytes(b'{"n": 0}\n\xff\n{"n": 1}\n')
    reached, ended = threading.Event(), threading.Event()

    def hang(_: Event) -> None:
        reached.set()
        ended.wait()

    Spool(hang, tmp_path / "unsent.jsonl")  # its process is killed now, so the spool is not closed
    assert reached.wait(patience_s())
    sent: list[Event] = []

    assert Spool(sent.append, tmp_path / "unsent.jsonl").close(patience_s()) == 0

    assert sent == [{"n": 0}, {"n": 1}]
    assert not list(tmp_path.iterdir())
    ended.set()
