"""Values as JSON and back, exactly: between a client and the owner of a lab, and in the answers kept for retries.

JSON has null, booleans, numbers and strings; Python's reads integers of any size and writes floats so that they come
back the same, NaN and infinities included. Everything else a column can hold is an object with one key `$`.
"""

from __future__ import annotations

import base64
import json
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from timestep_lab.model import errors
from timestep_lab.model.errors import DataError, LabError
from timestep_lab.store.base import Change, Rows, Statement

CONTAINERS = frozenset({list, tuple, dict})


def dumps(message: Any) -> bytes:
    """Raises `DataError` for a value that no column holds."""
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"), default=_tag, check_circular=False)
    return text.encode("utf-8", "surrogatepass")


def loads(data: bytes) -> Any:
    return json.loads(data.decode("utf-8", "surrogatepass"), object_hook=_untag)


def pack_row(row: Sequence[Any]) -> list[Any]:
    """A row (or parameters) for `dumps`: lists and mappings inside it are tagged, so that they are not taken for structure."""
    if CONTAINERS.isdisjoint(map(type, row)):
        return list(row)
    return [_pack(value) for value in row]


def pack_rows(result: Rows) -> dict[str, Any]:
    return {
        "columns": result.columns,
        "rows": [pack_row(row) for row in result.rows],
        "truncated": result.truncated,
    }


def unpack_rows(packed: Mapping[str, Any]) -> Rows:
    return Rows(tuple(packed["columns"]), to_tuples(packed["rows"]), packed["truncated"])


def to_tuples(rows: Iterable[Sequence[Any]]) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in rows]


def pack_statement(statement: Statement) -> list[Any]:
    return [statement.sql, pack_row(statement.params), statement.expect]


def unpack_statement(packed: Sequence[Any]) -> Statement:
    return Statement(packed[0], packed[1], packed[2])


def pack_change(change: Change) -> list[str]:
    return [change.topic, change.user_id, change.id]


def unpack_change(packed: Sequence[Any]) -> Change:
    return Change(packed[0], packed[1], packed[2])


def pack_error(error: LabError) -> list[Any]:
    return [type(error).__name__, {name: value for name, value in vars(error).items() if not name.startswith("_")}]


def unpack_answer(data: bytes) -> Any:
    """What a call returned; raises what it raised."""
    answer = loads(data)
    if "error" not in answer:
        return answer["ok"]
    name, state = answer["error"]
    kind: type[LabError] = getattr(errors, name, errors.StoreError)
    error = kind.__new__(kind)
    LabError.__init__(error, state["message"], state["next_step"])
    vars(error).update(state)
    raise error


def _pack(value: Any) -> Any:
    kind = type(value)
    if kind is list:
        return {"$": "list", "v": [_pack(inner) for inner in value]}
    if kind is tuple:
        return {"$": "tuple", "v": [_pack(inner) for inner in value]}
    if kind is dict:
        return {"$": "dict", "v": [[_pack(key), _pack(inner)] for key, inner in value.items()]}
    return value


def _tag(value: Any) -> Any:
    """What `json` does not know. `datetime` before `date`: one is the other's subclass."""
    match value:
        case datetime():
            return {"$": "datetime", "v": value.isoformat()}
        case date():
            return {"$": "date", "v": value.isoformat()}
        case time():
            return {"$": "time", "v": value.isoformat()}
        case timedelta():
            return {"$": "interval", "v": [value.days, value.seconds, value.microseconds]}
        case bytes() | bytearray() | memoryview():
            return {"$": "bytes", "v": base64.b64encode(value).decode("ascii")}
        case Decimal():
            return {"$": "decimal", "v": str(value)}
        case UUID():
            return {"$": "uuid", "v": str(value)}
        case numbers.Integral():  # numpy's
            return int(value)
        case numbers.Real():
            return float(value)
        case Mapping():
            return _pack(dict(value))
    raise DataError(
        f"A value of type {type(value).__name__} cannot be stored.",
        "Store numbers, text, bytes, datetimes, or JSON made of them.",
    )


def _untag(found: dict[str, Any]) -> Any:
    tag = found.get("$")
    if tag is None:
        return found
    return _UNTAG[tag](found["v"])


_UNTAG: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "interval": lambda v: timedelta(days=v[0], seconds=v[1], microseconds=v[2]),
    "bytes": base64.b64decode,
    "decimal": Decimal,
    "uuid": UUID,
}
