"""Evaluates a filter's tree in plain Python on one trace: the reference implementation that the SQL is tested against, and the
filter for traces that are not in a database.

A trace is a dict with the columns of the view `traces`, and `spans` (a list of dicts with the columns of the view `spans`,
`attributes` a dict), `scores` and `labels` (name to value).
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn, Protocol

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.clock import to_aware_utc
from timestep_lab.store.filters.suggestions import (
    SPAN_ALIASES,
    SPAN_CHOICES,
    SPAN_FIELDS,
    SPAN_WORDS,
    TRACE_ALIASES,
    TRACE_CHOICES,
    TRACE_FIELDS,
    TRACE_WORDS,
    ValueType,
)
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

# --- Name resolution: fields of the trace directly, fields of a span through the name bound by a comprehension


TRACE = Row("")
MAX_PARENTS = 5
EACH_SPAN = 'Write, for example: any(s.kind == "tool" for s in spans)'


class Fail(Protocol):
    def __call__(self, node: ast.expr, message: str, next_step: str) -> NoReturn: ...


class Scope:
    """The names in scope. `spans`: names bound to a span."""

    def __init__(self, spans: Mapping[str, Row]) -> None:
        self._spans = spans

    def with_span(self, target: ast.Name, fail: Fail) -> Scope:
        if target.id in TRACE_FIELDS or target.id in self._spans or target.id in ("spans", "scores", "labels"):
            fail(
                target,
                f"{target.id!r} already has another meaning.",
                "Use another name for the span, for example s or c.",
            )
        return Scope({**self._spans, target.id: Row(target.id)})

    def spans_of(self, node: ast.expr, fail: Fail) -> Row | None:
        """Returns what a comprehension iterates over: None for all spans of the trace, else the span whose children they are."""
        match node:
            case ast.Name(id="spans"):
                return None
            case ast.Attribute(value=owner, attr="children") if (row := self._row(owner, fail)) is not None:
                return row
        fail(node, f"{ast.unparse(node)} is not a list of spans.", "Use spans, or the children of a span: s.children")

    def resolve(self, node: ast.Name | ast.Attribute | ast.Subscript, fail: Fail) -> Value:
        if isinstance(node, ast.Subscript):
            return self._entry(node, fail)
        if isinstance(node, ast.Name):
            if node.id in self._spans:
                fail(node, f"{node.id} is a whole span.", f"Name one of its fields, for example {node.id}.kind")
            if node.id in ("spans", "scores", "labels", "attributes"):
                fail(
                    node,
                    f"{node.id} cannot be compared as a whole.",
                    EACH_SPAN if node.id == "spans" else f'Write {node.id}["name"]',
                )
            return _field(node, TRACE, node.id, TRACE_FIELDS, TRACE_ALIASES, [*self._spans], fail)
        row = self._row(node.value, fail)
        if row is None:
            fail(node, f"{ast.unparse(node.value)} has no fields.", EACH_SPAN)
        if node.attr in ("parent", "children", "attributes", "scores", "labels"):
            fail(node, f"{ast.unparse(node)} cannot be compared as a whole.", f"Write, for example: {ast.unparse(node)}"
                 + {"parent": ".kind", "children": " in any(… for c in …)"}.get(node.attr, '["name"]'))  # fmt: skip
        return _field(node, row, node.attr, SPAN_FIELDS, SPAN_ALIASES, [], fail)

    def _row(self, node: ast.expr, fail: Fail) -> Row | None:
        match node:
            case ast.Name(id=name):
                return self._spans.get(name)
            case ast.Attribute(value=below, attr="parent") if (row := self._row(below, fail)) is not None:
                if row.parents == MAX_PARENTS:
                    fail(node, f"More than {MAX_PARENTS} parents up is too far.", "Start from an ancestor instead.")
                return Row(row.name, row.parents + 1)
        return None

    def _entry(self, node: ast.Subscript, fail: Fail) -> Value:
        key = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if not isinstance(key, str) or not key or "\0" in key:
            fail(
                node,
                f"{ast.unparse(node.value)} requires a name in quotes.",
                f'Write {ast.unparse(node.value)}["name"]',
            )
        types: dict[str, ValueType] = {"attributes": "any", "scores": "number", "labels": "text"}
        match node.value:
            case ast.Name(id="attributes"):
                fail(node, "Attributes belong to spans.", f"Write any(s.attributes[{key!r}] == … for s in spans)")
            case ast.Name(id="scores" | "labels" as table):
                return Entry(TRACE, table, key, types[table])
            case ast.Attribute(value=owner, attr="attributes" | "scores" | "labels" as table) if row := self._row(
                owner, fail
            ):
                return Entry(row, table, key, types[table])
        fail(
            node,
            f"{ast.unparse(node.value)} has no entries.",
            'There are scores["name"], labels["name"] and s.attributes["key"].',
        )

    @staticmethod
    def choices(field: Field) -> Sequence[str]:
        return (TRACE_CHOICES if field.row == TRACE else SPAN_CHOICES).get(field.name, ())

    @staticmethod
    def shown_words(field: Field) -> Mapping[str, str]:
        """Returns the labels that the UI shows for the values of a field, where they differ."""
        return (TRACE_WORDS if field.row == TRACE else SPAN_WORDS).get(field.name, {})


def _field(
    node: ast.expr,
    row: Row,
    name: str,
    fields: Mapping[str, ValueType],
    aliases: Mapping[str, str],
    more: list[str],
    fail: Fail,
) -> Field:
    name = aliases.get(name, name)
    if name in fields:
        return Field(row, name, fields[name])
    owner = "a trace" if row == TRACE else "a span"
    if row == TRACE and name in SPAN_FIELDS:
        fail(node, f"A trace has no field {name!r}; its spans do.", f"Write any(s.{name} == … for s in spans)")
    hint = did_you_mean(name, [*fields, *aliases, *more])
    fail(node, f"There is no field {name!r} of {owner}.{hint}", f"There are: {', '.join(fields)}.")


Record = Mapping[str, Any]
_ORDER: dict[str, Callable[..., bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def holds(condition: Condition, trace: Record) -> bool:
    return _Evaluation(trace).condition(condition, {"": trace})


class _Evaluation:
    def __init__(self, trace: Record) -> None:
        self._spans: Sequence[Record] = trace.get("spans", ())
        self._by_id = {span["span_id"]: span for span in self._spans}

    def condition(self, node: Condition, rows: Mapping[str, Record]) -> bool:
        match node:
            case Always(value):
                return value
            case Both("and", parts):
                return all(self.condition(part, rows) for part in parts)
            case Both(_, parts):
                return any(self.condition(part, rows) for part in parts)
            case Negation(inner):
                return not self.condition(inner, rows)
            case IsNone(value):
                return self.value(value, rows) is None
            case Compare(symbol, left, right):
                return _compare(symbol, self.value(left, rows), self.value(right, rows))
            case TextTest(test, text, part):
                return _text_test(test, self.value(text, rows), self.value(part, rows))
            case Holds(text, word, between):
                return word in (self.value(text, rows) or "").split(between)
            case OneOf(value, choices):
                actual = self.value(value, rows)
                return any(_compare("==", actual, self.value(choice, rows)) for choice in choices)
            case Some(spans, inner):
                return any(self.condition(inner, {**rows, spans.name: span}) for span in self._through(spans, rows))

    def value(self, node: Value, rows: Mapping[str, Record]) -> Any:
        match node:
            case Constant(value, _):
                return value
            case Field(row, name, kind):
                result = self._record(row, rows).get(name)
                return to_aware_utc(result) if kind == "time" and result is not None else result
            case Entry(row, table, key, _):
                result = (self._record(row, rows).get(table) or {}).get(key)
                return None if isinstance(result, bool) and table == "attributes" else result
            case Lowered(text, function, _):
                result = self.value(text, rows)
                return getattr(result, function)() if isinstance(result, str) else None
            case Arithmetic(symbol, left, right, _):
                return _arithmetic(symbol, self.value(left, rows), self.value(right, rows))
            case Aggregate(function, spans, condition, value, _):
                inner = [{**rows, spans.name: span} for span in self._through(spans, rows)]
                chosen = [each for each in inner if self.condition(condition, each)]
                if value is None:
                    return len(chosen)
                result = [number for each in chosen if (number := self.value(value, each)) is not None]
                return sum(result) if function == "sum" else _extreme(function, result)

    def _through(self, spans: Spans, rows: Mapping[str, Record]) -> Sequence[Record]:
        if spans.of is None:
            return self._spans
        above = self._record(spans.of, rows).get("span_id")
        return [span for span in self._spans if above is not None and span.get("parent_id") == above]

    def _record(self, row: Row, rows: Mapping[str, Record]) -> Record:
        record: Record = rows[row.name]
        for _ in range(row.parents):
            record = self._by_id.get(record.get("parent_id") or "", {})
        return record


def _compare(symbol: str, a: object, b: object) -> bool:
    if symbol in ("==", "!="):
        same = (_comparable(a, b) and a == b) or (a is None and b is None)
        return bool(same) == (symbol == "==")
    return _comparable(a, b) and _ORDER[symbol](a, b)


def _comparable(a: object, b: object) -> bool:
    kinds = (str, int | float, datetime)
    return any(isinstance(a, kind) and isinstance(b, kind) for kind in kinds)


def _text_test(test: str, text: object, part: object) -> bool:
    if not isinstance(text, str) or not isinstance(part, str):
        return False
    return part in text if test == "contains" else getattr(text, test)(part)


def _arithmetic(symbol: str, a: float | None, b: float | None) -> float | None:
    if a is None or b is None or (symbol == "/" and b == 0):
        return None
    functions = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
    return float(functions[symbol](float(a), float(b)))


def _extreme(function: str, numbers: list[float]) -> float | None:
    return (min(numbers) if function == "min" else max(numbers)) if numbers else None
