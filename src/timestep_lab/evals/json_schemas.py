"""JSON Schema, checked with a time limit on regular expressions (`jsonschema` itself uses `re`, without one) and, where
asked for, with the formats of ajv-formats."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import date
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

from timestep_lab.evals.javascript_values import python_pattern
from timestep_lab.evals.scorers.base import Deadline, compile_pattern
from timestep_lab.model.codec import Json, object_of
from timestep_lab.model.errors import UsageError

if TYPE_CHECKING:
    import jsonschema  # type: ignore[import-untyped]

_deadline: ContextVar[Deadline] = ContextVar("deadline of the patterns of this answer")


def check_patterns(schema: object) -> None:
    """Raises `UsageError` for a schema whose patterns cannot be limited: `unevaluatedProperties` uses `re` on other
    schemas' patterns.
    """
    if {"patternProperties", "unevaluatedProperties"} <= set(_keywords(schema)):
        raise UsageError(
            "A schema with both patternProperties and unevaluatedProperties cannot be checked in bounded time.",
            "Use additionalProperties instead.",
        )


def best_error(schema: object, value: object, *, formats: bool = False) -> jsonschema.ValidationError | None:
    """The most relevant validation error, or None. Remote references are not fetched. `formats`: whether `format` is
    checked; in JSON Schema it is only an annotation.

    Raises `TooSlowError` when the time limit of the patterns is exceeded.
    """
    import jsonschema

    validator = _bounded(jsonschema.validators.validator_for(schema))(
        schema, registry=jsonschema.validators.SPECIFICATIONS, format_checker=_format_checker() if formats else None
    )
    _deadline.set(Deadline())
    return jsonschema.exceptions.best_match(validator.iter_errors(value))


@cache
def _bounded(plain: type[jsonschema.protocols.Validator]) -> type[jsonschema.protocols.Validator]:
    """A validator class with time-limited keywords. Cached, since creating one takes longer than most validations."""
    import jsonschema

    theirs = plain.VALIDATORS["additionalProperties"]

    def additional_properties(
        validator: jsonschema.protocols.Validator, wanted: Json, instance: Json, schema: Mapping[str, Any]
    ) -> Iterator[jsonschema.ValidationError]:
        patterns = schema.get("patternProperties") or {}
        if patterns and validator.is_type(instance, "object"):
            # Properties that match a pattern are listed literally, so `jsonschema` needs no pattern.
            matched = {key: True for key in object_of(instance) if any(_find(name, key) for name in patterns)}
            schema = {**schema, "properties": {**matched, **schema.get("properties", {})}}
            del schema["patternProperties"]
        yield from theirs(validator, wanted, instance, schema) or ()

    ours = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": additional_properties,
    }
    made: type[jsonschema.protocols.Validator] = jsonschema.validators.extend(
        plain, {name: ours[name] for name in ours if name in plain.VALIDATORS}
    )
    made.evolve = _evolve
    return made


def _pattern(
    validator: jsonschema.protocols.Validator, wanted: str, instance: Json, schema: Mapping[str, Json]
) -> Iterator[jsonschema.ValidationError]:
    import jsonschema

    if isinstance(instance, str) and not _find(wanted, instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {wanted!r}")


def _pattern_properties(
    validator: jsonschema.protocols.Validator, wanted: Mapping[str, Json], instance: Json, schema: Mapping[str, Json]
) -> Iterator[jsonschema.ValidationError]:
    if validator.is_type(instance, "object"):
        for name, subschema in wanted.items():
            for key, value in object_of(instance).items():
                if _find(name, key):
                    yield from validator.descend(value, subschema, path=key, schema_path=name)


def _find(pattern: str, text: str) -> bool:
    return _deadline.get().find(pattern, text)


def _evolve(self: jsonschema.protocols.Validator, **changes: object) -> jsonschema.protocols.Validator:
    """Like the original, but a nested `$schema` (or a reference to the root with one) does not bring back the unlimited
    class.
    """
    return type(self)(**{f.alias: getattr(self, f.name) for f in type(self).__attrs_attrs__ if f.init} | changes)


def _keywords(value: object) -> Iterator[str]:
    """Every key in the schema, at any depth: the targets of references are not known in advance."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from _keywords(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _keywords(inner)


# -- Formats of texts, as ajv-formats checks them

_CHARACTER = r"(?:[a-z0-9\-._~!$&'()*+,;=:@]|%[0-9a-f]{2})"
_IN_HOST = r"(?:[a-z0-9\-._~!$&'()*+,;=]|%[0-9a-f]{2})"
_IN_NAME = r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_TIME = re.compile(r"(\d\d):(\d\d):(\d\d(?:\.\d+)?)(?:(z)|([+-])(\d\d)(?::?(\d\d))?)?", re.IGNORECASE | re.ASCII)
_PATTERNS = {
    "duration": r"P(?!\Z)(?:(?:\d+Y)?(?:\d+M)?(?:\d+D)?(?:T(?=\d)(?:\d+H)?(?:\d+M)?(?:\d+S)?)?|(?:\d+W)?)",
    "email": rf"(?i:{_IN_NAME}(?:\.{_IN_NAME})*@(?:{_LABEL}\.)+{_LABEL})",
    "hostname": r"(?i:(?=.{1,253}\.?\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*\.?)",
    "json-pointer": r"(?:/(?:[^~/]|~[01])*)*",
    "relative-json-pointer": r"(?:0|[1-9][0-9]*)(?:#|(?:/(?:[^~/]|~[01])*)*)",
    "uri": (
        rf"(?i:[a-z][a-z0-9+\-.]*:(?://(?:(?:{_IN_HOST}|:)*@)?(?:\[[0-9a-f:.]+\]|{_IN_HOST}*)(?::\d*)?(?:/{_CHARACTER}*)*"
        rf"|/(?:{_CHARACTER}+(?:/{_CHARACTER}*)*)?|{_CHARACTER}+(?:/{_CHARACTER}*)*)(?:\?(?:{_CHARACTER}|[/?])*)?(?:\#(?:{_CHARACTER}|[/?])*)?)"
    ),
    "uuid": r"(?i:(?:urn:uuid:)?[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})",
}  # fmt: skip
_ANYTHING = ("password", "binary", "float", "double")
"""Formats that every text and every number has."""


def _is_date(text: str) -> bool:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_time(text: str, *, zone: bool) -> bool:
    match = _TIME.fullmatch(text)
    if match is None or (zone and not (match[4] or match[5])):
        return False
    hour, minute, second = int(match[1]), int(match[2]), float(match[3])
    east = (-1 if match[5] == "-" else 1) * (60 * int(match[6] or 0) + int(match[7] or 0))
    if int(match[6] or 0) > 23 or int(match[7] or 0) > 59:
        return False
    leap = (60 * hour + minute - east) % 1440 == 1439 and second < 61
    return (hour <= 23 and minute <= 59 and second < 60) or leap


def _is_date_time(text: str, *, zone: bool) -> bool:
    parts = re.split(r"[tT\s]", text)
    return len(parts) == 2 and _is_date(parts[0]) and _is_time(parts[1], zone=zone)


def _is_pattern(text: str) -> bool:
    try:
        compile_pattern(python_pattern(text))
    except UsageError:
        return False
    return True


def _is_address(kind: type[IPv4Address] | type[IPv6Address], text: str) -> bool:
    try:
        return "%" not in text and bool(kind(text).packed)
    except ValueError:
        return False


_CHECKS: Mapping[str, Callable[[str], bool]] = {
    "date": _is_date,
    "time": lambda text: _is_time(text, zone=True),
    "date-time": lambda text: _is_date_time(text, zone=True),
    "iso-time": lambda text: _is_time(text, zone=False),
    "iso-date-time": lambda text: _is_date_time(text, zone=False),
    "regex": _is_pattern,
    "ipv4": lambda text: _is_address(IPv4Address, text),
    "ipv6": lambda text: _is_address(IPv6Address, text),
}
FORMATS = (*_PATTERNS, *_CHECKS, *_ANYTHING)


@cache
def _format_checker() -> jsonschema.FormatChecker:
    import jsonschema

    checker = jsonschema.FormatChecker(formats=())
    checks = {**{name: _matches(pattern) for name, pattern in _PATTERNS.items()}, **_CHECKS}
    for name, check in checks.items():
        checker.checkers = {**checker.checkers, name: (_of_text(check), ())}
    return checker


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda text: _deadline.get().find(pattern, text, full=True)


def _of_text(check: Callable[[str], bool]) -> Callable[[object], bool]:
    """The check of a format of texts: it holds for all other values."""
    return lambda value: not isinstance(value, str) or check(value)


def formats_of(schema: object) -> set[str]:
    """The formats that a schema names, at any depth."""
    if isinstance(schema, Mapping):
        own = {schema["format"]} if isinstance(schema.get("format"), str) else set[str]()
        return own.union(*map(formats_of, schema.values()))
    return set[str]().union(*map(formats_of, schema)) if isinstance(schema, list | tuple) else set()
