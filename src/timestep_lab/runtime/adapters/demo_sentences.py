"""What `demo/assistant` says about a tool's result. It repeats what the result says and adds nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from timestep_lab.runtime.adapters.conversation import Call

_WET = re.compile(r"rain|drizzle|shower|thunder|snow|sleet|hail", re.IGNORECASE)
_QUOTE_AT_MOST = 400


def weather_answer(calls: Sequence[Call], asked: str) -> str:
    """A sentence for each place, then, once each, what the tool noted about where its answers come from."""
    sentences = [weather_sentence(call, asked) for call in calls]
    notes = [_first(_json_object(call.output) or {}, "note") for call in calls]
    return " ".join([*sentences, *(f"({str(note).rstrip('.')}.)" for note in dict.fromkeys(notes) if note)])


def weather_sentence(call: Call, asked: str) -> str:
    """One sentence for one place, from the keys that `get_weather` documents; other results are quoted."""
    found = _json_object(call.output)
    place = str(call.arguments.get("location") or next(iter(call.arguments.values()), "that place"))
    if found is None:
        return f"For {place} the tool said: {_quoted(call.output)}"
    if error := _first(found, "error"):
        return f"For {place} I have no weather. {_quoted(str(error))}"
    now = found["current"] if isinstance(found.get("current"), Mapping) else found
    temperature = _first(now, "temperature", "temp", "temperature_f", "temperature_c")
    condition = _first(now, "condition", "conditions", "description", "weather", "summary")
    if temperature is None and condition is None:
        return f"For {place} the tool said: {_quoted(call.output)}"
    name = _first(found, "location", "place", "name") or place
    unit = _unit(_first(now, "temperature_unit", "unit", "units") or _first(found, "temperature_unit", "unit", "units"))
    degrees = "" if temperature is None else f"{_rounded(temperature)}{unit}"
    facts = " and ".join(part for part in (degrees, str(condition or "").lower()) if part)
    sentence = f"In {name} it is {facts}."
    if "umbrella" in asked.lower() and condition is not None:
        sentence += " Take an umbrella." if _WET.search(str(condition)) else " No umbrella needed."
    return sentence


def result_sentence(call: Call) -> str:
    return f"{call.name} answered: {_quoted(call.output)}"


def _json_object(text: str | None) -> Mapping[str, Any] | None:
    try:
        value = json.loads(text or "")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _first(found: Mapping[str, Any], *names: str) -> Any:
    return next(
        (
            found[name]
            for name in names
            if found.get(name) not in (None, "", {}) and not isinstance(found[name], (dict, list))
        ),
        None,
    )


def _rounded(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, (int, float)) else str(value)


def _unit(unit: Any) -> str:
    letter = str(unit or "").strip("° ")[:1].upper()
    return f" °{letter}" if letter in ("C", "F") else "°"


def _quoted(text: str | None) -> str:
    flat = " ".join((text or "").split())
    return flat if len(flat) <= _QUOTE_AT_MOST else f"{flat[:_QUOTE_AT_MOST]}…"
