"""`demo/assistant`: no language model, but fixed rules that use the tools and handoffs an agent was given.

Read in this order, on the user's last message and what was done since; the first rule that applies is followed.

1. `call NAME {JSON}` calls that tool with those arguments, once; `hand off to NAME` hands off to the agent of that name.
2. A question about weather (weather, forecast, temperature, rain, snow, umbrella …):
   with `get_weather`, think first if there is `think`, then ask for each place the message names (several places: several
   calls in one turn, unless `parallel_tool_calls` is off), then say what came back; a message without a place is answered
   by asking for one. Without `get_weather`, hand off to an agent whose name or description says weather.
3. A message about the theme, with `switch_theme`: switch to dark or light, whichever it names; ask when it names neither.
4. Anything else: say what this is and what it can do. An agent with an output type gets the smallest answer its schema allows.

`tool_choice` `none` switches 1 to 3 off; a tool's name leaves only that tool; `required` refuses to fall through to 4.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from timestep_lab.model.errors import ProviderRequestError
from timestep_lab.runtime.adapters.base import FunctionSpec, ModelRequest
from timestep_lab.runtime.adapters.conversation import Call, Turn, read_turn
from timestep_lab.runtime.adapters.demo_base import ESTIMATE, DemoModel
from timestep_lab.runtime.adapters.demo_language import about_theme, about_weather, places_in, theme_in, unit_in
from timestep_lab.runtime.adapters.demo_sentences import result_sentence, weather_answer
from timestep_lab.runtime.emitter import Emitter

# -- The smallest value that a JSON schema allows: what a demo answers where a model would fill in a form

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


# --

WEATHER_TOOL, THINK_TOOL, THEME_TOOL = "get_weather", "think", "switch_theme"

INTRODUCTION = (
    "I am demo/assistant, a deterministic demo and no language model: I follow fixed rules. "
    "Ask me about the weather in a place, or to switch to the dark or the light theme, "
    "and I will use the tools and handoffs of this agent. For a real answer, choose another model."
)
_EXPLICIT_CALL = re.compile(r"\bcall\s+([\w.-]+)\s*(\{.*\})?", re.IGNORECASE | re.DOTALL)
_EXPLICIT_HANDOFF = re.compile(r"\bhand(?:\s+it)?\s+(?:off|over)\s+to\s+(?:the\s+)?([\w -]+)", re.IGNORECASE)

Wanted = list[tuple[str, Mapping[str, Any]]]
"""Calls to make in this turn: name and arguments."""


class DemoAssistant(DemoModel):
    async def _stream(self, request: ModelRequest, emitter: Emitter) -> AsyncIterator[Any]:
        turn = read_turn(request.input)
        wanted, answer = decide(turn, _offered(request))
        if request.settings.tool_choice == "required" and not wanted and not turn.calls:
            raise ProviderRequestError(
                "demo/assistant was told to call a tool, but none of its rules says which.",
                'Ask about the weather, write `call NAME {"argument": "value"}`, or use a language model.',
                provider="demo",
            )
        if wanted and request.settings.parallel_tool_calls is False:
            wanted = wanted[:1]
        if not wanted:
            text = json.dumps(smallest_json(request.schema)) if request.schema is not None else answer
            async for event in self.say(emitter, text, request):
                yield event
            return
        written = ""
        for name, arguments in wanted:
            text = json.dumps(arguments, ensure_ascii=False)
            written += name + text
            await asyncio.sleep(self.delay_ms / 1000.0)
            for event in emitter.tool_call(name):
                yield event
            middle = len(text) // 2
            for piece in (text[:middle], text[middle:]):
                await asyncio.sleep(self.delay_ms / 1000.0)
                for event in emitter.arguments(piece):
                    yield event
        for event in emitter.finish(self.usage(request, written), "tool_calls", ESTIMATE):
            yield event


def decide(turn: Turn, offered: Mapping[str, FunctionSpec]) -> tuple[Wanted, str]:
    """The calls to make now, or, when there are none, the answer."""
    explicit = _explicit(turn, offered)
    if explicit:
        return explicit, ""
    if about_weather(turn.user):
        return _weather(turn, offered)
    if about_theme(turn.user) and THEME_TOOL in offered:
        theme = theme_in(turn.user)
        if turn.called(THEME_TOOL):
            return [], f"Switched to the {theme} theme."
        return ([(THEME_TOOL, {"theme": theme})], "") if theme else ([], "Which theme: dark or light?")
    if results := [call for call in turn.calls if call.output is not None and not _is_handoff(call)]:
        return [], " ".join(map(result_sentence, results))
    return [], INTRODUCTION


def _weather(turn: Turn, offered: Mapping[str, FunctionSpec]) -> tuple[Wanted, str]:
    tool = offered.get(WEATHER_TOOL)
    places = places_in(turn.user)
    asked = turn.called(WEATHER_TOOL)
    if tool is None:
        handoff = next(
            (f for f in offered.values() if f.is_handoff and "weather" in f"{f.name} {f.description}".lower()), None
        )
        if handoff is not None and not turn.called(handoff.name) and not asked:
            return [(handoff.name, {})], ""
        if not asked:
            return [], f"I have no weather tool here. {INTRODUCTION}"
    elif not places:
        return [], "Which place do you mean? Name a city, as in: What is the weather in Oakland?"
    elif THINK_TOOL in offered and not turn.called(THINK_TOOL) and not asked:
        thought = f"The user asks about the weather in {_listed(places)}, so I will call {WEATHER_TOOL} for it."
        return [(THINK_TOOL, {_first_parameter(offered[THINK_TOOL], "thought"): thought})], ""
    else:
        key = _first_parameter(tool, "location")
        have = {str(call.arguments.get(key)) for call in asked}
        extra = _unit_argument(tool, turn.user)
        if todo := [place for place in places if place not in have]:
            return [(WEATHER_TOOL, {key: place, **extra}) for place in todo], ""
    return [], weather_answer(asked, turn.user)


def _explicit(turn: Turn, offered: Mapping[str, FunctionSpec]) -> Wanted:
    if found := _EXPLICIT_CALL.search(turn.user):
        name = found.group(1)
        if name in offered and not turn.called(name):
            try:
                arguments = json.loads(found.group(2) or "{}")
            except ValueError:
                arguments = None
            if isinstance(arguments, dict):
                return [(name, arguments)]
    if found := _EXPLICIT_HANDOFF.search(turn.user):
        wish = _squeezed(found.group(1))
        for spec in offered.values():
            if spec.is_handoff and wish.startswith(_squeezed(spec.name.removeprefix("transfer_to_"))):
                return [] if turn.called(spec.name) else [(spec.name, {})]
    return []


def _offered(request: ModelRequest) -> dict[str, FunctionSpec]:
    choice = request.settings.tool_choice
    if choice == "none":
        return {}
    named = choice if isinstance(choice, str) and choice not in ("auto", "required") else None
    return {spec.name: spec for spec in request.functions if named is None or spec.name == named}


def _is_handoff(call: Call) -> bool:
    return call.name.startswith("transfer_to_")


def _first_parameter(spec: FunctionSpec, usual: str) -> str:
    """The usual name if the schema has it, else its first required text parameter."""
    properties = spec.parameters.get("properties") or {}
    required = [
        name for name in spec.parameters.get("required") or () if properties.get(name, {}).get("type") == "string"
    ]
    return usual if usual in properties or not required else required[0]


def _unit_argument(spec: FunctionSpec, text: str) -> dict[str, str]:
    unit = unit_in(text)
    return {"unit": unit} if unit and "unit" in (spec.parameters.get("properties") or {}) else {}


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
