"""What becomes of the runs of a process that died, and of nobody else's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.store.conftest import OwnerProcess
from timestep_lab.model.clock import to_naive_utc, utc_now
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import RunRecord, ThreadItem, ThreadRecord
from timestep_lab.store import liveness
from timestep_lab.store.base import SYSTEM_USER, Change, Database, Statement
from timestep_lab.store.liveness import LEASE, started_at, sweep
from timestep_lab.store.store import Store, open_database

ALICE, BOB = "alice", "bob"


def add_run(database: Database, process_id: str | None, user: str = ALICE, **fields: Any) -> RunRecord:
    """A run in the middle of an answer and of a tool call, in a thread of its own."""
    store = Store(database, user)
    thread = store.threads.insert(ThreadRecord(id=new_id("thread"), user_id=user))
    run = store.runs.insert(
        RunRecord(
            id=new_id("run"), user_id=user, thread_id=thread.id, trace_id=new_id("run"), agent_id=None, agent="A",
            process_id=process_id, **fields,
        )
    )  # fmt: skip
    data = [
        ("user_message", {"text": "Umbrella?"}),
        ("assistant_message", {"text": "It will", "status": "in_progress"}),
        ("assistant_message", {"text": "Hello.", "status": "completed"}),
        ("tool_call", {"name": "get_weather", "status": "in_progress"}),
    ]
    items = [
        ThreadItem(id=new_id("item"), thread_id=thread.id, user_id=user, type=kind, data=what, run_id=run.id)
        for kind, what in data
    ]
    store.threads.append_items(thread.id, items)
    return run


def add_process(database: Database, *, host: str, pid: int, pid_started: str, lease: timedelta = LEASE) -> str:
    id, now = new_id("process"), to_naive_utc(utc_now())
    sql = "insert into processes values ($1, $2, $3, $4, $5, $5, $6)"
    database.write(SYSTEM_USER, [Statement(sql, [id, host, pid, pid_started, now, now + lease])])
    return id


def status(database: Database, run: RunRecord) -> str:
    return Store(database, run.user_id).runs.get(run.id).status


def test_a_run_whose_process_is_gone_is_interrupted_and_keeps_what_it_had_said(database: Database) -> None:
    gone = add_process(database, host=socket.gethostname(), pid=2**22 + 1, pid_started="x")
    runs = [add_run(database, gone), add_run(database, gone, BOB)]
    heard: list[Change] = []
    end = database.subscribe(heard.append)
    assert sweep(database) == 2
    for run in runs:
        store = Store(database, run.user_id)
        found = store.runs.get(run.id)
        assert (found.status, found.error_type) == ("interrupted", "Interrupted")
        assert found.ended_at is not None
        assert found.ended_at >= found.started_at
        states = [item.data.get("status") for item in store.threads.all_items(run.thread_id)]
        assert states == [None, "incomplete", "completed", "failed"]
        assert store.threads.all_items(run.thread_id)[1].data["text"] == "It will"
    wanted = {
        Change(topic, run.user_id, id) for run in runs for topic, id in (("runs", run.id), ("threads", run.thread_id))
    }  # type: ignore[arg-type]
    deadline = time.monotonic() + 5
    while not wanted <= set(heard):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    end()
    assert sweep(database) == 0
    assert database.query(SYSTEM_USER, "select process_id from processes where process_id = $1", [gone]).rows == []


def test_whose_process_lives_or_who_has_none_or_who_is_done_is_left_alone(database: Database) -> None:
    mine = started_at(os.getpid())
    assert mine
    here = socket.gethostname()
    alive_here = add_process(database, host=here, pid=os.getpid(), pid_started=mine, lease=-LEASE)
    alive_elsewhere = add_process(database, host="elsewhere", pid=1, pid_started="x")
    gone = add_process(database, host=here, pid=os.getpid(), pid_started="another process had this pid before")
    silent_elsewhere = add_process(database, host="elsewhere", pid=1, pid_started="x", lease=-LEASE)
    left = [add_run(database, id) for id in (database.process_id, alive_here, alive_elsewhere, None)]
    done = add_run(database, gone, status="completed")
    dead = [add_run(database, id) for id in (gone, silent_elsewhere, "never registered")]
    assert sweep(database) == 3
    assert [status(database, run) for run in left] == ["running"] * 4
    assert status(database, done) == "completed"
    assert [status(database, run) for run in dead] == ["interrupted"] * 3


def test_spans_that_a_dead_process_left_open_end_as_errors(database: Database) -> None:
    gone = add_process(database, host=socket.gethostname(), pid=2**22 + 1, pid_started="x")
    columns = ("user_id", "trace_id", "span_id", "kind", "name", "started_at", "io_json", "process_id")
    row = (ALICE, "f" * 32, "a" * 16, "tool", "get_weather", datetime(2026, 1, 1), 0, gone)
    database.append(ALICE, {"open_spans": (columns, [row])})
    assert database.select(ALICE, "select status from spans").rows == [("pending",)]
    sweep(database)
    [(state, error)] = database.select(ALICE, "select status, error from spans").rows
    assert state == "error"
    assert "interrupted" in error


def test_a_file_that_a_dead_process_was_adding_to_a_vector_store_has_failed(database: Database) -> None:
    gone = add_process(database, host=socket.gethostname(), pid=2**22 + 1, pid_started="x")
    columns = (
        "id", "user_id", "vector_store_id", "file_id", "filename", "status", "chunking_strategy", "attributes", "n_chunks",
        "usage_bytes", "created_at", "process_id",
    )  # fmt: skip
    rows = [
        (id, ALICE, "vs", id, "a.txt", state, "{}", "{}", 0, 0, datetime(2026, 1, 1), process)
        for id, state, process in (
            ("a", "in_progress", gone), ("b", "completed", gone), ("c", "in_progress", database.process_id)
        )
    ]  # fmt: skip
    database.append(ALICE, {"vector_store_files": (columns, rows)})
    sweep(database)
    states = "select id, status, last_error is null from vector_store_files where user_id = $1 order by id"
    assert database.query(ALICE, states, [ALICE]).rows == [
        ("a", "failed", False), ("b", "completed", True), ("c", "in_progress", True)
    ]  # fmt: skip


def test_a_process_that_ended_but_was_not_waited_for_counts_as_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin
    assert child.stdout
    assert started_at(os.getpid()) == started_at(os.getpid())
    assert started_at(os.getpid()) != started_at(child.pid)
    child.stdin.write(b"\n")
    child.stdin.close()
    child.stdout.read()
    deadline = time.monotonic() + 10
    while started_at(child.pid) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.wait()
    child.stdout.close()


def test_after_kill_9_the_next_start_leaves_no_run_that_looks_alive(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from tests.store.test_liveness import add_run\n"
        "from timestep_lab.store.store import open_database\n"
        "lab = open_database(sys.argv[1])\n"
        "add_run(lab, lab.process_id)\n"
        f"os.kill(os.getpid(), {signal.SIGKILL:d})\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "lab.duckdb")], cwd=root, check=False)
    database = open_database(tmp_path / "lab.duckdb")
    assert [run.status for run in Store(database, ALICE).runs.find()] == ["interrupted"]
    database.close()


def test_after_a_failover_the_dead_owners_runs_are_interrupted(tmp_path: Path) -> None:
    owner = OwnerProcess()
    owner.tell("open", tmp_path / "lab.duckdb")
    client = open_database(tmp_path / "lab.duckdb")
    [(of_owner,)] = client.query(SYSTEM_USER, "select process_id from processes where pid = $1", [owner.pid]).rows
    theirs, ours = add_run(client, of_owner), add_run(client, client.process_id)
    owner.kill()
    deadline = time.monotonic() + 10
    while status(client, theirs) != "interrupted":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert status(client, ours) == "running"
    client.close()


def test_what_a_lab_left_running_when_it_was_closed_is_interrupted_though_its_process_lives(tmp_path: Path) -> None:
    database = open_database(tmp_path / "lab.duckdb")
    run = add_run(database, database.process_id)
    database.close()
    database = open_database(tmp_path / "lab.duckdb")
    assert status(database, run) == "interrupted"
    database.close()


def test_a_process_renews_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "BEAT_S", 0.02)
    database = open_database(tmp_path / "lab.duckdb")

    def heartbeat() -> datetime:
        sql = "select heartbeat_at from processes where process_id = $1"
        [(moment,)] = database.query(SYSTEM_USER, sql, [database.process_id]).rows
        assert isinstance(moment, datetime)
        return moment

    first, deadline = heartbeat(), time.monotonic() + 5
    while heartbeat() <= first:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    database.close()
