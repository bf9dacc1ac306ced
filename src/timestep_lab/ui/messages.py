"""Converts messages of any provider to a common format for display, used by the browser, the static copy and the
export.

A message is `{"role", "parts": [...], "name"?}`; a part is one of

    {"type": "text", "text"}      {"type": "call", "name", "arguments", "call_id"}     {"type": "result", "call_id", "text"}
    {"type": "reasoning", "text"} {"type": "media", "what"}                            {"type": "json", "value"}

Supported formats: Responses items (Agents SDK), Chat Completions messages, Anthropic content blocks, OpenTelemetry
GenAI `parts`, and OpenInference's `{"message": {...}}`. For other values `read_messages` returns None.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NotRequired, Required, TypedDict

from timestep_lab.model.codec import Json, object_of


class Part(TypedDict, total=False):
    """The fields beside `type` depend on it; see above."""

    type: Required[str]
    text: str
    name: str
    arguments: str
    call_id: Any  # As the sender wrote it: a text or None.
    what: str
    value: Json


class Message(TypedDict):
    role: str
    parts: list[Part]
    name: NotRequired[str]


# Not sets: what a message holds may be any JSON, and a `type` that is a list, as in JSON Schema, has no hash.
_ROLES = ("system", "developer", "user", "assistant", "tool", "function", "model")
_TEXT = ("text", "input_text", "output_text", "refusal", "summary_text", "reasoning_text")
_MEDIA = ("image", "audio", "file", "video", "document", "blob")


def read_messages(value: object, *, role: str = "user") -> list[Message] | None:
    """The messages in a span's input or output; `role` is used for plain text. None for other contents."""
    if isinstance(value, str):
        return [_message(role, [_text(value)])] if value else []
    if isinstance(value, Mapping):
        for key in ("messages", "input", "output"):
            if isinstance(value.get(key), list):
                return read_messages(value[key], role=role)
        value = [value]
    if not isinstance(value, Sequence) or not value:
        return [] if isinstance(value, Sequence) else None
    messages: list[Message] = []
    for item in value:
        message = _item(item, role)
        if message is None:
            return None
        if message["parts"]:
            messages.append(message)
    return _joined(messages)


def _item(item: object, role: str) -> Message | None:
    if isinstance(item, str):
        return _message(role, [_text(item)])
    if not isinstance(item, Mapping):
        return None
    if isinstance(item.get("message"), Mapping):  # OpenInference, and Chat Completions choices
        return _item(item["message"], role)
    kind = item.get("type")
    if kind in (None, "message") and item.get("role") in _ROLES:
        return _chat_message(item)
    part = _part(item)
    if part is None:
        return None
    if part["type"] == "result":
        return _message("tool", [part])
    if part["type"] == "text":
        return _message(role, [part])
    return _message("assistant", [part])


def _chat_message(item: Mapping[str, Any]) -> Message:
    role = "assistant" if item["role"] == "model" else str(item["role"])
    parts: list[Part] = []
    if isinstance(item.get("reasoning_content"), str):
        parts.append({"type": "reasoning", "text": item["reasoning_content"]})
    content = item.get("parts", item.get("content", item.get("contents")))
    if role in ("tool", "function") and not _holds_results(content):
        parts.append({"type": "result", "call_id": item.get("tool_call_id"), "text": as_text(content)})
    elif isinstance(content, str):
        parts += [_text(content)] if content else []
    elif isinstance(content, Sequence):
        parts += [_part(block) or {"type": "json", "value": block} for block in content]
    elif content is not None:
        parts.append({"type": "json", "value": content})
    if isinstance(item.get("refusal"), str):
        parts.append(_text(item["refusal"]))
    for call in _list(item.get("tool_calls") or None):
        fields = object_of(call.get("tool_call", call)) if isinstance(call, Mapping) else {"name": str(call)}
        function = object_of(fields.get("function")) or fields
        parts.append(_call(function.get("name"), function.get("arguments"), fields.get("id")))
    message = _message(role, parts)
    if item.get("name"):
        message["name"] = str(item["name"])
    return message


def _holds_results(content: object) -> bool:
    """Whether the content contains tool results, as OpenTelemetry and Anthropic blocks do."""
    blocks = content if isinstance(content, list) else []
    return any((part := _part(block)) is not None and part["type"] == "result" for block in blocks)


def _part(block: object) -> Part | None:
    if isinstance(block, str):
        return _text(block)
    if not isinstance(block, Mapping):
        return None
    if isinstance(block.get("message_content"), Mapping):  # OpenInference
        return _part(block["message_content"])
    kind = str(block.get("type", ""))
    if kind in _TEXT:
        return _text(as_text(block.get("text", block.get("content", block.get("refusal", "")))))
    if kind in ("reasoning", "thinking"):
        return {"type": "reasoning", "text": _reasoning(block)}
    if kind in ("tool_result", "tool_call_response") or kind.endswith("_call_output"):
        result = block.get("output", block.get("result", block.get("response", block.get("content"))))
        call_id = block.get("call_id", block.get("tool_use_id", block.get("id")))
        return {"type": "result", "call_id": call_id, "text": as_text(result)}
    if kind in ("function_call", "tool_use", "tool_call", "mcp_call") or kind.endswith("_call"):
        name = block.get("name") or kind.removesuffix("_call")
        return _call(
            name, block.get("arguments", block.get("input", block.get("args"))), block.get("call_id", block.get("id"))
        )
    if any(word in kind for word in _MEDIA):
        return {"type": "media", "what": kind}
    return None


def _reasoning(block: Mapping[str, Any]) -> str:
    content = block.get("content")
    if isinstance(content, str) and content.startswith('[{"') and '"summary_text"' in content:
        with suppress(ValueError):
            content = json.loads(content)  # OpenLLMetry: the summary of the Responses API as JSON text.
    pieces = [*_list(block.get("summary") or None), *_list(content)]
    texts = [str(piece.get("text", "")) if isinstance(piece, Mapping) else str(piece) for piece in pieces]
    return "\n\n".join(texts) or str(block.get("thinking") or block.get("text") or "")


def _list(value: object) -> Iterable[object]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _text(text: str) -> Part:
    return {"type": "text", "text": text}


def _call(name: object, arguments: object, call_id: object) -> Part:
    return {"type": "call", "name": str(name or "?"), "arguments": as_text(arguments), "call_id": call_id}


def _message(role: str, parts: list[Part]) -> Message:
    return {"role": role, "parts": parts}


def _joined(messages: list[Message]) -> list[Message]:
    """Merge an answer with its calls, which are separate items in the Responses API, into one message."""
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else None
        if last and message["role"] == last["role"] == "assistant" and message.get("name") == last.get("name"):
            last["parts"] = [*last["parts"], *message["parts"]]
        else:
            joined.append(message)
    return joined


def as_text(value: object) -> str:
    """A text unchanged, text blocks joined, anything else as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(b, Mapping) and b.get("type") in _TEXT for b in value):
        return "\n".join(as_text(block.get("text", "")) for block in value)
    return json.dumps(value, ensure_ascii=False, default=str)


def plain_text(messages: Sequence[Message]) -> str:
    """Only the text, for one-line summaries."""
    return " ".join(part["text"] for message in messages for part in message["parts"] if part["type"] == "text").strip()
