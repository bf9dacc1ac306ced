"""Compiles a filter's tree to SQL over the views `traces` (aliased `t`) and `spans`; every constant is a bound parameter.

In Python None is a value like any other; in SQL it makes a condition neither true nor false. At the top level, and under and/or,
null is harmless and the plain form can use statistics; under `not`, conditions are written so that they are never null.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

from timestep_lab.model.clock import to_naive_utc
from timestep_lab.store.base import Dialect
from timestep_lab.store.filters.tree import (
    Aggregate,
    Always,
    Arithmetic,
    Both,
    Compare,
    Condition,
    Constant,
    Entry,
    Field,
    Holds,
    IsNone,
    Lowered,
    Negation,
    OneOf,
    Row,
    Some,
    Spans,
    TextTest,
    Value,
)

TRACE_ALIAS = "t"
_CASTS = {"text": "text", "number": "double precision", "time": "timestamp"}
_TESTS: dict[Dialect, dict[str, str]] = {
    "duckdb": {
        "contains": "contains({0}, {1})",
        "startswith": "starts_with({0}, {1})",
        "endswith": "ends_with({0}, {1})",
    },
    "postgres": {
        "contains": "strpos({0}, {1}) > 0",
        "startswith": "starts_with({0}, {1})",
        "endswith": "right({0}, length({1})) = {1}",
    },
}
_ATTRIBUTE: dict[Dialect, dict[str, str]] = {
    "duckdb": {
        "text": "case when json_type({0}.attributes, {1}) = 'VARCHAR' then json_extract_string({0}.attributes, {1}) end",
        "number": "case when json_type({0}.attributes, {1}) in ('BIGINT', 'UBIGINT', 'DOUBLE', 'HUGEINT') "
        "then try_cast(json_extract_string({0}.attributes, {1}) as double) end",
        "any": "json_extract_string({0}.attributes, {1})",
    },
    "postgres": {
        "text": "case when json_typeof({0}.attributes -> {1}) = 'string' then {0}.attributes ->> {1} end",
        "number": "case when json_typeof({0}.attributes -> {1}) = 'number' "
        "then cast({0}.attributes ->> {1} as double precision) end",
        "any": "{0}.attributes ->> {1}",
    },
}


@dataclass(frozen=True, slots=True)
class CompiledFilter:
    """`sql` follows `where` in a query over `traces t`; `params` are its `$n`, in order."""

    sql: str
    params: list[object]


def to_sql(condition: Condition, dialect: Dialect, first_param: int = 1) -> CompiledFilter:
    writer = _SqlWriter(dialect, first_param)
    return CompiledFilter(writer.condition(condition, exact=False), writer.params)


class _SqlWriter:
    def __init__(self, dialect: Dialect, first_param: int) -> None:
        self._dialect: Dialect = dialect
        self._first = first_param
        self.params: list[object] = []
        self._aliases: dict[str, str] = {"": TRACE_ALIAS}
        self._parents: dict[str, int] = {}
        """For each span name, how many levels of parents are joined."""
        self._taken = 0

    # -- conditions

    def condition(self, node: Condition, *, exact: bool) -> str:
        """Returns the condition in SQL. `exact`: it is never null. Otherwise null may stand for false."""
        match node:
            case Always(value):
                return "true" if value else "false"
            case Both(operator, parts):
                return "(" + f" {operator} ".join(self.condition(part, exact=exact) for part in parts) + ")"
            case Negation(IsNone(value)):
                return f"{self._value(value, 'any')} is not null"
            case Negation(inner):
                return f"not {self.condition(inner, exact=True)}"
            case IsNone(value):
                return f"({self._value(value, 'any')} is null)"
            case Compare(operator, left, right):
                return self._compare(operator, left, right, exact)
            case TextTest(test, text, part):
                form = _TESTS[self._dialect][test].format(self._value(text, "text"), self._value(part, "text"))
                return self._definite(form, exact)
            case Holds(text, word, between):
                whole = f"{between}{word}{between}"
                edge = self._param(between, "text")
                padded = f"concat({edge}, {self._value(text, 'text')}, {edge})"
                return "(" + _TESTS[self._dialect]["contains"].format(padded, self._param(whole, "text")) + ")"
            case OneOf(value, choices):
                return self._one_of(value, choices, exact)
            case Some(spans, inner):
                return self._some(spans, inner, exact)

    def _compare(self, operator: str, left: Value, right: Value, exact: bool) -> str:
        a, b = self._pair(left, right)
        if operator == "!=":
            return f"({a} is distinct from {b})"
        if operator == "==":
            if Constant in (type(left), type(right)):
                return self._definite(f"{a} = {b}", exact)
            return f"({a} is not distinct from {b})"
        if self._dialect == "postgres" and "text" in (left.type, right.type):
            a = f'{a} collate "C"'  # By code point, as in Python and DuckDB.
        return self._definite(f"{a} {operator} {b}", exact)

    def _one_of(self, value: Value, choices: tuple[Value, ...], exact: bool) -> str:
        if not choices:
            return "false"
        if all(isinstance(choice, Constant) and choice.value is not None for choice in choices):
            wanted = choices[0].type if value.type == "any" else value.type
            if len({choice.type for choice in choices}) == 1:
                listed = ", ".join(self._value(choice, wanted) for choice in choices)
                return self._definite(f"{self._value(value, wanted)} in ({listed})", exact)
        tests: list[Condition] = [
            IsNone(value) if choice == Constant(None, "none") else Compare("==", value, choice) for choice in choices
        ]
        return self.condition(Both("or", tuple(tests)), exact=exact)

    def _some(self, spans: Spans, inner: Condition, exact: bool) -> str:
        outer_rows = {row.name for row in _rows_in(inner)} - _names_in(inner) - {spans.name}
        with self._named(spans) as alias:
            where = self.condition(inner, exact=False)
            source = self._source(spans)
        if spans.of is None:
            if outer_rows:
                return f"exists (select 1 from {source} where {alias}.trace_id = {TRACE_ALIAS}.trace_id and {where})"
            return f"{TRACE_ALIAS}.trace_id in (select {alias}.trace_id from {source} where {where})"
        above = self._alias(spans.of)
        if outer_rows:
            return (
                f"exists (select 1 from {source} where {alias}.trace_id = {above}.trace_id "
                f"and {alias}.parent_id = {above}.span_id and {where})"
            )
        among = (
            f"select {alias}.trace_id, {alias}.parent_id from {source} where {alias}.parent_id is not null and {where}"
        )
        return self._definite(f"({above}.trace_id, {above}.span_id) in ({among})", exact)

    def _definite(self, sql: str, exact: bool) -> str:
        return f"coalesce({sql}, false)" if exact else f"({sql})"

    # -- values

    def _pair(self, left: Value, right: Value) -> tuple[str, str]:
        if left.type == "any":
            return self._value(left, right.type), self._value(right, right.type)
        return self._value(left, left.type), self._value(right, left.type)

    def _value(self, node: Value, wanted: str) -> str:
        """Returns the value in SQL. `wanted` is the type to which a value of type any is converted."""
        match node:
            case Constant(value, kind):
                return self._param(value, kind)
            case Field(row, name, _):
                return f"{self._alias(row)}.{name}"
            case Entry(row, "attributes", key, _):
                return self._attribute(row, key, wanted)
            case Entry(row, table, key, _):
                return self._score(row, "value" if table == "scores" else "label", key)
            case Lowered(text, function, _):
                return f"{function}({self._value(text, 'text')})"
            case Arithmetic(operator, left, right, _):
                a, b = (f"cast({self._value(side, 'number')} as double precision)" for side in (left, right))
                return f"({a} / nullif({b}, 0))" if operator == "/" else f"({a} {operator} {b})"
            case Aggregate(function, spans, condition, value, _):
                return self._aggregate(function, spans, condition, value)

    def _aggregate(
        self, function: Literal["count", "sum", "min", "max"], spans: Spans, condition: Condition, value: Value | None
    ) -> str:
        with self._named(spans) as alias:
            where = self.condition(condition, exact=False)
            what = "*" if value is None else f"cast({self._value(value, 'number')} as double precision)"
            source = self._source(spans)
        result = f"coalesce({function}({what}), 0)" if function in ("count", "sum") else f"{function}({what})"
        if spans.of is None:
            return f"(select {result} from {source} where {alias}.trace_id = {TRACE_ALIAS}.trace_id and {where})"
        above = self._alias(spans.of)
        return (
            f"(select {result} from {source} where {alias}.trace_id = {above}.trace_id "
            f"and {alias}.parent_id = {above}.span_id and {where})"
        )

    def _attribute(self, row: Row, key: str, wanted: str) -> str:
        path = key if self._dialect == "postgres" else "/" + key.replace("~", "~0").replace("/", "~1")
        form = _ATTRIBUTE[self._dialect][wanted if wanted in ("text", "number") else "any"]
        return form.format(self._alias(row), self._param(path, "text"))

    def _score(self, row: Row, column: str, name: str) -> str:
        target, owner = ("trace", "trace_id") if row.name == "" else ("span", "span_id")
        where = (
            f"x.target = '{target}' and x.target_id = {self._alias(row)}.{owner} and x.name = {self._param(name, 'text')} "
            f"and x.{column} is not null"
        )
        if self._dialect == "duckdb":
            return f"(select arg_max(x.{column}, x.created_at) from scores x where {where})"
        return f"(select x.{column} from scores x where {where} order by x.created_at desc limit 1)"

    def _param(self, value: Any, kind: str) -> str:
        self.params.append(to_naive_utc(value) if kind == "time" else float(value) if kind == "number" else value)
        place = f"${self._first + len(self.params) - 1}"
        return f"cast({place} as {_CASTS[kind]})"

    # -- rows

    def _alias(self, row: Row) -> str:
        if row.parents:
            self._parents[row.name] = max(self._parents.get(row.name, 0), row.parents)
            return f"{self._aliases[row.name]}_parent{row.parents}"
        return self._aliases[row.name]

    def _named(self, spans: Spans) -> _Named:
        return _Named(self, spans.name)

    def _source(self, spans: Spans) -> str:
        """Returns `spans s1`, with the joins of the parents that the conditions use."""
        alias = self._aliases[spans.name]
        joins, below = "", alias
        for step in range(1, self._parents.get(spans.name, 0) + 1):
            above = f"{alias}_parent{step}"
            joins += f" left join spans {above} on {above}.trace_id = {below}.trace_id and {above}.span_id = {below}.parent_id"
            below = above
        return f"spans {alias}{joins}"


class _Named:
    """A context in which a span's name stands for a table alias of its own."""

    def __init__(self, writer: _SqlWriter, name: str) -> None:
        self._writer, self._name = writer, name

    def __enter__(self) -> str:
        self._writer._taken += 1
        alias = f"s{self._writer._taken}"
        self._writer._aliases[self._name] = alias
        self._writer._parents.pop(self._name, None)
        return alias

    def __exit__(self, *_: object) -> None:
        del self._writer._aliases[self._name]


def _rows_in(node: object) -> Iterator[Row]:
    """Yields every row that a part of the tree refers to."""
    if isinstance(node, Row):
        yield node
    elif isinstance(node, tuple):
        for part in node:
            yield from _rows_in(part)
    elif is_dataclass(node) and not isinstance(node, type):
        for part in fields(node):
            yield from _rows_in(getattr(node, part.name))
        if isinstance(node, Some | Aggregate) and node.spans.of is None:
            yield Row("")  # It iterates over the trace's spans, so it needs the trace.


def _names_in(node: object) -> set[str]:
    """Returns the span names bound by nested comprehensions."""
    if isinstance(node, Spans):
        return {node.name}
    parts: Iterable[object] = (
        node
        if isinstance(node, tuple)
        else [getattr(node, f.name) for f in fields(node)]
        if is_dataclass(node) and not isinstance(node, type)
        else ()
    )
    return set().union(*map(_names_in, parts))
