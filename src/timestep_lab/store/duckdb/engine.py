"""The DuckDB file in the process that owns it: the `Database` operations, without election or network."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from timestep_lab.model.clock import to_naive_utc, utc_now
from timestep_lab.model.errors import BusyError, QueryError, StoreError
from timestep_lab.store.archive import folder_of, view_sql
from timestep_lab.store.base import (
    NO_TABLES,
    Change,
    Columns,
    Dialect,
    Received,
    Row,
    Rows,
    Statement,
    Tables,
    Topic,
)
from timestep_lab.store.duckdb import loopback as wire
from timestep_lab.store.duckdb.connect import FATAL, LOG, Cursor, LogCheck, connect, translate, verify
from timestep_lab.store.duckdb.journal import Journal
from timestep_lab.store.duckdb.loopback import ClosedError
from timestep_lab.store.duckdb.received import Inbox, KeptRequests
from timestep_lab.store.duckdb.sql_guard import GuardedReads
from timestep_lab.store.liveness import Publisher, interruptible, was_interrupted
from timestep_lab.store.memory import with_room
from timestep_lab.store.migrate import keep_beside, migrate

if TYPE_CHECKING:
    import pandas
    from numpy.typing import NDArray


log = logging.getLogger("timestep_lab.store")


# --- Serial writer: all writes of a lab on one thread, grouped into transactions
#
# A transaction costs about as much for a hundred jobs as for one. A failing job does not affect others: the group is rolled back and its
# jobs are committed one by one. Serial writes make compare-and-set exact without locking.


MAX_WAITING_ROWS = 200_000
MAX_GROUP_ROWS = 20_000
MAX_GROUP_JOBS = 256
REMEMBER = timedelta(hours=1)
"""How long batch ids are remembered: much longer than any failover."""


@dataclass(slots=True)
class Job:
    user_id: str
    statements: Sequence[Statement] = ()
    tables: Tables = field(default_factory=dict)
    changes: Sequence[Change] = ()
    batch_id: str | None = None
    done: Future[list[Rows]] = field(default_factory=Future)

    @property
    def rows(self) -> int:
        return len(self.statements) + sum(len(rows) for _, rows in self.tables.values())


class Writer:
    """Writes jobs. `publish` is called with the changes of each group after its commit, which runs in `committing`; `broken` is called
    when DuckDB has failed fatally."""

    def __init__(
        self,
        cursor: Cursor,
        publish: Callable[[Sequence[Change]], None],
        broken: Callable[[], None],
        committing: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._cursor, self._publish, self._broken, self._committing = cursor, publish, broken, committing
        self._waiting: deque[Job] = deque()
        self._waiting_rows = 0
        self._closed = False
        self._wake = threading.Condition()
        self._batches: dict[tuple[str, str], datetime] = {
            (user_id, batch_id): written
            for user_id, batch_id, written in cursor.execute(
                "select user_id, batch_id, written_at from core.ingest_batches order by written_at"
            ).fetchall()
        }
        self._thread = threading.Thread(target=self._run, name="timestep-lab writer", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Future[list[Rows]]:
        """Submits a job; the future is done when the job is durable. Raises `BusyError` when too much is queued."""
        with self._wake:
            if self._closed:
                raise ClosedError
            if self._waiting and self._waiting_rows + job.rows > MAX_WAITING_ROWS:
                raise BusyError("The store's write queue is full.", "Try again.", retry_after=0.2)
            self._waiting.append(job)
            self._waiting_rows += job.rows
            self._wake.notify()
        return job.done

    def close(self) -> None:
        """Closes after writing everything submitted."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while group := self._next_group():
            self._commit(group)

    def _next_group(self) -> list[Job]:
        with self._wake:
            while not self._waiting and not self._closed:
                self._wake.wait()
            group: list[Job] = []
            rows = 0
            while self._waiting and len(group) < MAX_GROUP_JOBS:
                if group and rows + self._waiting[0].rows > MAX_GROUP_ROWS:
                    break
                job = self._waiting.popleft()
                rows += job.rows
                group.append(job)
            self._waiting_rows -= rows
            return group

    def _commit(self, group: list[Job]) -> None:
        try:
            # A `MemoryError` may be of the time after the commit.
            results = with_room(lambda: self._transaction(group), duckdb.OutOfMemoryException)
        except BaseException as error:  # noqa: BLE001 - passed to the code that waits for the job
            if isinstance(error, FATAL):
                self._broken()
            elif len(group) > 1:
                for job in group:
                    self._commit([job])
                return
            for job in group:
                job.done.set_exception(translate(error))
            return
        self._publish([change for job in group for change in job.changes])
        for job, result in zip(group, results, strict=True):
            job.done.set_result(result)

    def _transaction(self, group: list[Job]) -> list[list[Rows]]:
        now = to_naive_utc(utc_now())
        fresh: dict[tuple[str, str], list[Rows]] = {}
        results = []
        self._cursor.execute("begin")
        try:
            self._append(job.tables for job in group if not job.batch_id)
            for job in group:
                key = (job.user_id, job.batch_id or "")
                if job.batch_id and (key in self._batches or key in fresh):
                    results.append(fresh[key] if key in fresh else self._earlier_answer(key, job))
                    continue
                result = self._perform(job)
                if job.batch_id:
                    fresh[key] = result
                    self._record(key, now, result)
                results.append(result)
            forgotten = self._forget(now) if fresh else []
            with self._committing():
                self._cursor.execute("commit")
        except BaseException:
            self._rollback()
            raise
        self._batches.update(dict.fromkeys(fresh, now))
        for key in forgotten:
            self._batches.pop(key, None)
        return results

    def _rollback(self) -> None:
        with contextlib.suppress(duckdb.TransactionException):  # A failed commit has ended its transaction.
            self._cursor.execute("rollback")

    def _append(self, inserts: Iterable[Tables]) -> None:
        """Inserts the rows of several jobs, with one appender per table. Jobs of a group are concurrent, so that the rows of one may come
        before the statements of an earlier one."""
        together: dict[tuple[str, tuple[str, ...]], list[Sequence[object]]] = {}
        for tables in inserts:
            for table, (columns, rows) in tables.items():
                together.setdefault((table, tuple(columns)), []).extend(rows)
        for (table, names), all_rows in together.items():
            with self._cursor.appender(table, columns=list(names)) as appender:
                appender.append_rows(all_rows)

    def _perform(self, job: Job) -> list[Rows]:
        if job.batch_id:
            self._append([job.tables])
        results = []
        for statement in job.statements:
            result = run(self._cursor, statement.sql, statement.params)
            statement.check(result)
            results.append(result)
        return results

    # -- batches

    def _record(self, key: tuple[str, str], now: datetime, result: list[Rows]) -> None:
        answer = wire.dumps([wire.pack_rows(rows) for rows in result]).decode() if any(r.rows for r in result) else None
        self._cursor.execute("insert into core.ingest_batches values ($1, $2, $3, $4)", [*key, now, answer])

    def _earlier_answer(self, key: tuple[str, str], job: Job) -> list[Rows]:
        row = self._cursor.execute(
            "select answer from core.ingest_batches where user_id = $1 and batch_id = $2", list(key)
        ).fetchone()
        if row is None or row[0] is None:
            return [Rows((), []) for _ in job.statements]
        return [wire.unpack_rows(rows) for rows in wire.loads(row[0].encode())]

    def _forget(self, now: datetime) -> list[tuple[str, str]]:
        """Removes old batch ids, which expire in order; the table is swept only when there is something to remove."""
        oldest = next(iter(self._batches.values()), now)
        if now - oldest < REMEMBER * 1.5:
            return []
        self._cursor.execute("delete from core.ingest_batches where written_at < $1", [now - REMEMBER])
        return [key for key, written in self._batches.items() if written < now - REMEMBER]


def run(cursor: Cursor, sql: str, params: Sequence[object]) -> Rows:
    """Executes and fetches all rows. A write without `returning` has no columns and no rows (DuckDB returns a count)."""
    cursor.execute(sql, list(params))
    columns = tuple(column[0] for column in cursor.description or ())
    if not columns:
        return Rows((), [])
    rows = cursor.fetchall()
    return Rows((), [], changed=sum(row[0] for row in rows)) if columns == ("Count",) else Rows(columns, rows)


# -- DuckDB's numpy columns as `store.base.Columns`: without masks, unknown numbers NaN, other unknown values None


def plain_columns(found: Mapping[str, NDArray[Any] | pandas.Categorical]) -> Columns:
    import numpy as np

    plain: dict[str, Any] = {}
    for name, values in found.items():
        mask = np.ma.getmask(values)
        column = np.ma.getdata(values)
        if mask is not np.ma.nomask and mask.any():
            is_number = column.dtype.kind in "iuf"
            column = column.astype("f8" if is_number else object)
            column[mask] = np.nan if is_number else None
        plain[name] = column
    return plain


# --

CURSORS_KEPT = 8
CLOSE_S = 5.0
RECEIVED_BYTES, RECEIVED_ROOM = 8 << 20, 256 << 20
"""The largest request that is stored unchanged, and the free disk space that this requires for the spans of all stored requests."""
STORE_RECEIVED = "timestep_lab.runtime.interchange.otlp_in", "store_received"
"""The function that decodes requests and stores their spans. The store knows no formats, so it is imported by name when first needed."""
NO_MEMORY = duckdb.OutOfMemoryException, MemoryError
CACHED = "select coalesce(sum(memory_usage_bytes), 0)::bigint from duckdb_memory() where tag = 'BASE_TABLE'"
OURS, THEIRS = "main,core", "main"
"""Search paths: statements of this package see base tables and views, user-written SQL sees views."""


class Engine:
    """Opens (creates, migrates) the file. `publisher` receives every change after its commit. The engine is itself a `Database`, for
    storing received traces."""

    local = True
    dialect: Dialect = "duckdb"
    process_id = ""

    def __init__(self, path: Path | None, publisher: Publisher) -> None:
        if path is not None:
            verify(path)
        self.url, self._path, self._publisher = str(path or ":memory:"), path, publisher
        self._connection = connect(path)
        self._log_check: LogCheck | None = None
        self._journal: Journal | None = None
        self._idle: dict[str, deque[tuple[Cursor, str]]] = {OURS: deque(), THEIRS: deque()}
        self._cursors: set[Cursor] = set()
        self._busy: set[Cursor] = set()
        self._writes: Counter[tuple[str, Topic]] = Counter()
        self._lock = threading.Lock()
        self._calm = threading.Condition(self._lock)
        self._usable, self._closed = True, False
        try:
            _refuse_foreign(self._connection, path)
            keep_beside(path, LOG)
            if migrate(_Session(self._connection)):
                self._connection.execute("checkpoint")  # A log without DDL is the safest to replay.
            if path is not None:
                self._find_archive(path)
            if path is not None and os.name == "posix":  # On other systems an open file cannot be read beside DuckDB.
                self._log_check = LogCheck(path)
            self._commit_lock = threading.Lock()
            self._writer = Writer(
                self._new_cursor(OURS), partial(self._committed, publisher), self._break, self._committing
            )
            self._meter, self._meter_lock = self._new_cursor(OURS), threading.Lock()
            self._guard = GuardedReads(self._cached)
            if path is not None:
                check = self._log_check
                self._journal = Journal(path, check.record_journal if check is not None else _unchecked)
            self._inbox = Inbox(
                KeptRequests(self, self._connection, self._journal, lambda requests: self.store(requests))
            )
            self._inbox.start()
        except BaseException:
            for cursor in self._cursors:
                cursor.close()
            self._let_go()
            raise

    # -- Database

    def query(self, user_id: str, sql: str, params: Sequence[object] = ()) -> Rows:
        self._inbox.settle()
        with self._cursor(OURS, user_id) as cursor, _stoppable(cursor):
            rows = with_room(lambda: cursor.execute(sql, list(params)).fetchall(), *NO_MEMORY)
            return Rows(tuple(column[0] for column in cursor.description or ()), rows)

    def columns(self, user_id: str, sql: str, params: Sequence[object] = ()) -> Columns:
        self._inbox.settle()
        with self._cursor(OURS, user_id) as cursor, _stoppable(cursor):
            return with_room(lambda: plain_columns(cursor.execute(sql, list(params)).fetchnumpy()), *NO_MEMORY)

    def write(
        self,
        user_id: str,
        statements: Sequence[Statement],
        *,
        changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> list[Rows]:
        self._inbox.settle()
        return self.submit(Job(user_id, statements=statements, changes=changes, batch_id=batch_id)).result()

    def begin_write(
        self,
        user_id: str,
        statements: Sequence[Statement],
        *,
        tables: Tables = NO_TABLES,
        changes: Sequence[Change] = (),
    ) -> Future[list[Rows]]:
        return self.submit(Job(user_id, statements=statements, tables=tables, changes=changes))

    def append(
        self, user_id: str, tables: Tables, *, first: Sequence[Statement] = (), then: Sequence[Statement] = (),
        changes: Sequence[Change] = (), batch_id: str | None = None,
    ) -> None:  # fmt: skip
        self.submit(
            Job(user_id, statements=[*first, *then], tables=tables, changes=changes, batch_id=batch_id)
        ).result()

    def submit(self, job: Job) -> Future[list[Rows]]:
        """Submits a job; the future is done when it is durable, without waiting for received spans. Raises `ClosedError`; jobs
        submitted earlier are still executed."""
        if not self._usable:
            raise ClosedError
        return self._writer.submit(job)

    def select(
        self,
        user_id: str,
        sql: str,
        params: Sequence[object] = (),
        *,
        limit: int | None = None,
        timeout_s: float | None = 30.0,
    ) -> Rows:
        self._inbox.settle()
        with self._cursor(THEIRS, user_id) as cursor:
            return self._guard.select(cursor, sql, params, limit=limit, timeout_s=timeout_s)

    def _cached(self) -> int:
        """Returns the size in bytes of the table blocks that DuckDB keeps in memory."""
        with self._meter_lock:
            try:
                return int(self._meter.execute(CACHED).fetchall()[0][0])
            except duckdb.Error:  # Closed, or out of memory.
                return 0

    def state_of(self, user_id: str, topic: Topic) -> object | None:
        return (id(self), self._writes[user_id, topic]) if self._inbox.is_settled else None

    def subscribe(self, callback: Callable[[Change], None], user_id: str | None = None) -> Callable[[], None]:
        return self._publisher.subscribe(callback, user_id)

    def receive(self, request: Received) -> bool:
        if not self._usable:
            raise ClosedError
        if len(request.body) > RECEIVED_BYTES or not self._has_room():
            return False
        self._inbox.add(request)
        return True

    def _has_room(self) -> bool:
        return self._path is None or shutil.disk_usage(self._path.parent).free > RECEIVED_ROOM

    def store(self, requests: Sequence[Received]) -> None:
        """Stores the spans of received requests; durable on return."""
        module, name = STORE_RECEIVED
        getattr(importlib.import_module(module), name)(self, requests)

    @contextmanager
    def _committing(self) -> Iterator[None]:
        """Serializes commits, so that each is verified at its own end."""
        with self._commit_lock:
            keep_beside(self._path, LOG)
            yield
            if self._log_check is not None:
                self._log_check.record()

    def _committed(self, publisher: Publisher, changes: Sequence[Change]) -> None:
        for change in changes:
            self._writes[change.user_id, change.topic] += 1
        publisher.publish(changes)

    def listen(self) -> None:
        """Does nothing: the publisher receives every change anyway."""

    def close(self) -> None:
        """Writes everything received and submitted, interrupts reads, checkpoints the log and releases the file."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._inbox.close()
        with self._lock:
            self._usable = False
        self._writer.close()
        with self._lock:
            for cursor in self._busy:
                cursor.interrupt()
            self._calm.wait_for(lambda: not self._busy, timeout=CLOSE_S)
            with self._meter_lock:
                for cursor in self._cursors:
                    cursor.close()  # The file is held while any cursor is open.
            self._cursors.clear()
            self._let_go()

    def _find_archive(self, path: Path) -> None:
        """Updates the view of archived files to the lab's current location, since it may have been moved together with them."""
        names = [name for (name,) in self._connection.execute("select name from core.archive_files").fetchall()]
        if not names:
            return
        there = [name for name in names if (folder_of(path) / name).is_file()]
        if missing := len(names) - len(there):
            log.warning(
                "%d of %d archived days of %s are missing from %s: their spans cannot be read. Restore the files and reopen the lab.",
                missing, len(names), path, folder_of(path),
            )  # fmt: skip
        wanted = view_sql(folder_of(path), there)
        view = self._connection.execute("select sql from duckdb_views() where view_name = 'archived_spans'").fetchone()
        if missing or view is None or str(folder_of(path)) not in view[0] or view[0].count(".parquet") != len(there):
            self._connection.execute(wanted)

    def _let_go(self) -> None:
        if self._journal is not None:
            self._journal.close()
        self._connection.close()
        if self._log_check is not None:
            self._log_check.close()

    def abandon(self) -> None:
        """Leaves the parent's connection alone: closing it here would write to its file."""
        self._closed, self._usable = True, False

    # -- cursors

    @contextmanager
    def _cursor(self, search_path: str, user_id: str) -> Iterator[Cursor]:
        """Yields a cursor for one operation on behalf of `user_id`. A cursor that raised an error is not reused."""
        cursor, acts_for = self._take(search_path)
        try:
            if acts_for != user_id:
                cursor.execute("set variable tl_user = $1", [user_id])
            yield cursor
        except BaseException as error:
            self._give_back(cursor)
            if isinstance(error, FATAL):
                self._break()
            if not self._usable and isinstance(error, duckdb.Error | QueryError):
                raise ClosedError from error
            ours = translate(error)
            if ours is error:
                raise
            raise ours from error
        else:
            self._give_back(cursor, keep=(search_path, user_id))

    def _take(self, search_path: str) -> tuple[Cursor, str]:
        with self._lock:
            if not self._usable:
                raise ClosedError
            idle = self._idle[search_path]
            cursor, acts_for = idle.pop() if idle else (self._new_cursor(search_path), "")
            self._busy.add(cursor)
            return cursor, acts_for

    def _give_back(self, cursor: Cursor, keep: tuple[str, str] | None = None) -> None:
        with self._lock:
            self._busy.discard(cursor)
            if keep and self._usable and len(self._idle[keep[0]]) < CURSORS_KEPT:
                self._idle[keep[0]].append((cursor, keep[1]))
            else:
                cursor.close()
                self._cursors.discard(cursor)
            self._calm.notify_all()

    def _new_cursor(self, search_path: str) -> Cursor:
        cursor = self._connection.cursor()
        self._cursors.add(cursor)
        cursor.execute(f"set search_path = '{search_path}'")
        if search_path == THEIRS:
            cursor.execute("set errors_as_json = true")
        return cursor

    def _break(self) -> None:
        """Marks the engine unusable after a fatal DuckDB error; a new one must be created."""
        self._usable = False
        self._inbox.broken()
        if self._journal is not None:
            self._journal.abandon()


def _unchecked(size: int, chain: int, durably: bool) -> None:
    """Stores nothing: on Windows an open file cannot be read beside DuckDB."""


@contextmanager
def _stoppable(cursor: Cursor) -> Iterator[None]:
    """Makes a query interruptible (`store.liveness`)."""
    try:
        with interruptible(cursor.interrupt):
            yield
    except duckdb.InterruptException as error:
        if was_interrupted():
            raise QueryError("The query was interrupted.", "Run it again.") from error
        raise


def _refuse_foreign(connection: duckdb.DuckDBPyConnection, path: Path | None) -> None:
    """Rejects a file with tables of another program, without changing it. Raises `StoreError`."""
    names = {name for (name,) in connection.execute("select table_name from duckdb_tables()").fetchall()}
    if not names or "schema_migrations" in names:
        return
    if "lab_spans" in names:
        raise StoreError(
            f"{path} is an export of traces, not a lab.",
            f"Import it into a lab: lab.import_traces({str(path)!r})",
            command=f"Import it into a lab: timestep-lab traces import {path}",
        )
    raise StoreError(
        f"{path} is a DuckDB file of another program: it has the tables {', '.join(sorted(names)[:3])}.",
        "Use another file.",
    )


class _Session:
    """Adapter for `migrate`."""

    dialect: Dialect = "duckdb"

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def run(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        return self._connection.execute(sql, list(params) or None).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._connection.execute("begin")
        try:
            yield
        except BaseException:
            self._connection.execute("rollback")
            raise
        self._connection.execute("commit")
