"""Several processes on one lab: one owns the file, the others are its clients, and when it goes another takes its place."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pytest

from tests.store.conftest import OwnerProcess
from timestep_lab.model.errors import StoreError, StoreTooNewError, StoreUnavailableError
from timestep_lab.store.base import Change, Database, Rows, Statement
from timestep_lab.store.duckdb import engine as writer
from timestep_lab.store.duckdb import loopback, owner_election
from timestep_lab.store.duckdb import loopback as frames
from timestep_lab.store.duckdb import loopback as wire
from timestep_lab.store.duckdb.database import DuckDatabase
from timestep_lab.store.duckdb.loopback import OwnerFile
from timestep_lab.store.store import open_database

ROOT = Path(__file__).parents[2]
ALICE = "alice"


def insert(id: str) -> Statement:
    sql = "insert into users (id, kind, created_at) values ($1, 'test', $2)"
    return Statement(sql, [id, datetime(2026, 1, 1)])


def ids(database: Database) -> list[str]:
    return [id for (id,) in database.query(ALICE, "select id from users order by id").rows]


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def opened(path: Path) -> DuckDatabase:
    database = open_database(path)
    assert isinstance(database, DuckDatabase)
    return database


@pytest.fixture
def other() -> Iterator[OwnerProcess]:
    """A process of this test's own, which may be killed."""
    process = OwnerProcess()
    yield process
    process.end()


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    return tmp_path / "lab.duckdb"


# -- sharing


def test_labs_of_one_process_share_one_owner_and_the_last_to_close_lets_go(lab: Path) -> None:
    before = set(threading.enumerate())
    first, second = opened(lab), opened(lab.parent / "." / lab.name)
    heard: list[str] = []
    end = second.subscribe(lambda change: heard.append(change.id))
    first.write(ALICE, [insert("1")], changes=[Change("files", ALICE, "1")])
    until(lambda: heard)
    end()
    assert first.is_owner
    assert second.is_owner
    assert first.process_id == second.process_id
    first.close()
    assert ids(second) == ["1"]
    second.close()
    assert sorted(path.name for path in lab.parent.iterdir()) == ["lab.duckdb"]
    # Other tests' labs may still be open. A thread that was told to end takes a moment to be gone.
    until(lambda: not [t for t in set(threading.enumerate()) - before if t.name.startswith("timestep-lab")])


def test_a_client_hears_what_the_owner_and_other_clients_change(lab: Path, other: OwnerProcess) -> None:
    owner = opened(lab)
    script = (
        "import sys\n"
        "from timestep_lab.store.store import open_database\n"
        "lab = open_database(sys.argv[1])\n"
        "assert not lab.is_owner\n"
        "lab.subscribe(lambda change: print(change.topic, change.user_id, change.id, flush=True))\n"
        "print('listening', flush=True)\n"
        "sys.stdin.read()\n"
        "lab.close()\n"
    )
    command = [sys.executable, "-c", script, str(lab)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout
        assert client.stdout.readline() == "listening\n"
        began = time.monotonic()
        owner.write(ALICE, [insert("1")], changes=[Change("files", ALICE, "1")])
        assert client.stdout.readline() == "files alice 1\n"
        assert time.monotonic() - began < 0.25
        client.communicate(timeout=20)
    assert client.returncode == 0
    owner.close()


def test_only_the_user_of_the_lab_can_read_where_its_owner_listens(lab: Path) -> None:
    database = opened(lab)
    file = OwnerFile(lab).path
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert set(json.loads(file.read_text())) == {"pid", "port", "token", "schema"}
    database.close()


@pytest.mark.parametrize(
    "greeting",
    [
        wire.dumps({"token": "guess", "use": "calls"}),
        wire.dumps({"use": "calls"}),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\x00",
        b"[1]",
    ],
)
def test_whoever_does_not_know_the_token_is_sent_away_and_disturbs_nobody(lab: Path, greeting: bytes) -> None:
    database = opened(lab)
    owner = OwnerFile(lab).read()
    assert owner
    with socket.create_connection(("127.0.0.1", owner.port), timeout=5) as stranger:
        frames.send(stranger, greeting)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    with socket.create_connection(("127.0.0.1", owner.port), timeout=5) as stranger:
        stranger.sendall(b"\xff" * 16)  # A length beyond all limits.
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    assert ids(database) == []
    database.close()


@pytest.mark.parametrize(
    "end", ["", "sys.exit(3)", "1 / 0", "threading.Thread(target=lab.query, args=('u', 'select 1')).start()"]
)
def test_a_process_that_forgets_to_close_its_lab_leaves_it_whole_and_says_nothing(lab: Path, end: str) -> None:
    script = (
        "import sys, threading\n"
        "from timestep_lab.store.store import open_database, open_store\n"
        "lab, memory = open_database(sys.argv[1]), open_store(':memory:')\n"
        "lab.subscribe(print)\n"
        "lab.select('u', 'select * from traces')\n"
        "memory.traces\n"
        f"{end}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(lab)], capture_output=True, text=True, timeout=60, check=False
    )
    noise = done.stderr.splitlines()
    assert noise == [] or (noise[0].startswith("Traceback") and noise[-1].startswith("ZeroDivisionError")), done.stderr
    assert sorted(path.name for path in lab.parent.iterdir()) == ["lab.duckdb"]


def test_a_forked_child_becomes_a_client_of_its_parent(lab: Path) -> None:
    script = (
        "import os, sys\n"
        "from timestep_lab.store.store import open_database\n"
        "from timestep_lab.store.base import Statement\n"
        "lab = open_database(sys.argv[1])\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    lab.write('u', [Statement(\"insert into users values ('child', 'k', null, now()::timestamp)\")])\n"
        "    os._exit(0 if not lab.is_owner else 3)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
        "assert lab.is_owner and lab.query('u', 'select id from users').rows == [('child',)]\n"
        "lab.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(lab)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# -- succession


def test_when_the_owner_is_killed_a_client_takes_over_and_nothing_acknowledged_is_lost(
    lab: Path, other: OwnerProcess
) -> None:
    other.tell("open", lab)
    client = opened(lab)
    assert not client.is_owner
    assert client.owner_pid() == other.pid
    heard: list[Change] = []
    end = client.subscribe(heard.append)
    for n in range(20):
        client.write(ALICE, [insert(f"{n:02}")], changes=[Change("files", ALICE, str(n))])
    other.kill()
    until(lambda: any(change.id == "" for change in heard))  # Live views are told, though nobody asked anything.
    assert client.is_owner
    assert len(ids(client)) == 20
    client.write(ALICE, [insert("after")], changes=[Change("files", ALICE, "after")])
    until(lambda: Change("files", ALICE, "after") in heard)
    end()
    client.close()


def test_when_the_owner_closes_a_client_goes_on_without_an_error(lab: Path, other: OwnerProcess) -> None:
    other.tell("open", lab)
    client = opened(lab)
    failures: list[BaseException] = []

    def keep_writing() -> None:
        try:
            for n in range(150):
                client.write(ALICE, [insert(f"{n:03}")])
        except BaseException as error:  # noqa: BLE001 - looked at below
            failures.append(error)

    writing = threading.Thread(target=keep_writing)
    writing.start()
    until(lambda: len(ids(client)) > 20)
    other.tell("close", lab)
    writing.join(timeout=30)
    assert failures == []
    assert client.is_owner
    assert len(ids(client)) == 150
    client.close()


def test_a_request_that_the_owner_cannot_read_is_answered_with_an_error_instead_of_repeated_without_end(
    lab: Path, other: OwnerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.tell("open", lab)
    with contextlib.closing(opened(lab)) as client:
        monkeypatch.setattr(loopback, "pack_row", lambda row: [{"$": "datetime", "v": "NaT"}])
        with pytest.raises(StoreError, match="The owner of the lab failed: ValueError"):
            client.query(ALICE, "select $1", [1])
        monkeypatch.undo()
        assert client.query(ALICE, "select $1", [2]).rows == [(2,)]
        assert not client.is_owner


def test_a_server_may_ask_the_owner_to_hand_the_file_over(lab: Path, other: OwnerProcess) -> None:
    other.tell("open", lab)
    server = opened(lab)
    server.write(ALICE, [insert("1")])
    assert server.take_over()
    assert server.is_owner
    assert ids(server) == ["1"]
    other.tell("write", lab)  # The former owner goes on, as a client.
    assert ids(server) == ["1", str(other.pid)]
    assert server.is_owner
    server.close()
    other.tell("close", lab)


def test_serve_takes_the_file_over_from_a_notebook_and_leaves_it_to_it(lab: Path, other: OwnerProcess) -> None:
    other.tell("open", lab)
    command = [sys.executable, "-m", "timestep_lab", "serve", "--port", "0", "--store", str(lab)]
    with subprocess.Popen(command, cwd=lab.parent, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        assert "http://" in server.stdout.readline()
        assert (owner := OwnerFile(lab).read())
        assert owner.pid == server.pid
        other.tell("write", lab)
        server.terminate()
        assert server.wait(30) == 0
    client = opened(lab)
    assert ids(client) == [str(other.pid)]
    client.close()
    other.tell("close", lab)


def test_an_owner_file_left_behind_does_not_keep_a_lab_shut(lab: Path) -> None:
    opened(lab).close()
    OwnerFile(lab).path.write_text(json.dumps({"pid": 1, "port": 1, "token": "x", "schema": 1}))
    database = opened(lab)
    assert database.is_owner
    database.close()


@pytest.mark.parametrize(("offset", "kind"), [(1, StoreTooNewError), (-1, StoreUnavailableError)])
def test_a_client_of_another_version_than_the_owner_is_refused(
    lab: Path, other: OwnerProcess, offset: int, kind: type[StoreError]
) -> None:
    other.tell("open", lab)
    owner = OwnerFile(lab).read()
    assert owner
    OwnerFile(lab).write(replace(owner, schema=owner.schema + offset))
    with pytest.raises(kind, match=rf"in use by .* version of timestep-lab \(pid {other.pid}\)"):
        opened(lab)


def test_reading_the_file_in_the_owners_process_does_not_let_a_second_owner_in(lab: Path, other: OwnerProcess) -> None:
    database = opened(lab)
    database.write(ALICE, [insert("1")])
    lab.read_bytes()  # A copy made in a notebook: it ends the POSIX lock that DuckDB holds.
    other.tell("open", lab)
    other.tell("write", lab)
    assert database.owner_pid() == os.getpid()
    assert ids(database) == ["1", str(other.pid)]
    other.tell("close", lab)
    database.close()


def test_an_owner_that_was_stopped_is_named_and_serves_again_when_it_goes_on(
    lab: Path, other: OwnerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.tell("open", lab)
    client = opened(lab)
    monkeypatch.setattr(loopback, "ANSWER_S", 0.2)
    os.kill(other.pid, signal.SIGSTOP)
    until(lambda: psutil.Process(other.pid).status() == psutil.STATUS_STOPPED)  # A signal takes a moment to arrive.
    with pytest.raises(StoreUnavailableError, match=rf"pid {other.pid}\) does not respond"):
        ids(client)
    os.kill(other.pid, signal.SIGCONT)
    monkeypatch.setattr(loopback, "ANSWER_S", 20)
    assert ids(client) == []
    client.close()


def test_a_file_held_by_a_program_that_does_not_share_it_is_named_with_the_next_step(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(lab).close()
    monkeypatch.setattr(owner_election, "LONGEST_WAIT_S", 0.3)
    script = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read(); c.close()"
    )
    command = [sys.executable, "-c", script, str(lab)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as foreign:
        assert foreign.stdout
        assert foreign.stdout.readline() == "held\n"
        with pytest.raises(
            StoreUnavailableError, match=rf"locked by another program.*PID {foreign.pid}.*Close that program"
        ):
            opened(lab)
        foreign.communicate(timeout=20)


def test_a_connection_of_the_same_process_that_is_not_the_labs_is_named(lab: Path) -> None:
    with (
        duckdb.connect(str(lab)),
        pytest.raises(StoreUnavailableError, match=r"already open in this process.*lab\.sql"),
    ):
        opened(lab)


def test_an_owner_that_is_killed_again_and_again_loses_and_doubles_nothing(tmp_path: Path, lab: Path) -> None:
    workers: dict[int, subprocess.Popen[bytes]] = {}
    started = 0

    def start() -> None:
        nonlocal started
        started += 1
        command = [sys.executable, "-m", "tests.store.storm_worker", str(lab), f"w{started}", str(tmp_path)]
        process = subprocess.Popen(command, cwd=ROOT)
        workers[process.pid] = process

    def acknowledged() -> dict[str, set[int]]:
        # A line that is cut short was not yet noted.
        notes = {path.suffix[1:]: path.read_text().split("\n")[:-1] for path in tmp_path.glob("acknowledged.*")}
        return {name: {int(line) for line in lines} for name, lines in notes.items()}

    for _ in range(3):
        start()
    kills = 0
    while kills < 5:
        before = sum(map(len, acknowledged().values()))
        until(lambda before=before: sum(map(len, acknowledged().values())) > before + 30, 30)  # type: ignore[misc]
        owner = OwnerFile(lab).read()
        if owner and owner.pid in workers:
            os.kill(owner.pid, signal.SIGKILL)
            assert workers.pop(owner.pid).wait(10) == -signal.SIGKILL
            kills += 1
            start()
    (tmp_path / "stop").touch()
    assert [process.wait(30) for process in workers.values()] == [0] * 3
    database = opened(lab)
    for name, noted in acknowledged().items():
        rows = database.query(name, "select seq from session_items where user_id = $1", [name]).rows
        stored = [seq for (seq,) in rows]
        assert len(stored) == len(set(stored)), f"{name} wrote a row twice"
        assert noted <= set(stored), f"{name} lost a row"
        assert len(set(stored) - noted) <= 1, f"{name} wrote what it did not ask for"
    assert database.query(ALICE, "select count(*) from processes").rows == [(1,)]
    database.close()


def test_when_duckdb_gives_up_one_call_fails_and_the_file_is_opened_anew(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = opened(lab)
    database.write(ALICE, [insert("1")])
    perform = writer.run

    def give_up(*arguments: Any) -> Rows:
        monkeypatch.setattr(writer, "run", perform)
        raise duckdb.FatalException("database has been invalidated")

    monkeypatch.setattr(writer, "run", give_up)
    with pytest.raises(StoreUnavailableError, match="reopened"):
        database.write(ALICE, [insert("2")])
    database.write(ALICE, [insert("3")])
    assert ids(database) == ["1", "3"]
    assert database.is_owner
    database.close()
