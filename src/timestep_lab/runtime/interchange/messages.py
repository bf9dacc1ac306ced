"""Converts messages from senders' formats to the formats that readers support: Chat Completions and OpenTelemetry GenAI.

Input may be flattened into dotted names (OpenInference, OpenLLMetry), carried by events, or in a framework's format: LangChain, the
Vercel AI SDK, Bedrock Converse, Gemini, Genkit, LlamaIndex, AutoGen. Supported formats are returned unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from timestep_lab.model.codec import list_of, object_of
from timestep_lab.model.spans import GenAI
from timestep_lab.store.spans import StoredEvent

Message = dict[str, object]


# -- messages in events


def event_fields(attributes: Mapping[str, object]) -> Mapping[str, object]:
    """Returns what an event says: its attributes, and the fields of the JSON object in which Azure's libraries state them."""
    body = read_json(attributes.get("gen_ai.event.content"))
    if isinstance(body, Mapping):
        return {**attributes, **body}
    return attributes if body is None else {**attributes, "content": body}


def event_message(role: str, event: Mapping[str, object]) -> Message:
    """Converts the message of an event. Its content is text or JSON: blocks, as in Bedrock, or the message itself, as in a choice."""
    content = _of_azure(read_json(event.get("message", event.get("content"))))
    if isinstance(content, Mapping) and (role == "assistant" or "message" in event):
        event = {**event, "content": None, **content}
        content = _of_azure(read_json(event["content"]))
    if isinstance(content, Mapping):
        content = event["content"]
    message: Message = {"role": role}
    if isinstance(content, list):
        message["parts"] = [_block(block) for block in content]
    elif content is not None:
        message["content"] = content
    for key in ("finish_reason", "tool_calls", "name", "tool_call_id", "parts"):
        if event.get(key) is not None:
            message[key] = event[key]
    if role == "tool" and "id" in event:
        message.setdefault("tool_call_id", event["id"])
    return message


def _of_azure(content: object) -> object:
    """Returns the text of a message of Azure's agents, `{"text": {"value": …}}`; other content unchanged."""
    text = content.get("text") if isinstance(content, Mapping) else None
    return text["value"] if isinstance(text, Mapping) and isinstance(text.get("value"), str) else content


NO_MESSAGE = "error"
"""The error of a failed span that says nothing about it."""


def exception_text(events: Iterable[StoredEvent], attributes: Mapping[str, object]) -> str:
    """Returns the error of a failed span without a message: its exception, or else its `error.type`."""
    thrown: Mapping[str, object] = next((event["attributes"] for event in events if event["name"] == "exception"), {})
    parts = [str(part) for name in ("exception.type", "exception.message") if (part := thrown.get(name))]
    return ": ".join(parts) or str(attributes.get(GenAI.ERROR_TYPE) or NO_MESSAGE)


def messages_in(group: object) -> list[Message]:
    """Returns the messages of a group `{"messages": […]}`, in which the AWS distribution of OpenTelemetry sends those of a span."""
    given = group.get("messages") if isinstance(group, Mapping) else None
    found = [each for each in (given if isinstance(given, list) else ()) if isinstance(each, Mapping)]
    return [event_message(str(each.get("role") or "user"), _unwrapped(each)) for each in found]


def _unwrapped(event: Mapping[str, object]) -> Mapping[str, object]:
    content = event.get("content")
    return {**event, "content": None, **content} if isinstance(content, Mapping) else event


def found_document(event: Mapping[str, object], prefix: str) -> Message:
    """Converts the event of a document that a vector database found. Its vector stays with the event."""
    fields = {name.removeprefix(prefix): value for name, value in event.items() if name.startswith(prefix)}
    fields.pop("vector", None)
    document = {
        "content" if name in ("document", "entity") else name: read_json(value) for name, value in fields.items()
    }
    return {name: value for name, value in document.items() if value is not None}


def _block(block: object) -> object:
    """Converts a content block of Bedrock Converse, Gemini or Genkit to a part of OpenTelemetry GenAI; others are returned unchanged."""
    if not isinstance(block, Mapping):
        return {"type": "text", "content": str(block)}
    if "type" in block:
        return block
    if isinstance(block.get("text"), str):
        return {"type": "reasoning" if block.get("thought") is True else "text", "content": block["text"]}
    if isinstance(used := block.get("toolUse"), Mapping):
        return {
            "type": "tool_call",
            "id": used.get("toolUseId"),
            "name": used.get("name"),
            "arguments": used.get("input"),
        }
    if isinstance(result := block.get("toolResult"), Mapping):
        parts = [_block(part) for part in list_of(result.get("content"))]
        return {"type": "tool_call_response", "id": result.get("toolUseId"), "response": plain({"parts": parts})}
    if isinstance(reasoned := block.get("reasoningContent"), Mapping):
        return {"type": "reasoning", "content": str(object_of(reasoned.get("reasoningText")).get("text") or "")}
    if isinstance(call := block.get("toolRequest"), Mapping):
        return {"type": "tool_call", "id": call.get("ref"), "name": call.get("name"), "arguments": call.get("input")}
    if isinstance(answer := block.get("toolResponse"), Mapping):
        return {"type": "tool_call_response", "id": answer.get("ref"), "response": answer.get("output")}
    if isinstance(block.get("reasoning"), str):
        return {"type": "reasoning", "content": block["reasoning"]}
    if isinstance(call := block.get("functionCall", block.get("function_call")), Mapping):
        return {"type": "tool_call", "id": call.get("id"), "name": call.get("name"), "arguments": call.get("args")}
    if isinstance(answer := block.get("functionResponse", block.get("function_response")), Mapping):
        return {"type": "tool_call_response", "id": answer.get("id"), "response": answer.get("response")}
    return block


def plain(message: Mapping[str, object]) -> object:
    """Returns the content of a message: its text if it has nothing but text."""
    parts: Any = message.get("parts")
    if parts is None:
        return message.get("content")
    if all(isinstance(part, Mapping) and part.get("type") == "text" for part in parts):
        return "\n".join(str(part.get("content", part.get("text", ""))) for part in parts)
    return parts


# -- messages in a framework's format

_SPEAKERS = {
    "human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "tool", "humanmessage": "user",
    "aimessage": "assistant", "systemmessage": "system", "toolmessage": "tool", "functionmessage": "tool", "humanmessagechunk": "user",
    "aimessagechunk": "assistant", "chatmessage": "user",
}  # fmt: skip
"""LangChain's message types and class names, in lower case."""
_WRAPPERS = (
    "messages", "contents", "inputs", "outputs", "update", "generations", "choices", "candidates", "chat_history", "chat_message", "replies",
    "response", "output", "message", "content",
)  # fmt: skip
_MOST_WRAPPED = 8


def conversation(value: object, role: str) -> list[Message] | None:
    """Returns the messages of a value in a framework's format; None if it has no messages or is already in a supported format.

    `role`: the role of messages that state none.
    """
    if isinstance(value, list) and all(_is_known(each) for each in value):
        return None
    messages = _conversation(value, role, 0)
    return messages if messages and messages != value and messages != [value] else None


def _is_known(message: object) -> bool:
    """Whether a message is in a supported format."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content", message.get("parts"))
    blocks = content if isinstance(content, list) else []
    known = all(isinstance(block, str) or (isinstance(block, Mapping) and _is_known_part(block)) for block in blocks)
    return (
        known
        and "blocks" not in message
        and not isinstance(content, Mapping)
        and not any(map(_is_of_langchain, list_of(message.get("tool_calls"))))
    )


def _is_known_part(block: Mapping[str, object]) -> bool:
    return isinstance(kind := block.get("type"), str) and "-" not in kind


_BEDROCK = frozenset({"text", "toolUse", "toolResult", "reasoningContent"})


def are_blocks(value: object) -> bool:
    """Whether these are blocks of Bedrock Converse, without their message."""
    return isinstance(value, list) and all(
        isinstance(one, Mapping) and len(one) == 1 and one.keys() <= _BEDROCK for one in value
    )


def _conversation(value: object, role: str, depth: int) -> list[Message] | None:
    if depth > _MOST_WRAPPED:
        return None
    if isinstance(value, Mapping):
        message = _message(value, role)
        if message is not None:
            return [message]
        first = _instructions(value)
        for key in _WRAPPERS:
            if isinstance(value.get(key), list | Mapping):
                inner = _conversation(value[key], role, depth + 1)
                if inner is not None:
                    return [*first, *_ended(inner, value)]
        for key in ("prompt", "input") if first or "model" in value else ("prompt",) if len(value) == 1 else ():
            if isinstance(value.get(key), str):
                return [*first, {"role": "user", "content": value[key]}]
        return None
    if not isinstance(value, list) or not value:
        return None
    messages: list[Message] = []
    for each in value:
        inner = _conversation(each, role, depth + 1)
        if inner is None:
            return None
        messages += inner
    return messages


def _ended(messages: list[Message], choice: Mapping[str, object]) -> list[Message]:
    """Returns the message of a choice, with the finish reason of the choice."""
    finish = choice.get("finish_reason", choice.get("finishReason", choice.get("stopReason")))
    if not isinstance(finish, str) or len(messages) != 1 or "finish_reason" in messages[0]:
        return messages
    return [{**messages[0], "finish_reason": finish}]


def _instructions(value: Mapping[str, object]) -> list[Message]:
    """Returns the system message that a request states outside its messages."""
    given = value.get("system", value.get("instructions", object_of(value.get("config")).get("system_instruction")))
    if isinstance(given, list):
        given = plain({"parts": [_block(block) for block in given]})
    return [{"role": "system", "content": given}] if isinstance(given, str) and given else []


def _message(value: Mapping[str, object], role: str) -> Message | None:
    """Returns one message, or None if the object is not a message."""
    fields, path = value.get("kwargs"), value.get("id")
    if value.get("lc") == 1 and isinstance(fields, Mapping) and isinstance(path, list):
        speaker = _SPEAKERS.get(str(path[-1]).lower()) if path else None
        return _langchain(fields, speaker) if speaker else None
    kind = value.get("type")
    if isinstance(kind, str) and kind.lower() in _SPEAKERS and "role" not in value:
        if isinstance(data := value.get("data"), Mapping):
            return _langchain(data, _SPEAKERS[kind.lower()])
        if "content" in value:
            return _langchain(value, _SPEAKERS[kind.lower()])
    if isinstance(value.get("event.name"), str):
        return _logged(value)
    if isinstance(value.get("source"), str) and "content" in value and "models_usage" in value:
        return _autogen(value)
    if not isinstance(stated := value.get("role"), str):
        if isinstance(kind, str) and (
            kind in ("function_call", "function_call_output", "reasoning") or kind.endswith("_call")
        ):
            return dict(value)  # An item of the Responses API.
        return None
    role_name = "assistant" if stated == "model" else stated
    if isinstance(blocks := value.get("blocks"), list):
        return _llama_index(value, role_name, blocks)
    content = value.get("parts", value.get("content"))
    if isinstance(content, list) and not all(isinstance(block, Mapping) and _is_known_part(block) for block in content):
        if any(isinstance(block, Mapping) and "-" in str(block.get("type", "")) for block in content):
            return _vercel(value, role_name, content)
        rest = {key: inner for key, inner in value.items() if key not in ("content", "parts", "role")}
        return {"role": role_name, "parts": [_block(block) for block in content], **rest}
    calls = list_of(value.get("tool_calls"))
    return {**value, "role": role_name, **({"tool_calls": _calls(calls)} if any(map(_is_of_langchain, calls)) else {})}


def _langchain(data: Mapping[str, object], speaker: str) -> Message:
    message: Message = {"role": speaker}
    content = data.get("content")
    if content:
        message["content"] = content
    elif speaker != "assistant":
        message["content"] = ""
    calls = data.get("tool_calls")
    if isinstance(calls, list) and calls:
        message["tool_calls"] = _calls(calls)
    if speaker == "tool" and data.get("tool_call_id"):
        message["tool_call_id"] = data["tool_call_id"]
    if data.get("name"):
        message["name"] = data["name"]
    finish = object_of(data.get("response_metadata")).get("finish_reason")
    if finish:
        message["finish_reason"] = finish
    return message


def _calls(given: Sequence[object]) -> list[Message]:
    calls = [call for call in given if isinstance(call, Mapping)]
    return [
        dict(call)
        if "function" in call
        else call_of(call.get("id"), call.get("name"), call.get("args", call.get("arguments")))
        for call in calls
    ]


def _is_of_langchain(call: object) -> bool:
    return isinstance(call, Mapping) and "args" in call and "function" not in call


def _logged(value: Mapping[str, object]) -> Message:
    """Converts an entry of Logfire's `events`."""
    name = str(value["event.name"])
    if name == "gen_ai.choice" and isinstance(chosen := value.get("message"), Mapping):
        return {
            "role": "assistant",
            **chosen,
            **({"finish_reason": value["finish_reason"]} if "finish_reason" in value else {}),
        }
    role = name.removeprefix("gen_ai.").removesuffix(".message")
    fields = {key: inner for key, inner in value.items() if key not in ("event.name", "gen_ai.message.index", "id")}
    message = {"role": role if role in ("system", "user", "assistant", "tool") else "assistant", **fields}
    if message["role"] == "tool" and "id" in value:
        message["tool_call_id"] = value["id"]
    return message


def _autogen(value: Mapping[str, object]) -> Message:
    content = value["content"]
    if value["source"] == "user":
        return {"role": "user", "content": content}
    message: Message = {"role": "assistant", "name": value["source"]}
    calls = [each for each in content if isinstance(each, Mapping)] if isinstance(content, list) else []
    if calls and all("arguments" in call for call in calls):
        message["tool_calls"] = [call_of(call.get("id"), call.get("name"), call["arguments"]) for call in calls]
    elif calls and all("call_id" in call for call in calls):
        parts = [
            {"type": "tool_call_response", "id": call["call_id"], "response": call.get("content")} for call in calls
        ]
        return {"role": "tool", "parts": parts}
    else:
        message["content"] = content
    return message


def _llama_index(value: Mapping[str, object], role: str, content: Sequence[object]) -> Message:
    blocks = [block for block in content if isinstance(block, Mapping)]
    words = [str(block["text"]) for block in blocks if isinstance(block.get("text"), str)]
    calls = [block for block in blocks if block.get("block_type") == "tool_call"]
    message: Message = {"role": role}
    if words:
        message["content"] = "\n".join(words)
    if calls:
        message["tool_calls"] = [
            call_of(call.get("tool_call_id"), call.get("tool_name"), call.get("tool_kwargs")) for call in calls
        ]
    extra = object_of(value.get("additional_kwargs"))
    if isinstance(extra.get("tool_call_id"), str):
        message["tool_call_id"] = extra["tool_call_id"]
    return message


def _vercel(value: Mapping[str, object], role: str, content: Sequence[object]) -> Message:
    parts: list[object] = []
    for block in content:
        fields = object_of(block)
        if fields.get("type") == "tool-call":
            call = {"type": "tool_call", "id": fields.get("toolCallId"), "name": fields.get("toolName")}
            parts.append({**call, "arguments": fields.get("input", fields.get("args"))})
        elif fields.get("type") == "tool-result":
            result = fields.get("output", fields.get("result"))
            if (
                isinstance(result, Mapping)
                and "value" in result
                and result.keys() <= {"type", "value", "providerOptions"}
            ):
                result = result["value"]
            parts.append({"type": "tool_call_response", "id": fields.get("toolCallId"), "response": result})
        else:
            parts.append(block)
    return {"role": role, "parts": parts}


def answer_of(text: object, reasoning: object, calls: object) -> list[Message]:
    """Builds the message whose parts are stated apart, as by the Vercel AI SDK, Mastra and LiveKit Agents."""
    message: Message = {"role": "assistant"}
    if reasoning:
        message["reasoning_content"] = str(reasoning)
    if text is not None:
        message["content"] = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    made = [call for call in calls if isinstance(call, Mapping)] if isinstance(calls := read_json(calls), list) else []
    if made:
        message["tool_calls"] = [
            call_of(
                call.get("toolCallId", call.get("call_id", call.get("id"))),
                call.get("toolName", call.get("name")),
                call.get("input", call.get("args", call.get("arguments"))),
            )
            for call in made
        ]
    return [message]


def call_of(call_id: object, name: object, arguments: object) -> Message:
    function = {
        "name": name,
        "arguments": arguments
        if isinstance(arguments, str)
        else json.dumps(arguments, ensure_ascii=False, default=str),
    }
    return {**({"id": call_id} if call_id else {}), "type": "function", "function": function}


# -- input and output of tools and functions

_CALLED = frozenset({"args", "kwargs", "sanitize_inputs_outputs"})
_HANDLER = frozenset({"input_str", "inputs", "tags", "metadata", "kwargs"})


def arguments_of(value: object) -> object:
    """Returns the arguments of a call that was recorded as Python positional and keyword arguments: `{"args": [], "kwargs": {…}}`."""
    if isinstance(value, Mapping) and value:
        if value.keys() == {"kwargs"} and isinstance(value["kwargs"], Mapping):
            return value["kwargs"]
        if value.keys() <= _CALLED and (value.get("args") or value.get("kwargs")):
            places, names = value.get("args") or [], value.get("kwargs") or {}
            return value if places and names else names or (places[0] if len(places) == 1 else places)
        if "input_str" in value and value.keys() <= _HANDLER:
            return value.get("inputs") or value["input_str"]
    return value


def result_of(value: object) -> object:
    """Returns the result of a tool, unwrapped from a framework's message or object."""
    if isinstance(value, Mapping):
        if value.keys() == {"output", "kwargs"} or value.keys() == {"output"}:
            value = value["output"]
        if isinstance(value, Mapping) and {"raw_output", "tool_name"} <= value.keys():
            return value["raw_output"]
        message = (
            _message(value, "tool")
            if isinstance(value, Mapping) and ("lc" in value or "data" in value or "tool_call_id" in value)
            else None
        )
        if message is not None and message["role"] == "tool":
            return message.get("content")
    return value


# -- helpers


def read_json(given: object) -> object:
    """Parses a value that may be JSON text; returns it unchanged if it is not. Text may start like JSON without being JSON."""
    if isinstance(given, str) and given[:1] in ("{", "["):
        with suppress(ValueError, RecursionError):
            return json.loads(given)
    return given


_ABOUT = frozenset({"role", "finish_reason"})


def say_nothing(messages: object) -> bool:
    """Whether these are messages without content, as instrumentations send that are told not to capture it."""
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(one, Mapping) and "role" in one and _is_empty(one) for one in messages)
    )


def _is_empty(message: Mapping[str, object]) -> bool:
    if message.keys() <= _ABOUT:
        return True
    parts = message.get("parts")
    is_empty = isinstance(parts, list) and all(part == {"type": "text", "content": ""} for part in parts)
    return is_empty and message.keys() <= {*_ABOUT, "parts"}


def finish_of(messages: object) -> object:
    """Returns the finish reason of the last of these messages that states one."""
    if isinstance(messages, Iterable) and not isinstance(messages, str | Mapping):
        for message in reversed(list(messages)):
            if isinstance(message, Mapping) and (reason := message.get("finish_reason") or message.get("stop_reason")):
                return reason
    return None


# -- conversations stated as a whole


def before_answer(value: object) -> object:
    """Returns the messages of a whole conversation up to its last answer."""
    messages = read_json(value)
    if not isinstance(messages, list) or not messages:
        return None
    return messages[:-1] if _is_answer(messages[-1]) else messages


def answer(value: object) -> object:
    """Returns the last answer of a whole conversation."""
    messages = read_json(value)
    return [messages[-1]] if isinstance(messages, list) and messages and _is_answer(messages[-1]) else None


def _is_answer(message: object) -> bool:
    return isinstance(message, Mapping) and (
        message.get("role") in ("assistant", "model") or message.get("event.name") == "gen_ai.choice"
    )
