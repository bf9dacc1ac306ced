"""The JSON form of the lab's typed values: one codec for every side of a wire.

pydantic does the work. It takes 30 ms to import, so it is imported when the first value is coded. What stands in an annotation for a
form of its own (`Moment`, `JsonValue`) is a small class with pydantic's hook, which needs no import.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from timestep_lab.model import errors
from timestep_lab.model.clock import iso, to_aware_utc
from timestep_lab.model.errors import LabError, UsageError

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
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
JsonValue = Annotated[Any, _PlainJson()]


# --- Errors


BY_STATUS: Mapping[int, type[LabError]] = {
    400: errors.UsageError, 401: errors.AuthError, 403: errors.ForbiddenError, 404: errors.NotFoundError,
    409: errors.ConflictError, 413: errors.TooLargeError, 422: errors.UsageError, 429: errors.BusyError,
    502: errors.StoreUnavailableError, 503: errors.StoreUnavailableError, 504: errors.StoreUnavailableError,
}  # fmt: skip
"""For an answer that names no class of ours: a body of the wrong form, or something that stands before the lab."""


def error_json(error: LabError) -> dict[str, Any]:
    """OpenAI's four fields, and two more from which the other side raises the same error: its class, and what it carries."""
    known = {"type": error.type, "message": str(error), "param": error.param, "code": error.code}
    return {**known, "name": type(error).__name__, "details": _details(error)}


def _details(error: LabError) -> dict[str, Any]:
    """The error's own attributes, such as `next_step`, `provider` or `retry_after`."""
    known = {"message", "param", "code"}
    return {
        name: value
        for name, value in vars(error).items()
        if name not in known and not name.startswith("_") and isinstance(value, str | int | float | None)
    }


def error_of_json(told: Mapping[str, Any], status: int = 500) -> LabError:
    """The error that `error_json` wrote, of the same class, with the same words; of a class that is not known here, by its HTTP status."""
    carried = dict(told.get("details") or {})
    next_step = str(carried.pop("next_step", ""))
    message = str(told["message"]).removesuffix(next_step).strip()
    kind = getattr(errors, str(told.get("name")), None)
    if not (isinstance(kind, type) and issubclass(kind, LabError)):
        return BY_STATUS.get(status, LabError)(message, next_step)
    error = kind.__new__(kind)
    LabError.__init__(error, message, next_step, param=told.get("param"), code=told.get("code"))
    vars(error).update(carried)
    return error


class ErrorForm:
    """Stands in an annotation of an error: its form is that of `error_json`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema as schema

        return schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, LabError) else error_of_json(value),
            serialization=schema.plain_serializer_function_ser_schema(error_json, return_schema=schema.dict_schema()),
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "object"}
