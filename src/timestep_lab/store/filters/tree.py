"""The parsed form of a filter: a small typed tree in which every name is known and every comparison is valid.

It is compiled to SQL (`sql.py`) and evaluated in plain Python (`evaluate.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NoReturn, TypeAlias

from timestep_lab.model.clock import parse_iso
from timestep_lab.store.filters.suggestions import UNITS_S, ValueType
from timestep_lab.store.table import clean


@dataclass(frozen=True, slots=True)
class Constant:
    value: str | float | int | datetime | bool | None
    type: ValueType


@dataclass(frozen=True, slots=True)
class Row:
    """The owner of a field: the trace (`name` is ""), or the span bound to `name` by a comprehension, or its ancestor `parents` levels
    up."""

    name: str
    parents: int = 0


@dataclass(frozen=True, slots=True)
class Field:
    row: Row
    name: str
    type: ValueType


@dataclass(frozen=True, slots=True)
class Entry:
    """`attributes["key"]` (type any), `scores["name"]` (number) or `labels["name"]` (text)."""

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
    """`count`: the number of spans that match `condition`. Others: an aggregate of `value` over those spans; None without any (sum: 0)."""

    function: Literal["count", "sum", "min", "max"]
    spans: Spans
    condition: Condition
    value: Value | None
    type: ValueType = "number"


@dataclass(frozen=True, slots=True)
class Spans:
    """The spans of the trace, or the children of the span `of`, each bound to `name` in turn."""

    name: str
    of: Row | None


@dataclass(frozen=True, slots=True)
class Compare:
    operator: Literal["==", "!=", "<", "<=", ">", ">="]
    left: Value
    right: Value


@dataclass(frozen=True, slots=True)
class TextTest:
    """Whether `text` contains, starts with or ends with `part`; case-sensitive."""

    test: Literal["contains", "startswith", "endswith"]
    text: Value
    part: Value


@dataclass(frozen=True, slots=True)
class Holds:
    """Whether `word` is an element of `text`, a list whose elements are separated by `between`."""

    text: Field
    word: str
    between: str


@dataclass(frozen=True, slots=True)
class OneOf:
    value: Value
    choices: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class IsNone:
    value: Value


@dataclass(frozen=True, slots=True)
class Some:
    """`any(...)`; `all(...)` is parsed as not any(not ...)."""

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
Condition: TypeAlias = Compare | TextTest | Holds | OneOf | IsNone | Some | Always | Both | Negation


# --- The constants of a filter: text, numbers, times


Fail = Callable[[str, str], NoReturn]
MAX_NUMBER = 2**63 - 1
_AGO = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*")
_SPOKEN: dict[ValueType, str] = {
    "text": "text", "number": "a number", "time": "a time", "bool": "true or false", "none": "None", "any": "an attribute",
}  # fmt: skip


def spoken(type: ValueType) -> str:
    return _SPOKEN[type]


def constant(value: object, fail: Fail) -> Constant:
    match value:
        case None:
            return Constant(None, "none")
        case bool():
            fail(f"{value} cannot be compared with.", "Remove it, or negate the condition with not.")
        case str():
            if clean(value) != value:
                fail("Text in traces never contains NUL or unpaired surrogates.", "Remove it.")
            return Constant(value, "text")
        case int() | float():
            if (isinstance(value, float) and not math.isfinite(value)) or abs(value) > MAX_NUMBER:
                fail("The number is too large.", "No field holds it.")
            return Constant(value, "number")
    fail(f"{type(value).__name__} values are not supported in filters.", "Use text, numbers, None, or ago(…).")


def moment(text: str, fail: Fail) -> Constant:
    """Parses an ISO 8601 time; without a time zone it is UTC."""
    try:
        return Constant(parse_iso(text), "time")
    except (ValueError, OverflowError):
        fail(f"{text!r} is not a time.", 'Write "2026-11-22", "2026-11-22T16:00", or ago("24h").')


def ago(text: object, now: datetime, fail: Fail) -> Constant:
    match = _AGO.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        fail("ago() takes a duration.", 'Write, for example: ago("30m"), ago("24h"), ago("7d"). Units: s m h d w.')
    try:
        return Constant(now - timedelta(seconds=float(match[1]) * UNITS_S[match[2]]), "time")
    except OverflowError:
        fail("That is too long ago.", 'Write, for example: ago("7d").')
