"""One writing transaction: for one user, written once whatever happens to the connection, announced when it is durable.

Every write has a batch id, which is put into `core.ingest_batches` in the same transaction. When the connection is lost while it commits, nobody
knows whether it did; sent again, a batch that was written answers what it answered before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import Any

import psycopg

from timestep_lab.store.base import Rows, Statement
from timestep_lab.store.duckdb import wire
from timestep_lab.store.postgres.sessions import Conn
from timestep_lab.types.errors import ConflictError

Command = tuple[bytes, Sequence[Any]]


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
    """`first` says for whom; `announce` goes out with the commit. `pipelined` sends all of it in two round trips (COPY cannot).

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
    """All statements in one round trip. Raises `ConflictError` when one does not return the number of rows it expects."""
    with connection.pipeline():
        cursors = [connection.execute(statement.sql.encode(), list(statement.params)) for statement in statements]
    results = [rows_of(cursor) for cursor in cursors]
    for statement, result in zip(statements, results, strict=True):
        if statement.expect is not None and len(result.rows) != statement.expect:
            raise ConflictError(
                f"Expected {statement.expect} row(s), found {len(result.rows)}: somebody else changed it first.",
                "Read it again, then try again.",
            )
    return results


def rows_of(cursor: psycopg.Cursor[Any]) -> Rows:
    """A statement without a result has no columns and no rows."""
    if cursor.description is None:
        return Rows((), [])
    return Rows(tuple(column.name for column in cursor.description), cursor.fetchall())
