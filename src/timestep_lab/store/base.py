"""What a database must do so that a lab can live in it. DuckDB, its loopback client, and Postgres do these few things;
all else in this floor is written once, on top.

Threads, not coroutines: every method blocks, is safe to call from any thread, and returns in milliseconds. Async callers
go through `in_thread`. Parameters are `$1, $2, …` in both dialects. Datetimes go in and come out as naive UTC.

Whose rows: each call names the user on whose behalf it runs. Statements written in this package say
`user_id = $n` themselves (`store/table.py` writes it for all ordinary tables); Postgres enforces it once more by row-level security;
SQL typed by a user goes through `select`, which sees that user's rows only, whatever it says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeVar

from timestep_lab.model.errors import ConflictError

if TYPE_CHECKING:
    import pandas

P = ParamSpec("P")
T = TypeVar("T")

Dialect = Literal["duckdb", "postgres"]
SYSTEM_USER = "system"
"""On whose behalf the lab's own housekeeping runs, over the rows of all users (liveness, sweeps). Never taken from a request."""

Topic = Literal["agents", "mcp_servers", "threads", "runs", "approvals", "traces", "scores", "files", "comparisons"]


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking store call without blocking the event loop."""
    return await asyncio.to_thread(function, *args, **kwargs)


async def write_soon(
    db: Database, user_id: str, statements: Sequence[Statement], *, changes: Sequence[Change] = ()
) -> list[Rows]:
    """`Database.write`, durable on return. Where the database can, no thread waits for it: what hundreds of runs write at once is
    then committed together."""
    begun = db.begin_write(user_id, statements, changes=changes)
    if begun is None:
        return await in_thread(db.write, user_id, statements, changes=changes)
    return await asyncio.shield(asyncio.wrap_future(begun))


def in_event_loop() -> bool:
    """Whether an event loop runs in this thread, as it does in a notebook's cells."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement of a transaction."""

    sql: str
    params: Sequence[Any] = ()
    expect: int | None = None
    """How many rows it must return, or change if it returns none; any other number rolls the transaction back with `ConflictError`."""

    def check(self, result: Rows) -> None:
        """Raises `ConflictError` when it did not return, or change, the number of rows that it expects."""
        n_rows = len(result.rows) if result.columns else result.changed
        if self.expect is not None and n_rows != self.expect:
            raise ConflictError(
                f"Expected {self.expect} row(s), found {n_rows}: somebody else changed it first.",
                "Read it again, then try again.",
            )


@dataclass(frozen=True, slots=True)
class Change:
    """Told to subscribers after the transaction that made it is durable.

    After the connection to the owner of the lab was lost, changes may have gone unheard: then one with an empty `id`
    (and, from a `Database`, an empty `user_id`) comes for each topic, and means "read again whatever you show".
    """

    topic: Topic
    user_id: str
    id: str


def unique_names(columns: Sequence[str]) -> list[str]:
    """`select 1 as a, 2 as a` has two columns of one name; an object cannot: the second becomes `a_1`."""
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
    """A result: column names, and one tuple a row."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    truncated: bool = False
    """More rows existed than the limit let through."""
    changed: int = 0
    """By a statement that writes and returns nothing."""

    def dicts(self) -> list[dict[str, Any]]:
        names = unique_names(self.columns)
        return [dict(zip(names, row, strict=True)) for row in self.rows]

    def one(self) -> tuple[Any, ...] | None:
        return self.rows[0] if self.rows else None

    def df(self) -> pandas.DataFrame:
        import pandas

        return pandas.DataFrame.from_records(self.rows, columns=list(self.columns))


Columns = Mapping[str, Sequence[Any]]
"""A result by columns: name to values, lists or numpy arrays (then unknown numbers are NaN, and other unknown values None)."""


def by_columns(rows: Rows) -> Columns:
    values = zip(*rows.rows, strict=True) if rows.rows else ([] for _ in rows.columns)
    return {name: list(column) for name, column in zip(rows.columns, values, strict=True)}


class Database(Protocol):
    """See the module's text for what holds of every method. All raise `StoreError` when the database itself fails."""

    dialect: Dialect
    url: str
    """What `open_database` was given, without any password."""
    process_id: str
    """This process's row in `processes`; runs started here carry it, so that another process can tell they died."""

    def query(self, user_id: str, sql: str, params: Sequence[object] = ()) -> Rows:
        """One reading statement of our own."""
        ...

    def columns(self, user_id: str, sql: str, params: Sequence[object] = ()) -> Columns:
        """The same by columns; for results of many rows, which some databases can give much sooner so."""
        ...

    def write(
        self,
        user_id: str,
        statements: Sequence[Statement],
        *,
        changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> list[Rows]:
        """All statements in one transaction, durable on return; then `changes` are published.

        With a `batch_id`, a batch that was already written is not written again (a retry after a failover is exactly once).
        Raises `ConflictError` when a statement's `expect` is not met or a unique key is taken; nothing is written then.
        """
        ...

    def begin_write(
        self, user_id: str, statements: Sequence[Statement], *, changes: Sequence[Change] = ()
    ) -> Future[list[Rows]] | None:
        """`write` without waiting: the answer comes later. None where one has to wait for it."""
        ...

    def state_of(self, user_id: str, topic: Topic) -> object | None:
        """What is another whenever the user's rows of this topic are (as the `changes` of writes tell). None where that cannot be known
        for certain, because another process may have written."""
        ...

    def append(
        self,
        user_id: str,
        tables: Mapping[str, tuple[Sequence[str], Sequence[tuple[Any, ...]]]],
        *,
        then: Sequence[Statement] = (),
        changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> None:
        """Bulk insert: table name to (column names, row tuples), followed by `then`, all in one transaction."""
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
        """One read-only statement typed by a user, over the documented views, seeing that user's rows only. Raises `QueryError`."""
        ...

    def subscribe(self, callback: Callable[[Change], None], user_id: str | None = None) -> Callable[[], None]:
        """Call back, on a thread of the database's, after each change from any process; with `user_id`, after those of that user and
        those that name nobody. Returns what ends it."""
        ...

    def close(self) -> None: ...
