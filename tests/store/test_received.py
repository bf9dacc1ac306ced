"""Requests of traces that are acknowledged before their spans are in the tables: whoever reads finds them, whatever happens in between."""

from __future__ import annotations

import errno
import json
import logging
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from tests.store.test_open_errors import damaged
from timestep_lab.model.errors import BusyError, DataError, StoreCorruptError, StoreUnavailableError
from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.runtime.interchange import otlp_in, read_otlp
from timestep_lab.runtime.interchange.export import Decoded
from timestep_lab.store.base import Received, Statement
from timestep_lab.store.copy import copy_lab
from timestep_lab.store.duckdb import engine, journal, received
from timestep_lab.store.duckdb.connect import repair
from timestep_lab.store.store import Store, open_store
from timestep_lab.store.traces import delete_statements

JSON = "application/json"


def request(trace: int, first: int = 1, count: int = 3, user_id: str = LOCAL_USER, **more: str) -> Received:
    """Spans `first`, `first + 1`, … of a trace; the first of them all is the root."""
    spans = [
        {
            "traceId": f"{trace:032x}", "spanId": f"{trace:08x}{number:08x}", "name": f"step {number}",
            "parentSpanId": f"{trace:08x}{1:08x}" if number > 1 else "",
            "startTimeUnixNano": str(1_795_000_000_000_000_000 + number), "endTimeUnixNano": str(1_795_000_000_000_900_000),
            "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in more.items()],
        }
        for number in range(first, first + count)
    ]  # fmt: skip
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode()
    return Received(user_id, "read_otlp", body, JSON, None, count, read_otlp(body, JSON, None, user_id))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing becomes spans before somebody asks for it."""
    monkeypatch.setattr(received, "LINGER_S", 3600.0)


@pytest.fixture
def lab(tmp_path: Path, patient: None) -> Iterator[Store]:
    store = open_store(tmp_path / "lab.duckdb")
    yield store
    store.close()


def n_spans(store: Store) -> int:
    [count] = store.sql("select count(*) from spans").rows[0]
    return int(count)


def kept(path: Path) -> int:
    """Requests of the closed or killed lab at `path` that are not spans yet."""
    with duckdb.connect(str(path)) as connection:
        [count] = connection.execute("select count(*) from core.received").fetchall()[0]
    return int(count) + len(journal.contents(path).waiting)


def test_what_was_acknowledged_is_in_whatever_is_read_next(lab: Store) -> None:
    for number in range(1, 6):
        before = 3 * (number - 1)
        assert lab.db.receive(request(1, number, 1))
        assert n_spans(lab) == before + 1
        assert lab.db.receive(request(2, number, 1))
        sql = "select count(*) as n from core.spans_raw where user_id = $1"
        assert lab.db.query(LOCAL_USER, sql, [LOCAL_USER]).rows == [(before + 2,)]
        assert lab.db.receive(request(3, number, 1))
        assert list(lab.db.columns(LOCAL_USER, sql, [LOCAL_USER])["n"]) == [before + 3]
        state = lab.db.state_of(LOCAL_USER, "traces")
        assert lab.db.receive(request(4, number, 1))
        assert lab.db.state_of(LOCAL_USER, "traces") != state
        assert [lab.traces.get(f"{trace:032x}")["n_spans"] for trace in (1, 2, 3, 4)] == [number, number, number, 1]
        lab.db.write(LOCAL_USER, delete_statements("duckdb", LOCAL_USER, [f"{4:032x}"]))


def test_what_is_deleted_after_it_was_acknowledged_does_not_come_back(lab: Store) -> None:
    assert lab.db.receive(request(1))
    lab.db.write(LOCAL_USER, delete_statements("duckdb", LOCAL_USER, [f"{1:032x}"]))
    assert n_spans(lab) == 0


def test_many_requests_become_spans_in_one_transaction_and_of_one_trace_what_its_root_says_counts(
    lab: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[int] = []
    store_all = engine.Engine.store
    monkeypatch.setattr(engine.Engine, "store", lambda self, some: (stored.append(len(some)), store_all(self, some)))
    leaf = {"session.id": "of a leaf", "user.id": "of a leaf"}
    assert lab.db.receive(request(1, 2, 1, **leaf))
    assert lab.db.receive(request(1, 1, 1, **{"session.id": "of the root"}))
    assert lab.db.receive(request(1, 3, 1, **leaf))
    assert lab.db.receive(request(2, 1, 1, "somebody else"))
    assert lab.sql("select thread_id, end_user, workflow, n_spans from traces").rows == [
        ("of the root", "of a leaf", "step 1", 3)
    ]
    assert stored == [4]
    assert Store(lab.db, "somebody else").sql("select n_spans from traces").rows == [(1,)]


def test_enough_spans_or_a_moment_later_and_nobody_has_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "lab.duckdb")
    heard = threading.Event()
    store.subscribe(lambda change: heard.set() if change.topic == "traces" else None)
    assert store.db.receive(request(1))
    assert heard.wait(5)
    heard.clear()
    monkeypatch.setattr(received, "LINGER_S", 3600.0)
    monkeypatch.setattr(received, "ENOUGH_SPANS", 6)
    assert store.db.receive(request(2))
    assert not heard.wait(0.3)
    assert store.db.receive(request(3))
    assert heard.wait(5)
    store.close()


def test_a_lab_that_is_closed_leaves_nothing_behind(tmp_path: Path, patient: None) -> None:
    store = open_store(tmp_path / "lab.duckdb")
    assert store.db.receive(request(1))
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lab.duckdb"]
    assert kept(tmp_path / "lab.duckdb") == 0
    with open_store(tmp_path / "lab.duckdb") as again:
        assert n_spans(again) == 3


def test_a_copy_of_the_lab_has_what_was_acknowledged(lab: Store, tmp_path: Path) -> None:
    assert lab.db.receive(request(1))
    with open_store(tmp_path / "copy.duckdb") as copied:
        copy_lab(lab.db, copied.db)
        assert n_spans(copied) == 3


def test_a_lab_in_memory_keeps_no_file(patient: None) -> None:
    with open_store(":memory:") as store:
        assert store.db.receive(request(1))
        assert n_spans(store) == 3


SENDER = """
import sys, time
from tests.store.test_received import request
from timestep_lab.store.duckdb import received
from timestep_lab.store.store import open_store
received.ENOUGH_SPANS = int(sys.argv[4]) if len(sys.argv) > 4 else 8
received.LINGER_S = float(sys.argv[2])
store = open_store(sys.argv[1])
for number in range(int(sys.argv[3]), 10_000_000):
    one = request(number)
    one.confirmed = lambda: 3
    assert store.db.receive(one)
    print(number, flush=True)
"""


def test_a_request_that_is_refused_while_it_is_kept_leaves_nothing_and_those_beside_it_are_stored(lab: Store) -> None:
    """It is kept and decoded at the same time."""
    deleted = request(2)
    kept_rows: list[int] = []

    def refused() -> int:
        kept_rows.append(len(journal.contents(Path(lab.db.url)).waiting))
        assert lab.db.receive(request(3))  # Accepted earlier, though kept later.
        assert n_spans(lab) == 6
        raise DataError("It is no request.", "Send one.")

    deleted.confirmed = refused
    assert lab.db.receive(request(1))
    with pytest.raises(DataError, match="It is no request"):
        lab.db.receive(deleted)
    empty = request(4)
    empty.confirmed = lambda: 0
    assert lab.db.receive(empty)
    assert kept_rows == [2]
    assert n_spans(lab) == 6
    assert journal.contents(Path(lab.db.url)).waiting == {}


def test_rows_that_are_still_on_their_way_when_a_request_is_acknowledged_are_waited_for_or_decoded_again(
    lab: Store,
) -> None:
    on_its_way, lost = request(1), request(2)
    rows = on_its_way.decoded
    on_its_way.decoded, lost.decoded = lambda: (time.sleep(0.1), rows)[1], lambda: None
    assert lab.db.receive(on_its_way)
    assert lab.db.receive(lost)
    assert n_spans(lab) == 6


@pytest.mark.parametrize("linger", ["0.0", "3600"], ids=["while they are stored", "before they are"])
def test_a_process_that_is_killed_loses_nothing_that_it_acknowledged(tmp_path: Path, linger: str) -> None:
    path, rng, acknowledged = tmp_path / "lab.duckdb", random.Random(3), 0
    for _ in range(3):
        command = [sys.executable, "-c", SENDER, str(path), linger, str(acknowledged + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as sender:
            assert sender.stdout is not None
            assert int(sender.stdout.readline()) == acknowledged + 1
            time.sleep(rng.random() / 3)
            sender.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged + 1, *(int(line) for line in sender.stdout if line.endswith("\n"))])
        with open_store(path) as store:
            found = store.sql("select trace_id, n_spans from traces order by 1").rows
        # One more may have been kept and not acknowledged.
        assert found[:acknowledged] == [(f"{number:032x}", 3) for number in range(1, acknowledged + 1)]
        assert len(found) <= acknowledged + 1
        assert kept(path) == 0
        acknowledged = len(found)


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A lab whose process was killed with eight acknowledged requests, none of them stored as spans."""
    path = tmp_path / "lab.duckdb"
    store = open_store(path)
    store.close()
    command = [sys.executable, "-c", SENDER, str(path), "3600", "1", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as sender:
        assert sender.stdout is not None
        for number in range(1, 9):
            assert int(sender.stdout.readline()) == number
        sender.send_signal(signal.SIGKILL)
    return path


def test_after_any_damage_of_the_journal_no_acknowledged_span_is_missing_without_an_error(killed: Path) -> None:
    whole, chance = {path: path.read_bytes() for path in killed.parent.iterdir()}, random.Random(5)
    journal_file = killed.with_name("lab.duckdb.received")
    refusals = 0
    for n in range(60):
        for path in killed.parent.iterdir():
            path.unlink()
        for path, content in whole.items():
            path.write_bytes(content)
        found = damaged(whole[journal_file], chance)
        journal_file.unlink()
        if found is not None:
            journal_file.write_bytes(found)
        try:
            with open_store(killed) as store:
                assert n_spans(store) >= 24, f"damage {n}"
        except StoreCorruptError as error:
            assert "journal of received traces" in str(error)  # noqa: PT017 - a damage may also repeat what was so already
            refusals += 1
    assert refusals > 55


def test_a_damaged_journal_is_repaired_but_for_the_request_that_is_damaged(killed: Path) -> None:
    journal_file = killed.with_name("lab.duckdb.received")
    content = journal_file.read_bytes()
    at = content.index(f"{3:032x}".encode())
    journal_file.write_bytes(content[:at] + b"x" + content[at + 1 :])
    with pytest.raises(StoreCorruptError, match="timestep-lab db repair"):
        open_store(killed)
    done = repair(killed)
    assert done is not None
    assert done.requests is not None
    assert done.requests >= 7
    assert killed.with_name(f"{done.aside[0].name}.received") in done.aside
    with open_store(killed) as store:
        found = [row[0] for row in store.sql("select trace_id from traces order by 1").rows]
    assert found[:7] == [f"{number:032x}" for number in (1, 2, 4, 5, 6, 7, 8)]
    assert repair(killed) is None


def test_an_entry_that_was_interrupted_while_it_was_written_was_not_acknowledged(killed: Path) -> None:
    journal_file = killed.with_name("lab.duckdb.received")
    content = journal_file.read_bytes()
    journal_file.write_bytes(content + content[: len(content) // 16])
    with open_store(killed) as store:
        assert n_spans(store) >= 24
    assert kept(killed) == 0


def test_a_request_for_which_the_disk_has_no_room_is_refused_and_the_next_one_is_kept(
    lab: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, full = journal._flush, [OSError(errno.ENOSPC, "No space left on device")]

    def flush_or_fail(file: int) -> None:
        if full:
            raise full.pop()
        flush(file)

    assert lab.db.receive(request(1))
    monkeypatch.setattr(journal, "_flush", flush_or_fail)
    with pytest.raises(StoreUnavailableError, match="disk of the lab is full"):
        lab.db.receive(request(2))
    assert lab.db.receive(request(3))
    assert list(journal.contents(Path(lab.db.url)).waiting) == [1, 3]
    assert lab.sql("select trace_id from traces order by 1").rows == [(f"{1:032x}",), (f"{3:032x}",)]


def test_a_journal_that_is_never_idle_does_not_grow_without_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received, "MOST_JOURNAL_BYTES", 20_000)
    monkeypatch.setattr(received, "ENOUGH_SPANS", 30)
    sizes = []
    with open_store(tmp_path / "lab.duckdb") as store:
        for number in range(1, 201):
            assert store.db.receive(request(number))
            sizes.append((tmp_path / "lab.duckdb.received").stat().st_size)
        assert n_spans(store) == 600
    assert max(sizes) < 25_000


def test_what_was_kept_and_is_stored_already_changes_nothing(tmp_path: Path, patient: None) -> None:
    """As after a kill between the two."""
    store = open_store(tmp_path / "lab.duckdb")
    assert store.db.receive(request(1))
    rows = store.sql("select * from traces").rows, store.sql("select * from spans order by span_id").rows
    again = request(1)
    again.decoded = None
    assert store.db.receive(again)
    assert (store.sql("select * from traces").rows, store.sql("select * from spans order by span_id").rows) == rows
    store.close()


def test_what_cannot_be_stored_is_said_and_kept_and_holds_nobody_up_and_is_tried_again_later(
    tmp_path: Path, patient: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lab = open_store(tmp_path / "lab.duckdb")
    broken = request(2)
    store_all = otlp_in.store_received

    def store_received(db: object, requests: list[Received]) -> None:
        if broken in requests:
            raise ValueError("as no reader should")
        store_all(db, requests)  # type: ignore[arg-type]

    monkeypatch.setattr(otlp_in, "store_received", store_received)
    for one in (request(1), broken, request(3)):
        assert lab.db.receive(one)
    with caplog.at_level(logging.ERROR):
        assert n_spans(lab) == 6
    assert f"Traces sent by {LOCAL_USER} could not be stored" in caplog.text
    assert lab.db.query(LOCAL_USER, "select problem from core.received").rows == [("ValueError: as no reader should",)]
    lab.close()
    monkeypatch.setattr(otlp_in, "store_received", store_all)
    with open_store(tmp_path / "lab.duckdb") as again:
        assert n_spans(again) == 9
        assert again.db.query(LOCAL_USER, "select count(*) from core.received").rows == [(0,)]


def test_a_span_that_is_rejected_although_it_was_acknowledged_is_said_and_its_request_kept(
    lab: Store, caplog: pytest.LogCaptureFixture
) -> None:
    checked = request(1)
    assert isinstance(checked.decoded, Decoded)
    checked.decoded.reject("as no check foresaw")
    checked.is_checked = True
    assert lab.db.receive(checked)
    with caplog.at_level(logging.ERROR):
        assert n_spans(lab) == 3
    assert "A span that was acknowledged could not be read: as no check foresaw" in caplog.text
    [[problem]] = lab.db.query(LOCAL_USER, "select problem from core.received").rows
    assert "as no check foresaw" in problem


def test_while_the_store_cannot_be_written_a_reader_is_told_so_and_later_finds_everything(
    lab: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [StoreUnavailableError("The disk of the lab is full.", "Free space there, then try again.")]
    store_all = engine.Engine.store

    def store_some(self: engine.Engine, requests: list[Received]) -> None:
        if full:
            raise full[0]
        store_all(self, requests)

    monkeypatch.setattr(engine.Engine, "store", store_some)
    monkeypatch.setattr(received, "AGAIN_S", 0.05)
    assert lab.db.receive(request(1))
    with pytest.raises(StoreUnavailableError, match="disk of the lab is full"):
        lab.sql("select 1")
    full.clear()
    time.sleep(0.2)
    assert n_spans(lab) == 3


def test_on_a_disk_that_is_nearly_full_nothing_is_kept_to_be_stored_later(
    lab: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RECEIVED_ROOM", 1 << 62)
    assert not lab.db.receive(request(1))


def test_a_request_waits_while_too_much_does_and_is_refused_when_that_takes_too_long(
    lab: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received, "MOST_WAITING", 5)
    monkeypatch.setattr(received, "WAIT_S", 0.2)
    assert lab.db.receive(request(1))
    with pytest.raises(BusyError, match="cannot keep up with the writes"):
        lab.db.receive(request(2))
    assert n_spans(lab) == 3
    assert lab.db.receive(request(2))


def test_a_process_that_does_not_own_the_file_stores_at_once(lab: Store) -> None:
    script = (
        "import sys\nfrom tests.store.test_received import request\nfrom timestep_lab.store.store import open_store\n"
        "store = open_store(sys.argv[1])\none = request(7)\nassert not store.db.receive(one)\none.decoded.store(store.db)\n"
        "print(store.sql('select count(*) from spans').rows)\nstore.close()\n"
    )
    assert lab.db.receive(request(1))
    command = [sys.executable, "-c", script, lab.db.url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout == "[(6,)]\n"  # What the owner had acknowledged, too.


def test_who_has_acknowledged_and_hands_the_file_over_hands_over_everything(tmp_path: Path, patient: None) -> None:
    path = tmp_path / "lab.duckdb"
    first = open_store(path)
    assert first.db.receive(request(1))
    script = (
        "import sys\nfrom timestep_lab.store.store import open_store\nstore = open_store(sys.argv[1])\n"
        "assert store.db.take_over()\nprint(store.sql('select count(*) from spans').rows)\nstore.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "[(3,)]\n"
    assert n_spans(first) == 3
    first.close()


def test_two_that_wait_for_the_same_are_both_answered_and_writers_do_not_wait_for_each_other(lab: Store) -> None:
    assert lab.db.receive(request(1))
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(n_spans(lab))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert counts == [3, 3, 3, 3]
    statement = Statement("delete from core.waiting_events where user_id = $1", [LOCAL_USER])
    assert lab.db.receive(request(2))
    begun = lab.db.begin_write(LOCAL_USER, [statement])
    assert begun is not None
    begun.result(10)
    assert n_spans(lab) == 6
    assert journal.contents(Path(lab.db.url)).waiting == {}
