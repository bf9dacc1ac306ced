"""What a seat can sit on: the file itself (`Engine`), or a connection to the process that holds it (`Loopback`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from timestep_lab.store.base import Change, Columns, Rows, Statement

Tables = Mapping[str, tuple[Sequence[str], Sequence[tuple[Any, ...]]]]
"""Table name to (column names, row tuples)."""


class ClosedError(Exception):
    """This backend no longer leads to the file. Whether the last call was done is unknown: find the owner anew, and send
    a write again under the same batch id."""


class Backend(Protocol):
    """The operations of `store.base.Database`, each of which may raise `ClosedError`."""

    local: bool
    """The file is this process's: a call that raised `ClosedError` was not done."""

    def query(self, user_id: str, sql: str, params: Sequence[Any] = ()) -> Rows: ...

    def columns(self, user_id: str, sql: str, params: Sequence[Any] = ()) -> Columns: ...

    def write(
        self,
        user_id: str,
        statements: Sequence[Statement],
        *,
        changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> list[Rows]: ...

    def append(
        self,
        user_id: str,
        tables: Tables,
        *,
        then: Sequence[Statement] = (),
        changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> None: ...

    def select(
        self,
        user_id: str,
        sql: str,
        params: Sequence[Any] = (),
        *,
        limit: int | None = None,
        timeout_s: float | None = 30.0,
    ) -> Rows: ...

    def listen(self) -> None:
        """From the return of this on, the publisher hears of every change of any process."""
        ...

    def close(self) -> None: ...

    def abandon(self) -> None:
        """In a forked child: let go of what was inherited, without disturbing the parent."""
        ...
