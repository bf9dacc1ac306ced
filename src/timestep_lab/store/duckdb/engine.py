"""The DuckDB file itself, in the process that owns it: the `Database` operations, without any election or network."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from timestep_lab.model.errors import QueryError, StoreError
from timestep_lab.store.base import Change, Columns, Dialect, Rows, Statement
from timestep_lab.store.changes import Publisher
from timestep_lab.store.duckdb.backend import ClosedError, Tables
from timestep_lab.store.duckdb.connect import FATAL, Cursor, connect, translate
from timestep_lab.store.duckdb.log_check import LOG, LogCheck, verify
from timestep_lab.store.duckdb.sql_guard import Fence
from timestep_lab.store.duckdb.writer import Job, Writer
from timestep_lab.store.liveness import interruptible, was_interrupted
from timestep_lab.store.migrate import keep_beside, migrate

if TYPE_CHECKING:
    import numpy


# -- DuckDB's numpy columns in the form of `store.base.Columns`: no masks, unknown numbers NaN, other unknown values None


def plain_columns(found: Mapping[str, numpy.ndarray[Any, Any]]) -> Columns:
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
OURS, THEIRS = "main,core", "main"
"""Search paths: statements of this package see base tables and views, SQL typed by a user sees views."""


class Engine:
    """Opens (creates, migrates) the file. `publisher` hears of every change after its commit."""

    local = True

    def __init__(self, path: Path | None, publisher: Publisher) -> None:
        if path is not None:
            verify(path)
        self._connection = connect(path)
        self._log_check: LogCheck | None = None
        self._idle: dict[str, deque[tuple[Cursor, str]]] = {OURS: deque(), THEIRS: deque()}
        self._cursors: set[Cursor] = set()
        self._busy: set[Cursor] = set()
        self._lock = threading.Lock()
        self._calm = threading.Condition(self._lock)
        self._usable, self._closed = True, False
        try:
            _refuse_foreign(self._connection, path)
            keep_beside(path, LOG)
            if migrate(_Session(self._connection)):
                self._connection.execute("checkpoint")  # A log that holds no DDL is the safest to replay.
            if path is not None and os.name == "posix":  # Elsewhere a file that is open cannot be read beside DuckDB.
                self._log_check = LogCheck(path)
            self._writer = Writer(
                self._new_cursor(OURS),
                publisher.publish,
                self._break,
                before_commit=lambda: keep_beside(path, LOG),
                after_commit=self._log_check.record if self._log_check else lambda: None,
            )
            self._fence = Fence()
        except BaseException:
            for cursor in self._cursors:
                cursor.close()
            self._let_go()
            raise

    # -- Database

    def query(self, user_id: str, sql: str, params: Sequence[Any] = ()) -> Rows:
        with self._cursor(OURS, user_id) as cursor, _stoppable(cursor):
            cursor.execute(sql, list(params))
            return Rows(tuple(column[0] for column in cursor.description or ()), cursor.fetchall())

    def columns(self, user_id: str, sql: str, params: Sequence[Any] = ()) -> Columns:
        with self._cursor(OURS, user_id) as cursor, _stoppable(cursor):
            return plain_columns(cursor.execute(sql, list(params)).fetchnumpy())

    def write(
        self,
        user_id: str,
        statements: Sequence[Statement],
        *,
        changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> list[Rows]:
        return self._submit(Job(user_id, statements=statements, changes=changes, batch_id=batch_id))

    def append(
        self, user_id: str, tables: Tables, *, then: Sequence[Statement] = (), changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> None:  # fmt: skip
        self._submit(Job(user_id, statements=then, tables=tables, changes=changes, batch_id=batch_id))

    def _submit(self, job: Job) -> list[Rows]:
        if not self._usable:
            raise ClosedError
        return self._writer.submit(job)

    def select(
        self,
        user_id: str,
        sql: str,
        params: Sequence[Any] = (),
        *,
        limit: int | None = None,
        timeout_s: float | None = 30.0,
    ) -> Rows:
        with self._cursor(THEIRS, user_id) as cursor:
            return self._fence.select(cursor, sql, params, limit=limit, timeout_s=timeout_s)

    def listen(self) -> None:
        """The publisher hears of every change as it is."""

    def close(self) -> None:
        """Writes what was submitted, interrupts what is read, folds the log into the file and lets go of it."""
        with self._lock:
            if self._closed:
                return
            self._closed, self._usable = True, False
        self._writer.close()
        with self._lock:
            for cursor in self._busy:
                cursor.interrupt()
            self._calm.wait_for(lambda: not self._busy, timeout=CLOSE_S)
            for cursor in self._cursors:
                cursor.close()  # The file is held as long as one of them is open.
            self._cursors.clear()
            self._let_go()

    def _let_go(self) -> None:
        self._connection.close()
        if self._log_check is not None:
            self._log_check.close()

    def abandon(self) -> None:
        """The connection is the parent's: closing it here would write to its file."""
        self._closed, self._usable = True, False

    # -- cursors

    @contextmanager
    def _cursor(self, search_path: str, user_id: str) -> Iterator[Cursor]:
        """A cursor for one operation, acting for `user_id`. One that met an error is not used again."""
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
        """DuckDB gave up on the file; a new engine has to be made."""
        self._usable = False


@contextmanager
def _stoppable(cursor: Cursor) -> Iterator[None]:
    """Whoever asked may stop the query (`store.liveness`)."""
    try:
        with interruptible(cursor.interrupt):
            yield
    except duckdb.InterruptException as error:
        if was_interrupted():
            raise QueryError("The query was stopped before its end.", "Ask it again.") from error
        raise


def _refuse_foreign(connection: duckdb.DuckDBPyConnection, path: Path | None) -> None:
    """A file with tables of somebody else's is left as it is. Raises `StoreError`."""
    names = {name for (name,) in connection.execute("select table_name from duckdb_tables()").fetchall()}
    if not names or "schema_migrations" in names:
        return
    if "lab_spans" in names:
        raise StoreError(
            f"{path} is an export of traces, not a lab.",
            f"Bring it into a lab: lab.import_traces({str(path)!r})",
            command=f"Bring it into a lab: timestep-lab traces import {path}",
        )
    raise StoreError(
        f"{path} is a DuckDB file of something else: it holds {', '.join(sorted(names)[:3])}.", "Name another file."
    )


class _Session:
    """What `migrate` needs."""

    dialect: Dialect = "duckdb"

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def run(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
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
