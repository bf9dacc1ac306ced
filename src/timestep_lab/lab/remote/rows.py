"""SQL asked of a served lab, with every value as the database gave it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from timestep_lab.model.errors import QueryError
from timestep_lab.service.client import Connection
from timestep_lab.store.base import Rows
from timestep_lab.store.duckdb import loopback as wire

EXACT = "application/vnd.timestep-lab.rows+json"
MOST = 1_000_000
"""Rows that the server gives at once."""


def select(connection: Connection, query: str, params: Sequence[Any] = (), limit: int | None = None) -> Rows:
    """At most `limit` rows. Raises `QueryError`, also when there are more than a million rows and no limit is given."""
    body = {"query": query, "params": json.loads(wire.dumps(list(params))), "limit": min(limit or MOST, MOST)}
    rows = wire.unpack_rows(wire.loads(connection.raw("POST", "/api/v1/sql", json=body, headers={"Accept": EXACT})))
    if rows.truncated and limit is None:
        raise QueryError(f"The answer has more than {MOST:,} rows.", "Add a limit, or count in the query.")
    return rows
