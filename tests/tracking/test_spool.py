"""What cannot be sent is kept, and sent later in order; one event that is refused does not hold up the others."""

import json
import threading
from pathlib import Path

import pytest

from medhybrid.tracking import spool as module
from medhybrid.tracking.spool import MAX_REFUSALS, Event, NotYetError, Spool
from tests.patience import patience_s


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", (0.01, 0.02))


class Server:
    """Answers or not; remembers what it got."""

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


def test_what_a_server_that_is_away_did_not_get_is_sent_by_the_next_run(tmp_path: Path) -> None:
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


def test_lines_that_a_kill_cut_off_hold_up_no_others(tmp_path: Path) -> None:
    (tmp_path / "unsent.jsonl").write_text('{"n": 0}\n{"n": 1}\n{"n"')
    server = Server()

    assert Spool(server.send, tmp_path / "unsent.jsonl").close(5) == 0

    assert server.got == [0, 1]


def test_a_server_that_comes_back_gets_everything(tmp_path: Path) -> None:
    server = Server()
    server.is_up = False
    spool = Spool(server.send, tmp_path / "unsent.jsonl")
    spool.put({"n": 0})
    threading.Timer(0.1, lambda: setattr(server, "is_up", True)).start()

    assert spool.close(patience_s()) == 0
    assert server.got == [0]


def test_an_event_that_a_living_server_refuses_is_left_out(tmp_path: Path) -> None:
    server = Server()
    spool = Spool(server.send, tmp_path / "unsent.jsonl", is_alive=lambda: True)
    for event in ({"n": 0}, {"n": 1, "poison": True}, {"n": 2}):
        spool.put(event)

    assert spool.close(patience_s()) == 0
    assert server.got == [0, 2]


def test_an_event_whose_turn_has_not_come_is_tried_until_it_has(tmp_path: Path) -> None:
    asked: list[Event] = []

    def send(event: Event) -> None:
        asked.append(event)
        if len(asked) <= 2 * MAX_REFUSALS:
            raise NotYetError

    spool = Spool(send, tmp_path / "unsent.jsonl", is_alive=lambda: True)
    spool.put({"n": 0})

    assert spool.close(patience_s()) == 0
    assert len(asked) == 2 * MAX_REFUSALS + 1


def test_handing_over_never_waits_for_the_server(tmp_path: Path) -> None:
    started = threading.Event()
    release = threading.Event()

    def slow(_: Event) -> None:
        started.set()
        release.wait(patience_s())

    spool = Spool(slow, tmp_path / "unsent.jsonl")
    spool.put({"n": 0})
    assert started.wait(patience_s())
    for n in range(1000):
        spool.put({"n": n})  # would take hours if it waited
    release.set()
    spool.close(patience_s())


def test_unsent_events_are_lines_of_json(tmp_path: Path) -> None:
    server = Server()
    server.is_up = False
    spool = Spool(server.send, tmp_path / "unsent.jsonl")
    spool.put({"n": 3})
    spool.close(0.05)

    assert [json.loads(line) for line in (tmp_path / "unsent.jsonl").read_text().splitlines()] == [{"n": 3}]
