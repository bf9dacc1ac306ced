"""Which queries a user may run: everything that DuckDB's own parser found in the text is compared with what is allowed.

What is not known to be harmless is refused, so that a new kind of syntax or a new function stays outside until somebody lets it in.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import duckdb

from timestep_lab.model.errors import QueryError
from timestep_lab.store.duckdb.connect import Cursor
from timestep_lab.store.duckdb.query_size import UNBOUNDED, SizeCheck

PARSE = "select json_serialize_sql($1::varchar, skip_null := true, skip_empty := true, skip_default := true)"

QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
OTHER_NODES = frozenset({
    "BASE_TABLE", "TABLE_FUNCTION", "SUBQUERY", "JOIN", "EXPRESSION_LIST", "PIVOT", "SHOW_REF", "EMPTY",
    "ORDER_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER",
    "ORDER_DEFAULT", "ASCENDING", "DESCENDING",
})  # fmt: skip
"""Of the nodes that are no expressions: table references and modifiers."""

TABLE_FUNCTIONS = frozenset({"unnest", "range", "generate_series", "json_each", "json_tree"})

TIME_AND_CHANCE = frozenset({
    "now", "today", "current_date", "get_current_time", "get_current_timestamp", "transaction_timestamp",
    "random", "uuid", "uuidv4", "uuidv7", "gen_random_uuid",
})  # fmt: skip
"""Functions that do not compute from their arguments alone, and are harmless."""

READS_SQL = frozenset({"json_serialize_sql", "json_deserialize_sql", "json_serialize_plan", "parse_duckdb_log_message"})
CATALOGUE = ("__", "pg_", "has_", "inet_", "current_", "session_", "obj_", "col_", "shobj_", "map_to_pg", "get_block")
"""How the names of functions and macros begin that tell about the engine."""

FUNCTIONS_SQL = """
select distinct function_name from duckdb_functions()
where internal and function_type in ('aggregate', 'window', 'macro') or (function_type = 'scalar' and stability = 'CONSISTENT')
"""
VIEWS_SQL = """
select view_name from duckdb_views()
where schema_name = 'main' and not internal and database_name = current_database() order by view_name
"""


@cache
def pure_functions() -> frozenset[str]:
    """DuckDB's own functions that a query may call. Listing them takes a third of a second, hence once a process."""
    with duckdb.connect(":memory:") as empty:
        listed = {name for (name,) in empty.execute(FUNCTIONS_SQL).fetchall()}
    return frozenset(
        {name for name in listed - READS_SQL - UNBOUNDED.keys() if not name.startswith(CATALOGUE)} | TIME_AND_CHANCE
    )


@dataclass(frozen=True, slots=True)
class QueryCheck:
    views: frozenset[str]
    functions: frozenset[str]

    @classmethod
    def from_catalogue(cls, cursor: Cursor) -> QueryCheck:
        return cls(frozenset(name for (name,) in cursor.execute(VIEWS_SQL).fetchall()), pure_functions())

    def __call__(self, cursor: Cursor, sql: str) -> None:
        """Raises `QueryError` unless the text is one query that may run."""
        try:
            [(parsed,)] = cursor.execute(PARSE, [sql]).fetchall()
            tree = json.loads(parsed)
            if tree.get("error"):
                raise _not_a_query(sql, tree)
            statements = tree["statements"]
            if len(statements) != 1:
                what = (
                    "There is no query"
                    if not statements
                    else f"There are {len(statements)} queries where one is expected"
                )
                raise QueryError(f"{what}.", "Give one: select * from traces limit 10")
            self._walk(statements[0], frozenset(), sql)
            SizeCheck(lambda node: _place(node, sql)).check(statements[0])
        except RecursionError as error:
            raise QueryError(
                "The query is nested too deeply.", "Name its parts: with a as (…), b as (…) select …"
            ) from error

    def _walk(self, node: Any, named: frozenset[str], sql: str) -> None:
        """`named`: the `with` queries that can be seen from here."""
        if isinstance(node, list):
            for child in node:
                self._walk(child, named, sql)
        elif isinstance(node, dict):
            self._allow(node, named, sql)
            if "cte_map" in node:
                named = self._walk_named(node, named, sql)
            for key, child in node.items():
                if key not in ("cte_map", "literal"):
                    self._walk(child, named, sql)

    def _walk_named(self, node: Mapping[str, Any], named: frozenset[str], sql: str) -> frozenset[str]:
        """Each `with` query sees those before it, and itself only if it is recursive."""
        for entry in node["cte_map"].get("map", ()):
            name, body = entry["key"].lower(), entry["value"]
            recursive = body.get("query_node", {}).get("type") == "RECURSIVE_CTE_NODE"
            self._walk(body, named | {name} if recursive else named, sql)
            named |= {name}
        return named

    def _allow(self, node: Mapping[str, Any], named: frozenset[str], sql: str) -> None:
        kind = node.get("type")
        if isinstance(kind, str) and "class" not in node:
            allowed = QUERY_NODES if "cte_map" in node else OTHER_NODES
            if kind not in allowed | ({"SUBQUERY"} if "subquery" in node else set()):
                raise QueryError(f"This form of SQL ({kind.lower()}) is not for queries.", "Use one plain SELECT.")
        if kind == "BASE_TABLE":
            self._allow_table(node, named, sql)
        elif kind == "TABLE_FUNCTION":
            function = node.get("function", {})
            self._allow_function(function, TABLE_FUNCTIONS, "table function", sql, node)
        elif kind == "SHOW_REF":
            self._allow_show(node, named, sql)
        elif "function_name" in node:
            self._allow_function(node, self.functions | TABLE_FUNCTIONS, "function", sql, node)

    def _allow_table(self, node: Mapping[str, Any], named: frozenset[str], sql: str) -> None:
        *schema, name = _path(node, "table_name")
        if not schema and name.lower() in named:
            return
        if schema in ([], ["main"]) and name.lower() in self.views:
            return
        shown = ".".join([*schema, name])
        raise QueryError(
            f"There is no view {shown!r}{_place(node, sql)}.",
            _suggest(name, self.views | named, f"Views: {', '.join(sorted(self.views))}."),
        )

    def _allow_function(
        self, node: Mapping[str, Any], allowed: Iterable[str], noun: str, sql: str, at: Mapping[str, Any]
    ) -> None:
        *schema, name = _path(node, "function_name")
        if schema or name.lower() not in allowed:
            shown = ".".join([*schema, name])
            if name.lower() in UNBOUNDED:
                raise QueryError(
                    f"The {noun} {shown!r} may need any amount of memory, so a query may not call it{_place(at, sql)}.",
                    UNBOUNDED[name.lower()],
                )
            raise QueryError(
                f"The {noun} {shown!r} is not one that a query may call{_place(at, sql)}.",
                _suggest(name, allowed, "Use functions that compute from the columns of a view."),
            )

    def _allow_show(self, node: Mapping[str, Any], named: frozenset[str], sql: str) -> None:
        """`describe`, `summarize` and `show <view>` name a view or hold a query; of the rest only `show tables`."""
        if node.get("query") is None and node.get("table_name") != '"tables"':
            self._allow_table(node, named, sql)


def _path(node: Mapping[str, Any], name: str) -> list[str]:
    path = node.get("qualified_name", {}).get("path")
    return [str(part) for part in path] if path else [str(node.get(name, ""))]


def _suggest(name: str, known: Iterable[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.6)
    return f"Did you mean {close[0]}? {otherwise}" if close else otherwise


def _place(node: Mapping[str, Any], sql: str) -> str:
    position = node.get("query_location")
    return place_of(sql, position) if isinstance(position, int) else ""


def place_of(sql: str, position: int) -> str:
    """` (line 2, column 8)` for a position in bytes, as DuckDB counts."""
    before = sql.encode()[:position].decode(errors="ignore")
    line = before.count("\n") + 1
    return f" (line {line}, column {len(before) - before.rfind(chr(10))})"


def _not_a_query(sql: str, tree: Mapping[str, Any]) -> QueryError:
    position = str(tree.get("position", ""))
    place = place_of(sql, int(position)) if position.isdigit() else ""
    if tree.get("error_type") == "parser":
        return QueryError(
            f"{str(tree['error_message'])[:1].upper()}{tree['error_message'][1:]}{place}.", "Correct the text there."
        )
    return QueryError("Only one SELECT is taken, and nothing that writes.", "Try: select * from traces limit 10")
