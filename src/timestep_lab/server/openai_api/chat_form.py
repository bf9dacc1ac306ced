"""Chat Completions messages as Responses items, and an answer's way back. https://platform.openai.com/docs/api-reference/chat"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from timestep_lab.model.errors import UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import Json
from timestep_lab.runtime.output_text import ANY_MODEL, reasoning_text
from timestep_lab.server.openai_api.kept import Item

FINISH = {"length": "length", "incomplete": "length", "content_filter": "content_filter"}
"""OpenAI has no word for an answer that its server closed without one; of those it has, `length` says that it is not whole."""


def read_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[str | None, list[Item]]:
    """Instructions (system and developer messages) and items. Raises `UsageError` naming the message that cannot be read."""
    instructions: list[str] = []
    items: list[Item] = []
    for place, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role in ("system", "developer"):
            instructions.append(_text(content))
        elif role == "user":
            items.append({"role": "user", "content": _parts(content, place)})
        elif role == "assistant":
            items += _assistant(message, place)
        elif role == "tool":
            if not message.get("tool_call_id"):
                raise _unreadable(place, "a tool's message needs the tool_call_id of the call it answers")
            # As a text where it is one, which is how every provider takes it.
            plain = isinstance(content, str) or all(part.get("type") == "text" for part in content or ())
            output: Json = _text(content) if plain else _parts(content, place)
            items.append({"type": "function_call_output", "call_id": message["tool_call_id"], "output": output})
        else:
            raise _unreadable(place, f"the role {role!r} is not known")
    return "\n\n".join(instructions) or None, items


def _assistant(message: Mapping[str, Any], place: int) -> list[Item]:
    """Each item with an id: that is how an assistant's message of the Responses API is told from a user's."""
    parts: list[Json] = []
    if text := _text(message.get("content")):
        parts.append({"type": "output_text", "text": text, "annotations": []})
    if refusal := message.get("refusal"):
        parts.append({"type": "refusal", "refusal": refusal})
    items: list[Item] = _thoughts(message)
    if parts:
        items.append(
            {"id": new_id("message"), "type": "message", "role": "assistant", "status": "completed", "content": parts}
        )
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        if not call.get("id") or not function.get("name"):
            raise _unreadable(place, "a tool call has no id or names no function")
        arguments = function.get("arguments") or "{}"
        items.append(
            {
                "id": new_id("function_call"), "type": "function_call", "call_id": call["id"], "name": function["name"],
                "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False),
            }
        )  # fmt: skip
    return items


def _thoughts(message: Mapping[str, Any]) -> list[Item]:
    """What the model had thought, in the form in which servers send it and callers send it back."""
    content = message.get("content")
    parts = [part for part in content if part.get("type") == "thinking"] if isinstance(content, list) else []
    in_parts = "".join(_text(part.get("thinking")) for part in parts)
    for field, thought in (
        ("reasoning_content", message.get("reasoning_content")), ("reasoning", message.get("reasoning")), ("thinking", in_parts),
    ):  # fmt: skip
        if isinstance(thought, str) and thought:
            return [
                {
                    "id": new_id("reasoning"), "type": "reasoning", "summary": [{"type": "summary_text", "text": thought}],
                    "provider_data": {"model": ANY_MODEL, "field": field},
                }
            ]  # fmt: skip
    return []


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content or ())


def _parts(content: Any, place: int) -> list[Json]:
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    return [_part(part, place) for part in content or ()]


def _part(part: Mapping[str, Any], place: int) -> Json:
    kind = part.get("type")
    if kind == "text":
        return {"type": "input_text", "text": part.get("text", "")}
    if kind == "image_url":
        image = part.get("image_url") or {}
        return {"type": "input_image", "image_url": image.get("url"), "detail": image.get("detail") or "auto"}
    if kind == "file":
        return {"type": "input_file", **(part.get("file") or {})}
    raise _unreadable(place, f"a part of type {kind!r} is not known")


def _unreadable(place: int, why: str) -> UsageError:
    return UsageError(f"Message {place} cannot be read: {why}.", "See the API reference.", param=f"messages[{place}]")


def answer_message(output: Sequence[Any]) -> dict[str, Json]:
    """`output`: items of a Responses answer."""
    texts = [
        part.text for item in output if item.type == "message" for part in item.content if part.type == "output_text"
    ]
    refusals = [
        part.refusal for item in output if item.type == "message" for part in item.content if part.type == "refusal"
    ]
    calls = [tool_call(item) for item in output if item.type == "function_call"]
    thoughts = [reasoning_text(item) for item in output if item.type == "reasoning"]
    message: dict[str, Json] = {
        "role": "assistant", "content": "".join(texts) if texts else None, "refusal": "".join(refusals) or None,
    }  # fmt: skip
    if thought := "\n\n".join(filter(None, thoughts)):
        message["reasoning_content"] = thought
    return {**message, "tool_calls": calls} if calls else message


def tool_call(item: Any) -> dict[str, Json]:
    return {
        "id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments or ""},
    }  # fmt: skip


def finish_reason(response: Any) -> str:
    reason = (response.metadata or {}).get("stop_reason", "stop")
    has_calls = any(item.type == "function_call" for item in response.output)
    return FINISH.get(reason, "tool_calls" if has_calls else "stop")


def usage(response: Any) -> dict[str, Json] | None:
    """None when the provider counted nothing."""
    used = response.usage
    if used is None:
        return None
    return {
        "prompt_tokens": used.input_tokens, "completion_tokens": used.output_tokens, "total_tokens": used.total_tokens,
        "prompt_tokens_details": {"cached_tokens": used.input_tokens_details.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": used.output_tokens_details.reasoning_tokens or 0},
    }  # fmt: skip
