"""Liveness of the processes that work on a lab, and cleanup after those that died.

Every process that opens a lab has a row in `processes`. A process on the same machine is dead when its pid does not exist or belongs to a
process with another start time; on another machine, when its lease has expired. Runs of a dead process are marked
`interrupted`, their partial items `incomplete` (tool calls `failed`), their open spans end as errors, and files that it was adding to a
vector store `failed`. A run that was being resumed after a pause waits for approval again.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from timestep_lab.model.clock import to_naive_utc, utc_now
from timestep_lab.model.errors import LabError
from timestep_lab.store.base import SYSTEM_USER, Change, Database, Statement
from timestep_lab.store.table import stored_json
from timestep_lab.store.trace_writer import close_open_spans

log = logging.getLogger("timestep_lab.store")


# --- Change notifications, delivered on a thread of their own, so that a slow subscriber never blocks a writer


class Publisher:
    """Delivers changes to subscribers. `publish` only enqueues; each subscriber receives changes in order."""

    def __init__(self) -> None:
        self._subscribers: dict[str | None, dict[object, Callable[[Change], None]]] = {}
        """Subscribers by the user whose changes they receive; None for all users."""
        self._queue: SimpleQueue[Change | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def wanted(self) -> bool:
        """True when there are subscribers."""
        return bool(self._subscribers)

    def publish(self, changes: Sequence[Change]) -> None:
        if self._subscribers:
            for change in changes:
                self._queue.put(change)

    def subscribe(self, callback: Callable[[Change], None], user_id: str | None = None) -> Callable[[], None]:
        """Registers a callback for every change or, with `user_id`, for changes of that user or without a user; returns a function that
        unsubscribes. A callback that raises is logged and called again next time."""
        key = object()
        with self._lock:
            self._subscribers.setdefault(user_id, {})[key] = callback
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="timestep-lab changes", daemon=True)
                self._thread.start()

        def unsubscribe() -> None:
            with self._lock:
                mine = self._subscribers.get(user_id, {})
                mine.pop(key, None)
                if not mine:
                    self._subscribers.pop(user_id, None)

        return unsubscribe

    def close(self) -> None:
        """Stops after delivering pending changes."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            if thread is not threading.current_thread():
                thread.join(timeout=5)

    def abandon(self) -> None:
        """Resets the publisher in a forked child: thread and subscribers belong to the parent."""
        self.__init__()  # type: ignore[misc]

    def _run(self) -> None:
        while (change := self._queue.get()) is not None:
            for callback in self._callbacks_for(change):
                try:
                    callback(change)
                except Exception:
                    log.exception("A subscriber to changes of the store failed on %s", change)

    def _callbacks_for(self, change: Change) -> list[Callable[[Change], None]]:
        with self._lock:
            users = list(self._subscribers) if not change.user_id else [None, change.user_id]
            return [callback for user in users for callback in self._subscribers.get(user, {}).values()]


# --- Interruption of blocking calls in another thread, such as a query before its time limit
#
#     interrupt = Interrupt()
#     thread: with interrupt.governs(): store.sql(…)
#     anywhere: interrupt.stop()
#
# A blocking call declares with `interruptible` how to stop it. A database is interrupted repeatedly until the call ends, because a query
# that had not quite started would otherwise continue.


_current: ContextVar[Interrupt | None] = ContextVar("timestep_lab_interrupt", default=None)


class Interrupt:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ways: list[Callable[[], object]] = []
        self.wished = False

    def stop(self) -> None:
        """Interrupts the governed calls. Can be called repeatedly, from any thread."""
        # Under the lock: a callback is never called after its removal, when its cursor may be in use by another call.
        with self._lock:
            self.wished = True
            for way in self._ways:
                way()

    @contextmanager
    def governs(self) -> Iterator[None]:
        """Makes `stop` interrupt calls made by this thread inside the context."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    @contextmanager
    def stops_by(self, way: Callable[[], object]) -> Iterator[None]:
        with self._lock:
            self._ways.append(way)
        try:
            yield
        finally:
            with self._lock:
                self._ways.remove(way)


@contextmanager
def interruptible(way: Callable[[], object]) -> Iterator[None]:
    """Declares that `way` interrupts the calls inside the context."""
    current = _current.get()
    if current is None:
        yield
        return
    with current.stops_by(way):
        yield


def was_interrupted() -> bool:
    current = _current.get()
    return current is not None and current.wished


# -- Paused runs whose resume died: they wait again

RunKey = tuple[str, str]
"""(user_id, run_id)"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim on a paused run. `calls`: ids of the pending calls."""

    calls: frozenset[str]
    lease_until: datetime | None


def claimed_runs(db: Database) -> Mapping[RunKey, Claim]:
    """Returns the runs that are being resumed, of all users."""
    rows = db.query(
        SYSTEM_USER, "select user_id, run_id, interruptions, lease_until from core.run_states where status = 'claimed'"
    ).rows
    return {
        (user_id, run_id): Claim(frozenset(call["call_id"] for call in stored_json(calls)), lease_until)
        for user_id, run_id, calls, lease_until in rows
    }


def offer_again(
    db: Database, user_id: str, thread_id: str, run_id: str, process_id: str | None, calls: Collection[str]
) -> list[Statement]:
    """Returns statements that pause a run again if it is still running under `process_id`."""
    now = to_naive_utc(utc_now())
    statements = [
        Statement(
            "update core.run_states set status = 'pending', rev = rev + 1, claimed_by = null, lease_until = null, decisions = '{}', "
            "updated_at = $3 where user_id = $1 and run_id = $2 and status = 'claimed' and exists (select 1 from core.runs "
            "where user_id = $1 and id = $2 and status = 'running' and process_id = $4)",
            [user_id, run_id, now, process_id],
        ),
        Statement(
            "update core.runs set status = 'needs_approval' "
            "where user_id = $1 and id = $2 and process_id = $3 and status = 'running'",
            [user_id, run_id, process_id],
        ),
    ]
    rows = db.query(
        SYSTEM_USER,
        "select id, type, data from core.thread_items where user_id = $1 and thread_id = $2 and run_id = $3",
        [user_id, thread_id, run_id],
    ).rows
    for item_id, kind, stored in rows:
        data: dict[str, object] = dict(stored_json(stored))
        if kind == "tool_call" and data["call_id"] in calls and data.get("output") is None:
            data |= {"status": "needs_approval"}
        elif kind == "tool_call" and data.get("status") == "in_progress":
            data |= {"status": "failed", "error": "The process ended before this call finished."}
        elif kind == "approval" and data["call_id"] in calls:
            data |= {"decision": None, "message": ""}
        elif data.get("status") == "in_progress":
            data |= {"status": "incomplete"}
        else:
            continue
        statements.append(
            Statement(
                "update core.thread_items set data = $3 where user_id = $1 and id = $2",
                [user_id, item_id, json.dumps(data, ensure_ascii=False, separators=(",", ":"))],
            )
        )
    return statements


# --


LEASE = timedelta(seconds=60)
BEAT_S = 20.0
ERROR_TYPE = "Interrupted"
ERROR = "The process ended before the run finished."


class Liveness:
    """Maintains this process's row, and cleans up after dead processes: at the start, every `BEAT_S` seconds, and when woken."""

    def __init__(self, db: Database) -> None:
        self._db, self._pid = db, os.getpid()
        self._wake, self._end = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Registers this process and cleans up after dead ones, before returning."""
        beat(self._db)
        sweep(self._db)
        self._thread = threading.Thread(target=self._run, name="timestep-lab liveness", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Triggers cleanup now, because another process seems to be gone."""
        self._wake.set()

    def close(self, *, goodbye: bool = True) -> None:
        """Stops; with `goodbye`, removes this process's row, so that its active runs count as interrupted."""
        self._end.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        if goodbye and self._pid == os.getpid():  # Not in a forked child: the row belongs to its parent.
            try:
                row = Statement("delete from core.processes where process_id = $1", [self._db.process_id])
                self._db.write(SYSTEM_USER, [row])
            except LabError as error:
                log.info("This process could not be unregistered from the lab: %s", error)

    def _run(self) -> None:
        while not self._end.is_set():
            self._wake.wait(BEAT_S)
            self._wake.clear()
            if self._end.is_set():
                return
            try:
                beat(self._db)
                sweep(self._db)
            except LabError as error:
                log.warning("The lease of this process could not be renewed: %s", error)


def beat(db: Database) -> None:
    """Inserts or renews this process's row."""
    now = to_naive_utc(utc_now())
    upsert = Statement(
        "insert into core.processes (process_id, host, pid, pid_started, started_at, heartbeat_at, lease_until) "
        "values ($1, $2, $3, $4, $5, $5, $6) on conflict (process_id) do update set "
        "heartbeat_at = excluded.heartbeat_at, lease_until = excluded.lease_until",
        [db.process_id, socket.gethostname(), os.getpid(), started_at(os.getpid()) or "", now, now + LEASE],
    )
    db.write(SYSTEM_USER, [upsert])


# -- who is alive


@dataclass(frozen=True, slots=True)
class Process:
    process_id: str
    host: str
    pid: int
    pid_started: str
    heartbeat_at: datetime
    lease_until: datetime

    def is_alive(self) -> bool:
        if self.host == socket.gethostname():
            return started_at(self.pid) == self.pid_started
        return self.lease_until > to_naive_utc(utc_now())


def started_at(pid: int) -> str | None:
    """Returns a unique description of when a process started on this machine; None when it does not exist.

    Uses /proc if available (boot id and ticks since boot), otherwise psutil.
    A zombie process counts as ended.
    """
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():
        psutil: Any = importlib.import_module("psutil")
        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
        except psutil.NoSuchProcess:
            return None
    try:
        # The name in brackets may contain anything; after it come the state (field 3) and, as field 22, the start.
        fields = stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}:{fields[19]}"


# -- after the dead


def sweep(db: Database) -> int:
    """Marks what dead processes left running. Returns the number of runs.

    Safe to run in several processes at once: each change is made only if the run still belongs to the dead process.
    """
    running = db.query(
        SYSTEM_USER,
        "select process_id, user_id, id, thread_id, trace_id, started_at from core.runs "
        "where status = 'running' and process_id is not null",
    ).rows
    spans_of = db.query(
        SYSTEM_USER, "select distinct process_id from core.open_spans where process_id is not null"
    ).rows
    adding = db.query(
        SYSTEM_USER,
        "select process_id, user_id, vector_store_id from core.vector_store_files "
        "where status = 'in_progress' and process_id is not null",
    ).rows
    known = _processes(db)
    mentioned = {row[0] for row in (*running, *spans_of, *adding)} | set(known)
    dead = {id for id in mentioned if id != db.process_id and not (id in known and known[id].is_alive())}
    now = to_naive_utc(utc_now())
    claimed = claimed_runs(db)
    lapsed = {key for key, claim in claimed.items() if claim.lease_until is None or claim.lease_until < now}
    ended = [row for row in running if row[0] in dead or (row[1], row[2]) in lapsed]
    if not dead and not ended:
        return 0
    statements: list[Statement] = []
    changes: list[Change] = []
    for process_id, user_id, run_id, thread_id, trace_id, began in ended:
        last_seen = known[process_id].heartbeat_at if process_id in known else now
        if (user_id, run_id) in claimed:  # It was being resumed after a pause: it waits for approval again.
            calls = claimed[user_id, run_id].calls
            statements.extend(offer_again(db, user_id, thread_id, run_id, process_id, calls))
            changes.append(Change("approvals", user_id, run_id))
        else:
            statements.append(_end_run(process_id, user_id, run_id, max(began, last_seen)))
            statements.extend(_end_items(db, user_id, thread_id, run_id))
        changes += [
            Change("runs", user_id, run_id),
            Change("threads", user_id, thread_id),
            Change("traces", user_id, trace_id),
        ]
    for process_id, user_id, store_id in adding:
        if process_id in dead:
            statements.append(_end_adding(process_id, user_id, store_id))
            changes.append(Change("files", user_id, store_id))
    statements.extend(close_open_spans(sorted(dead), now))
    statements.extend(Statement("delete from core.processes where process_id = $1", [id]) for id in sorted(dead))
    db.write(SYSTEM_USER, statements, changes=changes)
    return len(ended)


def _processes(db: Database) -> Mapping[str, Process]:
    rows = db.query(
        SYSTEM_USER, "select process_id, host, pid, pid_started, heartbeat_at, lease_until from core.processes"
    ).rows
    return {row[0]: Process(*row) for row in rows}


def process_is_alive(db: Database, process_id: str | None) -> bool:
    """Returns whether a process is alive. Blocks."""
    if process_id == db.process_id:
        return True
    process = _processes(db).get(process_id or "")
    return process is not None and process.is_alive()


def _end_run(process_id: str, user_id: str, run_id: str, moment: datetime) -> Statement:
    return Statement(
        "update core.runs set status = 'interrupted', ended_at = $4, error_type = $5, error = $6 "
        "where user_id = $1 and id = $2 and process_id = $3 and status = 'running'",
        [user_id, run_id, process_id, moment, ERROR_TYPE, ERROR],
    )


def _end_adding(process_id: str, user_id: str, store_id: str) -> Statement:
    return Statement(
        "update core.vector_store_files set status = 'failed', last_error = $4 "
        "where user_id = $1 and vector_store_id = $2 and process_id = $3 and status = 'in_progress'",
        [user_id, store_id, process_id, json.dumps({"code": "interrupted", "message": "Adding the file was interrupted."})],
    )  # fmt: skip


def _end_items(db: Database, user_id: str, thread_id: str, run_id: str) -> Iterable[Statement]:
    rows = db.query(
        SYSTEM_USER,
        "select id, type, data from core.thread_items where user_id = $1 and thread_id = $2 and run_id = $3",
        [user_id, thread_id, run_id],
    ).rows
    for item_id, kind, stored in rows:
        data = dict(stored_json(stored))
        if data.get("status") != "in_progress":
            continue
        data |= {"status": "failed", "error": ERROR} if kind == "tool_call" else {"status": "incomplete"}
        yield Statement(
            "update core.thread_items set data = $3 where user_id = $1 and id = $2",
            [user_id, item_id, json.dumps(data, ensure_ascii=False, separators=(",", ":"))],
        )
