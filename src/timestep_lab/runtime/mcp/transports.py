"""How a server is reached: in this process, as a child process, or over streamable HTTP, with the official client.

`Client` objects are entered and exited in one task, as anyio's cancel scopes require.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TextIO

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp.types import PARSE_ERROR, ErrorData, JSONRPCError, jsonrpc_message_adapter
from pydantic import ValidationError

from timestep_lab.model.records import McpServerRecord
from timestep_lab.runtime.mcp.server_records import (
    command_not_found,
    find_command,
    must_be_public,
    not_public,
    public_address,
)

if TYPE_CHECKING:
    from types import TracebackType

    from mcp.client._transport import ReadStream, Transport, TransportStreams
    from mcp.client.session import MessageHandlerFnT
    from mcp.server import Server

    from timestep_lab.runtime.mcp.questions import Questions

# They would print the responses of servers to the terminal, with tracebacks; our own errors report what matters.
for _name in ("mcp.client.streamable_http", "mcp.client.stdio"):
    _log = logging.getLogger(_name)
    if _log.level == logging.NOTSET:
        _log.setLevel(logging.CRITICAL)

_STDERR_BYTES = 4000
_QUOTED = 300
"""Maximum number of characters of a server's output in an error."""


class Exchange:
    """A request and what its HTTP responses say about it beside their bodies; unused by other transports."""

    def __init__(self) -> None:
        self.http_status: int | None = None
        self.challenge = ""
        """What the server wants instead of the credentials that it refused: the header WWW-Authenticate."""
        self.session_refused = False
        """The server does not know this session (404), so it has not processed the request.
        https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#session-management"""
        self.is_cut = False
        """The stream of events has ended without the answer."""


EXCHANGE: ContextVar[Exchange | None] = ContextVar("timestep_lab_mcp_exchange", default=None)
"""The request of the current task; the official client sends it in a task with a copy of its context."""


class Signs:
    """State of one connection, apart from the responses."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        """Set when the connection has ended, or should end."""
        self.stderr = Stderr()
        self.noise = ""
        """The last line of a child process's standard output, if it was no message."""

    def quoted(self) -> str:
        """Returns the last line of what a child process wrote beside its messages. Blocks, at most half a second."""
        lines = self.stderr.text().splitlines() or [self.noise]
        return lines[-1][:_QUOTED].rstrip(".")


class Stderr:
    """The last few kilobytes of a child process's standard error, to be quoted when it fails.

    Uses a pipe: a notebook's `sys.stderr` has no file descriptor, and a file would grow without limit.
    """

    def __init__(self) -> None:
        self._tail: deque[bytes] = deque()
        self._thread: threading.Thread | None = None
        self._file: TextIO | None = None

    def open(self) -> TextIO:
        """Returns the write end, for the child."""
        read_end, write_end = os.pipe()
        self._file = os.fdopen(write_end, "w", encoding="utf-8", errors="replace")
        self._thread = threading.Thread(target=self._drain, args=(read_end,), name="mcp-stderr", daemon=True)
        self._thread.start()
        return self._file

    def close(self) -> None:
        """Closes this process's copy of the write end; the child's own closes when it ends."""
        if self._file is not None:
            self._file.close()

    def text(self) -> str:
        """Returns the latest output. Blocks until the writers have closed, at most half a second."""
        self.close()
        if self._thread is not None:
            self._thread.join(0.5)
        return b"".join(self._tail).decode("utf-8", "replace").strip()

    def _drain(self, read_end: int) -> None:
        size = 0
        with os.fdopen(read_end, "rb", buffering=0) as pipe:
            while block := pipe.read(4096):
                self._tail.append(block)
                size += len(block)
                while size - len(self._tail[0]) >= _STDERR_BYTES:
                    size -= len(self._tail.popleft())


def client_for(
    record: McpServerRecord,
    signs: Signs,
    on_message: MessageHandlerFnT,
    builtin: Server | None = None,
    questions: Questions | None = None,
) -> Client:
    """Returns an unconnected client. `builtin` is an in-process server that is used instead of the record's command or URL."""
    target: Server | Transport
    if builtin is not None:
        target = builtin
    elif record.url is not None:
        target = _http(record, signs)
    else:
        target = _child(record, signs)
    # The connection caches tool lists and is notified of changes; a second cache would hide them.
    return Client(
        target, read_timeout_seconds=record.timeout_s, message_handler=on_message, cache=None, mode=_mode(record.protocol),
        elicitation_callback=questions.elicit if questions else None, sampling_callback=questions.sample if questions else None,
    )  # fmt: skip


def _mode(protocol: str | None) -> str:
    """Returns the client's mode: protocol versions before 2026-07-28 negotiate the version in a handshake."""
    return "auto" if protocol is None else "legacy" if protocol < "2026-07-28" else protocol


# -- Streamable HTTP


@asynccontextmanager
async def _http(record: McpServerRecord, signs: Signs) -> AsyncIterator[TransportStreams]:
    assert record.url is not None
    # The connection limits each request. A stream is silent while a person is being asked, and a timeout here would end all requests.
    timeout = httpx2.Timeout(min(10.0, record.timeout_s), read=None)
    transport = await _public_transport(record) if must_be_public(record) else None
    # Redirects are followed only within the server's own origin, as the official client does.
    async with (
        httpx2.AsyncClient(
            headers=dict(record.headers), timeout=timeout, event_hooks={"response": [_on_response]}, transport=transport
        ) as http,
        streamable_http_client(record.url, http_client=http) as (read, write),
    ):
        yield _Watched(read, signs), write


async def _on_response(response: httpx2.Response) -> None:
    exchange = EXCHANGE.get()
    if exchange is None:
        return
    exchange.http_status = response.status_code
    exchange.challenge = response.headers.get("www-authenticate", "")
    exchange.session_refused = response.status_code == 404 and "mcp-session-id" in response.request.headers
    exchange.is_cut = False
    if response.headers.get("content-type", "").lower().startswith("text/event-stream"):
        response.stream = _Events(response.stream, exchange)


class _Events(httpx2.AsyncByteStream):
    """A stream of events that notes whether it ends; the client closes it as soon as it has the answer."""

    def __init__(self, stream: object, exchange: Exchange) -> None:
        assert isinstance(stream, httpx2.AsyncByteStream)
        self._stream, self._exchange = stream, exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for block in self._stream:
                yield block
        except httpx2.HTTPError:
            self._exchange.is_cut = True
            raise
        self._exchange.is_cut = True

    async def aclose(self) -> None:
        await self._stream.aclose()


class PublicTransport(httpx2.AsyncHTTPTransport):
    """HTTP transport that connects only to public addresses. Ignores proxies from the environment, which would resolve names themselves."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        host = request.url.host
        try:
            address = await public_address(host)
        except (OSError, UnicodeError) as error:
            raise httpx2.ConnectError("its name cannot be resolved", request=request) from error
        if address is None:
            raise httpx2.ConnectError("it has no public address", request=request)
        # The headers already have the host name; only the connection uses the resolved address.
        by_number = httpx2.Request(
            request.method,
            request.url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": host},
        )
        return await super().handle_async_request(by_number)


async def _public_transport(record: McpServerRecord) -> PublicTransport:
    """Returns the transport. Raises `ForbiddenError`, which is clearer than a failed connection."""
    host = httpx2.URL(record.url or "").host
    try:
        address = await public_address(host)
    except (OSError, UnicodeError) as error:
        raise httpx2.ConnectError("its name cannot be resolved") from error
    if address is None:
        raise not_public(record)
    return PublicTransport()


# -- A child process


@asynccontextmanager
async def _child(record: McpServerRecord, signs: Signs) -> AsyncIterator[TransportStreams]:
    program = find_command(record)
    if program is None:
        raise command_not_found(record)
    # Bytes that are no UTF-8 are replaced: the official client never ends a stream that it cannot decode.
    child = StdioServerParameters(
        command=program, args=list(record.command[1:]), env=dict(record.env), encoding_error_handler="replace"
    )
    async with stdio_client(child, errlog=signs.stderr.open()) as (read, write):
        signs.stderr.close()
        yield _Watched(read, signs), write


class _Watched:
    """A stream of incoming messages that reports its end, and answers requests whose answers cannot be read."""

    def __init__(self, stream: ReadStream[SessionMessage | Exception], signs: Signs) -> None:
        self._stream, self._signs = stream, signs

    async def receive(self) -> SessionMessage | Exception:
        return await self._stream.receive()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            item = await self._stream.__anext__()
        except StopAsyncIteration:
            self._signs.gone.set()
            raise
        if isinstance(item, ValidationError):
            return self._read_again(item)
        self._signs.noise = ""
        return item

    def _read_again(self, error: ValidationError) -> SessionMessage | ValidationError:
        """Returns a message for a line that the official client could not read; without one, the line is noted."""
        faults = error.errors(include_url=False, include_context=False)
        line = next((one["input"] for one in faults if one["type"] in ("json_invalid", "missing")), "")
        text = line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)
        try:
            message = json.loads(text)
        except ValueError:
            message = None
        if not isinstance(message, dict) or "method" in message or not isinstance(message.get("id"), int | str):
            self._signs.noise = text.strip()[:_QUOTED] or self._signs.noise
            return error
        try:
            # Half a character pair, which JavaScript writes for a text that was cut inside an emoji, becomes U+FFFD.
            whole = json.dumps(message, ensure_ascii=False).encode("utf-16", "surrogatepass")
            return SessionMessage(
                jsonrpc_message_adapter.validate_json(whole.decode("utf-16", "replace"), by_name=False)
            )
        except ValidationError:
            unread = ErrorData(code=PARSE_ERROR, message=f"It is no JSON-RPC response: {text[:_QUOTED]}")
            return SessionMessage(JSONRPCError(jsonrpc="2.0", id=message["id"], error=unread))

    async def __aenter__(self) -> _Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return bool(await self._stream.__aexit__(kind, error, trace))
