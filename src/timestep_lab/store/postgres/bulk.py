"""Many rows at once. COPY does not work into tables with row-level security, so it fills a temporary table that belongs to the connection and
is emptied by the commit; INSERT … SELECT takes the rows from there, past the policies. Measured: 32,000 rows/s of spans, against 14,000
by arrays and 20,000 by one JSON parameter; below a hundred rows, plain pipelined inserts are faster."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from psycopg import Connection, sql

FEW = 100

Rows = Sequence[Sequence[Any]]


def insert(connection: Connection[Any], table: str, columns: Sequence[str], rows: Rows) -> None:
    """`table` as written in our SQL, with or without its schema."""
    if len(rows) < FEW:
        _insert_few(connection, table, columns, rows)
    else:
        _insert_many(connection, table, columns, rows)


def _insert_few(connection: Connection[Any], table: str, columns: Sequence[str], rows: Rows) -> None:
    places = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
    statement = f"insert into {table} ({_names(columns)}) values ({places})"
    connection.cursor().executemany(statement.encode(), rows)


def _insert_many(connection: Connection[Any], table: str, columns: Sequence[str], rows: Rows) -> None:
    names = _names(columns)
    staging = f"incoming_{zlib.crc32(f'{table} {names}'.encode()):08x}"
    connection.execute(
        f"create temporary table if not exists {staging} on commit delete rows as select {names} from {table} with no data".encode()
    )
    with connection.cursor().copy(f"copy pg_temp.{staging} ({names}) from stdin".encode()) as copy:
        for row in rows:
            copy.write_row(row)
    connection.execute(f"insert into {table} ({names}) select {names} from pg_temp.{staging}".encode())


def _names(columns: Sequence[str]) -> str:
    return ", ".join(sql.Identifier(column).as_string(None) for column in columns)
