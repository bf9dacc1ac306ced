"""What can happen to a server happens to it; each time there is one clear error or none, and no restart of ours is needed."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.postgres.server import Server
from timestep_lab.model.errors import BusyError, DataError, LabError, StoreError, StoreUnavailableError
from timestep_lab.model.records import ScoreRecord, ThreadItem, ThreadRecord
from timestep_lab.store.base import SYSTEM_USER, Change, Statement
from timestep_lab.store.liveness import beat
from timestep_lab.store.postgres import embedded, sessions
from timestep_lab.store.postgres.database import PostgresDatabase
from timestep_lab.store.postgres.embedded import EmbeddedPostgres
from timestep_lab.store.store import Store, ThreadTail, open_store

ALICE = "alice"
QUICK = "\nfsync = off\nshared_buffers = 16MB\n"


def thread(id: str, title: str | None = None) -> ThreadRecord:
    return ThreadRecord(id=id, user_id=ALICE, title=title)


def kick_out(server: Server, url: str) -> int:
    """End every connection to the lab, as a restart or a network would."""
    database = url.rsplit("/", 1)[1]
    return len(server.run("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", database))


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


# -- lost connections


def test_a_connection_lost_between_calls_is_not_noticed(db: PostgresDatabase, server: Server, lab_url: str) -> None:
    store = Store(db, ALICE)
    for n in range(3):
        store.threads.insert(thread(f"t{n}"))
        store.sql("select count(*) from traces")
        assert kick_out(server, lab_url) >= 2
    assert len(store.threads.find()) == 3
    assert store.sql("select count(*) from traces").rows == [(0,)]


def test_connections_lost_under_many_writers_lose_and_repeat_nothing(
    db: PostgresDatabase, server: Server, lab_url: str
) -> None:
    """Counting up is the hardest: written twice or not at all, the sum is wrong."""
    store = Store(db, ALICE)
    store.threads.insert(thread("t"))
    count_up = Statement("update threads set next_item = next_item + 1 where user_id = $1 and id = 't' returning next_item", [ALICE], expect=1)  # fmt: skip
    done, failed = [], []
    kicked = 0
    give_up_at = time.monotonic() + 60

    def write() -> None:
        while kicked <= 3 and time.monotonic() < give_up_at:
            try:
                db.write(ALICE, [count_up])
                done.append(1)
            except LabError as error:
                failed.append(error)

    writers = [threading.Thread(target=write) for _ in range(6)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        kicked += kick_out(server, lab_url)
        time.sleep(0.15)
    for writer in writers:
        writer.join()
    assert kicked > 3
    assert failed == []
    assert db.query(ALICE, "select next_item from threads").rows == [(len(done),)]


@pytest.fixture
def own_server(walkable: Path) -> Iterator[EmbeddedPostgres]:
    """One that a test may stop."""
    server = EmbeddedPostgres(walkable / "pg", configuration=QUICK).start()
    yield server
    server.ensure_running()
    server.close()


async def test_runs_that_write_to_one_thread_at_once_never_wait_for_each_other_in_a_circle(
    db: PostgresDatabase, server: Server, lab_url: str
) -> None:
    store = Store(db, ALICE)
    store.threads.insert(thread("t"))

    async def write(run: str) -> None:
        tail = ThreadTail(store.threads, "t", run)
        for n in range(20):
            text = f"{run}{n}"
            message = ThreadItem(id=text, thread_id="t", user_id=ALICE, type="user_message", data={"text": text})
            await tail.append([message], [{"role": "user", "content": text}])

    await asyncio.gather(*map(write, "abcd"))
    assert len(store.threads.all_items("t")) == 80
    db.close()  # The server counts what a connection met when it ends.
    database = lab_url.rsplit("/", 1)[1]
    until(lambda: not server.run("select 1 from pg_stat_activity where datname = %s", database))
    assert server.run("select deadlocks from pg_stat_database where datname = %s", database) == [(0,)]


def test_a_server_that_is_away_is_waited_for_then_named_and_found_again(
    own_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = PostgresDatabase(own_server.url)
    store = Store(db, ALICE)
    store.threads.insert(thread("before"))

    own_server.stop()
    back = threading.Timer(1.0, own_server.ensure_running)
    back.start()
    store.threads.insert(thread("during"))  # waited
    back.join()

    own_server.stop()
    monkeypatch.setattr(sessions, "LONGEST_WAIT_S", 0.1)
    for attempt in (store.threads.find, lambda: store.threads.insert(thread("lost")), lambda: store.sql("select 1")):
        with pytest.raises(StoreUnavailableError, match=re.escape(db.url)) as away:
            attempt()  # type: ignore[operator]
        assert away.value.next_step == "Try again in a moment."
    own_server.ensure_running()
    assert {found.id for found in store.threads.find()} == {"before", "during"}
    db.close()


def test_subscribers_are_told_that_they_may_have_missed_something(own_server: EmbeddedPostgres) -> None:
    mine, other = PostgresDatabase(own_server.url), PostgresDatabase(own_server.url)
    heard: list[Change] = []
    end = mine.subscribe(heard.append)
    Store(other, ALICE).threads.insert(thread("1"))
    until(lambda: heard == [Change("threads", ALICE, "1")])
    own_server.stop()
    own_server.ensure_running()
    until(lambda: Change("threads", "", "") in heard)
    Store(other, ALICE).threads.insert(thread("2"))
    until(lambda: heard[-1] == Change("threads", ALICE, "2"))
    end()
    mine.close()
    other.close()


# -- a full disk


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system with room for little more than an empty lab, which every account can walk to."""
    folder = Path(tempfile.mkdtemp(prefix="small-disk-"))
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    subprocess.run(
        [*as_root, "mount", "-t", "tmpfs", "-o", f"size=200m,mode=755,uid={os.getuid()}", "tmpfs", str(folder)],
        check=True,
    )
    folder.chmod(0o755)
    yield folder
    subprocess.run([*as_root, "umount", "-l", str(folder)], check=True)
    folder.rmdir()


def fill_up(folder: Path) -> Path:
    """A file that leaves no room."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 65536)
    return ballast


def test_a_full_disk_is_named_and_once_there_is_room_again_all_goes_on(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether only the data finds no room, or also the log of changes, without which the server stops."""
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 1.0)
    monkeypatch.setattr(sessions, "LONGEST_WAIT_S", 1.0)
    with contextlib.closing(open_store(f"embedded-postgres:{small_disk / 'lab'}", ALICE)) as store:
        store.threads.insert(thread("before"))
        ballast = fill_up(small_disk)
        kept, errors = ["before"], []
        for n in range(200):
            try:
                store.threads.insert(thread(f"big{n}", title=os.urandom(200_000).hex()))
                kept.append(f"big{n}")
            except StoreError as error:
                errors.append(error)
                break
        assert [type(error) for error in errors] == [StoreUnavailableError]
        assert re.search("disk|No space", errors[0].message)
        assert "Free" in errors[0].next_step
        ballast.unlink()
        store.threads.insert(thread("after"))
        assert {found.id for found in store.threads.find()} >= {*kept, "after"}


def test_a_full_disk_of_a_lab_file_is_told_and_costs_nothing_that_was_stored(small_disk: Path) -> None:
    with contextlib.closing(open_store(str(small_disk / "lab.duckdb"), ALICE)) as store:
        store.threads.insert(thread("before"))
        ballast = fill_up(small_disk)
        many = [thread(f"big{n}", title=os.urandom(200_000).hex()) for n in range(50)]
        with pytest.raises(StoreUnavailableError, match=r"The disk of the lab is full.*Free space"):
            collections.deque(map(store.threads.insert, many), maxlen=0)
        stored = {record.id for record in store.threads.find()}
        assert "before" in stored
        ballast.unlink()
        store.threads.insert(thread("after"))
        assert {record.id for record in store.threads.find()} == {*stored, "after"}


# -- statements


def test_a_statement_that_takes_too_long_is_stopped_and_the_next_one_runs(db: PostgresDatabase) -> None:
    slow = "select set_config('statement_timeout', '50', true)"
    with pytest.raises(StoreUnavailableError, match="exceeded its time limit") as stopped:
        db.write(ALICE, [Statement(slow), Statement("select count(*) from generate_series(1, 1000000000)")])
    assert stopped.value.next_step
    Store(db, ALICE).threads.insert(thread("t"))


def test_a_user_id_written_for_somebody_else_is_refused(db: PostgresDatabase) -> None:
    columns = ("id", "user_id", "target", "target_id", "name", "source", "created_at")
    row = ("1", "bob", "trace", "t", "n", "human", datetime(2026, 1, 1))
    with pytest.raises(LabError, match="row-level security") as refused:
        db.append(ALICE, {"score_rows": (columns, [row])})
    assert refused.value.http_status == 403
    with pytest.raises(LabError, match="row-level security"):
        db.append(ALICE, {"score_rows": (columns, [(str(n), *row[1:]) for n in range(500)])})
    assert Store(db, "bob").scores.count() == 0


def test_text_that_postgres_cannot_hold_is_refused_in_words(db: PostgresDatabase) -> None:
    store = Store(db, ALICE)
    for text in ("a\0b", "half a \ud83d surrogate"):
        with pytest.raises(DataError, match="cannot store this value"):
            store.scores.insert(ScoreRecord(id="s", user_id=ALICE, target="trace", target_id="t", name="n", note=text))
    assert store.scores.count() == 0


def test_when_all_connections_are_in_use_it_says_so(db: PostgresDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "LONGEST_WAIT_S", 0.1)
    held = [db._app._borrow() for _ in range(db._app._size)]
    with pytest.raises(BusyError, match="in use") as busy:
        db.query(ALICE, "select 1")
    assert busy.value.retry_after
    for connection in held:
        db._app._pool.putconn(connection)
    assert db.query(ALICE, "select 1").rows == [(1,)]


def test_a_closed_lab_says_that_it_is_closed(db: PostgresDatabase) -> None:
    db.close()
    with pytest.raises(StoreError, match="is closed"):
        db.query(ALICE, "select 1")


def test_a_password_changed_while_the_lab_is_open_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "LONGEST_WAIT_S", 0.1)
    with server.lab_url(empty=True) as url:
        db = PostgresDatabase(url)
        role = f"{url.rsplit('/', 1)[1]}_app"
        Store(db, ALICE).threads.insert(thread("t"))
        server.run(f"alter role {role} password 'changed'")
        kick_out(server, url)
        with pytest.raises(StoreError, match="rejected the user name or password"):
            Store(db, ALICE).threads.find()
        again = PostgresDatabase(url)  # the owner sets it right
        assert [found.id for found in Store(db, ALICE).threads.find()] == ["t"]
        again.close()
        db.close()


def test_a_long_clean_up_does_not_make_a_living_process_look_dead(db: PostgresDatabase, lab_url: str) -> None:
    """Heartbeats and reads of the housekeeping go on while another process keeps house."""
    other = PostgresDatabase(lab_url)
    began, done = threading.Event(), threading.Event()

    def clean_up() -> None:
        began.set()
        db.write(SYSTEM_USER, [Statement("select 1"), Statement("select pg_sleep(1.5)")])
        done.set()

    cleaning = threading.Thread(target=clean_up)
    cleaning.start()
    began.wait()
    time.sleep(0.3)
    beat(other)
    assert other.query(SYSTEM_USER, "select count(*) from processes").rows == [(2,)]
    assert not done.is_set()
    cleaning.join()
    other.close()
