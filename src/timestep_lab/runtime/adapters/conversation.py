"""The input items of a call, read the way a rule needs them: what the user said last, and what was done about it since."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from timestep_lab.runtime.adapters.base import text_of


@dataclass(frozen=True, slots=True)
class Call:
    """A function call that the model made earlier, and what came of it."""

    name: str
    arguments: Mapping[str, Any]
    output: str | None
    """None while there is no result."""


@dataclass(frozen=True, slots=True)
class Turn:
    """`user`: the last thing the user said. `calls`: those made since then, in order."""

    user: str
    calls: tuple[Call, ...]

    def called(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.name == name]


def read_turn(items: Iterable[Mapping[str, Any]]) -> Turn:
    """Unreadable arguments count as none: they are the model's own, and rules only look at what they can read."""
    user = ""
    calls: list[tuple[str, str, str]] = []
    outputs: dict[str, str] = {}
    for item in items:
        kind = item.get("type") or "message"
        if kind == "message" and item.get("role") == "user":
            user, calls = text_of(item.get("content")), []
        elif kind == "function_call":
            calls.append((item["call_id"], item["name"], item.get("arguments") or "{}"))
        elif kind == "function_call_output":
            outputs[item["call_id"]] = plain_output(item.get("output"))
    return Turn(user, tuple(Call(name, _object(text), outputs.get(call_id)) for call_id, name, text in calls))


def plain_output(output: Any) -> str:
    """A tool's result as text. MCP results come wrapped as `{"type": "text", "text": …}`, once or in a list."""
    text = output if isinstance(output, str) else text_of(output)
    try:
        value = json.loads(text)
    except ValueError:
        return text
    parts = value if isinstance(value, list) else [value]
    if parts and all(isinstance(part, dict) and part.get("type") == "text" and "text" in part for part in parts):
        return "\n".join(str(part["text"]) for part in parts)
    return text


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
