"""Ollama's `/api/chat`, streaming as lines of JSON. <https://docs.ollama.com/api/chat>"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.wire.script import Call, Fault, FaultInStream, Reply, Thought, Words

PATH = "/api/chat"
MODELS_PATH = "/api/tags"
MEDIA_TYPE = "application/x-ndjson"

_CREATED = "2026-11-22T16:00:00.123456789Z"


def pieces(reply: Reply, request: Mapping[str, Any]) -> Iterator[bytes]:
    def line(message: Mapping[str, Any], **more: Any) -> bytes:
        head = {"model": request["model"], "created_at": _CREATED}
        return _line({**head, "message": {"role": "assistant", "content": "", **message}, "done": False, **more})

    for part in reply.parts:
        if isinstance(part, Call):
            function = {"name": part.name, "arguments": part.arguments}
            yield line({"tool_calls": [{"function": function}]})
        elif isinstance(part, Words):
            for piece in part.pieces:
                yield line({"thinking" if isinstance(part, Thought) else "content": piece})
    used = reply.counted
    yield line(
        {}, done=True, done_reason="length" if reply.stop == "length" else "stop", total_duration=5_000_000,
        load_duration=1_000_000, prompt_eval_count=used.input, prompt_eval_duration=2_000_000, eval_count=used.output,
        eval_duration=2_000_000,
    )  # fmt: skip


def at_once(reply: Reply, request: Mapping[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    for part in reply.parts:
        if isinstance(part, Call):
            message.setdefault("tool_calls", []).append({"function": {"name": part.name, "arguments": part.arguments}})
        else:
            message["thinking" if isinstance(part, Thought) else "content"] = part.text
    return {
        "model": request["model"], "created_at": _CREATED, "message": message, "done": True, "done_reason": "stop",
        "prompt_eval_count": reply.counted.input, "eval_count": reply.counted.output,
    }  # fmt: skip


def _line(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data).encode() + b"\n"


def fault_piece(fault: FaultInStream) -> bytes:
    return _line({"error": "This came in the middle."})


def fault_body(fault: Fault) -> dict[str, Any]:
    return {"error": fault.message}


def models_body(names: list[str]) -> dict[str, Any]:
    return {
        "models": [
            {"name": name, "model": name, "modified_at": _CREATED, "size": 1, "digest": "d", "details": {}}
            for name in names
        ]
    }
