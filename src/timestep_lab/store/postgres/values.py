"""The same Python values from Postgres as from DuckDB: naive UTC datetimes, JSON as its text, whole numbers as int, others as float."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from psycopg import Connection
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.types.datetime import TimestamptzLoader
from psycopg.types.string import TextLoader


class _NaiveUtcLoader(TimestamptzLoader):
    def load(self, data: Buffer) -> datetime:
        return super().load(data).astimezone(UTC).replace(tzinfo=None)


class _NumberLoader(Loader):
    """`sum(bigint)` and `avg(bigint)` are numeric in Postgres; a Decimal would not survive JSON or a chart."""

    def load(self, data: Buffer) -> int | float:
        text = bytes(data).decode()
        return int(text) if text.lstrip("-").isdigit() else float(text)


def adapt(connection: Connection[Any]) -> None:
    types = connection.adapters
    types.register_loader("timestamptz", _NaiveUtcLoader)
    types.register_loader("numeric", _NumberLoader)
    types.register_loader("json", TextLoader)
    types.register_loader("jsonb", TextLoader)
