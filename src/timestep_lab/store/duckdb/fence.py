"""SQL typed by a user: one query, over the documented views, reading only.

Three fences stand one behind the other. The parsed query may name nothing but the views of schema main, its own `with`
queries, a few table functions, and functions that compute from their arguments alone (`query_check.py`). It runs in a READ ONLY
transaction. And the engine reaches no file, no network and no extension, whatever it runs. The views themselves
show the rows of one user: the one whose name stands in the cursor's variable `tl_user`, which no SELECT can set.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb

from timestep_lab.model.errors import QueryError
from timestep_lab.store.base import Rows
from timestep_lab.store.duckdb.connect import FATAL, Cursor, quoted
from timestep_lab.store.duckdb.query_check import QueryCheck, place_of
from timestep_lab.store.interrupt import interruptible, was_interrupted

MAX_SQL = 100_000
MAX_GROWTH = 2**30
"""Bytes by which this process may grow while a query runs."""
LOOK_S = 0.05
"""How often that is looked at."""
ROWS_AT_ONCE = 2048
STATM = Path("/proc/self/statm")
PAGE = 4096 if sys.platform == "win32" else os.sysconf("SC_PAGE_SIZE")


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
        watch = _Watch(cursor, timeout_s)
        with _explained(sql), watch():
            if self._check is None:
                self._check = QueryCheck.from_catalogue(cursor)
            self._check(cursor, sql)
            cursor.execute("begin transaction read only")
            try:
                columns = _execute(cursor, sql, params)
                rows = _fetch(cursor, limit, watch)
            finally:
                with contextlib.suppress(duckdb.TransactionException):  # An interrupt may have ended it.
                    cursor.execute("rollback")
        return Rows(columns, rows[:limit], limit is not None and len(rows) > limit)


def _fetch(cursor: Cursor, limit: int | None, watch: _Watch) -> list[tuple[Any, ...]]:
    """One more than `limit`. Some at a time: rows become Python's, which an interrupt does not reach."""
    rows: list[tuple[Any, ...]] = []
    while limit is None or len(rows) <= limit:
        some = cursor.fetchmany(ROWS_AT_ONCE if limit is None else min(ROWS_AT_ONCE, limit + 1 - len(rows)))
        if not some:
            break
        rows.extend(some)
        watch.check()
    return rows


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


class _Watch:
    """Ends what `cursor` does when it takes too long, or when this process grew too much meanwhile.

    DuckDB counts most of what a query holds against its `memory_limit`, but not the values it computes while planning, nor single
    lists. So the process itself is measured: whatever a query calls, it ends soon after it has grown by `MAX_GROWTH`.
    """

    def __init__(self, cursor: Cursor, timeout_s: float | None) -> None:
        self._cursor, self._timeout_s = cursor, timeout_s
        self._began, self._before = time.monotonic(), own_memory()
        self._done = threading.Event()
        self._why: QueryError | None = None

    def check(self) -> None:
        """Raises `QueryError` once the query is over a limit."""
        if self._why is not None:
            raise self._why

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        thread = threading.Thread(target=self._look, name="timestep-lab sql watch", daemon=True)
        thread.start()
        try:
            with interruptible(self._cursor.interrupt):
                yield
        except duckdb.InterruptException as error:
            if self._why is not None:
                raise self._why from error
            if was_interrupted():
                raise QueryError("The query was stopped before its end.", "Ask it again.") from error
            raise
        finally:
            self._done.set()
            thread.join()  # So that it cannot interrupt whatever uses this cursor next.

    def _look(self) -> None:
        while not self._done.wait(self._pause()):
            if self._why is None:
                self._why = self._too_much()
            if self._why is not None:  # Again and again: one that comes between two steps of the query is lost.
                self._cursor.interrupt()

    def _pause(self) -> float:
        if self._timeout_s is None:
            return LOOK_S
        return min(LOOK_S, max(self._began + self._timeout_s - time.monotonic(), 0.005))

    def _too_much(self) -> QueryError | None:
        if self._timeout_s is not None and time.monotonic() - self._began >= self._timeout_s:
            return QueryError(
                f"The query took longer than {self._timeout_s:g} s.",
                "Narrow it, for example to the traces of the last day.",
            )
        if own_memory() - self._before > MAX_GROWTH:
            return _too_big()
        return None


def own_memory() -> int:
    """Bytes that this process alone holds, files that are mapped left out; 0 where the system does not tell (then DuckDB's limit alone holds)."""
    try:
        _, resident, shared, *_ = STATM.read_bytes().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * PAGE


def _too_big() -> QueryError:
    return QueryError("The query needs more memory than a lab may use.", "Ask for fewer rows or columns.")


@contextlib.contextmanager
def _explained(sql: str) -> Iterator[None]:
    """A DuckDB error about the query, as a `QueryError`."""
    try:
        yield
    except (*FATAL, duckdb.InterruptException, duckdb.ConnectionException):
        raise
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise _too_big() from error
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
