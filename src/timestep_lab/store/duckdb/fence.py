"""SQL typed by a user: one query, over the documented views, reading only.

Three fences stand one behind the other. The parsed query may name nothing but the views of schema main, its own `with`
queries, a few table functions, and functions that compute from their arguments alone (`query_check.py`). It runs in a READ ONLY
transaction. And the engine reaches no file, no network and no extension, whatever it runs. The views themselves
show the rows of one user: the one whose name stands in the cursor's variable `tl_user`, which no SELECT can set.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb

from timestep_lab.store.base import Rows
from timestep_lab.store.duckdb.connect import FATAL, Cursor, quoted
from timestep_lab.store.duckdb.query_check import QueryCheck, place_of
from timestep_lab.store.interrupt import interruptible, was_interrupted
from timestep_lab.types.errors import QueryError

MAX_SQL = 100_000


class Fence:
    """Takes cursors with `errors_as_json` on. The views that a query may read are those there are when the first one comes."""

    def __init__(self) -> None:
        self._check: QueryCheck | None = None

    def select(
        self, cursor: Cursor, sql: str, params: Sequence[Any], *, limit: int | None, timeout_s: float | None
    ) -> Rows:
        """Raises `QueryError`, with the place in the text where there is one, and what to do."""
        if len(sql) > MAX_SQL:
            raise QueryError(
                f"The query is longer than {MAX_SQL} characters.", "Shorten it; pass long values as $1, $2, …"
            )
        with _explained(sql), _time_limit(cursor, timeout_s):
            if self._check is None:
                self._check = QueryCheck.from_catalogue(cursor)
            self._check(cursor, sql)
            cursor.execute("begin transaction read only")
            try:
                columns = _execute(cursor, sql, params)
                rows = cursor.fetchmany(limit + 1) if limit is not None else cursor.fetchall()
            finally:
                with contextlib.suppress(duckdb.TransactionException):  # An interrupt may have ended it.
                    cursor.execute("rollback")
        return Rows(columns, rows[:limit], limit is not None and len(rows) > limit)


def _execute(cursor: Cursor, sql: str, params: Sequence[Any]) -> tuple[str, ...]:
    """Run it, and name its columns. Times with a zone are read as naive UTC, as everywhere (and as text inside lists and structs)."""
    cursor.execute(sql, list(params))
    columns = [(column[0], str(column[1])) for column in cursor.description or ()]
    if any("WITH TIME ZONE" in kind for _, kind in columns):
        casts = {"TIMESTAMP WITH TIME ZONE": "timestamp"}
        names = [f"c{n}" for n in range(len(columns))]
        reads = ", ".join(
            f"{name}::{casts.get(kind, 'varchar')}" if "WITH TIME ZONE" in kind else name
            for name, (_, kind) in zip(names, columns, strict=True)
        )
        inner = sql.strip().rstrip(";")
        cursor.execute(f"select {reads} from (\n{inner}\n) as {quoted('q')}({', '.join(names)})", list(params))
    return tuple(name for name, _ in columns)


@contextlib.contextmanager
def _time_limit(cursor: Cursor, timeout_s: float | None) -> Iterator[None]:
    over = threading.Event()

    def stop() -> None:
        over.set()
        cursor.interrupt()

    timer = threading.Timer(timeout_s or 0.0, stop)
    timer.daemon = True
    if timeout_s is not None:
        timer.start()
    try:
        with interruptible(cursor.interrupt):
            yield
    except duckdb.InterruptException as error:
        if over.is_set():
            raise QueryError(
                f"The query took longer than {timeout_s:g} s.", "Narrow it, for example to the traces of the last day."
            ) from error
        if was_interrupted():
            raise QueryError("The query was stopped before its end.", "Ask it again.") from error
        raise
    finally:
        if timeout_s is not None:
            timer.cancel()
            timer.join()  # So that it cannot interrupt whatever uses this cursor next.


@contextlib.contextmanager
def _explained(sql: str) -> Iterator[None]:
    """A DuckDB error about the query, as a `QueryError`."""
    try:
        yield
    except (*FATAL, duckdb.InterruptException, duckdb.ConnectionException):
        raise
    except duckdb.OutOfMemoryException as error:
        raise QueryError("The query needs more memory than a lab may use.", "Ask for fewer rows or columns.") from error
    except duckdb.Error as error:
        found = _details(error)
        message = str(found.get("exception_message", "")).split("\n", 1)[0].rstrip("!. ")
        position = found.get("position")
        place = place_of(sql, int(position)) if position is not None and str(position).isdigit() else ""
        candidates = [name.strip() for name in str(found.get("candidates", "")).split(",") if name.strip()]
        if candidates:
            step = f"Did you mean {' or '.join(candidates[:3])}?"
        else:
            step = (
                "Correct the text there."
                if place
                else "`show tables` lists the views, `describe <view>` their columns."
            )
        raise QueryError(f"{message}{place}.", step) from error


def _details(error: duckdb.Error) -> dict[str, Any]:
    text = str(error)
    try:
        found = json.loads(text[text.index("{") :])
    except ValueError:
        return {"exception_message": text}
    return found if isinstance(found, dict) else {"exception_message": text}
