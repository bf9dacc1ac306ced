"""Anthropic Messages, streaming. <https://docs.claude.com/en/api/messages-streaming>"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.wire.script import Block, Call, Cited, Fault, FaultInStream, Redacted, Reply, Thought, Words
from tests.wire.server import sse

PATH = "/v1/messages"
MODELS_PATH = "/v1/models"
MEDIA_TYPE = "text/event-stream"

_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "refusal": "refusal",
    "pause_turn": "pause_turn",
}
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
          429: "rate_limit_error", 500: "api_error", 529: "overloaded_error"}  # fmt: skip


def pieces(reply: Reply, request: Mapping[str, Any]) -> Iterator[bytes]:
    used = reply.counted
    usage = {
        "input_tokens": used.input - used.cached - used.cache_write, "output_tokens": 1,
        "cache_read_input_tokens": used.cached, "cache_creation_input_tokens": used.cache_write,
        "service_tier": "standard",
    }  # fmt: skip
    message = {
        "id": "msg_01", "type": "message", "role": "assistant", "model": request["model"], "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": usage,
    }  # fmt: skip
    yield _event({"type": "message_start", "message": message})
    yield _event({"type": "ping"})
    for index, part in enumerate(reply.parts):
        yield _event({"type": "content_block_start", "index": index, "content_block": _opened(part)})
        for delta in _deltas(part):
            yield _event({"type": "content_block_delta", "index": index, "delta": delta})
        yield _event({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": _STOP.get(reply.stop), "stop_sequence": None}
    total: dict[str, Any] = {"output_tokens": used.output}
    if used.reasoning:
        total["output_tokens_details"] = {"thinking_tokens": used.reasoning}
    yield _event({"type": "message_delta", "delta": delta, "usage": total})
    yield _event({"type": "message_stop"})


def at_once(reply: Reply, request: Mapping[str, Any]) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    for part in reply.parts:
        if isinstance(part, Call):
            content.append({"type": "tool_use", "id": part.id, "name": part.name, "input": part.arguments})
        elif isinstance(part, Thought):
            content.append({"type": "thinking", "thinking": part.text, "signature": part.signature})
        else:
            content.append({"type": "text", "text": part.text})
    used = reply.counted
    return {
        "id": "msg_01", "type": "message", "role": "assistant", "model": request["model"], "content": content,
        "stop_reason": _STOP[reply.stop], "stop_sequence": None,
        "usage": {"input_tokens": used.input, "output_tokens": used.output},
    }  # fmt: skip


def _opened(part: Any) -> dict[str, Any]:
    if isinstance(part, Call):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}
    if isinstance(part, Block):
        return dict(part.block)
    if isinstance(part, Redacted):
        return {"type": "redacted_thinking", "data": part.data}
    if isinstance(part, Thought):
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": ""}


def _deltas(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, Call):
        yield {"type": "input_json_delta", "partial_json": ""}
        yield from _input(part.text)
    elif isinstance(part, Block):
        yield from _input(part.input)
    elif isinstance(part, Thought):
        for piece in part.pieces:
            yield {"type": "thinking_delta", "thinking": piece}
        yield {"type": "signature_delta", "signature": part.signature}
    elif isinstance(part, Words):
        for piece in part.pieces:
            yield {"type": "text_delta", "text": piece}
        if isinstance(part, Cited):
            citation = {
                "type": "web_search_result_location", "url": part.url, "title": part.title, "cited_text": part.text,
                "encrypted_index": "ZW5j",
            }  # fmt: skip
            yield {"type": "citations_delta", "citation": citation}


def _input(text: str) -> Iterator[dict[str, Any]]:
    for at in range(0, len(text), 6):
        yield {"type": "input_json_delta", "partial_json": text[at : at + 6]}


def _event(data: Mapping[str, Any]) -> bytes:
    return sse(data, str(data["type"]))


def fault_piece(fault: FaultInStream) -> bytes:
    kind = {"overloaded": "overloaded_error", "rate_limit": "rate_limit_error"}[fault.type]
    return _event({"type": "error", "error": {"type": kind, "message": "This came in the middle."}})


def fault_body(fault: Fault) -> dict[str, Any]:
    kind = _TYPES.get(fault.status, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": fault.message}, "request_id": "req_1"}


def models_body(names: list[str]) -> dict[str, Any]:
    data = [{"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"} for name in names]
    return {"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]}
