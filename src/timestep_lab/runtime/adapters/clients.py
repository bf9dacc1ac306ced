"""Official clients, made the same way for every provider: one for each event loop, no retries of their own (the router repeats, so
that every repeat is timed), a limit to silence, and no idle connections to plain-http servers.

The last because llama.cpp's server closes a connection after a stream without saying so; the next request on it would be lost.
"""

from __future__ import annotations

import codecs
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from timestep_lab.runtime.provider_errors import status_in
from timestep_lab.runtime.router import PerLoop
from timestep_lab.runtime.span_records import HTTP_HOOKS
from timestep_lab.runtime.stream_items import arguments_object

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from ollama import AsyncClient
    from openai import AsyncOpenAI


@lru_cache(maxsize=1)
def _trusted() -> ssl.SSLContext:
    """The certificate authorities, read from disk once: it costs 50 ms of CPU, and each client would do it."""
    import httpx2

    return httpx2.create_ssl_context()


CONNECT_TIMEOUT_S = 10.0
KEPT_CONNECTIONS = 100
"""Idle ones, to one host over TLS: as many as a comparison has calls under way, so that none shakes hands twice."""
NO_KEY = "no-key"
"""What a server of one's own is sent, which asks for no key: the clients insist on having one."""


def _hooks(http: ModuleType, *first: object) -> dict[str, list[Any]]:
    """Of a client of `http`; `first` are called with a request before any other."""
    return {
        "request": [*first, *HTTP_HOOKS["request"]],
        "response": [*HTTP_HOOKS["response"], response_hook(http)],
    }


def openai_client(base_url: str, key: str | None, timeout_s: float, *, official: bool = False) -> PerLoop[AsyncOpenAI]:
    """`official`: OpenAI itself, which alone may learn which organisation and project the environment names."""

    def make() -> AsyncOpenAI:
        import httpx2
        from openai import AsyncOpenAI, DefaultAsyncHttpx2Client, Omit

        http = DefaultAsyncHttpx2Client(
            timeout=httpx2.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            verify=_trusted(),
            limits=httpx2.Limits(max_keepalive_connections=0 if base_url.startswith("http:") else KEPT_CONNECTIONS),
            event_hooks=_hooks(httpx2),
        )
        headers = {} if official else {"OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}
        return AsyncOpenAI(
            base_url=base_url,
            api_key=key or NO_KEY,
            max_retries=0,
            http_client=http,
            default_headers=headers,  # type: ignore[arg-type]
        )

    return PerLoop(make, lambda client: client.close(), "openai")


def anthropic_client(base_url: str, key: str | None, timeout_s: float) -> PerLoop[AsyncAnthropic]:
    def make() -> AsyncAnthropic:
        import httpx2
        from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

        http = DefaultAsyncHttpxClient(
            timeout=httpx2.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            verify=_trusted(),
            limits=httpx2.Limits(max_keepalive_connections=0 if base_url.startswith("http:") else KEPT_CONNECTIONS),
            event_hooks=_hooks(httpx2),
        )
        return AsyncAnthropic(base_url=base_url, api_key=key or NO_KEY, max_retries=0, http_client=http)

    return PerLoop(make, lambda client: client.close(), "anthropic")


def ollama_client(host: str, key: str | None, timeout_s: float) -> PerLoop[AsyncClient]:
    """The client would send `OLLAMA_API_KEY` of the environment to any host; only `key` is sent here, if there is one."""

    def make() -> AsyncClient:
        import httpx
        from ollama import AsyncClient

        async def own_key_only(request: httpx.Request) -> None:
            request.headers.pop("authorization", None)
            if key:
                request.headers["authorization"] = f"Bearer {key}"

        class Client(AsyncClient):
            """Takes calls whose arguments are no object, over which the official client's types would throw."""

            async def _request(self, cls: Any, *args: Any, **options: Any) -> Any:
                def made(**part: Any) -> Any:
                    if isinstance(message := part.get("message"), dict):
                        message_fields = {name: value for name, value in message.items() if value is not None}
                        part["message"] = {"role": "assistant", **message_fields}
                    for call in part["message"].get("tool_calls") or () if isinstance(message, dict) else ():
                        call["function"]["arguments"] = arguments_object(call["function"].get("arguments") or {})
                    return cls(**part)

                return await super()._request(made, *args, **options)  # type: ignore[call-overload]

        return Client(
            host=host,
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            verify=_trusted(),
            event_hooks=_hooks(httpx, own_key_only),
        )

    return PerLoop(make, lambda client: client.close(), "ollama")  # type: ignore[no-untyped-call]


def with_v1(url: str) -> str:
    """An address without a path gets `/v1`, where such servers keep their API."""
    parts = urlsplit(url)
    return url if parts.path.strip("/") else urlunsplit(parts._replace(path="/v1"))


def without_v1(url: str) -> str:
    """For Anthropic's client, which adds `/v1` itself."""
    return url.rstrip("/").removesuffix("/v1")


# --- What servers answer instead of the stream that was asked for, in the form in which the official clients read it
#
#     an error although the status is 200     the status that its code tells, so that the client raises it with the server's words
#     a page of HTML, or plain text           502, with its text
#     the whole answer at once                the events of a stream that says the same
#
# The clients would read such a body as a stream without events, and what the server said would be lost.


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
    return begun.removeprefix(codecs.BOM_UTF8)


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
        payload = json.loads(body)
    except ValueError:
        return BAD_GATEWAY, body
    if _is_error(payload):
        return status_in(payload) or BAD_GATEWAY, body
    if not asked_to_stream or not isinstance(payload, dict):
        return 200, body
    return 200, b"".join(_as_stream(payload)) or body


def _error_object(body: bytes) -> bytes:
    """An error as an object, when it is JSON: Ollama's client trips over any other."""
    try:
        payload = json.loads(body)
    except ValueError:
        return body
    if isinstance(payload, dict):
        return body
    first = (
        payload[0]
        if isinstance(payload, list) and payload and isinstance(payload[0], dict)
        else {"error": str(payload)}
    )
    return json.dumps(first).encode()


def _is_error(said: object) -> bool:
    if isinstance(said, list):  # Google's
        return bool(said) and _is_error(said[0])
    return isinstance(said, dict) and (bool(said.get("error")) or "error" in (said.get("object"), said.get("type")))


def _as_stream(said: Mapping[str, object]) -> Iterator[bytes]:
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


def _event(data: Mapping[str, object]) -> bytes:
    name = f"event: {data['type']}\n" if "type" in data else ""
    return f"{name}data: {json.dumps(data)}\n\n".encode()
