"""The interface of a lab's database, implemented by DuckDB, its loopback client, and Postgres. Everything else in this layer is built on
it.

Methods are synchronous: every method blocks, is thread-safe, and returns within milliseconds. Async callers use `in_thread`.
Parameters are `$1, $2, …` in both dialects. Datetimes are naive UTC in both directions.

Row ownership: every call names the user it runs for. Statements in this package filter by
`user_id = $n` themselves (`store/table.py` does so for all ordinary tables); Postgres also enforces it by row-level security.
SQL written by a user runs through `select`, which only sees that user's rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeAlias, TypeVar

from timestep_lab.model.errors import ConflictError

if TYPE_CHECKING:
    import pandas

P = ParamSpec("P")
T = TypeVar("T")

Row: TypeAlias = tuple[Any, ...]
"""The values of one row. Their types are those of the columns, which are only known to whoever wrote the statement."""
NamedRow: TypeAlias = dict[str, Any]
"""The values of one row by column name."""

Dialect = Literal["duckdb", "postgres"]
SYSTEM_USER = "system"
"""User of the lab's own maintenance over the rows of all users (liveness, sweeps). Never taken from a request."""

Topic = Literal["agents", "mcp_servers", "threads", "runs", "approvals", "traces", "scores", "files", "comparisons"]


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a blocking store call without blocking the event loop."""
    return await asyncio.to_thread(function, *args, **kwargs)


async def write_soon(
    db: Database, user_id: str, statements: Sequence[Statement], *, changes: Sequence[Change] = ()
) -> list[Rows]:
    """Same as `Database.write`, durable on return. If the database supports it, no thread waits, so that writes of many concurrent runs are
    committed together."""
    begun = db.begin_write(user_id, statements, changes=changes)
    if begun is None:
        return await in_thread(db.write, user_id, statements, changes=changes)
    return await asyncio.shield(asyncio.wrap_future(begun))


async def append_soon(
    db: Database, user_id: str, tables: Tables, *, first: Sequence[Statement] = (), then: Sequence[Statement] = (),
    changes: Sequence[Change] = (),
) -> None:  # fmt: skip
    """Same as `Database.append`, in the manner of `write_soon`. The rows of many concurrent runs are inserted together, which costs little
    more than those of one."""
    begun = db.begin_write(user_id, [*first, *then], tables=tables, changes=changes)
    if begun is None:
        await in_thread(db.append, user_id, tables, first=first, then=then, changes=changes)
    else:
        await asyncio.shield(asyncio.wrap_future(begun))


def in_event_loop() -> bool:
    """Returns whether an event loop runs in this thread, as in a notebook cell."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement of a transaction."""

    sql: str
    params: Sequence[object] = ()
    expect: int | None = None
    """Required number of returned (or else changed) rows; any other number rolls the transaction back with `ConflictError`."""

    def check(self, result: Rows) -> None:
        """Raises `ConflictError` when the number of returned or changed rows differs from `expect`."""
        n_rows = len(result.rows) if result.columns else result.changed
        if self.expect is not None and n_rows != self.expect:
            raise ConflictError(
                f"Expected {self.expect} row(s), found {n_rows}: another client changed it first.",
                "Read it again, then try again.",
            )


@dataclass(frozen=True, slots=True)
class Change:
    """A change notification, sent to subscribers after its transaction is durable.

    Changes may be missed while the connection to the lab's owner is lost. Then one with an empty `id` (and, from a `Database`, an empty
    `user_id`) is sent per topic, which means that everything shown must be read again.
    """

    topic: Topic
    user_id: str
    id: str


def unique_names(columns: Sequence[str]) -> list[str]:
    """Makes column names unique: in `select 1 as a, 2 as a`, the second column becomes `a_1`."""
    names: list[str] = []
    for column in columns:
        name, n = column, 0
        while name in names:
            n += 1
            name = f"{column}_{n}"
        names.append(name)
    return names


@dataclass(frozen=True, slots=True)
class Rows:
    """A query result: column names, and one tuple per row."""

    columns: tuple[str, ...]
    rows: list[Row]
    truncated: bool = False
    """True when the limit cut off further rows."""
    changed: int = 0
    """Number of rows changed by a statement that returns none."""

    def dicts(self) -> list[NamedRow]:
        names = unique_names(self.columns)
        return [dict(zip(names, row, strict=True)) for row in self.rows]

    def one(self) -> Row | None:
        return self.rows[0] if self.rows else None

    def df(self) -> pandas.DataFrame:
        """The rows as a DataFrame. Whole numbers beyond 2**53 beside nulls, which a column of floats would round, stay whole numbers."""
        import pandas

        frame = pandas.DataFrame.from_records(self.rows, columns=list(self.columns))
        for place, kind in enumerate(frame.dtypes):
            if kind == "float64" and any(type(row[place]) is int and abs(row[place]) > 2**53 for row in self.rows):
                values = [row[place] for row in self.rows]
                is_short = all(value is None or -(2**63) <= value < 2**63 for value in values)
                frame.isetitem(place, pandas.array(values, dtype="Int64" if is_short else "object"))
        return frame


@dataclass(slots=True)
class Received:
    """A trace request as received, and its decoded form."""

    user_id: str
    reader: str
    """The function of `runtime.interchange.otlp_in` that decodes the body."""
    body: bytes
    content_type: str
    content_encoding: str | None
    n_spans: int = 1
    decoded: object = None
    """The result of that function, or a function that returns it; None if the body must be decoded again."""
    confirmed: Callable[[], int] | None = None
    """Called once the request is durable, and before it is acknowledged: returns its number of spans, 0 if there is nothing to store.
    Raises if the request is refused, which is then not stored. Lets decoding and storing take place at the same time."""
    is_checked: bool = False
    """Whether it was accepted without decoding it, because none of its spans can be rejected."""


Tables = Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]]
"""Rows to insert: maps a table name to column names and rows."""
NO_TABLES: Tables = {}

Columns = Mapping[str, Sequence[Any]]
"""A result by column: maps a name to its values, as lists or numpy arrays (with NaN for unknown numbers, None for other unknowns)."""


def by_columns(rows: Rows) -> Columns:
    values = zip(*rows.rows, strict=True) if rows.rows else ([] for _ in rows.columns)
    return {name: list(column) for name, column in zip(rows.columns, values, strict=True)}


class Database(Protocol):
    """A lab's database; see the module docstring for what applies to every method. All raise `StoreError` when the database fails."""

    dialect: Dialect
    url: str
    """The URL given to `open_database`, without credentials."""
    process_id: str
    """This process's row in `processes`. Runs started here refer to it, so that other processes can detect when they died."""

    def query(self, user_id: str, sql: str, params: Sequence[object] = ()) -> Rows:
        """Runs one read statement of the lab itself."""
        ...

    def columns(self, user_id: str, sql: str, params: Sequence[object] = ()) -> Columns:
        """Same as `query`, but by column; much faster for large results on some databases."""
        ...

    def write(
        self,
        user_id: str,
        statements: Sequence[Statement],
        *,
        changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> list[Rows]:
        """Runs all statements in one transaction, durable on return, and then publishes `changes`.

        A `batch_id` makes the write idempotent: a batch that was already written is skipped (exactly once across failovers).
        Raises `ConflictError`, without writing anything, when a statement's `expect` is not met or a unique key exists.
        """
        ...

    def begin_write(
        self,
        user_id: str,
        statements: Sequence[Statement],
        *,
        tables: Tables = NO_TABLES,
        changes: Sequence[Change] = (),
    ) -> Future[list[Rows]] | None:
        """Starts a `write`, which inserts the rows of `tables` first, without waiting and returns a future. None if the database cannot
        write asynchronously."""
        ...

    def state_of(self, user_id: str, topic: Topic) -> object | None:
        """Returns a value that changes whenever the user's rows of a topic change (according to published `changes`). None when that cannot
        be known, because another process may have written."""
        ...

    def append(
        self,
        user_id: str,
        tables: Tables,
        *,
        first: Sequence[Statement] = (),
        then: Sequence[Statement] = (),
        changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> None:
        """Bulk-inserts rows (table name to column names and row tuples) and runs `then`, all in one transaction.

        `first` are statements that lock a row which other writers lock before they insert: on Postgres they run before the rows are
        inserted, so that two writers never wait for each other. A database with a single writer runs them with `then`.
        """
        ...

    def receive(self, request: Received) -> bool:
        """Stores a trace request unchanged, durable on return; later reads and writes see its spans. Returns False if the database does not
        support this, or not for this request; the caller then stores its spans. Raises what `request.confirmed` raises."""
        ...

    def select(
        self,
        user_id: str,
        sql: str,
        params: Sequence[object] = (),
        *,
        limit: int | None = None,
        timeout_s: float | None = 30.0,
    ) -> Rows:
        """Runs one read-only statement written by a user, over the documented views and that user's rows only. Raises `QueryError`."""
        ...

    def subscribe(self, callback: Callable[[Change], None], user_id: str | None = None) -> Callable[[], None]:
        """Registers a callback, called on a thread of the database after each change by any process; with `user_id`, only for changes of
        that user or without a user. Returns a function that unsubscribes."""
        ...

    def close(self) -> None: ...
