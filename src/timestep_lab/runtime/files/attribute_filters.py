"""Filters over a file's attributes, in OpenAI's form:

    {"type": "eq", "key": "year", "value": 2026}      eq, ne, gt, gte, lt, lte, in, nin
    {"type": "and", "filters": [...]}                 and, or

https://platform.openai.com/docs/api-reference/vector-stores/search
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from timestep_lab.types.errors import SettingsError
from timestep_lab.types.records import Json

_COMPARE = {
    "eq": operator.eq, "ne": operator.ne, "gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le,
}  # fmt: skip
_KNOWN = (*_COMPARE, "in", "nin", "and", "or")


def matches(rule: Json, attributes: Mapping[str, Json]) -> bool:
    """Whether a file with these attributes is meant. A missing attribute matches `ne` and `nin` only. Raises `SettingsError`."""
    kind = rule.get("type") if isinstance(rule, Mapping) else None
    if kind in ("and", "or"):
        inner = rule.get("filters")
        if not isinstance(inner, list) or not inner:
            raise _refuse(rule, "it has no filters")
        found = [matches(one, attributes) for one in inner]
        return all(found) if kind == "and" else any(found)
    if kind not in _KNOWN or not isinstance(rule.get("key"), str) or "value" not in rule:
        raise _refuse(rule, "it needs type, key and value")
    key, value = rule["key"], rule["value"]
    if kind in ("in", "nin"):
        if not isinstance(value, list):
            raise _refuse(rule, "its value must be a list")
        return (key in attributes and attributes[key] in value) is (kind == "in")
    if key not in attributes:
        return bool(kind == "ne")
    return _compared(kind, attributes[key], value)


def _compared(kind: str, mine: Any, value: Any) -> bool:
    if kind not in ("eq", "ne") and isinstance(mine, str) != isinstance(value, str):
        return False
    return bool(_COMPARE[kind](mine, value))


def _refuse(rule: Any, why: str) -> SettingsError:
    step = f'Known types: {", ".join(_KNOWN)}; for example {{"type": "eq", "key": "year", "value": 2026}}.'
    return SettingsError(f"The filter {rule!r} cannot be read: {why}.", step, param="filters")
