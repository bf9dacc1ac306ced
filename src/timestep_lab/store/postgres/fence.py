"""SQL typed by a user. Four fences, one behind the other.

The text may not name what lies outside the views (system catalogues, settings), and of functions it may call only those that compute from
their arguments: Postgres's own catalogue says which these are, and whatever else it knows is refused. It is run as
`declare … cursor for <text>`, which takes one SELECT and nothing else, in a READ ONLY transaction that is always rolled back. It runs as a role
that may read the views and the tables under them, and, where the lab's owner may say so, may execute nothing that acts on other sessions,
waits, locks, or runs SQL given as text (`sql/4_apply.sql`). And row-level security shows that role the rows of
one user, by a token it cannot forge. Only the last two carry weight; the first also keeps one user's query texts from another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from psycopg import Connection, RawServerCursor

from timestep_lab.model.errors import QueryError
from timestep_lab.store.base import Rows
from timestep_lab.store.interrupt import interruptible

_FORBIDDEN = re.compile(
    r"""\b(pg_\w*|information_schema|set_config|current_setting|lo_\w+|dblink\w*|txid_\w*
        |(query|table|cursor|schema|database)_to_xml\w*|ts_stat)\b|u&["']""",
    re.IGNORECASE | re.VERBOSE,
)


_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?\*/)
        |(?P<text>e'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$)
        |(?P<name>"(?:[^"]|"")*"|[^\W\d][\w$]*)|(?P<space>\s+)|(?P<other>.)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_CHANCE_AND_TIME = frozenset(
    {"random", "random_normal", "gen_random_uuid", "uuidv4", "uuidv7", "clock_timestamp", "timeofday"}
)
"""Volatile, and harmless."""
_TELL = re.compile(
    r"(pg_|has_|txid_|lo_|inet_client|inet_server|currtid|to_reg|current_setting|set_config|row_security|binary_upgrade)\w*"
    r"|\w+_description|\w+_to_xml\w*|ts_stat|ts_rewrite"
)
"""Functions that are no volatile ones, and tell about the server."""
_FUNCTIONS = b"""
select p.proname::text, bool_and(case when p.pronamespace = 'pg_catalog'::regnamespace then p.provolatile <> 'v'
    else p.provolatile = 'i' and l.lanname in ('c', 'internal') end)  -- As pgvector's sum of vectors.
from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = p.prolang group by 1
"""


def refused_functions(connection: Connection[Any]) -> frozenset[str]:
    """Names of functions of this database that a query may not call: all but those that only compute."""
    return frozenset(
        name
        for name, only_computes in connection.execute(_FUNCTIONS).fetchall()
        if name not in _CHANCE_AND_TIME and (not only_computes or _TELL.fullmatch(name))
    )


def check_calls(text: str, refused: frozenset[str]) -> None:
    """Raises `QueryError` when the text names, anywhere outside of texts and comments, a function of `refused` before a parenthesis
    or after a point."""
    before, name = "", ""
    for token in _TOKEN.finditer(text):
        if token["comment"] or token["space"]:
            if token["comment"] and "/*" in token["comment"][2:]:
                raise QueryError("A comment in the query holds another comment.", "Take the inner one out.")
            continue
        if token["other"] == "(" and name:
            _refuse(name, refused)
        name = ""
        if token["name"]:
            name = token["name"]
            name = name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
            if before == ".":
                _refuse(name, refused)
        before = token["other"] or ""


def _refuse(name: str, refused: frozenset[str]) -> None:
    if name in refused:
        raise QueryError(
            f"The function {name!r} is not one that a query may call.",
            "Use functions that compute from the columns of a view.",
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
