"""Values that survive every way to a browser: strict JSON, valid UTF-8."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from timestep_lab.model.clock import iso

_DEEPEST = 200


def json_safe(value: Any, _depth: int = 0) -> Any:
    """A copy of `value` that `json.dumps(..., allow_nan=False)` takes and UTF-8 can carry.

    Lone surrogates become U+FFFD, NaN and infinities None, datetimes ISO text, records dicts; what JSON has no word for becomes
    its `str`. Deeper than 200 levels is replaced by a note: recursion must end on whatever a span may hold.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return _valid(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if _depth > _DEEPEST:
        return "(nested too deeply to show)"
    if isinstance(value, Mapping):
        return {_valid(str(key)): json_safe(item, _depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_safe(item, _depth + 1) for item in value]
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, Decimal):
        return json_safe(float(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return f"({len(value)} bytes)"
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: json_safe(getattr(value, field.name), _depth + 1) for field in fields(value)}
    return _valid(str(value))


def _valid(text: str) -> str:
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
