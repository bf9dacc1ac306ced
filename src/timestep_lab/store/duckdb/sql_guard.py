"""User-written SQL: one read-only query over the documented views.

Three layers of protection: the parsed query may only name the views of schema main, its own `with` queries, a few table functions, and
functions that compute from their arguments alone. It runs in a READ ONLY transaction. And the engine has no access to files, network
or extensions. The views show the rows of one user, named by the cursor's variable `tl_user`, which no SELECT can set.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import duckdb

from timestep_lab.model.errors import QueryError
from timestep_lab.store.base import Row, Rows
from timestep_lab.store.duckdb import query_process
from timestep_lab.store.duckdb.connect import FATAL, MEMORY_LIMIT, Cursor, quoted
from timestep_lab.store.memory import TOO_BIG, Watch, check_params, is_limited

# --- Size limits: functions whose result size depends on an argument require constant, bounded sizes
#
# DuckDB evaluates constants while planning, when its memory limit does not apply and interrupts are ignored, and it does not count
# single lists at all. `repeat('x', 2000000000)` must therefore be rejected before it starts. What grows with the rows read is limited by
# DuckDB and by `store.memory`.


Node = Mapping[str, Any]

MAX_SIZE = 10_000
"""Maximum number of elements or characters of one call, and of all calls of a query multiplied, since sizes can be nested."""
SMALL = 100
"""Sizes up to this are always allowed, for example to pad a column of a report."""
MAX_STARS = 1_000
"""Limit for `*`: `select *, *` of `select *, *` has four times the columns."""

SIZE_AT: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("repeat", "lpad", "rpad", "list_resize", "array_resize", "bitstring"), (1,)),
    **dict.fromkeys(("min", "max", "approx_top_k"), (1,)),
    **dict.fromkeys(("arg_min", "arg_max", "argmin", "argmax", "min_by", "max_by", "arg_min_nulls_last", "arg_max_nulls_last"), (2,)),
    **dict.fromkeys(("lttb", "equi_width_bins", "reservoir_quantile", "approx_quantile"), (2,)),
}  # fmt: skip
"""Functions whose result size is given by these arguments (counted from 0, if present)."""
SERIES = frozenset({"range", "generate_series"})
FORMATS = frozenset({"printf", "format"})
JSON_TYPES = frozenset({"from_json", "from_json_strict", "json_transform", "json_transform_strict"})

UNBOUNDED = {
    **dict.fromkeys(("list_reduce", "array_reduce", "reduce"), "Use list_sum, list_aggregate, or unnest and group by."),
    "damerau_levenshtein": "Use levenshtein or jaro_winkler_similarity.",
    **dict.fromkeys(("make_type", "replace_type", "cast_to_type"), "Write the type: cast(x as integer)."),
    **dict.fromkeys(
        ("to_aggregate_state", "finalize", "combine", "combine_aggr", "invoke", "bitstring_agg", "remap_struct"),
        "Use an ordinary aggregate such as sum, count or list.",
    ),
}
"""Functions without a bound, and their alternatives."""


class SizeCheck:
    """Size check of one query; `place` describes the position of a node in the text."""

    def __init__(self, place: Callable[[Node], str]) -> None:
        self._place = place
        self._made, self._stars = 1.0, 1

    def check(self, node: object) -> None:
        """Raises `QueryError` for a size that is not constant, or too large."""
        if isinstance(node, list):
            for child in node:
                self.check(child)
        elif isinstance(node, dict):
            if "select_list" in node:
                self._columns(node)
            if node.get("class") == "FUNCTION" and node.get("type") == "FUNCTION":
                self._call(node)
            elif node.get("class") == "TYPE" and str(node.get("type_name", "")).lower() == "array":
                self._make(node, "an array type", self._constant(node, "an array type", node["children"][1]))
            # A series read as a table is streamed; its arguments may be anything.
            inside = node["function"].get("arguments", []) if node.get("type") == "TABLE_FUNCTION" else None
            if inside is not None and _name(node["function"]) in SERIES:
                self.check(inside)
                self.check([child for key, child in node.items() if key != "function"])
            else:
                self.check(list(node.values()))

    def _columns(self, node: Node) -> None:
        self._stars *= max(sum(item.get("class") == "STAR" for item in node["select_list"]), 1)
        if self._stars > MAX_STARS:
            raise QueryError("The query selects too many columns with `*`.", "List the columns that you need.")

    def _call(self, node: Node) -> None:
        name, arguments = _name(node), _arguments(node)
        if len(arguments) > SMALL:
            self._make(node, f"{name}() of {len(arguments)} arguments", len(arguments))
        if name in SERIES:
            self._make(node, f"{name}()", self._length(node, name, arguments))
        elif name in FORMATS:
            self._make(node, f"{name}()", self._width(node, name, arguments))
        elif name in JSON_TYPES:
            text = _text(arguments[1]) if len(arguments) > 1 else ""
            if text is None or re.search(r"\[\s*\d|array", text, re.IGNORECASE):
                raise QueryError(
                    f"The structure of {name}() must not contain a fixed-length array{self._place(node)}.",
                    "Use a constant with lists: '[\"INTEGER\"]'",
                )
        for at in SIZE_AT.get(name, ()):
            if at < len(arguments):
                self._make(node, f"{name}()", self._constant(node, f"{name}()", arguments[at]))

    def _length(self, node: Node, name: str, arguments: Sequence[Node]) -> float:
        numbers = [self._constant(node, f"{name}()", argument) for argument in arguments]
        start, stop, step = (0.0, *numbers, 1.0) if len(numbers) == 1 else (*numbers, 1.0)[:3]
        return abs(stop - start) / abs(step) + 1 if step else 0

    def _width(self, node: Node, name: str, arguments: Sequence[Node]) -> float:
        text = _text(arguments[0]) if arguments else ""
        if text is None or "*" in text or re.search(r"\{[^}]*\{", text):
            raise QueryError(
                f"{name}() requires a constant format with constant widths{self._place(node)}.",
                "Put the widths into it, or use lpad(value, 20, ' ').",
            )
        return max((float(number) for number in re.findall(r"\d+", text)), default=0)

    def _constant(self, node: Node, what: str, argument: Node) -> float:
        while argument.get("class") == "CAST":
            argument = argument["child"]
        literal = argument.get("literal", {})
        try:
            if argument.get("class") == "CONSTANT" and literal.get("kind") in ("INTEGER", "NUMERIC"):
                return float(str(literal["text"]).replace("_", ""))
        except ValueError:
            pass  # Not a valid size.
        hint = (
            "Or read it as a table: from range(…)."
            if what.startswith(tuple(SERIES))
            else "It cannot be a parameter or a column."
        )
        raise QueryError(f"The size of {what} must be a literal number{self._place(node)}.", hint)

    def _make(self, node: Node, what: str, size: float) -> None:
        if abs(size) > SMALL:
            self._made = self._made * abs(size)
        if not self._made <= MAX_SIZE:
            raise QueryError(
                f"The size of {what} is too large{self._place(node)}.",
                f"The product of all sizes in a query is limited to {MAX_SIZE:,}. For many rows, read a table: from range(…).",
            )


def _arguments(node: Node) -> list[Node]:
    return [argument.get("expression", argument) for argument in node.get("arguments", [])]


def _name(node: Node) -> str:
    path = node.get("qualified_name", {}).get("path")
    return str(path[-1] if path else node.get("function_name", "")).lower()


def _text(node: Node) -> str | None:
    literal = node.get("literal", {})
    if node.get("class") == "CONSTANT" and literal.get("kind") == "STRING":
        return str(literal.get("text", ""))
    return None


# --- Allowed queries: everything in the query, as parsed by DuckDB, is checked against allow lists
#
# Unknown syntax and functions are rejected until they are added.


PARSE = "select json_serialize_sql($1::varchar, skip_null := true, skip_empty := true, skip_default := true)"

QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
OTHER_NODES = frozenset({
    "BASE_TABLE", "TABLE_FUNCTION", "SUBQUERY", "JOIN", "EXPRESSION_LIST", "PIVOT", "SHOW_REF", "EMPTY",
    "ORDER_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER",
    "ORDER_DEFAULT", "ASCENDING", "DESCENDING",
})  # fmt: skip
"""Allowed nodes other than expressions: table references and modifiers."""

TABLE_FUNCTIONS = frozenset({"unnest", "range", "generate_series", "json_each", "json_tree"})

TIME_AND_CHANCE = frozenset({
    "now", "today", "current_date", "get_current_time", "get_current_timestamp", "transaction_timestamp",
    "random", "uuid", "uuidv4", "uuidv7", "gen_random_uuid",
})  # fmt: skip
"""Harmless functions that do not compute from their arguments alone."""

READS_SQL = frozenset({"json_serialize_sql", "json_deserialize_sql", "json_serialize_plan", "parse_duckdb_log_message"})
CATALOGUE = ("__", "pg_", "has_", "inet_", "current_", "session_", "obj_", "col_", "shobj_", "map_to_pg", "get_block")
"""Name prefixes of functions and macros that reveal information about the engine."""

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
    """Returns DuckDB's functions that a query may call. Cached, because listing them takes a third of a second."""
    with duckdb.connect(":memory:") as empty:
        listed = {name for (name,) in empty.execute(FUNCTIONS_SQL).fetchall()}
    return frozenset(
        {name for name in listed - READS_SQL - UNBOUNDED.keys() if not name.startswith(CATALOGUE)} | TIME_AND_CHANCE
    )


@dataclass(frozen=True, slots=True)
class SqlGuard:
    views: frozenset[str]
    functions: frozenset[str]

    @classmethod
    def from_catalogue(cls, cursor: Cursor) -> SqlGuard:
        return cls(frozenset(name for (name,) in cursor.execute(VIEWS_SQL).fetchall()), pure_functions())

    def __call__(self, cursor: Cursor, sql: str) -> Node:
        """Returns the parsed query. Raises `QueryError` unless the text is one allowed query."""
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
                raise QueryError(f"{what}.", "Try: select * from traces limit 10")
            [statement] = statements
            self._walk(statement, frozenset(), sql)
            SizeCheck(lambda node: _place(node, sql)).check(statement)
        except RecursionError as error:
            raise QueryError(
                "The query is nested too deeply.", "Split it into parts: with a as (…), b as (…) select …"
            ) from error
        return dict(statement)

    def _walk(self, node: object, named: frozenset[str], sql: str) -> None:
        """`named`: the visible `with` queries."""
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

    def _walk_named(self, node: Node, named: frozenset[str], sql: str) -> frozenset[str]:
        """Each `with` query sees those before it, and itself only if it is recursive."""
        for entry in node["cte_map"].get("map", ()):
            name, body = entry["key"].lower(), entry["value"]
            recursive = body.get("query_node", {}).get("type") == "RECURSIVE_CTE_NODE"
            self._walk(body, named | {name} if recursive else named, sql)
            named |= {name}
        return named

    def _allow(self, node: Node, named: frozenset[str], sql: str) -> None:
        kind = node.get("type")
        if isinstance(kind, str) and "class" not in node:
            allowed = QUERY_NODES if "cte_map" in node else OTHER_NODES
            if kind not in allowed | ({"SUBQUERY"} if "subquery" in node else set()):
                raise QueryError(
                    f"This form of SQL ({kind.lower()}) is not allowed in queries.", "Use one plain SELECT."
                )
        if kind == "BASE_TABLE":
            self._allow_table(node, named, sql)
        elif kind == "TABLE_FUNCTION":
            function = node.get("function", {})
            self._allow_function(function, TABLE_FUNCTIONS, "table function", sql, node)
        elif kind == "SHOW_REF":
            self._allow_show(node, named, sql)
        elif "function_name" in node:
            self._allow_function(node, self.functions | TABLE_FUNCTIONS, "function", sql, node)

    def _allow_table(self, node: Node, named: frozenset[str], sql: str) -> None:
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
        self, node: Node, allowed: Iterable[str], noun: str, sql: str, at: Mapping[str, object]
    ) -> None:
        *schema, name = _path(node, "function_name")
        if schema or name.lower() not in allowed:
            shown = ".".join([*schema, name])
            if name.lower() in UNBOUNDED:
                raise QueryError(
                    f"The {noun} {shown!r} can use unlimited memory, so a query may not call it{_place(at, sql)}.",
                    UNBOUNDED[name.lower()],
                )
            raise QueryError(
                f"The {noun} {shown!r} is not allowed in queries{_place(at, sql)}.",
                _suggest(name, allowed, "Use functions that compute from the columns of a view."),
            )

    def _allow_show(self, node: Node, named: frozenset[str], sql: str) -> None:
        """Checks `describe`, `summarize` and `show <view>`, which name a view or contain a query; otherwise only `show tables` is
        allowed."""
        if node.get("query") is None and node.get("table_name") != '"tables"':
            self._allow_table(node, named, sql)


def _path(node: Node, name: str) -> list[str]:
    path = node.get("qualified_name", {}).get("path")
    return [str(part) for part in path] if path else [str(node.get(name, ""))]


def _suggest(name: str, known: Iterable[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.6)
    return f"Did you mean {close[0]}? {otherwise}" if close else otherwise


def _place(node: Node, sql: str) -> str:
    position = node.get("query_location")
    return place_of(sql, position) if isinstance(position, int) else ""


def place_of(sql: str, position: int) -> str:
    """Formats a byte position, as DuckDB counts, as ` (line 2, column 8)`."""
    before = sql.encode()[:position].decode(errors="ignore")
    line = before.count("\n") + 1
    return f" (line {line}, column {len(before) - before.rfind(chr(10))})"


def _not_a_query(sql: str, tree: Node) -> QueryError:
    position = str(tree.get("position", ""))
    place = place_of(sql, int(position)) if position.isdigit() else ""
    if tree.get("error_type") == "parser":
        return QueryError(
            f"{str(tree['error_message'])[:1].upper()}{tree['error_message'][1:]}{place}.", "Correct the text there."
        )
    return QueryError("Only a single SELECT is allowed.", "Try: select * from traces limit 10")


MAX_SQL = 100_000


INTERRUPTED = duckdb.InterruptException, duckdb.TransactionException
"""The second is raised when an interrupt has ended the transaction between two statements."""


class GuardedReads:
    """Runs guarded queries on cursors with `errors_as_json`. The readable views are determined on first use. `cached`: returns the size in
    bytes of the table blocks that DuckDB keeps in memory; called on other threads."""

    def __init__(self, cached: Callable[[], int]) -> None:
        self._cached = cached
        self._check: SqlGuard | None = None

    def select(
        self, cursor: Cursor, sql: str, params: Sequence[object], *, limit: int | None, timeout_s: float | None
    ) -> Rows:
        """Runs a query. Raises `QueryError` with its position in the text, if known, and the next step."""
        if len(sql) > MAX_SQL:
            raise QueryError(
                f"The query is longer than {MAX_SQL} characters.", "Shorten it; pass long values as $1, $2, …"
            )
        check_params(params)
        watch = Watch(cursor.interrupt, INTERRUPTED, timeout_s, self._cached)
        with _explained(sql), watch():
            if self._check is None:
                self._check = SqlGuard.from_catalogue(cursor)
            statement = self._check(cursor, sql)
            with _releasing(cursor, watch), _read_only(cursor):
                if is_limited() and query_process.needs_process(statement):
                    watch.move()
                    return query_process.select(
                        cursor, self._check.views, statement, sql, params, limit=limit, timeout_s=timeout_s
                    )
                return _rows(cursor, sql, params, limit, watch)


def run(cursor: Cursor, sql: str, params: Sequence[object], *, limit: int | None, timeout_s: float | None) -> Rows:
    """Runs a query that has been checked. Raises `QueryError`."""
    watch = Watch(cursor.interrupt, INTERRUPTED, timeout_s)
    with _explained(sql), watch():
        return _rows(cursor, sql, params, limit, watch)


@contextlib.contextmanager
def _releasing(cursor: Cursor, watch: Watch) -> Iterator[None]:
    try:
        yield
    finally:
        if watch.grew():
            with contextlib.suppress(duckdb.Error):  # DuckDB returns it by itself a little later.
                cursor.execute(RELEASE)


@contextlib.contextmanager
def _read_only(cursor: Cursor) -> Iterator[None]:
    cursor.execute("begin transaction read only")
    try:
        yield
    finally:
        with contextlib.suppress(duckdb.TransactionException):  # An interrupt may have ended it.
            cursor.execute("rollback")


def _rows(cursor: Cursor, sql: str, params: Sequence[object], limit: int | None, watch: Watch) -> Rows:
    columns = _execute(cursor, sql, params)
    rows = _fetch(cursor, limit, watch)
    return Rows(columns, rows[:limit], limit is not None and len(rows) > limit)


RELEASE = f"set global memory_limit = '{MEMORY_LIMIT}'"
"""Makes DuckDB return free memory to the operating system, which it would keep for a second or more."""


def _fetch(cursor: Cursor, limit: int | None, watch: Watch) -> list[tuple[object, ...]]:
    """Fetches up to `limit` + 1 rows one by one, because an interrupt does not reach the conversion to Python objects."""
    rows: list[Row] = []
    try:
        while (limit is None or len(rows) <= limit) and (row := cursor.fetchone()) is not None:
            rows.append(row)
            watch.check()
    except BaseException:
        rows.clear()  # The traceback keeps the list.
        raise
    return rows


def _execute(cursor: Cursor, sql: str, params: Sequence[object]) -> tuple[str, ...]:
    """Executes the query and returns its column names. Times with time zone are read as naive UTC (as text inside lists and structs)."""
    cursor.execute(sql, list(params))
    columns = [(column[0], str(column[1])) for column in cursor.description or ()]
    if any("WITH TIME ZONE" in kind for _, kind in columns):
        casts = {"TIMESTAMP WITH TIME ZONE": "timestamp"}
        names = [f"c{n}" for n in range(len(columns))]
        reads = ", ".join(
            f"{name}::{casts.get(kind, 'varchar')}" if "WITH TIME ZONE" in kind else name
            for name, (_, kind) in zip(names, columns, strict=True)
        )
        inner = sql.strip().rstrip(";")
        cursor.execute(f"select {reads} from (\n{inner}\n) as {quoted('q')}({', '.join(names)})", list(params))
    return tuple(name for name, _ in columns)


@contextlib.contextmanager
def _explained(sql: str) -> Iterator[None]:
    """Converts a DuckDB error about the query to a `QueryError`."""
    try:
        yield
    except (*FATAL, duckdb.InterruptException, duckdb.ConnectionException):
        raise
    except duckdb.OutOfMemoryException as error:
        raise QueryError(*TOO_BIG) from error
    except duckdb.TransactionException as error:  # Aborted by an error before, such as an interrupt.
        raise QueryError("The query was stopped.", "Run it again.") from error
    except duckdb.Error as error:
        details = _details(error)
        message = str(details.get("exception_message", "")).split("\n", 1)[0].rstrip("!. ")
        position = details.get("position")
        place = place_of(sql, int(position)) if position is not None and str(position).isdigit() else ""
        candidates = [name.strip() for name in str(details.get("candidates", "")).split(",") if name.strip()]
        if candidates:
            step = f"Did you mean {' or '.join(candidates[:3])}?"
        else:
            step = (
                "Correct the text there."
                if place
                else "`show tables` lists the views, `describe <view>` their columns."
            )
        raise QueryError(f"{message}{place}.", step) from error


def _details(error: duckdb.Error) -> dict[str, Any]:
    text = str(error)
    try:
        details = json.loads(text[text.index("{") :])
    except ValueError:
        return {"exception_message": text}
    return details if isinstance(details, dict) else {"exception_message": text}
