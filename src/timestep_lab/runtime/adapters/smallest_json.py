"""The smallest value that a JSON schema allows: what a demo answers where a model would fill in a form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_EMPTY: dict[str, Any] = {
    "string": "",
    "integer": 0,
    "number": 0,
    "boolean": False,
    "null": None,
    "array": [],
    "object": {},
}


def smallest_json(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> Any:
    """First enum value or const, first alternative, all properties of an object, `minItems` items, numbers at their minimum."""
    root = schema if root is None else root
    if "$ref" in schema:
        target: Any = root
        for step in str(schema["$ref"]).removeprefix("#/").split("/"):
            target = target[step]
        return smallest_json(target, root)
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    if "enum" in schema:
        return schema["enum"][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return smallest_json(schema[name][0], root)
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: smallest_json(inner, root) for name, inner in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [smallest_json(schema.get("items") or {"type": "null"}, root)] * int(schema.get("minItems", 0))
    if kind in ("integer", "number"):
        return schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
    if kind == "string":
        return "x" * int(schema.get("minLength", 0))
    return _EMPTY[kind]
