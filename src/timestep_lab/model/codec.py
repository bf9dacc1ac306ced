"""JSON encoding of the lab's typed values, shared by every client and server.

Encoding is done by pydantic, which takes 30 ms to import and is therefore imported on first use. Annotations with their own JSON form
(`Moment`, `JsonValue`) are small classes that implement pydantic's hook and need no import.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

from timestep_lab.model import errors
from timestep_lab.model.clock import iso, to_aware_utc
from timestep_lab.model.errors import LabError, UsageError

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

T = TypeVar("T")

if TYPE_CHECKING:
    Json: TypeAlias = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None
    """A value that `json.dumps` accepts."""
else:  # pydantic takes such values as they are; it would check a recursive type value by value.
    Json = Any


def object_of(value: object) -> Mapping[str, Json]:
    """Returns a JSON object, or an empty one for anything else: for what others send, in which every part may be missing."""
    return value if isinstance(value, Mapping) else {}


def list_of(value: object) -> Sequence[Json]:
    """Returns a JSON array, or an empty one for anything else."""
    return value if isinstance(value, list | tuple) else ()


def objects_of(value: object) -> Iterator[Mapping[str, Json]]:
    """Yields the JSON objects of an array; nothing for anything else."""
    return (entry for entry in list_of(value) if isinstance(entry, Mapping))


def decoded(kind: type[T], value: object) -> T:
    """Decodes a value of `kind` from its JSON form. Unknown fields are ignored: the sender may be a newer version.

    Raises `pydantic.ValidationError`.
    """
    hint: object = kind
    result: T = adapter(hint).validate_python(value)
    return result


def encoded(value: object, kind: object = None) -> Any:
    """Encodes a value of `kind` (by default its own type) as JSON: dicts, lists, strings and numbers.

    Raises `UsageError` for numbers that JSON does not have (NaN, infinity) and for values without a JSON form.
    """
    from pydantic_core import PydanticSerializationError

    hint = kind or type(value)
    try:
        form = adapter(hint).dump_python(value, mode="json")
        json.dumps(form, allow_nan=False)
    except (PydanticSerializationError, ValueError, TypeError) as error:
        raise UsageError(
            f"The value cannot be encoded as JSON: {error}.", "Use finite numbers, strings, lists and dicts."
        ) from error
    return form


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Returns the compiled validator and serializer of a type."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


class _Utc:
    """An aware datetime, converted to UTC; encoded in JSON in the text form of `clock.iso`."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema as schema

        return schema.no_info_after_validator_function(
            to_aware_utc,
            schema.datetime_schema(),
            serialization=schema.plain_serializer_function_ser_schema(iso, when_used="json"),
        )


class _PlainJson:
    """Any JSON value, normalized as JSON would return it: tuples become lists. NaN, lone surrogates, bytes and objects are rejected."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema as schema

        return schema.no_info_before_validator_function(_plain, handler(source))


class Ref:
    """A string that identifies a record. A record is accepted too and replaced by its id."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema as schema

        def take(value: object) -> object:
            return value if isinstance(value, str) else getattr(value, "id", value)

        return schema.no_info_before_validator_function(take, schema.str_schema(min_length=1, max_length=200))


def _plain(value: object) -> object:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error})") from None


MOST_TEXT = 2**30
"""A length that no text has. pydantic checks that a text can be encoded only where it has a maximum length."""
Moment = Annotated[datetime, _Utc()]
JsonObject = Annotated[dict[str, Json], _PlainJson()]
JsonValue = Annotated[Json, _PlainJson()]


# --- Errors


BY_STATUS: Mapping[int, type[LabError]] = {
    400: errors.UsageError, 401: errors.AuthError, 403: errors.ForbiddenError, 404: errors.NotFoundError,
    409: errors.ConflictError, 413: errors.TooLargeError, 422: errors.UsageError, 429: errors.BusyError,
    502: errors.StoreUnavailableError, 503: errors.StoreUnavailableError, 504: errors.StoreUnavailableError,
}  # fmt: skip
"""Classes for responses that name no class of the lab: a body of the wrong form, or a response from a proxy in front of the lab."""


def error_json(error: LabError) -> dict[str, Json]:
    """Encodes an error as OpenAI's four fields plus its class (`name`) and attributes (`details`), so that the client can raise it
    again."""
    known = {"type": error.type, "message": str(error), "param": error.param, "code": error.code}
    return {**known, "name": type(error).__name__, "details": _details(error)}


def _details(error: LabError) -> dict[str, Json]:
    """Returns the error's own attributes, such as `next_step`, `provider` or `retry_after`."""
    known = {"message", "param", "code"}
    return {
        name: value
        for name, value in vars(error).items()
        if name not in known and not name.startswith("_") and isinstance(value, str | int | float | None)
    }


def error_of_json(payload: Mapping[str, Any], status: int = 500) -> LabError:
    """Inverse of `error_json`: an error of the same class with the same message. An unknown class is replaced by that of the HTTP
    status."""
    carried = dict(payload.get("details") or {})
    next_step = str(carried.pop("next_step", ""))
    message = str(payload["message"]).removesuffix(next_step).strip()
    kind = getattr(errors, str(payload.get("name")), None)
    if not (isinstance(kind, type) and issubclass(kind, LabError)):
        return BY_STATUS.get(status, LabError)(message, next_step)
    error = kind.__new__(kind)
    LabError.__init__(error, message, next_step, param=payload.get("param"), code=payload.get("code"))
    vars(error).update(carried)
    return error


class ErrorForm:
    """Annotation marker for an error that is encoded with `error_json`."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema as schema

        return schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, LabError) else error_of_json(value),
            serialization=schema.plain_serializer_function_ser_schema(error_json, return_schema=schema.dict_schema()),
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "object"}
