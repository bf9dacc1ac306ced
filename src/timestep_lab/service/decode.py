"""Records and events out of JSON: the inverse of `Event.to_json` and of what the API answers with."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

from timestep_lab.model import comparison
from timestep_lab.model.clock import parse_iso
from timestep_lab.model.errors import StoreTooNewError
from timestep_lab.model.events import EVENT_TYPES, Event

R = TypeVar("R")
Decoder = Callable[[Any], Any]
COMPARISON_EVENTS: tuple[type[Event], ...] = (
    comparison.ComparisonStarted, comparison.CellStarted, comparison.CellDelta, comparison.CellDone,
    comparison.ComparisonProgress, comparison.ComparisonEnded,
)  # fmt: skip
EVENTS: Mapping[str, type[Event]] = {**EVENT_TYPES, **{kind.type: kind for kind in COMPARISON_EVENTS}}
TIMES = ("started_at", "ended_at", "created_at")


def record(kind: type[R], value: Mapping[str, Any]) -> R:
    """A record of this class. Fields that it does not know are left out: the server may be newer."""
    hint: Any = kind
    found: R = _decoder(hint)(value)
    return found


def records(kind: type[R], values: Iterable[Mapping[str, Any]]) -> list[R]:
    return [record(kind, value) for value in values]


def event(value: Mapping[str, Any]) -> Event:
    kind = EVENTS.get(value["type"])
    if kind is None:
        raise StoreTooNewError(
            f"The served lab tells of {value['type']!r}, which is not known here.",
            "Upgrade with: pip install --upgrade timestep-lab",
        )
    return record(kind, value)


def row(value: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a view; its times are aware UTC again."""
    return {
        name: parse_iso(inner) if name in TIMES and isinstance(inner, str) else inner for name, inner in value.items()
    }


@cache
def _decoder(hint: Any) -> Decoder:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        some = [part for part in typing.get_args(hint) if part is not types.NoneType]
        inner = _decoder(some[0]) if len(some) == 1 else _same
        return inner if inner is _same else lambda value: None if value is None else inner(value)
    if hint is datetime:
        return parse_iso
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        inner = _decoder(parts[0]) if parts else _same
        return lambda value: tuple(map(inner, value))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping) and len(parts) == 2:
        inner = _decoder(parts[1])
        return dict if inner is _same else lambda value: {key: inner(one) for key, one in value.items()}
    return _dataclass(hint) if is_dataclass(hint) and isinstance(hint, type) else _same


def _dataclass(kind: type[Any]) -> Decoder:
    hints = typing.get_type_hints(kind)
    decoders = {field.name: _decoder(hints[field.name]) for field in fields(kind)}

    def decode(value: Mapping[str, Any]) -> Any:
        return kind(**{name: decoders[name](inner) for name, inner in value.items() if name in decoders})

    return decode


def _same(value: Any) -> Any:
    return value
