"""Pooled connections, each used for one transaction of one user, with reconnection after Postgres was unavailable."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias, TypeVar

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
from timestep_lab.store.base import Row
from timestep_lab.store.liveness import was_interrupted
from timestep_lab.store.memory import TOO_BIG

# --- Conversion of Postgres errors to errors of the lab


TOO_MUCH = "54"
"""Class of the codes of errors about what exceeds a limit, such as the depth of a query."""
WRONG_PASSWORD = (pg.InvalidPassword, pg.InvalidAuthorizationSpecification)


def explain(error: Exception, where: str) -> Exception:
    """Converts an error of the lab's own statements. `where` names the server without a password. Other errors are returned unchanged."""
    text = message_of(error)
    match error:
        case LabError():
            return error
        case pg.UniqueViolation() | pg.ExclusionViolation():
            return ConflictError(f"A row like this exists already: {text}", "Use another name or id.")
        case pg.ForeignKeyViolation():
            return ConflictError(f"A referenced row does not exist: {text}", "Read it again, then try again.")
        case pg.SerializationFailure() | pg.DeadlockDetected():
            return ConflictError("Another client changed the same rows at the same time.", "Try again.")
        case pg.DiskFull():
            return StoreUnavailableError(
                f"The disk of Postgres at {where} is full; nothing was written.", "Free space there, then try again."
            )
        case pg.QueryCanceled() if was_interrupted():
            return QueryError("The query was interrupted.", "Run it again.")
        case pg.QueryCanceled():
            return StoreUnavailableError(f"Postgres at {where} exceeded its time limit.", "Try again.")
        case pg.LockNotAvailable():
            return BusyError(
                f"Postgres at {where} has locked these rows for another client.", "Try again.", retry_after=1.0
            )
        case pg.TooManyConnections():
            return BusyError(
                f"Postgres at {where} accepts no more connections.",
                "Try again, or increase max_connections.",
                retry_after=1.0,
            )
        case pg.InsufficientPrivilege():
            return ForbiddenError(
                f"Postgres denied access: {text}", "Rows can only be read and written by their own user."
            )
        case pg.DataError() | UnicodeEncodeError() | ValueError():
            return DataError(
                f"Postgres cannot store this value: {text}",
                "Text must not contain NUL characters or unpaired surrogates.",
            )
        case psycopg.OperationalError():
            return unreachable(error, where)
        case psycopg.Error():
            return StoreError(f"Postgres at {where} failed: {text}", "See `timestep-lab doctor`.")
    return error


def unreachable(error: psycopg.Error, where: str) -> StoreError:
    """Returns why a connection failed or was lost."""
    text = message_of(error)
    # libpq has no error code for server messages during connection; psycopg only has the text.
    if isinstance(error, WRONG_PASSWORD) or "password authentication failed" in text or "no password supplied" in text:
        return StoreError(
            f"Postgres at {where} rejected the user name or password.",
            "Correct the URL (postgresql://user:password@host/database), or the password file ~/.pgpass.",
        )
    if "does not exist" in text:
        return StoreError(f"Postgres at {where}: {text}", "Create it (createdb NAME), or correct the URL.")
    if "no pg_hba.conf entry" in text or "permission denied for database" in text:
        return StoreError(
            f"Postgres at {where} denies access to this user: {text}", "Ask its administrator for access."
        )
    if "No space left on device" in text:
        return StoreUnavailableError(f"The disk of Postgres at {where} is full.", "Free space there, then try again.")
    return StoreUnavailableError(f"The connection to Postgres at {where} failed: {text}", "Try again in a moment.")


def explain_typed(error: Exception, where: str, timeout_s: float | None) -> Exception:
    """Converts an error of SQL written by a user, which they can correct unless the server itself failed."""
    match error:
        case pg.QueryCanceled() if was_interrupted():
            return QueryError("The query was interrupted.", "Run it again.")
        case pg.QueryCanceled():
            return QueryError(f"The query exceeded its time limit of {timeout_s:g} s.", "Narrow it, or add a limit.")
        case pg.InsufficientPrivilege():
            return QueryError(
                f"The query was denied: {message_of(error)}.", "Read the documented views only, such as traces."
            )
        case pg.ReadOnlySqlTransaction():
            return QueryError(f"The query would change data: {message_of(error)}.", "Only SELECT is allowed.")
        case pg.OutOfMemory() | pg.ConfigurationLimitExceeded():
            return QueryError(*TOO_BIG)
        case pg.OperationalError() if (error.sqlstate or "").startswith(TOO_MUCH):
            return QueryError(f"The query is too large: {message_of(error)}.", "Simplify it, or request less.")
        case pg.OperationalError() | pg.AdminShutdown():
            return explain(error, where)
        case psycopg.Error():
            hint = (
                error.diag.message_hint
                or "The views are traces, spans, generations, tool_calls, handoffs, messages, usage, scores."
            )
            return QueryError(f"The query cannot be run: {message_of(error)}.", hint)
    return explain(error, where)


def message_of(error: BaseException) -> str:
    """Returns the first line of a Postgres error, without libpq's prefix that repeats host and port."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].removeprefix("connection failed: ") if lines else type(error).__name__


# -- The same Python values as from DuckDB: naive UTC datetimes, JSON as text, integers as int, other numbers as float


class _NaiveUtcLoader(TimestamptzLoader):
    def load(self, data: Buffer) -> datetime:
        return super().load(data).astimezone(UTC).replace(tzinfo=None)


class _NumberLoader(Loader):
    """`sum(bigint)` and `avg(bigint)` are numeric in Postgres, but JSON and charts do not support Decimal."""

    def load(self, data: Buffer) -> int | float:
        text = bytes(data).decode()
        return int(text) if text.lstrip("-").isdigit() else float(text)


def adapt(connection: Conn) -> None:
    types = connection.adapters
    types.register_loader("timestamptz", _NaiveUtcLoader)
    types.register_loader("numeric", _NumberLoader)
    types.register_loader("json", TextLoader)
    types.register_loader("jsonb", TextLoader)


# --

# Suppresses log output for every lost connection; the lab's own errors report it.
for name in ("psycopg", "psycopg.pool"):
    if logging.getLogger(name).level in (logging.NOTSET, logging.WARNING):
        logging.getLogger(name).setLevel(logging.ERROR)

T = TypeVar("T")
Conn: TypeAlias = Connection[Row]

LONGEST_WAIT_S = 10.0
"""How long a call waits for Postgres to restart, or for a free connection, before it fails. A restart takes about one second."""
ATTEMPTS = 4
TRANSIENT = (pg.SerializationFailure, pg.DeadlockDetected)
SHUTDOWN = (pg.AdminShutdown, pg.CrashShutdown, pg.CannotConnectNow)


class Sessions:
    """A pool of connections logged in as one role.

    `conninfo` is called for each new connection, and `revive` (which may restart the server) when none can be made.
    `where` names the server in messages.
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
            reconnect_timeout=0.5,  # callers retry immediately
            max_idle=300,
            open=True,
            name=f"timestep-lab {where}",
        )

    def connect(self) -> Conn:
        """Returns a new connection outside the pool."""
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
        """Resets a connection after SQL written by a user: settings, locks and temporary objects."""
        connection.execute(b"discard all")
        self.configure(connection)

    def run(self, work: Callable[[Conn], T], *, explained: bool = True) -> T:
        """Runs `work` with a connection; retries with another one if the connection was lost or transactions collided, so `work` must be
        repeatable.

        Raises errors of the lab or, if not `explained`, psycopg's errors for errors of the statements themselves.
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
        deadline = time.monotonic() + LONGEST_WAIT_S
        while True:
            try:
                return self._pool.getconn(timeout=1.0)
            except PoolClosed:
                raise StoreError("This lab is closed.", "Open it again.") from None
            except PoolTimeout as error:
                self._why(error, last=time.monotonic() > deadline)

    def _why(self, error: PoolTimeout, *, last: bool) -> None:
        """Called when no connection is available: checks whether Postgres is down (and tries to revive it), or all connections are in
        use."""
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
                f"All {self._size} connections to Postgres at {self._where} were in use for {LONGEST_WAIT_S:g} s.",
                "Try again.", retry_after=1.0,
            ) from error  # fmt: skip


def _is_lost(connection: Conn, error: psycopg.Error) -> bool:
    """Returns whether a connection is unusable. An operational error without a code comes from the client library, whose state is then
    undefined."""
    if connection.broken or connection.closed or isinstance(error, SHUTDOWN):
        return True
    return isinstance(error, psycopg.OperationalError) and error.sqlstate is None
