"""SQL typed by a user. Four fences, one behind the other.

The text may not name what lies outside the views (system catalogues, settings, functions that run SQL given as text). It is run as
`declare … cursor for <text>`, which takes one SELECT and nothing else, in a READ ONLY transaction that is always rolled back. It runs as a role
that may read the views and the tables under them, and nothing more. And row-level security shows that role the rows of
one user, by a token it cannot forge. Only the last two carry weight; the first also keeps one user's query texts from another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from psycopg import Connection, RawServerCursor

from timestep_lab.store.base import Rows
from timestep_lab.store.interrupt import interruptible
from timestep_lab.types.errors import QueryError

_FORBIDDEN = re.compile(
    r"""\b(pg_\w*|information_schema|set_config|current_setting|lo_\w+|dblink\w*|txid_\w*
        |(query|table|cursor|schema|database)_to_xml\w*|ts_stat)\b|u&["']""",
    re.IGNORECASE | re.VERBOSE,
)


def check(text: str) -> None:
    """Raises `QueryError`."""
    if not text.strip().strip(";"):
        raise QueryError("The query is empty.", "Try: select * from traces limit 10")
    found = _FORBIDDEN.search(text)
    if found:
        raise QueryError(
            f"A query may not mention {found.group(0)!r}.",
            "Query the views only, such as traces; to search for this word, pass it as a parameter ($1).",
        )


def fetch(
    connection: Connection[Any], text: str, params: Sequence[Any], *, limit: int | None, timeout_s: float | None
) -> Rows:
    """Inside a transaction that has its user. One FETCH, so that no function in the text can lift the time limit for a later one."""
    connection.execute(b"select set_config('statement_timeout', $1, true)", [str(int((timeout_s or 0) * 1000))])
    with interruptible(lambda: connection.cancel_safe(timeout=5.0)), RawServerCursor(connection, "typed") as cursor:
        cursor.execute(text.encode(), list(params))
        rows = cursor.fetchmany(limit + 1) if limit is not None else cursor.fetchall()
        columns = tuple(column.name for column in cursor.description or ())
    return Rows(columns, rows[:limit], limit is not None and len(rows) > limit)
