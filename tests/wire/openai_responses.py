"""OpenAI Responses, streaming. <https://platform.openai.com/docs/api-reference/responses-streaming>"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from tests.wire.script import Block, Call, Cited, Fault, FaultInStream, Reply, Thought, Words
from tests.wire.server import sse

PATH = "/v1/responses"
MODELS_PATH = "/v1/models"
MEDIA_TYPE = "text/event-stream"

_numbers = count(1)


def pieces(reply: Reply, request: Mapping[str, Any]) -> Iterator[bytes]:
    """Ids are new for every response, as OpenAI's are."""
    turn, sequence = next(_numbers), count()
    output: list[dict[str, Any]] = []
    response: dict[str, Any] = {
        "id": f"resp_{turn}", "object": "response", "created_at": 1760000000, "status": "in_progress", "error": None,
        "incomplete_details": None, "instructions": None, "model": request["model"], "output": output,
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "metadata": {}, "usage": None,
    }  # fmt: skip

    def event(kind: str, **data: Any) -> bytes:
        return sse({"type": kind, "sequence_number": next(sequence), **data}, kind)

    yield event("response.created", response=response)
    yield event("response.in_progress", response=response)
    for index, part in enumerate(reply.parts):
        item_id = f"{'fc' if isinstance(part, Call) else 'rs' if isinstance(part, Thought) else 'msg'}_{turn}_{index}"
        at: dict[str, Any] = {"item_id": item_id, "output_index": index}
        if isinstance(part, Call):
            item = {"type": "function_call", "id": item_id, "call_id": part.id, "name": part.name}
            opened, text = {**item, "arguments": "", "status": "in_progress"}, part.text
            yield event("response.output_item.added", output_index=index, item=opened)
            for start in range(0, len(text), 6):
                yield event("response.function_call_arguments.delta", **at, delta=text[start : start + 6])
            yield event("response.function_call_arguments.done", **at, arguments=text, name=part.name)
            done: dict[str, Any] = {**item, "arguments": text, "status": "completed"}
        elif isinstance(part, Thought):
            item = {"type": "reasoning", "id": item_id, "encrypted_content": part.signature}
            yield event("response.output_item.added", output_index=index, item={**item, "summary": []})
            at["summary_index"] = 0
            empty = {"type": "summary_text", "text": ""}
            yield event("response.reasoning_summary_part.added", **at, part=empty)
            for piece in part.pieces:
                yield event("response.reasoning_summary_text.delta", **at, delta=piece)
            whole = {"type": "summary_text", "text": part.text}
            yield event("response.reasoning_summary_text.done", **at, text=part.text)
            yield event("response.reasoning_summary_part.done", **at, part=whole)
            done = {**item, "summary": [whole]}
        elif isinstance(part, Block):
            done = dict(part.block)
            yield event("response.output_item.added", output_index=index, item=done)
        else:
            assert isinstance(part, Words)
            refused = reply.stop == "refusal"
            item = {"type": "message", "id": item_id, "role": "assistant"}
            yield event(
                "response.output_item.added", output_index=index, item={**item, "status": "in_progress", "content": []}
            )
            at["content_index"] = 0
            empty_part = (
                {"type": "refusal", "refusal": ""}
                if refused
                else {"type": "output_text", "text": "", "annotations": []}
            )
            yield event("response.content_part.added", **at, part=empty_part)
            for piece in part.pieces:
                if refused:
                    yield event("response.refusal.delta", **at, delta=piece)
                else:
                    yield event("response.output_text.delta", **at, delta=piece, logprobs=[])
            notes = []
            if isinstance(part, Cited):
                note = {
                    "type": "url_citation",
                    "url": part.url,
                    "title": part.title,
                    "start_index": 0,
                    "end_index": len(part.text),
                }
                notes.append(note)
                yield event("response.output_text.annotation.added", **at, annotation_index=0, annotation=note)
            if refused:
                full: dict[str, Any] = {"type": "refusal", "refusal": part.text}
                yield event("response.refusal.done", **at, refusal=part.text)
            else:
                full = {"type": "output_text", "text": part.text, "annotations": notes, "logprobs": []}
                yield event("response.output_text.done", **at, text=part.text, logprobs=[])
            yield event("response.content_part.done", **at, part=full)
            done = {**item, "status": "completed", "content": [full]}
        output.append(done)
        yield event("response.output_item.done", output_index=index, item=done)
    used = reply.counted
    usage = {
        "input_tokens": used.input, "output_tokens": used.output, "total_tokens": used.input + used.output,
        "input_tokens_details": {"cached_tokens": used.cached, "cache_write_tokens": used.cache_write},
        "output_tokens_details": {"reasoning_tokens": used.reasoning},
    }  # fmt: skip
    if reply.stop == "length":
        cut = {
            **response,
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "usage": usage,
        }
        yield event("response.incomplete", response=cut)
    else:
        yield event("response.completed", response={**response, "status": "completed", "usage": usage})


def at_once(reply: Reply, request: Mapping[str, Any]) -> dict[str, Any]:
    last = list(pieces(reply, request))[-1].decode().partition("data: ")[2]
    whole: dict[str, Any] = json.loads(last)["response"]
    return whole


def fault_piece(fault: FaultInStream) -> bytes:
    code = {"overloaded": "server_error", "rate_limit": "rate_limit_exceeded"}[fault.type]
    error = {"code": code, "message": "This came in the middle."}
    failed = {
        "id": "resp_failed", "object": "response", "created_at": 1760000000, "status": "failed", "error": error,
        "incomplete_details": None, "instructions": None, "model": "m", "output": [], "parallel_tool_calls": True,
        "tool_choice": "auto", "tools": [], "metadata": {}, "usage": None,
    }  # fmt: skip
    return sse({"type": "response.failed", "sequence_number": 99, "response": failed}, "response.failed")


def fault_body(fault: Fault) -> dict[str, Any]:
    kind = {429: "requests", 500: "server_error"}.get(fault.status, "invalid_request_error")
    return {"error": {"message": fault.message, "type": kind, "param": None, "code": fault.code}}


def models_body(names: list[str]) -> dict[str, Any]:
    data = [{"id": name, "object": "model", "created": 1760000000, "owned_by": "somebody"} for name in names]
    return {"object": "list", "data": data}
