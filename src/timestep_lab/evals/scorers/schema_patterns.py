"""The keywords of JSON Schema that hold regular expressions, each with an end to its time. `jsonschema` itself looks with `re`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any

from timestep_lab.evals.scorers.bounded import Deadline
from timestep_lab.types.errors import UsageError

_deadline: ContextVar[Deadline] = ContextVar("deadline of the patterns of this answer")


def check_patterns(schema: Any) -> None:
    """Raises `UsageError` for a schema whose patterns could not be bounded: `unevaluatedProperties` looks into other schemas' with `re`."""
    if {"patternProperties", "unevaluatedProperties"} <= set(_keywords(schema)):
        raise UsageError(
            "A schema with both patternProperties and unevaluatedProperties cannot be checked in bounded time.",
            "Use additionalProperties instead.",
        )


def best_error(schema: Any, value: Any) -> Any:
    """What is wrong with the value first of all (a `jsonschema.ValidationError`), or None. Fetches nothing that a reference may name.

    Raises `TooSlowError` when its patterns have had their time.
    """
    import jsonschema  # type: ignore[import-untyped]

    validator = _bounded(jsonschema.validators.validator_for(schema))(
        schema, registry=jsonschema.validators.SPECIFICATIONS
    )
    _deadline.set(Deadline())
    return jsonschema.exceptions.best_match(validator.iter_errors(value))


@cache
def _bounded(plain: Any) -> Any:
    """The class of validators with our keywords in place of theirs. Making one takes longer than most validations."""
    import jsonschema

    theirs = plain.VALIDATORS["additionalProperties"]

    def additional_properties(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[Any]:
        patterns = schema.get("patternProperties") or {}
        if patterns and validator.is_type(instance, "object"):
            # Properties that a pattern finds are named as they are, for which `jsonschema` needs no pattern.
            found = {key: True for key in instance if any(_find(name, key) for name in patterns)}
            schema = {**schema, "properties": {**found, **schema.get("properties", {})}}
            del schema["patternProperties"]
        yield from theirs(validator, wanted, instance, schema) or ()

    ours = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": additional_properties,
    }
    made = jsonschema.validators.extend(plain, {name: ours[name] for name in ours if name in plain.VALIDATORS})
    made.evolve = _evolve
    return made


def _pattern(validator: Any, wanted: str, instance: Any, schema: Any) -> Iterator[Any]:
    import jsonschema

    if validator.is_type(instance, "string") and not _find(wanted, instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {wanted!r}")


def _pattern_properties(validator: Any, wanted: Mapping[str, Any], instance: Any, schema: Any) -> Iterator[Any]:
    if validator.is_type(instance, "object"):
        for name, subschema in wanted.items():
            for key, value in instance.items():
                if _find(name, key):
                    yield from validator.descend(value, subschema, path=key, schema_path=name)


def _find(pattern: str, text: str) -> bool:
    return _deadline.get().find(pattern, text)


def _evolve(self: Any, **changes: Any) -> Any:
    """As the original, but a `$schema` further down (or a reference to the root, which has one) does not bring back the unbounded class."""
    return type(self)(**{f.alias: getattr(self, f.name) for f in type(self).__attrs_attrs__ if f.init} | changes)


def _keywords(value: Any) -> Iterator[str]:
    """Every name in it, wherever: what a reference may point to is not known before it is followed."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from _keywords(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _keywords(inner)
