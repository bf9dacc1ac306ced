"""Messages that conventions spread over dotted attribute names, put together again.

OpenInference: `llm.input_messages.0.message.role`, `….message.contents.0.message_content.text`,
`….message.tool_calls.0.tool_call.function.name`. OpenLLMetry: `gen_ai.prompt.0.role`, `gen_ai.completion.0.tool_calls.0.name`.
The result has the form of Chat Completions messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Tree = dict[str, Any]


def gathered(attributes: dict[str, Any], prefix: str) -> list[dict[str, Any]]:
    """The messages under `prefix` (which ends in a dot), in order; their attributes are taken out of the dict."""
    tree: Tree = {}
    for name in [name for name in attributes if name.startswith(prefix)]:
        at = tree
        *path, last = name[len(prefix) :].split(".")
        for step in path:
            below = at.setdefault(step, {})
            if not isinstance(below, dict):
                break
            at = below
        else:
            at[last] = attributes.pop(name)
    return [_message(entry) for entry in _in_order(tree)]


def _message(entry: Mapping[str, Any]) -> dict[str, Any]:
    said = entry.get("message", entry)
    if not isinstance(said, Mapping):
        return {"content": said}
    message: dict[str, Any] = {"role": said.get("role", "assistant")}
    content = said.get("content")
    if isinstance(said.get("contents"), Mapping):
        parts = [part.get("message_content", part) for part in _in_order(said["contents"])]
        content = [dict(part) if isinstance(part, Mapping) else part for part in parts]
    if content is not None:
        message["content"] = content
    if isinstance(said.get("tool_calls"), Mapping):
        message["tool_calls"] = [_tool_call(call) for call in _in_order(said["tool_calls"])]
    message.update((key, said[key]) for key in ("tool_call_id", "name", "finish_reason") if key in said)
    return message


def _tool_call(entry: Mapping[str, Any]) -> dict[str, Any]:
    call = entry.get("tool_call", entry)
    if not isinstance(call, Mapping):
        return {"type": "function", "function": {"name": str(call)}}
    function = call.get("function")
    function = function if isinstance(function, Mapping) else call
    told = {key: function[key] for key in ("name", "arguments") if key in function}
    return {**({"id": call["id"]} if "id" in call else {}), "type": "function", "function": told}


def _in_order(numbered: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    places = sorted((int(place), place) for place in numbered if place.isdecimal())
    return [numbered[place] for _, place in places if isinstance(numbered[place], Mapping)]
