"""OpenAI Chat Completions, streaming. <https://platform.openai.com/docs/api-reference/chat-streaming>

Reasoning as most servers of open models send it: `reasoning_content` in the delta.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.wire.script import Call, Cited, Deltas, Fault, FaultInStream, Reply, Thought, Words
from tests.wire.server import sse

PATH = "/v1/chat/completions"
MODELS_PATH = "/v1/models"
MEDIA_TYPE = "text/event-stream"

_FINISH = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "refusal": "content_filter"}
_TYPES = {401: "invalid_request_error", 404: "invalid_request_error", 429: "requests", 500: "server_error"}


def pieces(reply: Reply, request: Mapping[str, Any]) -> Iterator[bytes]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1760000000, "model": request["model"]}

    def chunk(delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return sse({**head, "choices": [choice], "usage": None})

    yield chunk({"role": "assistant", "content": ""})
    calls = [part for part in reply.parts if isinstance(part, Call)]
    for part in reply.parts:
        if isinstance(part, Call):
            index, text = calls.index(part), part.text
            function = {"name": part.name, "arguments": ""}
            yield chunk({"tool_calls": [{"index": index, "id": part.id, "type": "function", "function": function}]})
            for at in range(0, len(text), 6):
                yield chunk({"tool_calls": [{"index": index, "function": {"arguments": text[at : at + 6]}}]})
        elif isinstance(part, Deltas):
            yield from map(chunk, part.deltas)
        elif isinstance(part, Words):
            field = "reasoning_content" if isinstance(part, Thought) else "content"
            for piece in part.pieces:
                yield chunk({field: piece})
            if isinstance(part, Cited):
                cited = {"url": part.url, "title": part.title, "start_index": 0, "end_index": len(part.text)}
                yield chunk({"annotations": [{"type": "url_citation", "url_citation": cited}]})
    if reply.stop != "unsaid":
        yield chunk({}, _FINISH.get(reply.stop, reply.stop))
    if (request.get("stream_options") or {}).get("include_usage"):
        used = reply.counted
        yield sse(
            {
                **head,
                "choices": [],
                "usage": {
                    "prompt_tokens": used.input, "completion_tokens": used.output, "total_tokens": used.input + used.output,
                    "prompt_tokens_details": {"cached_tokens": used.cached, "cache_write_tokens": used.cache_write},
                    "completion_tokens_details": {"reasoning_tokens": used.reasoning},
                },
            }
        )  # fmt: skip
    yield sse("[DONE]")


def at_once(reply: Reply, request: Mapping[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    for part in reply.parts:
        if isinstance(part, Call):
            call = {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.text}}
            message.setdefault("tool_calls", []).append(call)
        else:
            message["reasoning_content" if isinstance(part, Thought) else "content"] = part.text
    used = reply.counted
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1760000000, "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": _FINISH[reply.stop]}],
        "usage": {"prompt_tokens": used.input, "completion_tokens": used.output, "total_tokens": used.input + used.output},
    }  # fmt: skip


def fault_piece(fault: FaultInStream) -> bytes:
    code = {"overloaded": "server_error", "rate_limit": "rate_limit_exceeded"}[fault.type]
    return sse({"error": {"message": "This came in the middle.", "type": code, "code": code, "param": None}})


def fault_body(fault: Fault) -> dict[str, Any]:
    kind = _TYPES.get(fault.status, "invalid_request_error")
    return {"error": {"message": fault.message, "type": kind, "param": None, "code": fault.code}}


def models_body(names: list[str]) -> dict[str, Any]:
    data = [{"id": name, "object": "model", "created": 1760000000, "owned_by": "somebody"} for name in names]
    return {"object": "list", "data": data}
