"""A model server and a collector in one, for recording what instrumentations send: nothing but the standard library, so that it runs
beside any sender.

It answers as OpenAI (Chat Completions, Responses, embeddings), Anthropic, Bedrock (Converse), Gemini, Ollama and Cohere do, always alike: a first turn that
calls the first tool offered with the city of Paris, and once a tool has answered, "It is sunny in Paris". Usage is fixed: 100 tokens
in, 40 of them cached, and 20 out, 8 of them reasoning; Anthropic and Bedrock: 10 in, 100 written to the cache, 2,000 read from it, 33 out.
A model whose name holds `broken` is answered with 429, one with
`wrong`, for clients that try long, with 400. What is posted to /v1/traces is kept.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER = "It is sunny in Paris"
ARGUMENTS = {"city": "Paris"}
CHAT_USAGE = {
    "prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 40}, "completion_tokens_details": {"reasoning_tokens": 8},
}  # fmt: skip
RESPONSES_USAGE = {
    "input_tokens": 100, "output_tokens": 20, "total_tokens": 120,
    "input_tokens_details": {"cached_tokens": 40}, "output_tokens_details": {"reasoning_tokens": 8},
}  # fmt: skip
CLAUDE_USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 100,
    "cache_read_input_tokens": 2000,
    "output_tokens": 33,
}
BEDROCK_USAGE = {
    "inputTokens": 10, "outputTokens": 33, "totalTokens": 2143, "cacheReadInputTokens": 2000, "cacheWriteInputTokens": 100,
}  # fmt: skip


class ModelServer:
    """`with ModelServer() as server:` `server.url` is its address, `server.requests` what was posted to /v1/traces."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.paths: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._send(200, {"data": [], "object": "list"})

            def do_POST(self) -> None:
                body = self._body()
                outer.paths.append(self.path)
                if self.path.endswith("/v1/traces"):
                    if "json" in self.headers.get("content-type", ""):
                        raise ValueError("Spans are to be sent as protobuf.")
                    outer.requests.append(body)
                    self._send(200, b"", "application/x-protobuf")
                    return
                if self.path.endswith(("/v1/logs", "/v1/metrics")):
                    self._send(200, b"", "application/x-protobuf")
                    return
                asked = json.loads(body or b"{}")
                model = str(asked.get("model", self.path))
                if "broken" in model or "wrong" in model:
                    error = {"type": "rate_limit_error", "message": "Rate limit reached", "code": "rate_limit_exceeded"}
                    if "wrong" in model:
                        error = {"type": "invalid_request_error", "message": "No such model", "code": "model_not_found"}
                    self._send(429 if "broken" in model else 400, {"type": "error", "error": error})
                    return
                kind, answer = answer_to(self.path, asked)
                self._send(200, answer, kind)

            def _body(self) -> bytes:
                if "chunked" in self.headers.get("transfer-encoding", ""):
                    pieces = []
                    while size := int(self.rfile.readline().strip() or b"0", 16):
                        pieces.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    raw = b"".join(pieces)
                else:
                    raw = self.rfile.read(int(self.headers.get("content-length") or 0))
                return gzip.decompress(raw) if self.headers.get("content-encoding") == "gzip" else raw

            def _send(self, status: int, answer: Any, kind: str = "application/json") -> None:
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> ModelServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def answer_to(path: str, asked: Mapping[str, Any]) -> tuple[str, Any]:
    """Content type and body."""
    path = path.partition("?")[0]
    if path.endswith("/v3/auth/token"):  # Of AgentOps.
        return "application/json", {"token": "none", "project_id": "none"}
    if path.endswith("/api/chat"):
        return "application/json", _ollama(asked)
    if path.endswith("/api/embed"):
        vectors = [[0.1, 0.2, 0.3] for _ in asked["input"]]
        return "application/json", {
            "model": asked["model"],
            "embeddings": vectors,
            "prompt_eval_count": 7 * len(vectors),
        }
    if path.endswith("/v2/chat"):
        return "application/json", _cohere(asked)
    if path.endswith("/v2/embed"):
        vectors = [[0.1, 0.2, 0.3] for _ in asked["texts"]]
        billed = {"billed_units": {"input_tokens": 7 * len(vectors)}}
        return "application/json", {
            "id": "e1",
            "embeddings": {"float": vectors},
            "texts": asked["texts"],
            "meta": billed,
        }
    if path.endswith("/v2/rerank"):
        found = [{"index": 0, "relevance_score": 0.9}, {"index": 1, "relevance_score": 0.1}]
        return "application/json", {"id": "r1", "results": found, "meta": {"billed_units": {"search_units": 1}}}
    if path.endswith("/embeddings"):
        texts = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
        data = [{"object": "embedding", "index": i, "embedding": [0.1, 0.2, 0.3]} for i in range(len(texts))]
        usage = {"prompt_tokens": 7 * len(texts), "total_tokens": 7 * len(texts)}
        return "application/json", {
            "id": "embd-1",
            "object": "list",
            "data": data,
            "model": asked["model"],
            "usage": usage,
        }
    if path.endswith("/chat/completions"):
        return _chat(asked)
    if path.endswith("/responses"):
        return _responses(asked)
    if path.endswith("/messages"):
        return _claude(asked)
    if path.endswith("/converse"):
        return "application/json", _converse(asked)
    if ":generateContent" in path:
        return "application/json", _gemini(asked)
    if ":streamGenerateContent" in path:
        return _events([_gemini(asked)])
    raise ValueError(f"Nothing answers {path}.")


def _tool_of(asked: Mapping[str, Any]) -> str | None:
    """The tool to call: the first one offered, unless a tool has answered."""
    said = json.dumps(asked.get("messages", asked.get("input", asked.get("contents", ""))))
    tools = asked.get("tools") or (asked.get("toolConfig") or {}).get("tools") or []
    heard = ('"role": "tool"', "function_call_output", "tool_result", "toolResult", "functionResponse")
    answered = [word for word in heard if word in said]
    names = [name for tool in tools for name in _names(tool)]
    handed_over = "transfer_to" in said
    names = [name for name in names if not (handed_over and name.startswith("transfer_to"))]
    done = handed_over and said.count("get_weather") > 0
    if not names or (answered and (not handed_over or done)):
        return None
    return str(names[0])


def _names(tool: Mapping[str, Any]) -> list[str]:
    if "functionDeclarations" in tool:
        return [each["name"] for each in tool["functionDeclarations"]]
    return [(tool.get("function") or tool.get("toolSpec") or tool).get("name", "?")]


def _events(events: Iterable[Mapping[str, Any]], *, done: bool = False, named: bool = False) -> tuple[str, bytes]:
    lines = [(f"event: {event['type']}\n" if named else "") + f"data: {json.dumps(event)}\n\n" for event in events] + (
        ["data: [DONE]\n\n"] if done else []
    )
    return "text/event-stream", "".join(lines).encode()


def _chat(asked: Mapping[str, Any]) -> tuple[str, Any]:
    tool = _tool_of(asked)
    model = asked["model"]
    head = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": model}
    call = {"id": f"call_{tool}", "type": "function", "function": {"name": tool, "arguments": json.dumps(ARGUMENTS)}}
    message = (
        {"role": "assistant", "content": None, "tool_calls": [call]}
        if tool
        else {"role": "assistant", "content": _in_fields(asked) or ANSWER}
    )
    finish = "tool_calls" if tool else "stop"
    if not asked.get("stream"):
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return "application/json", {**head, "object": "chat.completion", "choices": [choice], "usage": CHAT_USAGE}
    head["object"] = "chat.completion.chunk"
    if tool:
        message["tool_calls"] = [{"index": 0, **call}]
    return _events(
        [
            {**head, "choices": [{"index": 0, "delta": message, "finish_reason": None}]},
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]},
            {**head, "choices": [], "usage": CHAT_USAGE},
        ],
        done=True,
    )


def _in_fields(asked: Mapping[str, Any]) -> str | None:
    """The answer as an object of the fields that DSPy asks for, of an agent first the call of its tool; None where none are."""
    said = json.dumps(asked.get("messages", ""))
    if (
        "next_tool_name" in said
        and "Your output fields are" in said
        and "next_tool_args" in said.partition("All interactions")[0]
    ):
        done = "observation_0" in said
        call = {"next_tool_name": "finish" if done else "get_weather", "next_tool_args": {} if done else ARGUMENTS}
        return json.dumps({"next_thought": "Checking.", **call})
    return json.dumps({"reasoning": "Checked.", "answer": ANSWER}) if "Your output fields are" in said else None


def _responses(asked: Mapping[str, Any]) -> tuple[str, Any]:
    tool = _tool_of(asked)
    if tool:
        item = {
            "type": "function_call",
            "id": "fc_1",
            "call_id": f"call_{tool}",
            "name": tool,
            "arguments": json.dumps(ARGUMENTS),
            "status": "completed",
        }
    else:
        text = {"type": "output_text", "text": ANSWER, "annotations": [], "logprobs": []}
        item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [text]}
    response = {
        "id": "resp_1", "object": "response", "created_at": 1_700_000_000, "status": "completed", "model": asked["model"],
        "output": [item], "usage": RESPONSES_USAGE, "parallel_tool_calls": True, "tool_choice": "auto", "tools": asked.get("tools") or [],
        "instructions": asked.get("instructions"), "error": None, "incomplete_details": None, "metadata": {}, "temperature": 1.0, "top_p": 1.0,
    }  # fmt: skip
    if not asked.get("stream"):
        return "application/json", response
    return _events(
        [
            {
                "type": "response.created",
                "sequence_number": 0,
                "response": {**response, "output": [], "usage": None, "status": "in_progress"},
            },
            {"type": "response.output_item.added", "sequence_number": 1, "output_index": 0, "item": item},
            {"type": "response.output_item.done", "sequence_number": 2, "output_index": 0, "item": item},
            {"type": "response.completed", "sequence_number": 3, "response": response},
        ],
        named=True,
    )


def _claude(asked: Mapping[str, Any]) -> tuple[str, Any]:
    tool = _tool_of(asked)
    text: dict[str, Any] = {"type": "text", "text": "Checking." if tool else ANSWER}
    content = [text, {"type": "tool_use", "id": f"toolu_{tool}", "name": tool, "input": ARGUMENTS}] if tool else [text]
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": asked["model"], "content": content,
        "stop_reason": "tool_use" if tool else "end_turn", "stop_sequence": None, "usage": CLAUDE_USAGE,
    }  # fmt: skip
    if not asked.get("stream"):
        return "application/json", message
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}}
    ]
    for index, block in enumerate(content):
        empty = {**block, "text": ""} if block["type"] == "text" else {**block, "input": {}}
        delta = (
            {"type": "text_delta", "text": block["text"]}
            if block["type"] == "text"
            else {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        )
        events += [
            {"type": "content_block_start", "index": index, "content_block": empty},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]
    stop = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    events += [{"type": "message_delta", "delta": stop, "usage": {"output_tokens": 33}}, {"type": "message_stop"}]
    return _events(events, named=True)


def _converse(asked: Mapping[str, Any]) -> dict[str, Any]:
    tool = _tool_of(asked)
    content: list[dict[str, Any]] = [{"text": "Checking." if tool else ANSWER}]
    if tool:
        content.append({"toolUse": {"toolUseId": f"tooluse_{tool}", "name": tool, "input": ARGUMENTS}})
    return {
        "output": {"message": {"role": "assistant", "content": content}}, "stopReason": "tool_use" if tool else "end_turn",
        "usage": BEDROCK_USAGE, "metrics": {"latencyMs": 5},
    }  # fmt: skip


def _gemini(asked: Mapping[str, Any]) -> dict[str, Any]:
    tool = _tool_of(asked)
    part = {"functionCall": {"name": tool, "args": ARGUMENTS}} if tool else {"text": ANSWER}
    usage = {
        "promptTokenCount": 100, "candidatesTokenCount": 12, "thoughtsTokenCount": 8, "totalTokenCount": 120, "cachedContentTokenCount": 40,
    }  # fmt: skip
    candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash", "responseId": "r1"}


def _ollama(asked: Mapping[str, Any]) -> dict[str, Any]:
    tool = _tool_of(asked)
    message: dict[str, Any] = {"role": "assistant", "content": "" if tool else ANSWER}
    if tool:
        message["tool_calls"] = [{"function": {"name": tool, "arguments": ARGUMENTS}}]
    return {
        "model": asked["model"], "created_at": "2026-01-01T00:00:00Z", "message": message, "done": True, "done_reason": "stop",
        "prompt_eval_count": 100, "eval_count": 20, "total_duration": 5_000_000,
    }  # fmt: skip


def _cohere(asked: Mapping[str, Any]) -> dict[str, Any]:
    tool = _tool_of(asked)
    message: dict[str, Any] = {"role": "assistant"}
    if tool:
        call = {
            "id": f"call_{tool}",
            "type": "function",
            "function": {"name": tool, "arguments": json.dumps(ARGUMENTS)},
        }
        message |= {"tool_plan": "Checking.", "tool_calls": [call]}
    else:
        message["content"] = [{"type": "text", "text": ANSWER}]
    tokens = {"input_tokens": 100, "output_tokens": 20}
    return {
        "id": "c1", "finish_reason": "TOOL_CALL" if tool else "COMPLETE", "message": message,
        "usage": {"billed_units": tokens, "tokens": tokens, "cached_tokens": 40},
    }  # fmt: skip
