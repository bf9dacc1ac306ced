"""Validation of model settings before they are stored or sent.

The SDK's own `ModelSettings(**{"toolChoice": …})` ignores unknown names; this module rejects them. Names are those of the Agents
SDK's `ModelSettings`, in snake_case or camelCase. Whether a provider supports a setting is checked by its adapter, which rejects
unsupported ones by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.errors import SettingsError

_ALIASES = {"max_output_tokens": "max_tokens", "max_completion_tokens": "max_tokens", "reasoning_effort": "reasoning"}
"""Equivalent names used by other programs."""

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
}
_FREE_INSIDE = frozenset({"extra_body", "extra_headers", "extra_query", "extra_args", "metadata"})
"""Settings whose keys belong to the provider or the user and are left unchanged."""


def validate_settings(given: Mapping[str, object] | None) -> dict[str, Any]:
    """Validates settings and returns them with snake_case names and without nulls.

    Raises `SettingsError`, with `param` `model_settings.<name>`, for an unknown name (with a suggestion), a duplicate name, or a value of
    the wrong type or out of range.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise SettingsError(
            f"Model settings must be an object of names and values, not {type(given).__name__}.", param="model_settings"
        )
    result: dict[str, object] = {}
    for key, value in given.items():
        name = _name(str(key))
        if value is None:
            continue
        if name in result:
            raise SettingsError(f"The model setting {name} is given twice.", "Remove one of them.", param=_param(name))
        result[name] = value if name in _FREE_INSIDE else _snake_inside(value)
    if isinstance(result.get("reasoning"), str):
        result["reasoning"] = {"effort": result["reasoning"]}
    try:
        _check_text(json.dumps(result))
    except TypeError:  # Values that only Python has, such as the SDK's own objects.
        _check_values(result)
    return result


@lru_cache(maxsize=256)
def _check_text(settings: str) -> None:
    """Checks settings given as JSON. Every run builds its agents anew, and the SDK's check takes about a millisecond for each."""
    _check_values(json.loads(settings))


@cache
def known_settings() -> tuple[str, ...]:
    from dataclasses import fields

    from agents import ModelSettings

    return tuple(field.name for field in fields(ModelSettings))


def _name(key: str) -> str:
    name = _snake(key)
    name = _ALIASES.get(name, name)
    known = known_settings()
    if name not in known:
        raise SettingsError(
            f"There is no model setting {key!r}.{did_you_mean(name, known)}",
            f"Known: {', '.join(sorted(known))}.",
            param=_param(key),
        )
    return name


def _check_values(settings: dict[str, object]) -> None:
    for name, (low, high) in _RANGES.items():
        value = settings.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise SettingsError(f"{name} must be a number from {low:g} to {high:g}, not {value!r}.", param=_param(name))
    limit = settings.get("max_tokens")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise SettingsError(f"max_tokens must be a whole number from 1 up, not {limit!r}.", param=_param("max_tokens"))
    reasoning = settings.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, Mapping) else None
    if effort is not None and effort not in EFFORTS:
        raise SettingsError(
            f"The reasoning effort {effort!r} does not exist.{did_you_mean(str(effort), EFFORTS)}",
            f"Use one of: {', '.join(EFFORTS)}.",
            param=_param("reasoning"),
        )
    _check_by_sdk(settings)
    if isinstance(reasoning, Mapping):
        from openai.types.shared import Reasoning

        for key in reasoning:
            if key not in Reasoning.model_fields:
                raise SettingsError(
                    f"reasoning has no field {key!r}.{did_you_mean(key, Reasoning.model_fields)}",
                    param=_param("reasoning"),
                )


def _check_by_sdk(settings: dict[str, object]) -> None:
    """Checks the remaining types, and names inside structured settings, against the SDK's declarations."""
    from agents import Agent
    from pydantic import ValidationError

    try:
        Agent(name="settings", model_settings=settings)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=True)[0]
        where = ".".join(
            str(part) for part in first["loc"][:2] if isinstance(part, str) and not part.startswith("function-")
        )
        raise SettingsError(
            f"The model setting {where or 'given'} cannot be {first.get('input')!r}: {first['msg']}.",
            param=_param(where),
        ) from error
    except TypeError as error:
        raise SettingsError(f"{error}.", param="model_settings") from error


def _snake_inside(value: object) -> object:
    if isinstance(value, Mapping):
        return {_snake(str(key)): _snake_inside(inner) for key, inner in value.items()}
    return [_snake_inside(inner) for inner in value] if isinstance(value, list) else value


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()


def _param(name: str) -> str:
    return f"model_settings.{name}" if name else "model_settings"
