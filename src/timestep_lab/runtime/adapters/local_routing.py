"""Which tool a tiny model should call, and with what: asked as a completion that can only be answered with what exists.

A model of this size cannot write a tool call, but it can continue "Topic:" with one of a few words, and "location:" with one
of the phrases of the message. So each tool gets a topic word (the last telling word of its name) and example messages, the
answer is bound by a grammar, and nothing can be invented. `think` is never offered: such a model has no use for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from timestep_lab.runtime.adapters.base import FunctionSpec
from timestep_lab.runtime.adapters.local_engine import LocalEngine

OTHER = "other"
_EXAMPLES: Mapping[str, Sequence[str]] = {
    "weather": ("Will it rain in Lima?", "How warm is it in Cairo today?", "forecast Dublin"),
    "theme": ("Turn on the dark theme", "Make everything light", "dark mode please"),
    "time": ("What time is it in Tokyo?", "current time in Quito", "Is it already evening in Oslo?"),
}
_SMALL_TALK = ("Good evening!", "Who wrote Faust?", "Tell me a joke")
_FILLED: Mapping[str, Sequence[tuple[str, str]]] = {
    "location": (("Will it rain in Lima?", "Lima"), ("How warm is it in New Delhi today?", "New Delhi")),
    "theme": (("Turn on the dark theme", "dark"), ("Make everything light", "light")),
    "timezone": (("What time is it in Tokyo?", "Tokyo"),),
}
_NOT_TELLING = frozenset(
    {"assistant", "agent", "helper", "tool", "now", "current", "get", "set", "the", "to", "transfer"}
)
_LONGEST_PHRASE = 5
_SKIPPED = frozenset({"think"})


@dataclass(frozen=True, slots=True)
class Topic:
    word: str
    spec: FunctionSpec
    examples: tuple[str, ...]


def topics_of(functions: Sequence[FunctionSpec]) -> list[Topic]:
    """One topic a tool; a handoff whose topic a tool already has is left out, because the tool acts at once."""
    topics: dict[str, Topic] = {}
    for spec in sorted(functions, key=lambda spec: spec.is_handoff):
        words = [word for word in re.split(r"[^a-z]+", spec.name.lower()) if word and word not in _NOT_TELLING]
        if spec.name in _SKIPPED or not words:
            continue
        word = words[-1]
        if word in topics:
            if spec.is_handoff:
                continue
            word = " ".join(words)
        examples = _EXAMPLES.get(words[-1]) or (_first_sentence(spec.description) or word,)
        topics[word] = Topic(word, spec, tuple(examples))
    return list(topics.values())


async def choose(
    engine: LocalEngine, message: str, topics: Sequence[Topic], *, must: bool = False
) -> FunctionSpec | None:
    """The tool for a message; None for none of them, which `must` rules out."""
    if not topics:
        return None
    words = [topic.word for topic in topics]
    told = words if must else [*words, OTHER]
    prompt = f"Classify each message by topic: {', '.join(words)}, or {OTHER}.\n\n"
    # Examples of all topics take turns, so that none of them is simply the latest.
    for turn in range(max(len(topic.examples) for topic in topics)):
        for topic in topics:
            if turn < len(topic.examples):
                prompt += f"Message: {topic.examples[turn]}\nTopic: {topic.word}\n\n"
        prompt += f"Message: {_SMALL_TALK[turn % len(_SMALL_TALK)]}\nTopic: {OTHER}\n\n"
    answer = await engine.complete(f"{prompt}Message: {message}\nTopic:", tokens=8, grammar=one_of(told))
    return next((topic.spec for topic in topics if topic.word == answer.strip()), None)


async def fill(engine: LocalEngine, message: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Values for the required parameters: an enum's value, a phrase or a number of the message, else what the schema allows."""
    properties = schema.get("properties") or {}
    values: dict[str, Any] = {}
    for name in schema.get("required") or ():
        inner = properties.get(name) or {}
        prompt = "".join(f"Message: {said}\n{name}: {value}\n\n" for said, value in _FILLED.get(name, ()))
        prompt += f"Message: {message}\n{name}:"
        options = _options(inner, message)
        if options:
            text = (
                await engine.complete(prompt, tokens=32, grammar=one_of([str(option) for option in options]))
            ).strip()
            values[name] = next(option for option in options if str(option) == text)
        else:
            values[name] = json.loads(
                await engine.complete(prompt, tokens=64, schema=inner or {"type": "string", "maxLength": 64})
            )
    return values


def one_of(options: Sequence[str]) -> str:
    """A GBNF grammar for ` option` and the end of the line."""
    quoted = (json.dumps(f" {option}", ensure_ascii=False) for option in options)
    return "root ::= (" + " | ".join(quoted) + ') "\\n"?'


def phrases(message: str) -> list[str]:
    """Every run of up to five words as it stands in the message, shortest first, each once."""
    words = list(re.finditer(r"[\w'’-]*\w", message))
    runs = (
        message[words[i].start() : words[i + n - 1].end()]
        for n in range(1, _LONGEST_PHRASE + 1)
        for i in range(len(words) - n + 1)
    )
    return list(dict.fromkeys(runs))


def _options(schema: Mapping[str, Any], message: str) -> list[Any]:
    if schema.get("enum"):
        return list(schema["enum"])
    kind = schema.get("type", "string")
    if kind == "string":
        return list(phrases(message))
    if kind == "integer":
        return [int(number) for number in re.findall(r"-?\d+", message)]
    if kind == "number":
        return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", message)]
    return []


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s|\n", text.strip())[0][:80]
