"""`DuckDatabase`: a lab in a DuckDB file, whichever process of this machine owns that file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from timestep_lab.store.base import Change, Dialect, Rows, Statement
from timestep_lab.store.changes import Publisher
from timestep_lab.store.duckdb.engine import Engine
from timestep_lab.store.duckdb.writer import Tables
from timestep_lab.types.ids import new_id


class DuckDatabase:
    """See `store.base.Database` for the methods."""

    dialect: Dialect = "duckdb"

    def __init__(self, path: Path | None) -> None:
        self.url = ":memory:" if path is None else str(path)
        self.process_id = new_id("process")
        self._publisher = Publisher()
        self._engine = Engine(path, self._publisher)

    def query(self, user_id: str, sql: str, params: Sequence[Any] = ()) -> Rows:
        return self._engine.query(user_id, sql, params)

    def write(
        self,
        user_id: str,
        statements: Sequence[Statement],
        *,
        changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> list[Rows]:
        return self._engine.write(user_id, statements, changes=changes, batch_id=batch_id)

    def append(
        self, user_id: str, tables: Tables, *, then: Sequence[Statement] = (), changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> None:  # fmt: skip
        self._engine.append(user_id, tables, then=then, changes=changes, batch_id=batch_id)

    def select(
        self,
        user_id: str,
        sql: str,
        params: Sequence[Any] = (),
        *,
        limit: int | None = None,
        timeout_s: float | None = 30.0,
    ) -> Rows:
        return self._engine.select(user_id, sql, params, limit=limit, timeout_s=timeout_s)

    def subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        return self._publisher.subscribe(callback)

    def close(self) -> None:
        self._engine.close()
        self._publisher.close()
