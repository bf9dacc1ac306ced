"""`PostgresDatabase`: a lab in PostgreSQL, for many users and many processes at once. `store.base.Database` says what each method does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import psycopg

from timestep_lab.store.base import SYSTEM_USER, Change, Dialect, Rows, Statement
from timestep_lab.store.changes import Publisher
from timestep_lab.store.duckdb import wire
from timestep_lab.store.postgres import bulk, fence
from timestep_lab.store.postgres.failures import explain_typed
from timestep_lab.store.postgres.listener import Listener, payloads
from timestep_lab.store.postgres.sessions import Attempt, Conn, Sessions
from timestep_lab.store.postgres.setup import login_parameters, place, set_up
from timestep_lab.types.clock import to_naive_utc, utc_now
from timestep_lab.types.errors import ConflictError
from timestep_lab.types.ids import new_id

REMEMBER = timedelta(hours=1)
"""How long a batch id is known: far longer than any failover."""

Tables = Mapping[str, tuple[Sequence[str], Sequence[tuple[Any, ...]]]]
Work = Callable[[Conn], list[Rows]]


class PostgresDatabase:
    """`url` is a `postgresql://` URL of the lab's owner, or a function that returns it (an embedded server's port may change);
    `revive` may start the server again when it does not answer.

    Raises a `StoreError` that says why the lab cannot be opened and what to do, `UsageError` for a malformed URL.
    """

    dialect: Dialect = "postgres"

    def __init__(self, url: str | Callable[[], str], *, revive: Callable[[], None] | None = None) -> None:
        self._url = url if callable(url) else lambda: url
        self.url = place(self._url())
        self.process_id = new_id("process")
        self._access = set_up(self._url())
        self._sender = new_id("process")
        self._publisher = Publisher()
        self._listener: Listener | None = None
        self._lock = threading.Lock()
        self._known_days: set[date] = set()
        shared: dict[str, Any] = {"where": self.url, "revive": revive}
        self._app = Sessions(
            lambda: self._login("app"), size=10, search_path="main, core", statement_timeout_s=60, **shared
        )
        self._system = Sessions(
            lambda: self._login("system"), size=2, search_path="main, core", statement_timeout_s=600, **shared
        )
        self._typed = Sessions(
            lambda: self._login("sql"), size=4, search_path="main", statement_timeout_s=30, prepare=False, **shared
        )

    # -- Database

    def query(self, user_id: str, sql: str, params: Sequence[Any] = ()) -> Rows:
        def work(connection: Conn, attempt: Attempt) -> Rows:
            # In pipeline mode all up to the end is one implicit transaction, and one round trip.
            with connection.pipeline():
                self._act_for(connection, user_id)
                cursor = connection.execute(sql.encode(), list(params))
            return _rows(cursor)

        return self._sessions(user_id).run(work, repeatable=True)

    def write(
        self,
        user_id: str,
        statements: Sequence[Statement],
        *,
        changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> list[Rows]:
        return self._transaction(user_id, lambda connection: _perform(connection, statements), changes, batch_id)

    def append(
        self, user_id: str, tables: Tables, *, then: Sequence[Statement] = (), changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> None:  # fmt: skip
        def work(connection: Conn) -> list[Rows]:
            for table, (columns, rows) in tables.items():
                bulk.insert(connection, table, columns, rows)
            return _perform(connection, then)

        self._make_days(user_id, tables)
        self._transaction(user_id, work, changes, batch_id)

    def select(
        self,
        user_id: str,
        sql: str,
        params: Sequence[Any] = (),
        *,
        limit: int | None = None,
        timeout_s: float | None = 30.0,
    ) -> Rows:
        fence.check(sql)

        def work(connection: Conn, attempt: Attempt) -> Rows:
            with connection.transaction(force_rollback=True):
                connection.execute(b"set transaction read only")
                self._act_for(connection, user_id)
                return fence.fetch(connection, sql, params, limit=limit, timeout_s=timeout_s)

        try:
            return self._typed.run(work, repeatable=True, explained=False)
        except psycopg.Error as error:
            raise explain_typed(error, self.url, timeout_s) from error

    def subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        unsubscribe = self._publisher.subscribe(callback)
        with self._lock:
            if self._listener is None:
                self._listener = Listener(
                    self._app.connect, self._access.channel, self._sender, self._publisher.publish
                )
        self._listener.wait_until_ready()
        return unsubscribe

    def close(self) -> None:
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._publisher.close()
        for sessions in (self._app, self._system, self._typed):
            sessions.close()

    # -- transactions

    def _transaction(self, user_id: str, work: Work, changes: Sequence[Change], batch_id: str | None) -> list[Rows]:
        def attempt_once(connection: Conn, attempt: Attempt) -> list[Rows]:
            with connection.transaction():
                self._act_for(connection, user_id)
                answer = _claim(connection, user_id, batch_id) if batch_id else None
                if answer is not None:
                    return answer
                results = work(connection)
                if batch_id and any(result.rows for result in results):
                    _remember(connection, user_id, batch_id, results)
                for payload in payloads(changes, self._sender):
                    connection.execute(b"select pg_notify($1, $2)", [self._access.channel, payload])
                attempt.committing = True
            return results

        results = self._sessions(user_id).run(attempt_once, repeatable=batch_id is not None)
        self._publisher.publish(changes)
        return results

    def _sessions(self, user_id: str) -> Sessions:
        return self._system if user_id == SYSTEM_USER else self._app

    def _act_for(self, connection: Conn, user_id: str) -> None:
        """Until this transaction ends, its connection sees this user's rows. (The housekeeping role sees all by its policy.)"""
        if user_id != SYSTEM_USER:
            token = self._access.signer.token(user_id)
            connection.execute(b"select set_config('lab.token', $1, true)", [token])

    def _login(self, purpose: Any) -> str:
        return login_parameters(self._url(), self._access.logins[purpose])

    # -- partitions

    def _make_days(self, user_id: str, tables: Tables) -> None:
        """Rows of a day that has no partition yet (an import of old traces, or a lab that ran past its last one) get it first."""
        days: set[date] = set()
        for table, (columns, rows) in tables.items():
            column = self._access.day_columns.get(table.removeprefix("core."))
            if column is not None and column in columns:
                place = list(columns).index(column)
                days.update(row[place].date() for row in rows if row[place] is not None)
        today = utc_now().date()
        days = {day for day in days - self._known_days if timedelta(-3) <= today - day <= KEPT_BY_DAY}
        for day in sorted(days):
            statement = Statement("select core.ensure_partitions($1, $1)", [day])
            self._transaction(user_id, lambda connection, s=statement: _perform(connection, [s]), (), None)  # type: ignore[misc]
            self._known_days.add(day)


KEPT_BY_DAY = timedelta(days=800)
"""Older rows share one partition."""


def _perform(connection: Conn, statements: Sequence[Statement]) -> list[Rows]:
    with connection.pipeline():
        cursors = [connection.execute(statement.sql.encode(), list(statement.params)) for statement in statements]
    results = [_rows(cursor) for cursor in cursors]
    for statement, result in zip(statements, results, strict=True):
        if statement.expect is not None and len(result.rows) != statement.expect:
            raise ConflictError(
                f"Expected {statement.expect} row(s), found {len(result.rows)}: somebody else changed it first.",
                "Read it again, then try again.",
            )
    return results


def _rows(cursor: psycopg.Cursor[Any]) -> Rows:
    if cursor.description is None:
        return Rows((), [])
    return Rows(tuple(column.name for column in cursor.description), cursor.fetchall())


def _claim(connection: Conn, user_id: str, batch_id: str) -> list[Rows] | None:
    """What the batch answered when it was written before; None if it has to be written now. Waits for one that is being written."""
    now = to_naive_utc(utc_now())
    claimed = connection.execute(
        b"insert into core.ingest_batches values ($1, $2, $3, null) on conflict do nothing", [user_id, batch_id, now]
    )
    if claimed.rowcount:
        return None
    row = connection.execute(
        b"select answer from core.ingest_batches where user_id = $1 and batch_id = $2", [user_id, batch_id]
    ).fetchone()
    return [wire.unpack_rows(rows) for rows in wire.loads(row[0].encode())] if row and row[0] else []


def _remember(connection: Conn, user_id: str, batch_id: str, results: list[Rows]) -> None:
    answer = wire.dumps([wire.pack_rows(rows) for rows in results]).decode()
    connection.execute(
        b"update core.ingest_batches set answer = $3 where user_id = $1 and batch_id = $2", [user_id, batch_id, answer]
    )
