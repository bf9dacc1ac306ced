"""The DuckDB file itself, in the process that owns it: the `Database` operations, without any election or network."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from timestep_lab.store.base import Change, Dialect, Rows, Statement
from timestep_lab.store.changes import Publisher
from timestep_lab.store.duckdb import fence
from timestep_lab.store.duckdb.connect import FATAL, Cursor, connect, translate
from timestep_lab.store.duckdb.writer import ClosedError, Job, Tables, Writer
from timestep_lab.store.migrate import migrate
from timestep_lab.types.errors import QueryError

CURSORS_KEPT = 8
OURS, THEIRS = "main,core", "main"
"""Search paths: statements of this package see base tables and views, SQL typed by a user sees views."""


class Engine:
    """Opens (creates, migrates) the file. `publisher` hears of every change after its commit."""

    def __init__(self, path: Path | None, publisher: Publisher) -> None:
        self._connection = connect(path)
        self._idle: dict[str, deque[tuple[Cursor, str]]] = {OURS: deque(), THEIRS: deque()}
        self._busy: set[Cursor] = set()
        self._lock = threading.Lock()
        self.closed = False
        try:
            if migrate(_Session(self._connection)):
                self._connection.execute("checkpoint")  # A log that holds no DDL is the safest to replay.
            self._writer = Writer(self._new_cursor(OURS), publisher.publish, self._break)
            self._fence = fence.Fence(self._new_cursor(THEIRS))
        except BaseException:
            self._connection.close()
            raise

    # -- Database

    def query(self, user_id: str, sql: str, params: Sequence[Any] = ()) -> Rows:
        with self._cursor(OURS, user_id) as cursor:
            cursor.execute(sql, list(params))
            return Rows(tuple(column[0] for column in cursor.description or ()), cursor.fetchall())

    def write(
        self,
        user_id: str,
        statements: Sequence[Statement],
        *,
        changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> list[Rows]:
        return self._writer.submit(Job(user_id, statements=statements, changes=changes, batch_id=batch_id))

    def append(
        self, user_id: str, tables: Tables, *, then: Sequence[Statement] = (), changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> None:  # fmt: skip
        self._writer.submit(Job(user_id, statements=then, tables=tables, changes=changes, batch_id=batch_id))

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

    def close(self) -> None:
        """Writes what was submitted, interrupts what is read, folds the log into the file and lets go of it."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            busy = list(self._busy)
        self._writer.close()
        for cursor in busy:
            cursor.interrupt()
        self._connection.close()

    # -- cursors

    @contextmanager
    def _cursor(self, search_path: str, user_id: str) -> Iterator[Cursor]:
        """A cursor for one operation, acting for `user_id`. One that met an error is not used again."""
        idle = self._idle[search_path]
        try:
            cursor, acts_for = idle.pop()
        except IndexError:
            cursor, acts_for = self._new_cursor(search_path), ""
        with self._lock:
            if self.closed:
                raise ClosedError
            self._busy.add(cursor)
        try:
            if acts_for != user_id:
                cursor.execute("set variable tl_user = $1", [user_id])
            yield cursor
        except BaseException as error:
            if isinstance(error, FATAL):
                self._break()
            self._done(cursor)
            if self.closed and isinstance(error, duckdb.Error | QueryError):
                raise ClosedError from error
            raise translate(error) from error
        else:
            self._done(cursor, keep=(search_path, user_id))

    def _done(self, cursor: Cursor, keep: tuple[str, str] | None = None) -> None:
        with self._lock:
            self._busy.discard(cursor)
            if keep and not self.closed and len(self._idle[keep[0]]) < CURSORS_KEPT:
                self._idle[keep[0]].append((cursor, keep[1]))
                return
        cursor.close()

    def _new_cursor(self, search_path: str) -> Cursor:
        try:
            cursor = self._connection.cursor()
            cursor.execute(f"set search_path = '{search_path}'")
        except duckdb.ConnectionException as error:
            raise ClosedError from error
        return cursor

    def _break(self) -> None:
        """DuckDB gave up on the file; a new engine has to be made."""
        self.closed = True


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
