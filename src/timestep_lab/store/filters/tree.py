"""A filter after reading: a small typed tree. Every name in it is known and every comparison makes sense.

Two things are made of it: SQL (`sql.py`) and, for tests, a plain Python evaluation (`evaluate.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from timestep_lab.store.filters.fields import ValueType


@dataclass(frozen=True, slots=True)
class Constant:
    value: str | float | int | datetime | bool | None
    type: ValueType


@dataclass(frozen=True, slots=True)
class Row:
    """Whose field it is: the trace (`name` ""), or the span that a comprehension calls `name`, or `parents` steps above it."""

    name: str
    parents: int = 0


@dataclass(frozen=True, slots=True)
class Field:
    row: Row
    name: str
    type: ValueType


@dataclass(frozen=True, slots=True)
class Entry:
    """`attributes["key"]` (type any) or `scores["name"]` (number), `labels["name"]` (text)."""

    row: Row
    table: Literal["attributes", "scores", "labels"]
    key: str
    type: ValueType


@dataclass(frozen=True, slots=True)
class Lowered:
    """`.lower()` or `.upper()`."""

    text: Value
    function: Literal["lower", "upper"]
    type: ValueType = "text"


@dataclass(frozen=True, slots=True)
class Arithmetic:
    operator: Literal["+", "-", "*", "/"]
    left: Value
    right: Value
    type: ValueType = "number"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """`count`: how many spans fulfil `condition`. Others: over `value` of the spans that do; None when there are none (sum: 0)."""

    function: Literal["count", "sum", "min", "max"]
    spans: Spans
    condition: Condition
    value: Value | None
    type: ValueType = "number"


@dataclass(frozen=True, slots=True)
class Spans:
    """The spans of the trace, or the children of the span `of`, each called `name` in turn."""

    name: str
    of: Row | None


@dataclass(frozen=True, slots=True)
class Compare:
    operator: Literal["==", "!=", "<", "<=", ">", ">="]
    left: Value
    right: Value


@dataclass(frozen=True, slots=True)
class TextTest:
    """Whether `text` contains, begins or ends with `part`; letters must match in case."""

    test: Literal["contains", "startswith", "endswith"]
    text: Value
    part: Value


@dataclass(frozen=True, slots=True)
class OneOf:
    value: Value
    choices: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class IsNone:
    value: Value


@dataclass(frozen=True, slots=True)
class Some:
    """`any(...)`; `all(...)` is read as not any(not ...)."""

    spans: Spans
    condition: Condition


@dataclass(frozen=True, slots=True)
class Always:
    value: bool


@dataclass(frozen=True, slots=True)
class Both:
    operator: Literal["and", "or"]
    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Negation:
    condition: Condition


Value: TypeAlias = Constant | Field | Entry | Lowered | Arithmetic | Aggregate
Condition: TypeAlias = Compare | TextTest | OneOf | IsNone | Some | Always | Both | Negation
