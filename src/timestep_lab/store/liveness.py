"""Which processes work on a lab, and what becomes of the runs of one that died.

Every process that opens a lab has a row in `processes`. On its own machine a process is dead when its pid is gone, or belongs to a
process that began at another time; on another machine, when its lease is over. What a dead process left running is then marked: runs as
`interrupted`, their half-written items as `incomplete` (tool calls as `failed`), their open spans as errors. A run that was being resumed
after a pause waits for approval again.
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
from timestep_lab.store.trace_writer import close_open_spans

log = logging.getLogger("timestep_lab.store")


# --- Tells subscribers of changes, on a thread of its own, so that a slow subscriber never holds up a writer


class Publisher:
    """`publish` only enqueues. Each subscriber hears changes in the order they were published."""

    def __init__(self) -> None:
        self._subscribers: dict[str | None, dict[object, Callable[[Change], None]]] = {}
        """By the user whose changes they want to hear; None: everybody's."""
        self._queue: SimpleQueue[Change | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def wanted(self) -> bool:
        """Somebody listens."""
        return bool(self._subscribers)

    def publish(self, changes: Sequence[Change]) -> None:
        if self._subscribers:
            for change in changes:
                self._queue.put(change)

    def subscribe(self, callback: Callable[[Change], None], user_id: str | None = None) -> Callable[[], None]:
        """Call back after each change, with `user_id` after those of that user and those that name nobody; returns what ends it. A
        callback that raises is logged and called again next time."""
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
        """What was published before is still delivered."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            if thread is not threading.current_thread():
                thread.join(timeout=5)

    def abandon(self) -> None:
        """In a forked child: the thread is the parent's, and so are the subscribers."""
        self.__init__()  # type: ignore[misc]

    def _run(self) -> None:
        while (change := self._queue.get()) is not None:
            for callback in self._told(change):
                try:
                    callback(change)
                except Exception:
                    log.exception("A subscriber to changes of the store failed on %s", change)

    def _told(self, change: Change) -> list[Callable[[Change], None]]:
        with self._lock:
            users = list(self._subscribers) if not change.user_id else [None, change.user_id]
            return [callback for user in users for callback in self._subscribers.get(user, {}).values()]


# --- Stopping what blocks in another thread: whoever began a query may end it before its time limit does
#
#     wish = Interrupt()
#     thread: with wish.governs(): store.sql(…)
#     anywhere: wish.stop()
#
# What blocks says through `interruptible` how it is stopped. A database is told again and again until the call has ended: a query that had
# not quite begun when it was told would otherwise run on.


_current: ContextVar[Interrupt | None] = ContextVar("timestep_lab_interrupt", default=None)


class Interrupt:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ways: list[Callable[[], object]] = []
        self.wished = False

    def stop(self) -> None:
        """May be called often, and from any thread."""
        # Under the lock: no way is called any more once it was taken out, for its cursor may be somebody else's by then.
        with self._lock:
            self.wished = True
            for way in self._ways:
                way()

    @contextmanager
    def governs(self) -> Iterator[None]:
        """What this thread calls inside is stopped by `stop`."""
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
    """`way` stops what is called inside."""
    current = _current.get()
    if current is None:
        yield
        return
    with current.stops_by(way):
        yield


def was_interrupted() -> bool:
    current = _current.get()
    return current is not None and current.wished


# -- Runs that waited for approval and whose resume died: they wait again

RunKey = tuple[str, str]
"""(user_id, run_id)"""


@dataclass(frozen=True, slots=True)
class Claim:
    """`calls`: ids of the calls that waited."""

    calls: frozenset[str]
    lease_until: datetime | None


def claimed_runs(db: Database) -> Mapping[RunKey, Claim]:
    """Runs that somebody is resuming, over all users."""
    rows = db.query(
        SYSTEM_USER, "select user_id, run_id, interruptions, lease_until from core.run_states where status = 'claimed'"
    ).rows
    return {
        (user_id, run_id): Claim(frozenset(call["call_id"] for call in _json(calls)), lease_until)
        for user_id, run_id, calls, lease_until in rows
    }


def offer_again(
    db: Database, user_id: str, thread_id: str, run_id: str, process_id: str | None, calls: Collection[str]
) -> list[Statement]:
    """Statements that put a run back to where it waits for approval, if it still runs under `process_id`."""
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
        data: dict[str, Any] = dict(_json(stored))
        if kind == "tool_call" and data["call_id"] in calls and data.get("output") is None:
            data |= {"status": "needs_approval"}
        elif kind == "tool_call" and data.get("status") == "in_progress":
            data |= {"status": "failed", "error": "The process that ran this ended before the call did."}
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


def _json(stored: object) -> Any:
    return json.loads(stored) if isinstance(stored, str | bytes) else stored


# --


LEASE = timedelta(seconds=60)
BEAT_S = 20.0
ERROR_TYPE = "Interrupted"
ERROR = "The process that ran this ended before the run did."


class Liveness:
    """Keeps this process's row, and looks after the dead: at the start, every `BEAT_S` seconds, and when woken."""

    def __init__(self, db: Database) -> None:
        self._db, self._pid = db, os.getpid()
        self._wake, self._end = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """On return this process is registered, and what dead ones left is marked."""
        beat(self._db)
        sweep(self._db)
        self._thread = threading.Thread(target=self._run, name="timestep-lab liveness", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look after the dead now: another process has just been missed."""
        self._wake.set()

    def close(self, *, goodbye: bool = True) -> None:
        """Stop; with `goodbye`, take this process's row away, so that what it left running counts as interrupted."""
        self._end.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        if goodbye and self._pid == os.getpid():  # Not in a forked child: the row is its parent's.
            try:
                row = Statement("delete from core.processes where process_id = $1", [self._db.process_id])
                self._db.write(SYSTEM_USER, [row])
            except LabError as error:
                log.info("Left the lab without saying goodbye: %s", error)

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
                log.warning("The lab could not be told that this process lives: %s", error)


def beat(db: Database) -> None:
    """Write or renew this process's row."""
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
    """When the process of this pid began, in words that no other process of this machine shares; None when there is none.

    From /proc where there is one (the machine's boot, and ticks since then); elsewhere from psutil.
    A process that has ended and was not yet waited for counts as ended.
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
        # The name, in brackets, may hold anything; after it come state (field 3) and, as field 22, the start.
        fields = stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}:{fields[19]}"


# -- after the dead


def sweep(db: Database) -> int:
    """Mark what dead processes left running. Returns how many runs that were.

    Several processes may sweep at once: each change is made only if the run still runs under that process.
    """
    running = db.query(
        SYSTEM_USER,
        "select process_id, user_id, id, thread_id, trace_id, started_at from core.runs "
        "where status = 'running' and process_id is not null",
    ).rows
    spans_of = db.query(
        SYSTEM_USER, "select distinct process_id from core.open_spans where process_id is not null"
    ).rows
    known = _processes(db)
    mentioned = {row[0] for row in running} | {row[0] for row in spans_of} | set(known)
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
    """Whether the process that wrote this id goes on. Blocks."""
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


def _end_items(db: Database, user_id: str, thread_id: str, run_id: str) -> Iterable[Statement]:
    rows = db.query(
        SYSTEM_USER,
        "select id, type, data from core.thread_items where user_id = $1 and thread_id = $2 and run_id = $3",
        [user_id, thread_id, run_id],
    ).rows
    for item_id, kind, stored in rows:
        data: dict[str, Any] = json.loads(stored) if isinstance(stored, str) else dict(stored)
        if data.get("status") != "in_progress":
            continue
        data |= {"status": "failed", "error": ERROR} if kind == "tool_call" else {"status": "incomplete"}
        yield Statement(
            "update core.thread_items set data = $3 where user_id = $1 and id = $2",
            [user_id, item_id, json.dumps(data, ensure_ascii=False, separators=(",", ":"))],
        )
