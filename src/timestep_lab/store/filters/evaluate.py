"""The same tree evaluated in plain Python over one trace: the specification that the SQL is tested against, and the filter for
traces that are in no database.

A trace is a dict with the columns of the view `traces`, and `spans` (a list of dicts with the columns of the view `spans`,
`attributes` a dict), `scores` and `labels` (name to value).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from timestep_lab.model.clock import to_aware_utc
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

Record = Mapping[str, Any]
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
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
            case OneOf(value, choices):
                found = self.value(value, rows)
                return any(_compare("==", found, self.value(choice, rows)) for choice in choices)
            case Some(spans, inner):
                return any(self.condition(inner, {**rows, spans.name: span}) for span in self._through(spans, rows))

    def value(self, node: Value, rows: Mapping[str, Record]) -> Any:
        match node:
            case Constant(value, _):
                return value
            case Field(row, name, kind):
                found = self._record(row, rows).get(name)
                return to_aware_utc(found) if kind == "time" and found is not None else found
            case Entry(row, table, key, _):
                found = (self._record(row, rows).get(table) or {}).get(key)
                return None if isinstance(found, bool) and table == "attributes" else found
            case Lowered(text, function, _):
                found = self.value(text, rows)
                return getattr(found, function)() if isinstance(found, str) else None
            case Arithmetic(symbol, left, right, _):
                return _arithmetic(symbol, self.value(left, rows), self.value(right, rows))
            case Aggregate(function, spans, condition, value, _):
                inner = [{**rows, spans.name: span} for span in self._through(spans, rows)]
                chosen = [each for each in inner if self.condition(condition, each)]
                if value is None:
                    return len(chosen)
                found = [number for each in chosen if (number := self.value(value, each)) is not None]
                return sum(found) if function == "sum" else _extreme(function, found)

    def _through(self, spans: Spans, rows: Mapping[str, Record]) -> Sequence[Record]:
        if spans.of is None:
            return self._spans
        above = self._record(spans.of, rows).get("span_id")
        return [span for span in self._spans if above is not None and span.get("parent_id") == above]

    def _record(self, row: Row, rows: Mapping[str, Record]) -> Record:
        found: Record = rows[row.name]
        for _ in range(row.parents):
            found = self._by_id.get(found.get("parent_id") or "", {})
        return found


def _compare(symbol: str, a: Any, b: Any) -> bool:
    if symbol in ("==", "!="):
        same = (_comparable(a, b) and a == b) or (a is None and b is None)
        return bool(same) == (symbol == "==")
    return _comparable(a, b) and _ORDER[symbol](a, b)


def _comparable(a: Any, b: Any) -> bool:
    kinds = (str, int | float, datetime)
    return any(isinstance(a, kind) and isinstance(b, kind) for kind in kinds)


def _text_test(test: str, text: Any, part: Any) -> bool:
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
