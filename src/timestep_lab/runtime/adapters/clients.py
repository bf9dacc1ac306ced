"""Official clients, configured the same way for every provider: one per event loop, no retries of their own (the router retries, so
that every attempt is timed), a read timeout, and no idle connections to plain HTTP servers.

The latter because llama.cpp's server closes a connection after a stream without notice, and the next request on it would be lost.
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

from timestep_lab.model.codec import Json, object_of, objects_of
from timestep_lab.runtime.adapters.chat_calls import call_function, call_pieces
from timestep_lab.runtime.provider_errors import status_in, words_of
from timestep_lab.runtime.router import PerLoop
from timestep_lab.runtime.span_records import HTTP_HOOKS
from timestep_lab.runtime.stream_items import MESSAGE_EXTRAS, arguments_object

if TYPE_CHECKING:
    import httpx
    import httpx2
    from anthropic import AsyncAnthropic
    from ollama import AsyncClient
    from openai import APIStatusError, AsyncOpenAI


@lru_cache(maxsize=1)
def _trusted() -> ssl.SSLContext:
    """Returns the CA certificates, loaded once: it takes 50 ms of CPU time, and each client would do it."""
    import httpx2

    return httpx2.create_ssl_context()


CONNECT_TIMEOUT_S = 10.0
KEPT_CONNECTIONS = 100
"""Maximum number of idle connections to one host over TLS: as many as a comparison has concurrent calls, to avoid new handshakes."""
NO_KEY = "no-key"
"""Placeholder key for local servers without a key, because the clients require one."""


def _hooks(http: ModuleType, *first: Callable[..., object]) -> dict[str, list[Callable[..., object]]]:
    """Returns the event hooks for a client of `http`; `first` are called before the others."""

    async def as_it_is(request: httpx.Request | httpx2.Request) -> None:
        request.headers["accept-encoding"] = (
            "identity"  # small chunks do not compress, and other responses must be readable
        )

    return {
        "request": [as_it_is, *first, *HTTP_HOOKS["request"]],
        "response": [*HTTP_HOOKS["response"], response_hook(http)],
    }


def openai_client(base_url: str, key: str | None, timeout_s: float, *, official: bool = False) -> PerLoop[AsyncOpenAI]:
    """Creates a client. `official`: OpenAI itself, which alone receives the organization and project from the environment."""

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
    """Creates a client that sends only `key`, if any. The official client would send `OLLAMA_API_KEY` to any host."""

    def make() -> AsyncClient:
        import httpx
        from ollama import AsyncClient, ChatResponse

        async def own_key_only(request: httpx.Request) -> None:
            request.headers.pop("authorization", None)
            if key:
                request.headers["authorization"] = f"Bearer {key}"

        class Client(AsyncClient):
            """Accepts calls whose arguments are not an object, which the official client would reject."""

            async def _request(self, cls: Callable[..., object], *args: object, **options: object) -> Any:
                def made(**part: Json) -> object:
                    if cls is ChatResponse:
                        given = object_of(part.get("message"))
                        known = {name: value for name, value in given.items() if value is not None}
                        message: dict[str, Json] = {"role": "assistant", **known}
                        if calls := known.get("tool_calls"):
                            message["tool_calls"] = _ollama_calls(calls)
                        part["message"] = message
                    return cls(**part)

                return await super()._request(made, *args, **options)  # type: ignore[call-overload]

        return Client(
            host=host,
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            verify=_trusted(),
            event_hooks=_hooks(httpx, own_key_only),
        )

    return PerLoop(make, lambda client: client.close(), "ollama")  # type: ignore[no-untyped-call]


def _ollama_calls(given: Json) -> list[dict[str, Json]]:
    """Returns calls in Ollama's form; some servers of its API omit the inner object, or the list around the calls."""
    from ollama import ResponseError

    pieces, unread = call_pieces(given)
    if unread:
        raise ResponseError(f"its tool calls are in no form that can be read: {json.dumps(unread)[:200]}")
    calls: list[dict[str, Json]] = []
    for call in pieces:
        function = call_function(call)
        arguments = arguments_object(function.get("arguments") or {})
        calls.append({"function": {"name": str(function.get("name") or ""), "arguments": arguments}})
    return calls


def with_v1(url: str) -> str:
    """Adds `/v1`, the usual API path of such servers, to a URL without a path."""
    parts = urlsplit(url)
    return url if parts.path.strip("/") else urlunsplit(parts._replace(path="/v1"))


def without_v1(url: str) -> str:
    """Removes `/v1`, because Anthropic's client adds it itself."""
    return url.rstrip("/").removesuffix("/v1")


# --- Responses that are not the requested stream, converted to what the official clients understand
#
#     an error with status 200         gets the status of its code, so that the client raises it with the server's message
#     an HTML page, or plain text      502, with its text
#     a complete answer                the events of an equivalent stream
#
# The clients would read such a body as a stream without events, and the server's message would be lost.


BAD_GATEWAY = 502
_SSE = re.compile(rb"\s*(data|event|id|retry)?\s?:")
_LONGEST_FIRST_LINE = 8192


def response_hook(http: ModuleType) -> Callable[..., Awaitable[None]]:
    """Returns a hook for `event_hooks` of `http` (httpx or httpx2) that checks the start of each response to a POST."""

    async def read_what_is_no_stream(response: Any) -> None:
        if response.request.method != "POST":
            return
        if response.headers.get("content-encoding", "identity") != "identity":
            return
        chunks = aiter(response.stream)
        begun = b"" if response.is_error else await _beginning(chunks)
        if response.is_success and _is_stream(begun, str(response.headers.get("content-type", ""))):
            path = response.request.url.path
            if path.endswith("/messages") and begun.lstrip().startswith(b"data:"):
                response.stream = _continued(http, b"", _each_line(begun, chunks, _named_event), response.stream)
            elif path.endswith("/api/chat"):
                lines = _each_line(begun, chunks, _line_of_json)
                response.stream = _continued(http, b"", lines, response.stream, end=b"")
            else:
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
    """Reads enough to recognize the format: the first line, unless it is too long."""
    begun = b""
    async for chunk in chunks:
        begun += chunk
        if b"\n" in begun.lstrip() or len(begun) > _LONGEST_FIRST_LINE:
            break
    return begun.removeprefix(codecs.BOM_UTF8)


def _is_stream(begun: bytes, media_type: str) -> bool:
    line = begun.lstrip()
    if media_type.startswith("text/event-stream") and not line.startswith((b"{", b"[", b"<")):
        return True
    if _SSE.match(begun) or not line:
        return True
    first, newline, _ = line.partition(b"\n")
    try:
        part = json.loads(first)
    except ValueError:
        # A line of JSON, as Ollama streams them, that is longer than what was read.
        return line.startswith(b"{") and not newline and len(begun) > _LONGEST_FIRST_LINE and "ndjson" in media_type
    return isinstance(part, dict) and ("done" in part or part.get("object") == "chat.completion.chunk")


def _continued(
    http: ModuleType, begun: bytes, rest: AsyncIterator[bytes], whole: httpx.AsyncByteStream, *, end: bytes = b"\n\n"
) -> httpx.AsyncByteStream:
    """`end`: without a blank line, the clients drop the last event."""

    class Continued(http.AsyncByteStream):  # type: ignore[misc,name-defined]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield begun
            async for chunk in rest:
                yield chunk
            yield end

        async def aclose(self) -> None:
            await whole.aclose()

    return Continued()


async def _each_line(
    begun: bytes, rest: AsyncIterator[bytes], changed: Callable[[bytes], bytes]
) -> AsyncIterator[bytes]:
    line, left = b"", begun
    while True:
        *lines, line = (line + left).splitlines(keepends=True) or [b""]
        if line.endswith(b"\n"):
            lines, line = [*lines, line], b""
        for one in lines:
            yield changed(one)
        if (more := await anext(rest, None)) is None:
            break
        left = more
    yield changed(line)


def json_or_error(data: str) -> str:
    """Returns JSON; a text, as some servers send when they fail, becomes an error. JSON that was cut off stays as it is."""
    if data.startswith(("{", "[", '"')):
        return data
    try:
        json.loads(data)
    except ValueError:
        return json.dumps({"error": {"message": data}})
    return data


def _line_of_json(line: bytes) -> bytes:
    """Returns a line as Ollama's client can read it: it fails on empty lines and on errors that are no text, and ends lines at some
    characters within them too."""
    line = line.strip().removeprefix(b"data:").lstrip()
    for separator in ("\x85", "\u2028", "\u2029"):
        line = line.replace(separator.encode(), f"\\u{ord(separator):04x}".encode())
    if line.endswith(b"}") and b'"done"' not in line and (words := words_of(line.decode(errors="replace"))):
        line = json.dumps({"error": words}).encode()
    return line + b"\n" if line.startswith(b"{") else b""


def _named_event(line: bytes) -> bytes:
    """Adds the name of an event, which Anthropic's client requires and some gateways omit; it is in the data too."""
    try:
        sent = json.loads(line.removeprefix(b"data:")) if line.startswith(b"data:") else None
    except ValueError:
        sent = None
    name = sent.get("type") if isinstance(sent, dict) else None
    return f"event: {name}\n".encode() + line.rstrip() + b"\n\n" if isinstance(name, str) else line


def is_one_value(data: str) -> bool:
    """Returns whether data cannot be several JSON values."""
    return "\n" not in data and "}{" not in data


def json_values(data: str) -> Iterator[str]:
    """Yields the JSON values of an event, usually one: some servers omit the blank line between events, and gateways repeat `data:`."""
    data = data.strip()
    while data:
        if not data.startswith("data:") and is_one_value(data):
            yield data
            return
        data = data.removeprefix("data:").lstrip()
        try:
            _, end = json.JSONDecoder().raw_decode(data)
        except ValueError:
            end = len(data.partition("\n")[0])
        if end:
            yield data[:end].strip()
        data = data[end:].strip()


def _asked_to_stream(request: httpx.Request | httpx2.Request) -> bool:
    try:
        asked = json.loads(request.content)
    except ValueError:
        return False
    return isinstance(asked, dict) and asked.get("stream") is True


def _read(body: bytes, *, asked_to_stream: bool) -> tuple[int, bytes]:
    """Returns the (status, body) that the client should see."""
    try:
        payload = json.loads(body)
    except ValueError:
        return BAD_GATEWAY, body
    if _is_error(payload):
        return status_in(payload) or BAD_GATEWAY, body
    if not asked_to_stream or not isinstance(payload, dict):
        return 200, body
    try:
        return 200, b"".join(_as_stream(payload)) or body
    except (LookupError, TypeError, ValueError, AttributeError):  # A complete answer of another shape.
        return BAD_GATEWAY, body


def _error_object(body: bytes) -> bytes:
    """Returns a JSON error as an object, because Ollama's client fails on any other form."""
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


def _is_error(sent: object) -> bool:
    if isinstance(sent, list):  # Google's
        return bool(sent) and _is_error(sent[0])
    return isinstance(sent, dict) and (bool(sent.get("error")) or "error" in (sent.get("object"), sent.get("type")))


def _as_stream(sent: Mapping[str, object]) -> Iterator[bytes]:
    if sent.get("object") == "response":
        ended = "response.incomplete" if sent.get("status") == "incomplete" else "response.completed"
        yield _event({"type": ended, "sequence_number": 0, "response": sent})
    elif sent.get("type") == "message":
        yield from map(_event, _message_events(sent))
    elif sent.get("choices"):
        yield _event(_one_chunk(sent))
        yield b"data: [DONE]\n\n"
    elif "done" in sent:
        yield json.dumps(sent).encode() + b"\n"


def _one_chunk(sent: Mapping[str, Any]) -> dict[str, Json]:
    """Returns a `chat.completion` as one chunk."""
    choice = dict(sent["choices"][0])
    delta = dict(choice.pop("message", None) or {})
    return {**sent, "object": "chat.completion.chunk", "choices": [{**choice, "delta": delta}]}


def _message_events(sent: Mapping[str, Any]) -> Iterator[dict[str, Json]]:
    """Yields the events of a stream that produces an Anthropic message."""
    yield {"type": "message_start", "message": {**sent, "content": [], "stop_reason": None}}
    for index, block in enumerate(sent.get("content") or ()):
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
    ended = {"stop_reason": sent.get("stop_reason"), "stop_sequence": sent.get("stop_sequence")}
    yield {"type": "message_delta", "delta": ended, "usage": sent.get("usage") or {}}
    yield {"type": "message_stop"}


def _event(data: Mapping[str, object]) -> bytes:
    name = f"event: {data['type']}\n" if "type" in data else ""
    return f"{name}data: {json.dumps(data)}\n\n".encode()


# --- Optional fields of requests that some Chat Completions servers reject


REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_text", "thinking")
"""In which servers send reasoning: DeepSeek and most others, OpenRouter and vLLM, Copilot."""
SHORT_ID = "[a-zA-Z0-9]{9}"
"""Format of call ids that every server accepts: Mistral requires it, and OpenAI accepts at most 40 characters."""
USAGE, REASONING, IDS = "usage", "reasoning", "ids"
"""Fields that some servers reject: `stream_options`, earlier reasoning, call ids in another format."""


class ServerLimits:
    """Fields that a server has rejected. Rejections are recognized by the field that they name. Rejected ids are identified only by
    Mistral's code, so a rejected conversation with other ids is retried once with ids that every server accepts."""

    def __init__(self) -> None:
        self.without: set[str] = set()
        self._takes_ids = False
        """The server accepted ids in another format."""
        self._tries_ids = False

    def learned_from(self, error: APIStatusError, body: Mapping[str, object]) -> bool:
        """Returns whether the request that was rejected with `error` can be retried without some fields."""
        if error.status_code not in (400, 422, 500):
            return False
        named = set(_names_in(error.body))
        for what, fields in ((USAGE, ("stream_options",)), (REASONING, (*REASONING_FIELDS, *MESSAGE_EXTRAS))):
            if what not in self.without and named.intersection(fields) & set(_fields_of(body)):
                self.without.add(what)
                return True
        if self._tries_ids:
            self._tries_ids = False  # the ids were not the reason
            self.without.discard(IDS)
        elif IDS not in self.without and not self._takes_ids and _has_other_ids(body):
            self._tries_ids = True
            self.without.add(IDS)
        return self._tries_ids

    def took(self, body: Mapping[str, object]) -> None:
        self._tries_ids = False
        self._takes_ids = self._takes_ids or _has_other_ids(body)


def _fields_of(body: Mapping[str, object]) -> Iterator[str]:
    yield from body
    for message in objects_of(body["messages"]):
        yield from message


def _has_other_ids(body: Mapping[str, object]) -> bool:
    calls = [call for message in objects_of(body["messages"]) for call in objects_of(message.get("tool_calls"))]
    ids = [str(call["id"]) for call in calls]
    return any(re.fullmatch(SHORT_ID, one) is None for one in ids) or len(set(ids)) < len(ids)


def _names_in(sent: object) -> Iterator[str]:
    """Returns the fields named in an error's JSON: OpenAI's `param`, FastAPI's `loc`; also if a gateway embeds that JSON in a string."""
    if isinstance(sent, str) and "{" in sent:
        try:
            sent, _ = json.JSONDecoder().raw_decode(sent[sent.index("{") :])
        except ValueError:
            return
    if isinstance(sent, list):
        for one in sent:
            yield from _names_in(one)
    elif isinstance(sent, Mapping):
        for name, value in sent.items():
            if name == "loc" and isinstance(value, list):
                yield from map(str, value)
            elif name == "param" and isinstance(value, str):
                yield value.partition(".")[0]
            else:
                yield from _names_in(value)
