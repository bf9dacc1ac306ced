"""How each kind of server is reached: in this process, as a child process, or by streamable HTTP. The official client talks.

`Client` objects are entered and left in one task (anyio's cancel scopes want that); see `connection.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from timestep_lab.model.records import McpServerRecord
from timestep_lab.runtime.mcp.public_addresses import public_address
from timestep_lab.runtime.mcp.server_records import command_not_found, find_command, must_be_public, not_public

if TYPE_CHECKING:
    from types import TracebackType

    from mcp.client.session import MessageHandlerFnT
    from mcp.server import Server


# -- HTTP to public addresses only: `public_addresses.py` says why


class PublicTransport(httpx2.AsyncHTTPTransport):
    """Proxies named in the environment are not used: they would look the name up themselves."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        host = request.url.host
        try:
            address = await public_address(host)
        except (OSError, UnicodeError) as error:
            raise httpx2.ConnectError("its name is not known", request=request) from error
        if address is None:
            raise httpx2.ConnectError("it is at no public address", request=request)
        extensions: dict[str, Any] = {**request.extensions, "sni_hostname": host}
        # The headers name the host already; only the connection goes by number.
        by_number = httpx2.Request(
            request.method,
            request.url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions=extensions,
        )
        return await super().handle_async_request(by_number)


# --

_STDERR_BYTES = 4000

# It would quote on the screen of whoever serves what servers answered; what matters of that is said by our own errors.
_log = logging.getLogger("mcp.client.streamable_http")
if _log.level == logging.NOTSET:
    _log.setLevel(logging.CRITICAL)


class Signs:
    """What one connection has shown of the other side beside its answers."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        """The connection is over, or shall be."""
        self.http_status: int | None = None
        """Of the last HTTP answer."""
        self.session_refused = False
        """The server no longer knows this session (404), so it has not acted on the request either.
        https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#session-management"""
        self.stderr = Stderr()

    async def on_response(self, response: httpx2.Response) -> None:
        self.http_status = response.status_code
        self.session_refused = response.status_code == 404 and "mcp-session-id" in response.request.headers


class Stderr:
    """The last few thousand bytes that a child process wrote to its standard error, to be quoted when it fails.

    A pipe of our own: a notebook's `sys.stderr` has no file descriptor, and a file would grow without end.
    """

    def __init__(self) -> None:
        self._tail: deque[bytes] = deque()
        self._thread: threading.Thread | None = None
        self._file: Any = None

    def open(self) -> Any:
        """The writing end, for the child."""
        read_end, write_end = os.pipe()
        self._file = os.fdopen(write_end, "w", encoding="utf-8", errors="replace")
        self._thread = threading.Thread(target=self._drain, args=(read_end,), name="mcp-stderr", daemon=True)
        self._thread.start()
        return self._file

    def close(self) -> None:
        """Close this process's copy of the writing end; the child's own ends with the child."""
        if self._file is not None:
            self._file.close()

    def text(self) -> str:
        """What was written last. Blocks until the writers have gone, at most half a second."""
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
    record: McpServerRecord, signs: Signs, on_message: MessageHandlerFnT, builtin: Server[Any] | None = None
) -> Client:
    """A client, not yet connected. `builtin` is the server to talk to in this process, instead of the record's place."""
    target: Any
    if builtin is not None:
        target = builtin
    elif record.url is not None:
        target = _http(record, signs)
    else:
        target = _child(record, signs)
    # Tool lists are kept by the connection, which also hears when they change; a second cache would hide that.
    return Client(target, read_timeout_seconds=record.timeout_s, message_handler=on_message, cache=None)


@asynccontextmanager
async def _http(record: McpServerRecord, signs: Signs) -> AsyncIterator[Any]:
    assert record.url is not None
    timeout = httpx2.Timeout(min(10.0, record.timeout_s), read=record.timeout_s)
    hooks = {"response": [signs.on_response]}
    transport = await _public_transport(record) if must_be_public(record) else None
    # Redirects are followed within the server's own origin only, by the official client's rule.
    async with (
        httpx2.AsyncClient(
            headers=dict(record.headers), timeout=timeout, event_hooks=hooks, transport=transport
        ) as http,
        streamable_http_client(record.url, http_client=http) as streams,
    ):
        yield streams


async def _public_transport(record: McpServerRecord) -> PublicTransport:
    """Raises `ForbiddenError`, which says more than a connection that fails."""
    host = httpx2.URL(record.url or "").host
    try:
        address = await public_address(host)
    except (OSError, UnicodeError) as error:
        raise httpx2.ConnectError("its name is not known") from error
    if address is None:
        raise not_public(record)
    return PublicTransport()


@asynccontextmanager
async def _child(record: McpServerRecord, signs: Signs) -> AsyncIterator[Any]:
    program = find_command(record)
    if program is None:
        raise command_not_found(record)
    child = StdioServerParameters(command=program, args=list(record.command[1:]), env=dict(record.env))
    async with stdio_client(child, errlog=signs.stderr.open()) as (read, write):
        signs.stderr.close()
        yield _Watched(read, signs.gone.set), write


class _Watched:
    """A stream of incoming messages that tells when it has ended."""

    def __init__(self, stream: Any, on_end: Callable[[], None]) -> None:
        self._stream, self._on_end = stream, on_end

    async def receive(self) -> Any:
        return await self._stream.receive()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except StopAsyncIteration:
            self._on_end()
            raise

    async def __aenter__(self) -> _Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return bool(await self._stream.__aexit__(kind, error, trace))
