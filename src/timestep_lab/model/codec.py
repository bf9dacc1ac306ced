"""The JSON form of the lab's typed values: one codec for every side of a wire.

pydantic does the work. It takes 30 ms to import, so it is imported when the first value is coded. What stands in an annotation for a
form of its own (`Moment`, `JsonValue`) is a small class with pydantic's hook, which needs no import.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from timestep_lab.model.clock import iso, to_aware_utc
from timestep_lab.model.errors import UsageError

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, TypeAdapter
    from pydantic_core import CoreSchema

T = TypeVar("T")


def decoded(kind: type[T], value: Any) -> T:
    """A value of `kind` out of its JSON form. Fields that a record does not know are left out: the sender may be newer.

    Raises `pydantic.ValidationError`.
    """
    hint: Any = kind
    result: T = adapter(hint).validate_python(value)
    return result


def encoded(value: Any, kind: Any = None) -> Any:
    """The JSON form (dicts, lists, text, numbers) of a value of `kind`; of what it is, when no kind is given.

    Raises `UsageError` for a number that JSON does not have (NaN, infinity) and for what has no JSON form.
    """
    from pydantic_core import PydanticSerializationError

    hint: Any = kind or type(value)
    try:
        form = adapter(hint).dump_python(value, mode="json")
        json.dumps(form, allow_nan=False)
    except (PydanticSerializationError, ValueError, TypeError) as error:
        raise UsageError(
            f"This cannot be sent as JSON: {error}.", "Give numbers that are finite, text, lists and dicts."
        ) from error
    return form


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """The compiled validator and serializer of a type."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


class _Utc:
    """A datetime that is aware, in UTC, whatever zone it came with; in JSON the one text form of `clock.iso`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema as schema

        return schema.no_info_after_validator_function(
            to_aware_utc,
            schema.datetime_schema(),
            serialization=schema.plain_serializer_function_ser_schema(iso, when_used="json"),
        )


class _PlainJson:
    """Any value that JSON has, as JSON would give it back: tuples become lists. NaN, bytes and objects are refused."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema as schema

        return schema.no_info_before_validator_function(_plain, handler(source))


class Ref:
    """A text that names a record, for which the record itself will do too: its id is taken."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema as schema

        take: Callable[[Any], Any] = lambda value: value if isinstance(value, str) else getattr(value, "id", value)  # noqa: E731
        return schema.no_info_before_validator_function(take, schema.str_schema(min_length=1, max_length=200))


def _plain(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"is not JSON ({error})") from None


Moment = Annotated[datetime, _Utc()]
JsonObject = Annotated[dict[str, Any], _PlainJson()]
