"""Pooled connections, each lent for one transaction on behalf of one user; and what to do when Postgres goes away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import psycopg
from psycopg import Connection, RawCursor
from psycopg import errors as pg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.types.datetime import TimestamptzLoader
from psycopg.types.string import TextLoader
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from timestep_lab.model.errors import (
    BusyError,
    ConflictError,
    DataError,
    ForbiddenError,
    LabError,
    QueryError,
    StoreError,
    StoreUnavailableError,
)
from timestep_lab.store.liveness import was_interrupted

# --- What went wrong in Postgres, as an error of the lab with the next step


WRONG_PASSWORD = (pg.InvalidPassword, pg.InvalidAuthorizationSpecification)


def explain(error: Exception, where: str) -> Exception:
    """An error of our own statements. `where` names the server without a password. Errors that are not Postgres's come back as they are."""
    text = said_by(error)
    match error:
        case LabError():
            return error
        case pg.UniqueViolation() | pg.ExclusionViolation():
            return ConflictError(f"A row like this exists already: {text}", "Choose another name or id.")
        case pg.ForeignKeyViolation():
            return ConflictError(f"A row this one refers to is gone: {text}", "Read it again, then try again.")
        case pg.SerializationFailure() | pg.DeadlockDetected():
            return ConflictError("Others changed the same rows at the same time.", "Try again.")
        case pg.DiskFull():
            return StoreUnavailableError(
                f"The disk of Postgres at {where} is full; nothing was written.", "Free space there, then try again."
            )
        case pg.QueryCanceled() if was_interrupted():
            return QueryError("The query was stopped before its end.", "Ask it again.")
        case pg.QueryCanceled():
            return StoreUnavailableError(f"Postgres at {where} took too long and was stopped.", "Try again.")
        case pg.LockNotAvailable():
            return BusyError(f"Postgres at {where} holds these rows for somebody else.", "Try again.", retry_after=1.0)
        case pg.TooManyConnections():
            return BusyError(
                f"Postgres at {where} takes no more connections.",
                "Try again, or raise max_connections.",
                retry_after=1.0,
            )
        case pg.InsufficientPrivilege():
            return ForbiddenError(
                f"Postgres refused it: {text}", "Rows can be read and written by their own user only."
            )
        case pg.DataError() | UnicodeEncodeError() | ValueError():
            return DataError(
                f"Postgres cannot hold this value: {text}", "Text may contain no NUL character or half surrogate."
            )
        case psycopg.OperationalError():
            return unreachable(error, where)
        case psycopg.Error():
            return StoreError(f"Postgres at {where} failed: {text}", "See `timestep-lab doctor`.")
    return error


def unreachable(error: psycopg.Error, where: str) -> StoreError:
    """Why a connection could not be made, or was lost."""
    text = said_by(error)
    # libpq gives no error code for what the server says while connecting; psycopg has the message alone.
    if isinstance(error, WRONG_PASSWORD) or "password authentication failed" in text or "no password supplied" in text:
        return StoreError(
            f"Postgres at {where} refused the user name or password.",
            "Correct the URL (postgresql://user:password@host/database), or the password file ~/.pgpass.",
        )
    if "does not exist" in text:
        return StoreError(f"Postgres at {where}: {text}", "Create it (createdb NAME), or correct the URL.")
    if "no pg_hba.conf entry" in text or "permission denied for database" in text:
        return StoreError(f"Postgres at {where} does not let this user in: {text}", "Ask its administrator for access.")
    if "No space left on device" in text:
        return StoreUnavailableError(f"The disk of Postgres at {where} is full.", "Free space there, then try again.")
    return StoreUnavailableError(f"The connection to Postgres at {where} failed: {text}", "Try again in a moment.")


def explain_typed(error: Exception, where: str, timeout_s: float | None) -> Exception:
    """An error of SQL that a person typed: theirs to correct, unless the server itself failed."""
    match error:
        case pg.QueryCanceled() if was_interrupted():
            return QueryError("The query was stopped before its end.", "Ask it again.")
        case pg.QueryCanceled():
            return QueryError(
                f"The query took longer than {timeout_s:g} s and was stopped.", "Narrow it, or add a limit."
            )
        case pg.InsufficientPrivilege():
            return QueryError(
                f"The query was refused: {said_by(error)}.", "Read the documented views only, such as traces."
            )
        case pg.ReadOnlySqlTransaction():
            return QueryError(f"The query would change something: {said_by(error)}.", "Only SELECT is allowed.")
        case pg.OperationalError() | pg.AdminShutdown():
            return explain(error, where)
        case psycopg.Error():
            hint = (
                error.diag.message_hint
                or "The views are traces, spans, generations, tool_calls, handoffs, messages, usage, scores."
            )
            return QueryError(f"The query cannot be run: {said_by(error)}.", hint)
    return explain(error, where)


def said_by(error: BaseException) -> str:
    """The first line of what Postgres said, without libpq's prefix that repeats host and port."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].removeprefix("connection failed: ") if lines else type(error).__name__


# -- The same Python values from Postgres as from DuckDB: naive UTC datetimes, JSON as its text, whole numbers as int, others as float


class _NaiveUtcLoader(TimestamptzLoader):
    def load(self, data: Buffer) -> datetime:
        return super().load(data).astimezone(UTC).replace(tzinfo=None)


class _NumberLoader(Loader):
    """`sum(bigint)` and `avg(bigint)` are numeric in Postgres; a Decimal would not survive JSON or a chart."""

    def load(self, data: Buffer) -> int | float:
        text = bytes(data).decode()
        return int(text) if text.lstrip("-").isdigit() else float(text)


def adapt(connection: Connection[Any]) -> None:
    types = connection.adapters
    types.register_loader("timestamptz", _NaiveUtcLoader)
    types.register_loader("numeric", _NumberLoader)
    types.register_loader("json", TextLoader)
    types.register_loader("jsonb", TextLoader)


# --

# Each lost connection would be three lines on the user's screen; what it means for them is said by our own errors.
for name in ("psycopg", "psycopg.pool"):
    if logging.getLogger(name).level in (logging.NOTSET, logging.WARNING):
        logging.getLogger(name).setLevel(logging.ERROR)

T = TypeVar("T")
Conn = Connection[Any]

PATIENCE_S = 10.0
"""How long a call waits for Postgres to come back, or for a connection to be free, before it fails. A restart takes about one second."""
ATTEMPTS = 4
TRANSIENT = (pg.SerializationFailure, pg.DeadlockDetected)
SHUTDOWN = (pg.AdminShutdown, pg.CrashShutdown, pg.CannotConnectNow)


class Sessions:
    """A pool of connections that logged in as one role.

    `conninfo` is asked anew for each connection, and `revive` (which may start the server again) when none can be made.
    `where` names the server for people.
    """

    def __init__(
        self,
        conninfo: Callable[[], str],
        *,
        where: str,
        size: int,
        search_path: str,
        statement_timeout_s: float,
        revive: Callable[[], None] | None = None,
        prepare: bool = True,
    ) -> None:
        self._conninfo, self._where, self._size, self._revive = conninfo, where, size, revive
        self._settings = (search_path, str(int(statement_timeout_s * 1000)))
        self._prepare = prepare
        self._pool: ConnectionPool[Conn] = ConnectionPool(
            conninfo,
            kwargs={"autocommit": True, "cursor_factory": RawCursor, "prepare_threshold": 5 if prepare else None},
            min_size=0,
            max_size=size,
            configure=self.configure,
            reset=None if prepare else self.start_afresh,
            reconnect_timeout=0.5,  # whoever needs a connection tries again at once
            max_idle=300,
            open=True,
            name=f"timestep-lab {where}",
        )

    def connect(self) -> Conn:
        """A connection outside the pool."""
        connection: Conn = psycopg.connect(self._conninfo(), autocommit=True, cursor_factory=RawCursor)
        self.configure(connection)
        return connection

    def configure(self, connection: Conn) -> None:
        adapt(connection)
        connection.execute(
            b"select set_config('search_path', $1, false), set_config('statement_timeout', $2, false), "
            b"set_config('TimeZone', 'UTC', false), set_config('application_name', 'timestep-lab', false), "
            b"set_config('idle_in_transaction_session_timeout', '60s', false), set_config('jit', 'off', false), set_config('work_mem', '32MB', false), "
            # What is asked for again and again is in memory: then an index that holds all that is asked for is read sooner than its table.
            b"set_config('random_page_cost', '1.1', false)",
            self._settings,
        )

    def start_afresh(self, connection: Conn) -> None:
        """After SQL that somebody typed: its settings, locks and temporary things go."""
        connection.execute(b"discard all")
        self.configure(connection)

    def run(self, work: Callable[[Conn], T], *, explained: bool = True) -> T:
        """Do `work` in a connection; again in another one when the connection was lost or others were in the way, so work must
        bear being done twice.

        Raises the lab's errors, or, not `explained`, those of psycopg for what the statements themselves did wrong.
        """
        for left in reversed(range(ATTEMPTS)):
            connection = self._borrow()
            try:
                return work(connection)
            except psycopg.Error as error:
                lost = _is_lost(connection, error)
                if lost:
                    connection.close()
                if not left or not (lost or isinstance(error, TRANSIENT)):
                    raise (explain(error, self._where) if explained or lost else error) from error
                if lost:
                    self._pool.check()  # the others are probably lost too
            except (UnicodeEncodeError, ValueError) as error:
                raise explain(error, self._where) from error
            finally:
                self._pool.putconn(connection)
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        self._pool.close(timeout=2)

    def _borrow(self) -> Conn:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._pool.getconn(timeout=1.0)
            except PoolClosed:
                raise StoreError("This lab was closed.", "Open it again.") from None
            except PoolTimeout as error:
                self._why(error, last=time.monotonic() > deadline)

    def _why(self, error: PoolTimeout, *, last: bool) -> None:
        """No connection in a while: is Postgres gone (then try to revive it), or are all connections in use?"""
        try:
            self.connect().close()
        except (psycopg.OperationalError, StoreUnavailableError) as cause:
            reason = cause if isinstance(cause, StoreUnavailableError) else unreachable(cause, self._where)
            if not isinstance(reason, StoreUnavailableError) or last:
                raise reason from cause
            if self._revive is not None:
                self._revive()
            return
        if last:
            raise BusyError(
                f"All {self._size} connections to Postgres at {self._where} were in use for {PATIENCE_S:g} s.",
                "Try again.", retry_after=1.0,
            ) from error  # fmt: skip


def _is_lost(connection: Conn, error: psycopg.Error) -> bool:
    """Nothing more can be done with this connection. An operational error without a code comes from the client's library, which
    no longer knows what it may send."""
    if connection.broken or connection.closed or isinstance(error, SHUTDOWN):
        return True
    return isinstance(error, psycopg.OperationalError) and error.sqlstate is None
