"""What servers answer instead of the stream that was asked for, in the form in which the official clients read it.

    an error although the status is 200     the status that its code tells, so that the client raises it with the server's words
    a page of HTML, or plain text           502, with its text
    the whole answer at once                the events of a stream that says the same

The clients would read such a body as a stream without events, and what the server said would be lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from timestep_lab.runtime.provider_errors import status_in

BAD_GATEWAY = 502
_SSE = re.compile(rb"\s*(data|event|id|retry)?\s?:")
_LONGEST_FIRST_LINE = 8192


def response_hook(http: ModuleType) -> Callable[[Any], Awaitable[None]]:
    """For `event_hooks` of `http` (httpx or httpx2): looks at the beginning of each answer to a POST."""

    async def read_what_is_no_stream(response: Any) -> None:
        if response.request.method != "POST":
            return
        if response.headers.get("content-encoding", "identity") != "identity":
            return
        chunks = aiter(response.stream)
        begun = b"" if response.is_error else await _beginning(chunks)
        if response.is_success and _is_stream(begun, str(response.headers.get("content-type", ""))):
            response.stream = _continued(http, begun, chunks, response.stream)
            return
        body = begun + b"".join([chunk async for chunk in chunks])
        await response.stream.aclose()
        if response.is_success:
            asked_to_stream = _asked_to_stream(response.request)
            response.status_code, body = _read(body, asked_to_stream=asked_to_stream)
        response.stream = http.ByteStream(_error_object(body) if response.is_error else body)
        response.headers.pop("content-length", None)

    return read_what_is_no_stream


async def _beginning(chunks: AsyncIterator[bytes]) -> bytes:
    """As much as tells what it is: the first line, if it is not too long."""
    begun = b""
    async for chunk in chunks:
        begun += chunk
        if b"\n" in begun.lstrip() or len(begun) > _LONGEST_FIRST_LINE:
            break
    return begun


def _is_stream(begun: bytes, media_type: str) -> bool:
    line = begun.lstrip()
    if media_type.startswith("text/event-stream"):
        return not line.startswith((b"{", b"[", b"<"))
    if _SSE.match(begun) or not line:
        return True
    first, newline, _ = line.partition(b"\n")
    try:
        part = json.loads(first)
    except ValueError:
        # A line of JSON, the way Ollama streams, too long to be seen whole.
        return line.startswith(b"{") and not newline and len(begun) > _LONGEST_FIRST_LINE and "ndjson" in media_type
    return isinstance(part, dict) and "done" in part


def _continued(http: ModuleType, begun: bytes, rest: AsyncIterator[bytes], whole: Any) -> Any:
    class Continued(http.AsyncByteStream):  # type: ignore[misc,name-defined]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield begun
            async for chunk in rest:
                yield chunk

        async def aclose(self) -> None:
            await whole.aclose()

    return Continued()


def _asked_to_stream(request: Any) -> bool:
    try:
        asked = json.loads(request.content)
    except ValueError:
        return False
    return isinstance(asked, dict) and asked.get("stream") is True


def _read(body: bytes, *, asked_to_stream: bool) -> tuple[int, bytes]:
    """(status, body) as the client is to see them."""
    try:
        said = json.loads(body)
    except ValueError:
        return BAD_GATEWAY, body
    if _is_error(said):
        return status_in(said) or BAD_GATEWAY, body
    if not asked_to_stream or not isinstance(said, dict):
        return 200, body
    return 200, b"".join(_as_stream(said)) or body


def _error_object(body: bytes) -> bytes:
    """An error as an object, when it is JSON: Ollama's client trips over any other."""
    try:
        said = json.loads(body)
    except ValueError:
        return body
    if isinstance(said, dict):
        return body
    first = said[0] if isinstance(said, list) and said and isinstance(said[0], dict) else {"error": str(said)}
    return json.dumps(first).encode()


def _is_error(said: Any) -> bool:
    if isinstance(said, list):  # Google's
        return bool(said) and _is_error(said[0])
    return isinstance(said, dict) and (bool(said.get("error")) or "error" in (said.get("object"), said.get("type")))


def _as_stream(said: Mapping[str, Any]) -> Iterator[bytes]:
    if said.get("object") == "response":
        ended = "response.incomplete" if said.get("status") == "incomplete" else "response.completed"
        yield _event({"type": ended, "sequence_number": 0, "response": said})
    elif said.get("type") == "message":
        yield from map(_event, _message_events(said))
    elif said.get("choices"):
        yield _event(_one_chunk(said))
        yield b"data: [DONE]\n\n"
    elif "done" in said:
        yield json.dumps(said).encode() + b"\n"


def _one_chunk(said: Mapping[str, Any]) -> dict[str, Any]:
    """A `chat.completion` as one chunk."""
    choice = dict(said["choices"][0])
    delta = dict(choice.pop("message", None) or {})
    calls = [{"index": place, **call} for place, call in enumerate(delta.pop("tool_calls", None) or ())]
    if calls:
        delta["tool_calls"] = calls
    return {**said, "object": "chat.completion.chunk", "choices": [{**choice, "delta": delta}]}


def _message_events(said: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A message of Anthropic's as the events that would have built it."""
    yield {"type": "message_start", "message": {**said, "content": [], "stop_reason": None}}
    for index, block in enumerate(said.get("content") or ()):
        begun, deltas = dict(block), []
        if block["type"] in ("tool_use", "server_tool_use"):
            begun["input"] = {}
            deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block.get("input") or {})}]
        elif block["type"] == "thinking":
            begun |= {"thinking": "", "signature": ""}
            deltas = [
                {"type": "thinking_delta", "thinking": block.get("thinking") or ""},
                {"type": "signature_delta", "signature": block.get("signature") or ""},
            ]
        elif block["type"] == "text":
            begun["citations"] = None
            deltas = [{"type": "citations_delta", "citation": one} for one in block.get("citations") or ()]
        yield {"type": "content_block_start", "index": index, "content_block": begun}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ended = {"stop_reason": said.get("stop_reason"), "stop_sequence": said.get("stop_sequence")}
    yield {"type": "message_delta", "delta": ended, "usage": said.get("usage") or {}}
    yield {"type": "message_stop"}


def _event(data: Mapping[str, Any]) -> bytes:
    name = f"event: {data['type']}\n" if "type" in data else ""
    return f"{name}data: {json.dumps(data)}\n\n".encode()
