"""`demo/assistant`: a rule-based model that uses the tools and handoffs of its agent. No language model.

Rules apply to the user's last message and the calls since, in this order; the first one that matches is used.

1. `call NAME {JSON}` calls that tool with those arguments, once; `hand off to NAME` hands off to the agent of that name.
2. A question about weather (weather, forecast, temperature, rain, snow, umbrella …):
   with `get_weather`, call `think` first if available, then `get_weather` for each place in the message (several
   calls in one turn, unless `parallel_tool_calls` is off), then report the results; without a place in the message,
   ask for one. Without `get_weather`, hand off to an agent whose name or description mentions weather.
3. A message about the theme, with `switch_theme`: switch to the named theme, dark or light; ask if it names neither.
4. An unknown or malformed call or handoff: name the available ones. Anything else: introduce itself. An agent with an output type gets the
   smallest answer that its schema allows.

`tool_choice` `none` disables 1 to 3; a tool's name leaves only that tool; `required` fails instead of reaching 4.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar

from agents.items import TResponseStreamEvent

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import (
    ProviderAuthError,
    ProviderError,
    ProviderRequestError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    StreamCutError,
)
from timestep_lab.model.records import Usage
from timestep_lab.runtime.adapters.base import AdapterModel, Call, FunctionSpec, ModelRequest, Turn, read_turn
from timestep_lab.runtime.emitter import Emitter

# --- Base of the `demo/` models: answers in several chunks with short pauses, and estimated token counts


NO_MODEL = "no language model"
CHARACTERS_PER_TOKEN = 4.0
"""Rule of thumb for English; there is no tokenizer."""

ESTIMATE = {"token_count": "estimate"}
"""Response metadata: usage is estimated from the number of characters."""


class DemoModel(AdapterModel):
    """Base of the demo models. `delay_ms` is the pause between two chunks."""

    takes: ClassVar[frozenset[str]] = frozenset(
        {"temperature", "top_p", "frequency_penalty", "presence_penalty", "reasoning", "verbosity", "metadata", "store",
         "tool_choice", "parallel_tool_calls", "max_tokens"}
    )  # fmt: skip
    """Sampling and effort have no effect on rule-based answers, so all values are accepted."""

    takes_of_reasoning: ClassVar[frozenset[str]] = frozenset({"effort", "summary", "generate_summary"})

    def __init__(self, model: str, *, delay_ms: float) -> None:
        super().__init__(model, "demo")
        self.delay_ms = delay_ms

    async def say(self, emitter: Emitter, text: str, request: ModelRequest) -> AsyncIterator[TResponseStreamEvent]:
        """Streams `text` word by word and finishes. `max_tokens` truncates it."""
        words = re.findall(r"\S+\s*", text) or [text]
        limit = request.settings.max_tokens
        sent: list[str] = []
        for word in words:
            if limit is not None and estimate_tokens("".join([*sent, word])) > limit:
                break
            await asyncio.sleep(self.delay_ms / 1000.0)
            sent.append(word)
            for event in emitter.text(word):
                yield event
        stop_reason = "stop" if len(sent) == len(words) else "length"
        for event in emitter.finish(self.usage(request, "".join(sent)), stop_reason, ESTIMATE):
            yield event

    def usage(self, request: ModelRequest, written: str) -> Usage:
        read = (request.instructions or "") + json.dumps(request.input, ensure_ascii=False, default=str)
        return Usage(requests=1, input_tokens=estimate_tokens(read), output_tokens=estimate_tokens(written))


def estimate_tokens(text: str) -> int:
    return max(1, round(len(text) / CHARACTERS_PER_TOKEN)) if text else 0


# --- The vocabulary of `demo/assistant`: simple patterns, so that its behaviour is predictable
#
# English only. A place is what follows `in`, `at`, `for`, `near` or `of` (several: separated by commas or `and`), up to the end of
# the clause or a word of time; without such a preposition, a sequence of capitalized words other than sentence openers.


_WEATHER = re.compile(
    r"\b(weather|forecast|temperatures?|umbrellas?|rain(?:ing|y|s)?|snow(?:ing|y|s)?|sunny|cloudy|windy?|foggy|"
    r"humid(?:ity)?|degrees|celsius|fahrenheit|raincoat|jacket)\b",
    re.IGNORECASE,
)
_THEME = re.compile(r"\b(theme|(?:dark|light) mode)\b", re.IGNORECASE)
_BEFORE_PLACE = re.compile(r"\b(?:in|at|for|near|of|to)\s+", re.IGNORECASE)
_END_OF_PLACE = re.compile(
    r"[?!;:.]|\b(?:today|tomorrow|tonight|now|right|this|next|please|currently|with|is|are|will|be|on|using|or|but|"
    r"should|do|does|what|what's|i|and (?:is|are|will|should|do|what|what's|how|tell|which|compare|then|also|think|if)|in)\b",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(r"\s*,\s*(?:and\s+)?|\s+(?:and|&|vs\.?|versus)\s+", re.IGNORECASE)
_REGION = re.compile(r"^(?:[A-Z]{2}|USA|UK)$")
_NOT_A_PLACE = frozenset(
    [
        "the",
        "a",
        "an",
        "my",
        "today",
        "tomorrow",
        "tonight",
        "now",
        "celsius",
        "fahrenheit",
        "degrees",
        "general",
        "it",
        "me",
        "you",
        "us",
        "c",
        "f",
        "weather",
        "forecast",
        "temperature",
        "there",
        "here",
        "morning",
        "afternoon",
        "evening",
        "week",
        "weekend",
    ]
)
_CAPITALISED = re.compile(r"\b[A-ZÀ-Þ][\w'’-]*(?:\s+[A-ZÀ-Þ][\w'’-]*)*")
_OPENERS = frozenset(
    [
        "What",
        "What's",
        "Whats",
        "How",
        "How's",
        "Is",
        "Will",
        "Do",
        "Does",
        "Should",
        "Can",
        "Could",
        "Please",
        "Tell",
        "Show",
        "Give",
        "Get",
        "Check",
        "Compare",
        "Weather",
        "Forecast",
        "Temperature",
        "Umbrella",
        "Rain",
        "Snow",
        "And",
        "Or",
        "I",
        "I'm",
        "Which",
        "Who",
        "Celsius",
        "Fahrenheit",
        "Use",
        "Think",
        "Hello",
        "Hi",
        "Hey",
    ]
)


def about_weather(text: str) -> bool:
    return _WEATHER.search(text) is not None


def about_theme(text: str) -> bool:
    return _THEME.search(text) is not None


def theme_in(text: str) -> str | None:
    """Returns `dark` or `light`; None when the text names neither or both."""
    named = {word.lower() for word in re.findall(r"\b(dark|light)\b", text, re.IGNORECASE)}
    return named.pop() if len(named) == 1 else None


def unit_in(text: str) -> str | None:
    match = re.search(r"\b(celsius|fahrenheit)\b", text, re.IGNORECASE)
    return match.group(1).lower() if match else None


def places_in(text: str) -> list[str]:
    """Returns the places named, in order and without duplicates."""
    places: list[str] = []
    for start in _BEFORE_PLACE.finditer(text):
        rest = text[start.end() :]
        end = _END_OF_PLACE.search(rest)
        places += _split(rest[: end.start()] if end else rest)
    if not places:
        for run in _CAPITALISED.findall(text):
            words = run.split()
            while words and words[0] in _OPENERS:
                words.pop(0)
            places += _split(" ".join(words))
    return list(dict.fromkeys(places))


def _split(clause: str) -> list[str]:
    places: list[str] = []
    for piece in _SEPARATOR.split(f"{clause.strip()} "):
        name = re.sub(r"^(?:the|both)\s+", "", piece.strip(" '\"“”"), flags=re.IGNORECASE)
        if places and _REGION.match(name):
            places[-1] = f"{places[-1]}, {name}"
        elif name and name.lower() not in _NOT_A_PLACE and name.split()[0].lower() not in _NOT_A_PLACE:
            places.append(name)
    return places


# --- Answers of `demo/assistant` about tool results. They repeat the result and add nothing


_WET = re.compile(r"rain|drizzle|shower|thunder|snow|sleet|hail", re.IGNORECASE)
_QUOTE_AT_MOST = 400


def weather_answer(calls: Sequence[Call], asked: str) -> str:
    """Returns a sentence per place, followed by each distinct note of the tool about its source."""
    sentences = [weather_sentence(call, asked) for call in calls]
    notes = [_first(_json_object(call.output) or {}, "note") for call in calls]
    return " ".join([*sentences, *(f"({str(note).rstrip('.')}.)" for note in dict.fromkeys(notes) if note)])


def weather_sentence(call: Call, asked: str) -> str:
    """Returns a sentence about one place, from the keys that `get_weather` documents; other results are quoted."""
    weather = _json_object(call.output)
    place = str(call.arguments.get("location") or next(iter(call.arguments.values()), "that place"))
    if weather is None:
        return f"For {place} the tool said: {_quoted(call.output)}"
    if error := _first(weather, "error"):
        return f"For {place} I have no weather. {_quoted(str(error))}"
    now = current if isinstance(current := weather.get("current"), Mapping) else weather
    temperature = _first(now, "temperature", "temp", "temperature_f", "temperature_c")
    condition = _first(now, "condition", "conditions", "description", "weather", "summary")
    if temperature is None and condition is None:
        return f"For {place} the tool said: {_quoted(call.output)}"
    name = _first(weather, "location", "place", "name") or place
    unit = _unit(
        _first(now, "temperature_unit", "unit", "units") or _first(weather, "temperature_unit", "unit", "units")
    )
    degrees = "" if temperature is None else f"{_rounded(temperature)}{unit}"
    facts = " and ".join(part for part in (degrees, str(condition or "").lower()) if part)
    sentence = f"In {name} it is {facts}."
    if "umbrella" in asked.lower() and condition is not None:
        sentence += " Take an umbrella." if _WET.search(str(condition)) else " No umbrella needed."
    return sentence


def result_sentence(call: Call) -> str:
    return f"{call.name} answered: {_quoted(call.output)}"


def _json_object(text: str | None) -> Mapping[str, Json] | None:
    try:
        value = json.loads(text or "")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _first(found: Mapping[str, object], *names: str) -> object:
    return next(
        (
            found[name]
            for name in names
            if found.get(name) not in (None, "", {}) and not isinstance(found[name], (dict, list))
        ),
        None,
    )


def _rounded(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, (int, float)) else str(value)


def _unit(unit: object) -> str:
    letter = str(unit or "").strip("° ")[:1].upper()
    return f" °{letter}" if letter in ("C", "F") else "°"


def _quoted(text: str | None) -> str:
    flat = " ".join((text or "").split())
    return flat if len(flat) <= _QUOTE_AT_MOST else f"{flat[:_QUOTE_AT_MOST]}…"


# --- `demo/echo`, `demo/slow` and `demo/flaky`: simple behaviours for teaching and testing


class DemoEcho(DemoModel):
    """Repeats the user's last message; with `bare`, without the prefix that it is no language model."""

    def __init__(self, model: str, *, delay_ms: float, bare: bool) -> None:
        super().__init__(model, delay_ms=delay_ms)
        self._before = "" if bare else f"Echo ({NO_MODEL}): "

    async def _stream(self, request: ModelRequest, emitter: Emitter) -> AsyncIterator[TResponseStreamEvent]:
        async for event in self.say(emitter, self._before + read_turn(request.input).user, request):
            yield event


class DemoSlow(DemoModel):
    """Sends exactly `n` pieces, the first after `ttft_ms`, then `tps` per second. Each counts as one token."""

    def __init__(self, model: str, *, ttft_ms: float, tps: float, n: int) -> None:
        super().__init__(model, delay_ms=0.0)
        self._ttft_ms, self._tps, self._n = ttft_ms, tps, n

    async def _stream(self, request: ModelRequest, emitter: Emitter) -> AsyncIterator[TResponseStreamEvent]:
        loop = asyncio.get_running_loop()
        start = loop.time() + self._ttft_ms / 1000.0
        count = self._n if request.settings.max_tokens is None else min(self._n, request.settings.max_tokens)
        for index in range(count):
            # Each piece has its own due time, so that delays do not accumulate.
            await asyncio.sleep(max(0.0, start + index / self._tps - loop.time()))
            for event in emitter.text(f"demo/slow ({NO_MODEL}):" if index == 0 else f" {index}"):
                yield event
        usage = Usage(requests=1, input_tokens=self.usage(request, "").input_tokens, output_tokens=count)
        for event in emitter.finish(usage, "stop" if count == self._n else "length", ESTIMATE):
            yield event


FAULTS = ("rate_limit", "unavailable", "timeout", "cut", "auth", "request")
_USUAL = FAULTS[:3]


class DemoFlaky(DemoModel):
    """Fails with probability `rate`, determined by `seed`, the message and how often it was sent before."""

    def __init__(self, model: str, *, delay_ms: float, rate: float, seed: int, error: str | None) -> None:
        super().__init__(model, delay_ms=delay_ms)
        self._rate, self._seed, self._error = rate, seed, error
        self._asked: Counter[str] = Counter()

    async def _stream(self, request: ModelRequest, emitter: Emitter) -> AsyncIterator[TResponseStreamEvent]:
        user_text = read_turn(request.input).user
        draw = hashlib.sha256(f"{self._seed}|{self._asked[user_text]}|{user_text}".encode()).digest()
        self._asked[user_text] += 1
        if int.from_bytes(draw[:4], "big") / 2**32 < self._rate:
            kind = self._error or _USUAL[draw[4] % len(_USUAL)]
            if kind == "cut":
                for event in emitter.text("demo/flaky breaks off"):
                    yield event
            raise _fault(kind)
        async for event in self.say(emitter, f"demo/flaky ({NO_MODEL}) did not fail this time.", request):
            yield event


def _fault(kind: str) -> ProviderError:
    what, step = f"demo/flaky failed on purpose ({kind}).", "Lower its rate, or try again."
    if kind == "rate_limit":
        return RateLimitError(what, step, provider="demo", retry_after=0.05)
    status, of = {
        "unavailable": (503, ProviderUnavailableError), "timeout": (None, ProviderTimeoutError),
        "cut": (None, StreamCutError), "auth": (401, ProviderAuthError), "request": (400, ProviderRequestError),
    }[kind]  # fmt: skip
    return of(what, step, provider="demo", status=status)


# -- The smallest value that a JSON schema allows, as a demo's structured output

_EMPTY: dict[str, Json] = {
    "string": "",
    "integer": 0,
    "number": 0,
    "boolean": False,
    "null": None,
    "array": [],
    "object": {},
}


def smallest_json(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> Any:
    """Returns the first enum value or const, the first alternative, all properties of an object, `minItems` items, minimum numbers."""
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


def _smallest(schema: Mapping[str, object]) -> str:
    """Returns `smallest_json` as text. Raises `ProviderRequestError` for an invalid schema."""
    try:
        return json.dumps(smallest_json(schema))
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ProviderRequestError(
            f"demo/assistant cannot follow this JSON schema ({type(error).__name__}: {error}).",
            "Fix the schema.",
            provider="demo",
            status=400,
        ) from error


# --

WEATHER_TOOL, THINK_TOOL, THEME_TOOL = "get_weather", "think", "switch_theme"

INTRODUCTION = (
    "I am demo/assistant, a deterministic demo and no language model: I follow fixed rules. "
    "Ask me about the weather in a place, or to switch to the dark or the light theme, "
    "and I will use the tools and handoffs of this agent. For a real answer, choose another model."
)
_EXPLICIT_CALL = re.compile(r"\bcall\s+([\w.-]+)\s*(\{.*\})?", re.IGNORECASE | re.DOTALL)
_ONLY_A_CALL = re.compile(r"\s*call\s+([\w.-]+)\s*(\{.*)?", re.IGNORECASE | re.DOTALL)
_ONLY_A_HANDOFF = re.compile(r"\s*hand\s+(?:off|over)\s+to\s+(?:the\s+)?([\w -]+)[.!]?\s*", re.IGNORECASE)
_EXPLICIT_HANDOFF = re.compile(r"\bhand(?:\s+it)?\s+(?:off|over)\s+to\s+(?:the\s+)?([\w -]+)", re.IGNORECASE)

Wanted = list[tuple[str, Mapping[str, Json]]]
"""Calls to make in this turn, as name and arguments."""


class DemoAssistant(DemoModel):
    async def _stream(self, request: ModelRequest, emitter: Emitter) -> AsyncIterator[TResponseStreamEvent]:
        turn = read_turn(request.input)
        wanted, answer = decide(turn, _offered(request))
        if request.settings.tool_choice == "required" and not wanted and not turn.calls:
            raise ProviderRequestError(
                "tool_choice requires a tool call, but none of the rules of demo/assistant matches.",
                'Ask about the weather, write `call NAME {"argument": "value"}`, or use a language model.',
                provider="demo",
            )
        if wanted and request.settings.parallel_tool_calls is False:
            wanted = wanted[:1]
        if not wanted:
            text = _smallest(request.schema) if request.schema is not None else answer
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
    """Returns the calls to make now or, if there are none, the answer."""
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
    return [], _not_understood(turn, offered) or INTRODUCTION


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
    if match := _EXPLICIT_CALL.search(turn.user):
        name = match.group(1)
        if name in offered and not turn.called(name):
            try:
                arguments = json.loads(match.group(2) or "{}")
            except ValueError:
                arguments = None
            if isinstance(arguments, dict):
                return [(name, arguments)]
    if match := _EXPLICIT_HANDOFF.search(turn.user):
        wish = _squeezed(match.group(1))
        for spec in offered.values():
            if spec.is_handoff and wish.startswith(_squeezed(spec.name.removeprefix("transfer_to_"))):
                return [] if turn.called(spec.name) else [(spec.name, {})]
    return []


def _not_understood(turn: Turn, offered: Mapping[str, FunctionSpec]) -> str | None:
    """What is wrong with a message that is nothing but one of the two commands; None for any other."""
    if match := _ONLY_A_CALL.fullmatch(turn.user):
        name, given = match.groups()
        if (spec := offered.get(name)) is None:
            tools = ", ".join(sorted(spec.name for spec in offered.values() if not spec.is_handoff)) or "none"
            return f"demo/assistant: this agent has no tool {name}. Its tools: {tools}."
        if not turn.called(name):
            example = json.dumps(dict.fromkeys(spec.parameters.get("properties", {}), "…"), ensure_ascii=False)
            return f"demo/assistant: {given} is no JSON object. Write, for example: call {name} {example}"
    if (match := _ONLY_A_HANDOFF.fullmatch(turn.user)) and not turn.calls:
        agents = ", ".join(spec.name.removeprefix("transfer_to_") for spec in offered.values() if spec.is_handoff)
        return f"demo/assistant: this agent does not hand off to {match[1].strip()}. It does to: {agents or 'none'}."
    return None


def _offered(request: ModelRequest) -> dict[str, FunctionSpec]:
    choice = request.settings.tool_choice
    if choice == "none":
        return {}
    named = choice if isinstance(choice, str) and choice not in ("auto", "required") else None
    return {spec.name: spec for spec in request.functions if named is None or spec.name == named}


def _is_handoff(call: Call) -> bool:
    return call.name.startswith("transfer_to_")


def _first_parameter(spec: FunctionSpec, usual: str) -> str:
    """Returns the usual name if the schema has it, otherwise its first required string parameter."""
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
