"""`PostgresDatabase`: a lab in PostgreSQL, for many users and processes. For the methods see `store.base.Database`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import typing
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from datetime import date, datetime, timedelta
from functools import partial

import psycopg
from psycopg import sql

from timestep_lab.model.clock import to_naive_utc, utc_now
from timestep_lab.model.errors import LabError, StoreUnavailableError
from timestep_lab.model.ids import new_id
from timestep_lab.store.base import (
    NO_TABLES,
    SYSTEM_USER,
    Change,
    Columns,
    Database,
    Dialect,
    Received,
    Row,
    Rows,
    Statement,
    Tables,
    Topic,
    by_columns,
)
from timestep_lab.store.duckdb import loopback as wire
from timestep_lab.store.liveness import Liveness, Publisher, interruptible
from timestep_lab.store.memory import check_params, own_memory
from timestep_lab.store.postgres import setup as sql_guard
from timestep_lab.store.postgres.sessions import Conn, Sessions, explain_typed
from timestep_lab.store.postgres.setup import Purpose, login_parameters, place, set_up

log = logging.getLogger("timestep_lab.store")


# --- Receives changes made by other processes: LISTEN on one connection outside the pool, reconnected whenever it is lost


PAYLOAD_BYTES = 7900
"""Maximum payload; NOTIFY is limited to less than 8000 bytes."""
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0


def payloads(changes: Sequence[Change], sender: str) -> Iterator[str]:
    """Yields changes as NOTIFY payloads, as many in each as fit."""
    chunk: list[list[str]] = []
    size = 0
    for change in dict.fromkeys(changes):
        entry = [change.topic, change.user_id, change.id]
        length = len(json.dumps(entry)) + 1
        if chunk and size + length > PAYLOAD_BYTES - len(sender) - 20:
            yield json.dumps([sender, chunk])
            chunk, size = [], 0
        chunk.append(entry)
        size += length
    if chunk:
        yield json.dumps([sender, chunk])


class Listener:
    """Calls `publish` with changes announced by other senders. `sender` is this process's own name, whose announcements are skipped.

    After a reconnect, a change with an empty id is published for each topic, because some may have been missed.
    """

    def __init__(
        self,
        connect: Callable[[], Conn],
        channel: str,
        sender: str,
        publish: Callable[[Sequence[Change]], None],
    ) -> None:
        self._connect, self._channel, self._sender, self._publish = connect, channel, sender, publish
        self._closing = threading.Event()
        self._ready = threading.Event()
        self._socket: socket.socket | None = None
        self._heard_since_start = False
        self._thread = threading.Thread(target=self._run, name="timestep-lab listener", daemon=True)
        self._thread.start()

    def wait_until_ready(self, timeout_s: float = 5.0) -> None:
        """Returns when changes announced from now on are received (or, if the server is down, their loss will be)."""
        self._ready.wait(timeout_s)

    def close(self) -> None:
        self._closing.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):  # already lost
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join(timeout=5)

    def _run(self) -> None:
        pause, missed = SHORTEST_PAUSE_S, False
        while not self._closing.is_set():
            try:
                with self._connect() as connection:
                    self._listen(connection, missed=missed)
            except (psycopg.Error, StoreUnavailableError) as error:
                missed = True
                if not self._closing.is_set():
                    log.info("Waiting to reconnect to Postgres for change notifications: %s", error)
            finally:
                self._socket = None
            if self._heard_since_start:
                pause, self._heard_since_start = SHORTEST_PAUSE_S, False
            self._closing.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def _listen(self, connection: Conn, *, missed: bool) -> None:
        with socket.socket(fileno=os.dup(connection.fileno())) as self._socket:
            connection.execute(sql.SQL("listen {}").format(sql.Identifier(self._channel)))
            self._heard_since_start = True
            self._ready.set()
            if missed:
                self._publish([Change(topic, "", "") for topic in typing.get_args(Topic)])
            for notification in connection.notifies():
                self._hear(notification.payload)

    def _hear(self, payload: str) -> None:
        sender, entries = json.loads(payload)
        if sender != self._sender:
            self._publish([Change(topic, user_id, id) for topic, user_id, id in entries])


# --- Bulk inserts. COPY does not work into tables with row-level security, so it fills a temporary table of the connection that is
# emptied on commit; INSERT … SELECT moves the rows from there through the policies. Measured: 32,000 spans/s, against 14,000
# with arrays and 20,000 with one JSON parameter; below a hundred rows, plain pipelined inserts are faster.


FEW = 100

Values = Sequence[Sequence[object]]


def insert(connection: Conn, table: str, columns: Sequence[str], rows: Values) -> None:
    """Inserts rows. `table` is written as in our SQL, with or without its schema."""
    if len(rows) < FEW:
        _insert_few(connection, table, columns, rows)
    else:
        _insert_many(connection, table, columns, rows)


def _insert_few(connection: Conn, table: str, columns: Sequence[str], rows: Values) -> None:
    places = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
    statement = f"insert into {table} ({_names(columns)}) values ({places})"
    connection.cursor().executemany(statement.encode(), rows)


def _insert_many(connection: Conn, table: str, columns: Sequence[str], rows: Values) -> None:
    names = _names(columns)
    staging = f"incoming_{zlib.crc32(f'{table} {names}'.encode()):08x}"
    connection.execute(
        f"create temporary table if not exists {staging} on commit delete rows as select {names} from {table} with no data".encode()
    )
    with connection.cursor().copy(f"copy pg_temp.{staging} ({names}) from stdin".encode()) as copy:
        for row in rows:
            copy.write_row(row)
    connection.execute(f"insert into {table} ({names}) select {names} from pg_temp.{staging}".encode())


def _names(columns: Sequence[str]) -> str:
    return ", ".join(sql.Identifier(column).as_string(None) for column in columns)


# --- Periodic maintenance, done by any of the lab's processes: partitions of the coming days, the word index of past days, and removal
# of old batch ids.


EVERY_S = 600.0
DAYS_AHEAD = 7
REMEMBER = timedelta(hours=1)
"""How long batch ids are remembered: much longer than any failover."""


def keep_house(db: Database) -> None:
    """Runs the maintenance once. Raises `StoreError`."""
    now = to_naive_utc(utc_now())
    db.write(
        SYSTEM_USER,
        [
            Statement("delete from core.ingest_batches where written_at < $1", [now - REMEMBER]),
            Statement("select core.ensure_partitions($1, $2)", [now.date(), (now + timedelta(days=DAYS_AHEAD)).date()]),
        ],
    )
    index_words(db)


def index_words(db: Database) -> int:
    """Indexes the words of all past days, one transaction per day. Returns the number of days. Raises `StoreError`."""
    days = 0
    while db.write(SYSTEM_USER, [Statement("select core.index_words(1)")])[0].rows[0][0]:
        days += 1
    return days


class Housekeeper:
    """Runs the maintenance on a thread, every `EVERY_S` seconds."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="timestep-lab housekeeping", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            try:
                keep_house(self._db)
            except LabError as error:
                log.warning("Maintenance failed and will be retried: %s", error)


# -- Write transactions: for one user, exactly once even if the connection is lost, and announced when durable

Command = tuple[bytes, Sequence[object]]


class _WrittenBefore(Exception): ...


def transact(
    connection: Conn,
    work: Callable[[Conn], list[Rows]],
    *,
    first: Command,
    user_id: str,
    batch_id: str,
    now: datetime,
    announce: Iterable[Command] = (),
    pipelined: bool = True,
) -> list[Rows]:
    """Runs a write transaction. `first` sets the user; `announce` is sent with the commit. `pipelined` needs two round trips (not for
    COPY).

    Raises what `work` raises, and psycopg's errors.
    """
    key = [user_id, batch_id]
    try:
        with connection.pipeline() if pipelined else nullcontext(), connection.transaction():
            connection.execute(*first)
            claim = connection.execute(
                b"insert into core.ingest_batches values ($1, $2, $3) on conflict do nothing", [*key, now]
            )
            try:
                results = work(connection)
            except psycopg.Error:
                if claim.rowcount == 0:
                    raise _WrittenBefore from None
                raise
            if claim.rowcount == 0:
                raise _WrittenBefore
            if any(result.rows for result in results):
                answer = wire.dumps([wire.pack_rows(rows) for rows in results]).decode()
                connection.execute(
                    b"update core.ingest_batches set answer = $3 where user_id = $1 and batch_id = $2", [*key, answer]
                )
            for command in announce:
                connection.execute(*command)
            return results
    except _WrittenBefore:
        with connection.transaction():
            connection.execute(*first)
            row = connection.execute(
                b"select answer from core.ingest_batches where user_id = $1 and batch_id = $2", key
            ).fetchone()
        return [wire.unpack_rows(rows) for rows in wire.loads(row[0].encode())] if row and row[0] else []


def perform(connection: Conn, statements: Sequence[Statement]) -> list[Rows]:
    """Runs all statements in one round trip. Raises `ConflictError` when one does not affect the expected number of rows."""
    with connection.pipeline():
        cursors = send(connection, statements)
    return received(statements, cursors)


def send(connection: Conn, statements: Sequence[Statement]) -> list[psycopg.Cursor[Row]]:
    """Executes all statements, in a pipeline without waiting for them."""
    return [connection.execute(statement.sql.encode(), list(statement.params)) for statement in statements]


def received(statements: Sequence[Statement], cursors: Sequence[psycopg.Cursor[Row]]) -> list[Rows]:
    """Returns the results of sent statements. Raises `ConflictError` when one did not affect the expected number of rows."""
    results = [rows_of(cursor) for cursor in cursors]
    for statement, result in zip(statements, results, strict=True):
        statement.check(result)
    return results


def rows_of(cursor: psycopg.Cursor[Row]) -> Rows:
    """Returns a cursor's rows. A statement without a result has no columns and no rows."""
    if cursor.description is None:
        return Rows((), [], changed=max(cursor.rowcount, 0))
    return Rows(tuple(column.name for column in cursor.description), cursor.fetchall())


# --

HOUSEKEEPING_LOCK = 7305442
"""Advisory lock for maintenance with several statements. An arbitrary number, the same in every release."""
RECENT, KEPT_BY_DAY = timedelta(days=7), timedelta(days=800)
"""Every day of the first has a partition of its own; rows older than the second share one."""
WORTH_A_DAY = 1000
"""Number of rows, stored together, for which a day between these gets a partition."""

KEPT_GROWTH = 64 << 20
"""A connection with which this process has grown by so many bytes is not used again."""

Work = Callable[[Conn], list[Rows]]


class PostgresDatabase:
    """A lab in Postgres. `url` is the `postgresql://` URL of the lab's owner, or a function that returns it (an embedded server's port may
    change); `revive` may restart a server that does not respond.

    Raises a `StoreError` that explains why the lab cannot be opened, `UsageError` for a malformed URL.
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
        self._lock, self._closed = threading.Lock(), False
        self._known_days: set[date] = set()
        pool = partial(Sessions, where=self.url, revive=revive)
        self._app = pool(lambda: self._login("app"), size=10, search_path="main, core", statement_timeout_s=60)
        self._system = pool(lambda: self._login("system"), size=2, search_path="main, core", statement_timeout_s=600)
        self._typed = pool(
            lambda: self._login("sql"), size=4, search_path="main", statement_timeout_s=30, prepare=False
        )
        self._refused: frozenset[str] | None = None
        self._liveness, self._housekeeper = Liveness(self), Housekeeper(self)
        self._liveness.start()

    # -- Database

    def query(self, user_id: str, sql: str, params: Sequence[object] = ()) -> Rows:
        def work(connection: Conn) -> Rows:
            # In pipeline mode everything up to the end is one implicit transaction and one round trip.
            with interruptible(lambda: connection.cancel_safe(timeout=5.0)), connection.pipeline():
                connection.execute(*self._acting_for(user_id))
                cursor = connection.execute(sql.encode(), list(params))
            return rows_of(cursor)

        return self._sessions(user_id).run(work)

    def columns(self, user_id: str, sql: str, params: Sequence[object] = ()) -> Columns:
        return by_columns(self.query(user_id, sql, params))

    def write(
        self,
        user_id: str,
        statements: Sequence[Statement],
        *,
        changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> list[Rows]:
        def work(connection: Conn) -> list[Rows]:
            if user_id == SYSTEM_USER and len(statements) > 1:
                # Concurrent maintenance would see unfinished changes of the other process. A heartbeat need not wait.
                connection.execute(b"select pg_advisory_xact_lock($1)", [HOUSEKEEPING_LOCK])
            return perform(connection, statements)

        return self._transaction(user_id, work, changes, batch_id)

    def begin_write(
        self,
        user_id: str,
        statements: Sequence[Statement],
        *,
        tables: Tables = NO_TABLES,
        changes: Sequence[Change] = (),
    ) -> Future[list[Rows]] | None:
        """Returns None: a waiting thread would have to hold the connection."""
        return None

    def state_of(self, user_id: str, topic: Topic) -> object | None:
        return None

    def receive(self, request: Received) -> bool:
        return False

    def append(
        self, user_id: str, tables: Tables, *, first: Sequence[Statement] = (), then: Sequence[Statement] = (),
        changes: Sequence[Change] = (), batch_id: str | None = None,
    ) -> None:  # fmt: skip
        def work(connection: Conn) -> list[Rows]:
            locking = send(connection, first)
            for table, (columns, rows) in tables.items():
                insert(connection, table, columns, rows)
            results = perform(connection, then)
            received(first, locking)
            return results

        self._make_days(user_id, tables)
        few = all(len(rows) < FEW for _, rows in tables.values())
        self._transaction(user_id, work, changes, batch_id, pipelined=few)

    def select(
        self,
        user_id: str,
        sql: str,
        params: Sequence[object] = (),
        *,
        limit: int | None = None,
        timeout_s: float | None = 30.0,
    ) -> Rows:
        sql_guard.check(sql)
        check_params(params)

        def work(connection: Conn) -> Rows:
            before = own_memory()
            try:
                return in_transaction(connection)
            finally:
                if own_memory() - before > KEPT_GROWTH:  # libpq never makes the buffer of a connection smaller.
                    connection.close()

        def in_transaction(connection: Conn) -> Rows:
            with connection.transaction(force_rollback=True):
                connection.execute(b"set transaction read only")
                if self._refused is None:
                    self._refused = sql_guard.refused_functions(connection)
                sql_guard.check_calls(sql, self._refused)
                connection.execute(*self._acting_for(user_id))
                return sql_guard.fetch(connection, sql, params, limit=limit, timeout_s=timeout_s)

        try:
            return self._typed.run(work, explained=False)
        except psycopg.Error as error:
            raise explain_typed(error, self.url, timeout_s) from error

    def subscribe(self, callback: Callable[[Change], None], user_id: str | None = None) -> Callable[[], None]:
        unsubscribe = self._publisher.subscribe(callback, user_id)
        with self._lock:
            if self._listener is None:
                self._listener = Listener(
                    self._app.connect, self._access.channel, self._sender, self._publisher.publish
                )
        self._listener.wait_until_ready()
        return unsubscribe

    def close(self) -> None:
        """Closes without waiting for active calls. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._housekeeper.close()
        self._liveness.close()
        self._publisher.close()
        for sessions in (self._app, self._system, self._typed):
            sessions.close()

    # -- transactions

    def _transaction(
        self, user_id: str, work: Work, changes: Sequence[Change], batch_id: str | None, *, pipelined: bool = True
    ) -> list[Rows]:
        batch_id = batch_id or new_id("batch")
        announce = [
            (b"select pg_notify($1, $2)", [self._access.channel, payload])
            for payload in payloads(changes, self._sender)
        ]

        def once(connection: Conn) -> list[Rows]:
            return transact(
                connection, work, first=self._acting_for(user_id), user_id=user_id, batch_id=batch_id,
                now=to_naive_utc(utc_now()), announce=announce, pipelined=pipelined,
            )  # fmt: skip

        results = self._sessions(user_id).run(once)
        self._publisher.publish(changes)
        return results

    def _sessions(self, user_id: str) -> Sessions:
        return self._system if user_id == SYSTEM_USER else self._app

    def _acting_for(self, user_id: str) -> Command:
        """Returns the statement that binds a transaction to a user. The maintenance role sees all rows by policy."""
        if user_id == SYSTEM_USER:
            return b"select 1", []
        return b"select set_config('lab.token', $1, true)", [self._access.signer.token(user_id)]

    def _login(self, purpose: Purpose) -> str:
        return login_parameters(self._url(), self._access.logins[purpose])

    # -- partitions

    def _make_days(self, user_id: str, tables: Tables) -> None:
        """Creates partitions for days that lack one (an import of old traces, or a lab that ran past its last partition). Each makes every
        query over all days slower, for every user, so that a few rows of an old day do not get one."""
        rows_of: Counter[date] = Counter()
        for table, (columns, rows) in tables.items():
            column = self._access.day_columns.get(table.removeprefix("core."))
            if column is not None and column in columns:
                place = list(columns).index(column)
                rows_of.update(row[place].date() for row in rows if row[place] is not None)
        today = utc_now().date()
        days = {
            day
            for day, n_rows in rows_of.items()
            if day not in self._known_days
            and timedelta(-3) <= today - day <= KEPT_BY_DAY
            and (n_rows >= WORTH_A_DAY or today - day <= RECENT)
        }
        for day in sorted(days):
            statement = Statement("select core.ensure_partitions($1, $1)", [day])
            self._transaction(user_id, lambda connection, s=statement: perform(connection, [s]), (), None)  # type: ignore[misc]
            self._known_days.add(day)
