"""A persistent connection to one server. It opens on first use and is reopened after the server has died.

The client lives in a task of its own: the first caller may be cancelled or finish while others still use it, and anyio
requires that a scope is exited by the task that entered it. Each event loop has a connection of its own.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TextIO, TypeVar
from weakref import WeakKeyDictionary

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.types import (
    CONNECTION_CLOSED,
    METHOD_NOT_FOUND,
    REQUEST_TIMEOUT,
    CallToolResult,
    EmbeddedResource,
    GetPromptResult,
    PaginatedResult,
    Prompt,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    Tool,
    ToolAnnotations,
)
from pydantic import ValidationError

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import LabError, ToolError
from timestep_lab.model.records import McpServerRecord
from timestep_lab.runtime.mcp.questions import CallUnderWay, Questions
from timestep_lab.runtime.mcp.server_records import (
    command_not_found,
    find_command,
    must_be_public,
    not_public,
    public_address,
    redact,
    where_it_is,
)
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from types import TracebackType

    from mcp.client._transport import ReadStream, Transport, TransportStreams
    from mcp.client.session import MessageHandlerFnT
    from mcp.server import Server
    from mcp.shared.message import SessionMessage


# --- Transports: in this process, a child process, or streamable HTTP, with the official client
#
# `Client` objects are entered and exited in one task, as anyio's cancel scopes require.


# -- HTTP to public addresses only; see `server_records.py`


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


# --

_STDERR_BYTES = 4000

# It would print server responses to the terminal of the serving process; our own errors report what matters.
_log = logging.getLogger("mcp.client.streamable_http")
if _log.level == logging.NOTSET:
    _log.setLevel(logging.CRITICAL)


class Signs:
    """State of one connection, apart from the responses."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        """Set when the connection has ended, or should end."""
        self.http_status: int | None = None
        """Status of the last HTTP response."""
        self.session_refused = False
        """The server does not know this session (404), so it has not processed the request.
        https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#session-management"""
        self.stderr = Stderr()

    async def on_response(self, response: httpx2.Response) -> None:
        self.http_status = response.status_code
        self.session_refused = response.status_code == 404 and "mcp-session-id" in response.request.headers


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


@asynccontextmanager
async def _http(record: McpServerRecord, signs: Signs) -> AsyncIterator[TransportStreams]:
    assert record.url is not None
    timeout = httpx2.Timeout(min(10.0, record.timeout_s), read=record.timeout_s)
    hooks = {"response": [signs.on_response]}
    transport = await _public_transport(record) if must_be_public(record) else None
    # Redirects are followed only within the server's own origin, as the official client does.
    async with (
        httpx2.AsyncClient(
            headers=dict(record.headers), timeout=timeout, event_hooks=hooks, transport=transport
        ) as http,
        streamable_http_client(record.url, http_client=http) as streams,
    ):
        yield streams


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


@asynccontextmanager
async def _child(record: McpServerRecord, signs: Signs) -> AsyncIterator[TransportStreams]:
    program = find_command(record)
    if program is None:
        raise command_not_found(record)
    child = StdioServerParameters(command=program, args=list(record.command[1:]), env=dict(record.env))
    async with stdio_client(child, errlog=signs.stderr.open()) as (read, write):
        signs.stderr.close()
        yield _Watched(read, signs.gone.set), write


class _Watched:
    """A stream of incoming messages that reports its end."""

    def __init__(self, stream: ReadStream[SessionMessage | Exception], on_end: Callable[[], None]) -> None:
        self._stream, self._on_end = stream, on_end

    async def receive(self) -> SessionMessage | Exception:
        return await self._stream.receive()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
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


# -- Errors of a server: they name it, state the next step, and contain none of its secrets


def is_closed(error: BaseException) -> bool:
    return isinstance(error, MCPError) and error.code == CONNECTION_CLOSED


SERVED_HERE = "/mcp?revision="
"""In the URL of functions that a process of the lab serves (`lab.mcp.add_function`)."""


def connect_error(record: McpServerRecord, error: BaseException, *, said: str, http_status: int | None) -> ToolError:
    """Converts an exception during connecting. `said` is the child process's standard error."""
    cause = error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, LabError):
        return ToolError(cause.message, cause.next_step, server=record.name)
    if isinstance(cause, TimeoutError) or _timed_out(cause):
        what = f"did not respond within {record.timeout_s:g} s"
        step = "Check that it is an MCP server. A slow first start may need a longer timeout_s."
    elif http_status in (401, 403):
        what, step = f"answered HTTP {http_status}", "Check its credentials and set its headers again."
    elif record.url:
        what = (
            f"answered HTTP {http_status}"
            if http_status and http_status >= 400
            else f"did not respond ({_short(cause)})"
        )
        step = "Check that the URL is its MCP endpoint and that the server is running."
        if SERVED_HERE in record.url:
            step = f"It is served by a notebook or script that has ended; add its functions again: lab.mcp.add_function(f, server={record.name!r})."
    else:
        last_line = said.splitlines()[-1][:300] if said else ""
        what = f"exited on start with: {last_line}" if last_line else f"did not start ({_short(cause)})"
        step = "Run the command manually to see what it needs."
    message = f"The MCP server {record.name!r} ({where_it_is(record)}) {what}."
    return ToolError(redact(message, record), step, server=record.name)


def call_error(record: McpServerRecord, what: str, error: BaseException, *, broken: bool) -> ToolError:
    """Converts an exception during a request. `what` is the tool's name, or `tools/list`."""
    if _timed_out(error):
        happened = f"did not respond to {what} within {record.timeout_s:g} s"
        step = "Try again, or set a longer timeout_s for the server."
    elif broken:
        happened = f"disconnected during {what}; whether the call took effect is unknown"
        step = "Check before calling again; the next call reconnects."
    elif isinstance(error, ValidationError):
        happened = f"sent an invalid response to {what} ({_first_fault(error)})"
        step = "The server needs to be fixed; until then its tools are unavailable, and other servers work."
        if what != "tools/list":
            step = "The server needs to be fixed; its other tools work."
    elif not isinstance(error, MCPError | RuntimeError):
        happened = f"sent an unreadable response to {what} ({type(error).__name__}: {_short(error)})"
        step = "The server needs to be fixed; other servers work."
    else:
        happened = f"rejected {what}: {_short(error)}"
        step = "Compare the tool's name and arguments with the catalogue."
    message = f"The MCP server {record.name!r} {happened}."
    return ToolError(redact(message, record), step, server=record.name, tool=what)


def _timed_out(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or (isinstance(error, MCPError) and error.code == REQUEST_TIMEOUT)


def _first_fault(error: ValidationError) -> str:
    """Returns the first validation error, such as `tools.0.inputSchema.type: Input should be 'object'`."""
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}"[:300]


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300].rstrip(".") if lines else type(error).__name__


# --

T = TypeVar("T")

TOOL_LIST_S = 60.0
"""A tool list is requested again after this many seconds, or at once when the server reports a change."""

LONGEST_CALL_S = 24 * 3600.0
"""Maximum duration of a call that keeps reporting progress."""

FAILED_S = 10.0
"""A server that could not be reached is not retried for this many seconds, so that it does not slow down every run."""


class _Live:
    """A connection in one event loop."""

    def __init__(self, server: str) -> None:
        self.questions = Questions(server)
        self.client: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self.signs = Signs()
        self.task: asyncio.Task[None] | None = None
        self.tools: list[Tool] | None = None
        self.tools_until = 0.0

    async def hear(self, message: object) -> None:
        changed = ("notifications/tools/list_changed", "notifications/resources/list_changed")
        if getattr(message, "method", "") in changed:
            self.tools = None


def resource_tools(server: str) -> dict[str, Tool]:
    """Returns the tools with which a model reads a server's resources, by name. The protocol leaves this to the client."""
    hints = ToolAnnotations(read_only_hint=True, idempotent_hint=True)
    about_uri = "As returned by list_resources; for a template, with its {parts} filled in."
    uri = {"type": "string", "description": about_uri}
    tools = (
        Tool(
            name="list_resources", description=f"Lists the resources of {server} for read_resource, and URI templates of more.",
            input_schema={"type": "object", "properties": {}}, annotations=hints,
        ),
        Tool(
            name="read_resource", description=f"Read a resource of {server} by its URI.",
            input_schema={"type": "object", "properties": {"uri": uri}, "required": ["uri"]}, annotations=hints,
        ),
    )  # fmt: skip
    return {tool.name: tool for tool in tools}


class Connection:
    """A connection to one server. `builtin` is an in-process server that is used instead of the record's command or URL."""

    def __init__(self, record: McpServerRecord, builtin: Server | None = None) -> None:
        self.record = record
        self._builtin = builtin
        self._lives: WeakKeyDictionary[asyncio.AbstractEventLoop, _Live] = WeakKeyDictionary()
        self._failure: tuple[float, ToolError] | None = None
        self._resource_tools = resource_tools(record.name)

    async def tools(self, *, retry_now: bool = False) -> list[Tool]:
        """Returns the server's tools, filtered by `allowed_tools`. Raises `ToolError` naming the server when it fails.

        A server with resources also gets the tools `list_resources` and `read_resource`, unless it has tools with these names.
        A failure is cached for `FAILED_S` seconds, unless `retry_now`.
        """
        if self._failure and not retry_now and time.monotonic() - self._failure[0] < FAILED_S:
            raise self._failure[1]
        live = self._live()
        try:
            if live.tools is None or live.tools_until < time.monotonic():
                tools = await self._request("tools/list", self._offered, repeatable=True)
                live = self._live()
                live.tools, live.tools_until = tools, time.monotonic() + TOOL_LIST_S
            tools = live.tools
        except ToolError as error:
            self._failure = (time.monotonic(), error)
            raise
        self._failure = None
        allowed = self.record.allowed_tools
        return [tool for tool in tools if allowed is None or tool.name in allowed]

    async def call(self, tool: Tool, arguments: dict[str, Json]) -> CallToolResult:
        """Calls a tool. A call that may have taken effect is not repeated, unless the tool is declared read-only or idempotent. The
        record's timeout restarts whenever the server reports progress.

        Raises `ToolError` when there is no result; a result with `is_error` is returned.
        """
        ours = self._resource_tools.get(tool.name)
        if ours is not None and any(one is ours for one in await self.tools()):
            return await self._call_resource_tool(ours.name, arguments)
        hints = tool.annotations
        if tool.output_schema is not None:
            # The client imports this to validate the result; it takes up to 2 s, which must not block the event loop.
            await in_thread(importlib.import_module, "jsonschema")

        async def send(client: Client) -> CallToolResult:
            questions = self._live().questions
            async with asyncio.timeout(self.record.timeout_s) as limit:
                call = CallUnderWay(tool.name, limit, self.record.timeout_s)

                async def still_at_it(progress: float, total: float | None, message: str | None) -> None:
                    call.progressed()

                questions.under_way.append(call)
                try:
                    return await client.call_tool(
                        tool.name, arguments, read_timeout_seconds=LONGEST_CALL_S, progress_callback=still_at_it
                    )
                finally:
                    questions.ended(call)

        repeatable = bool(hints and (hints.read_only_hint or hints.idempotent_hint))
        return await self._request(tool.name, send, repeatable=repeatable)

    async def _offered(self, client: Client) -> list[Tool]:
        try:
            tools = await _pages(client.list_tools, "tools")
        except MCPError as error:
            if error.code != METHOD_NOT_FOUND or client.server_capabilities.tools is not None:
                raise
            tools = []
        taken = {tool.name for tool in tools}
        if await _has_resources(client):
            tools += [tool for name, tool in self._resource_tools.items() if name not in taken]
        return tools

    async def _call_resource_tool(self, name: str, arguments: dict[str, Json]) -> CallToolResult:
        if name == "read_resource":
            if not isinstance(uri := arguments.get("uri"), str):
                step = "Pass a URI returned by list_resources."
                raise ToolError("read_resource needs a uri, as a string.", step, server=self.record.name, tool=name)
            read = await self.read_resource(uri)
            return CallToolResult(content=[EmbeddedResource(type="resource", resource=one) for one in read.contents])
        listing: dict[str, list[object]] = {"resources": [], "resourceTemplates": []}
        for one in await self.resources():
            kind = "resources" if isinstance(one, Resource) else "resourceTemplates"
            listing[kind].append(one.model_dump(mode="json", by_alias=True, exclude_none=True))
        return CallToolResult(content=[], structured_content=listing)

    async def resources(self) -> list[Resource | ResourceTemplate]:
        """Returns the server's resources and resource templates. Raises `ToolError`."""

        async def listed(client: Client) -> list[Resource | ResourceTemplate]:
            if client.server_capabilities.resources is None:
                return []
            resources: list[Resource | ResourceTemplate] = [*await _pages(client.list_resources, "resources")]
            try:
                return [*resources, *await _pages(client.list_resource_templates, "resource_templates")]
            except MCPError as error:
                if error.code == METHOD_NOT_FOUND:
                    return resources
                raise

        return await self._request("resources/list", listed, repeatable=True)

    async def read_resource(self, uri: str) -> ReadResourceResult:
        """Reads a resource. Raises `ToolError`."""
        return await self._request(uri, lambda client: client.read_resource(uri), repeatable=True)

    async def prompts(self) -> list[Prompt]:
        """Returns the server's prompts. Raises `ToolError`."""

        async def listed(client: Client) -> list[Prompt]:
            return [] if client.server_capabilities.prompts is None else await _pages(client.list_prompts, "prompts")

        return await self._request("prompts/list", listed, repeatable=True)

    async def get_prompt(self, name: str, arguments: dict[str, str]) -> GetPromptResult:
        """Fills in a prompt. Raises `ToolError`."""
        return await self._request(name, lambda client: client.get_prompt(name, arguments or None), repeatable=True)

    async def aclose(self) -> None:
        """Closes the connections of all loops, and waits for this loop's."""
        here = self._lives.pop(asyncio.get_running_loop(), None)
        for loop, live in list(self._lives.items()):
            if loop.is_running():
                loop.call_soon_threadsafe(live.signs.gone.set)
        self._lives.clear()
        if here is not None and here.task is not None:
            here.signs.gone.set()
            await asyncio.wait([here.task])

    async def _request(self, what: str, send: Callable[[Client], Awaitable[T]], *, repeatable: bool) -> T:
        for last_try in (False, True):
            live = self._live()
            # Shielded: a caller that gives up must not close the connection for others.
            client = await asyncio.shield(live.client)
            try:
                return await send(client)
            # The client raises MCPError for a rejection, RuntimeError when closed and, for an invalid response, whatever its parsing
            # raises: ValidationError, re.error of a pattern in a schema, RecursionError.
            except Exception as error:  # noqa: BLE001 - none is the lab's own fault, and each is raised again as a ToolError
                unprocessed = live.signs.session_refused
                broken = is_closed(error) or unprocessed or live.signs.gone.is_set()
                if broken:
                    live.signs.gone.set()
                if last_try or not (broken and (repeatable or unprocessed)):
                    raise call_error(self.record, what, error, broken=broken) from None
        raise AssertionError("the second try either returns or raises")

    def _live(self) -> _Live:
        loop = asyncio.get_running_loop()
        live = self._lives.get(loop)
        if live is None or live.signs.gone.is_set():
            self._lives[loop] = live = _Live(self.record.name)
            live.task = asyncio.create_task(self._hold(live), name=f"mcp {self.record.name}")
        return live

    async def _hold(self, live: _Live) -> None:
        """Opens and closes the client in a task of its own."""
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(self.record.timeout_s):
                    client = client_for(
                        self.record, live.signs, live.hear, self._builtin, None if self._builtin else live.questions
                    )
                    await stack.enter_async_context(client)
                live.client.set_result(client)
                await live.signs.gone.wait()
        except Exception as error:  # noqa: BLE001 - it goes to whoever waits; that a lost connection closes badly is not news
            if not live.client.done():
                stderr_text = await asyncio.to_thread(live.signs.stderr.text)
                failure = connect_error(self.record, error, said=stderr_text, http_status=live.signs.http_status)
                live.client.set_exception(failure)
        finally:
            live.signs.gone.set()
            live.signs.stderr.close()
            if not live.client.done():  # cancelled, with the event loop or by a closing toolbox
                live.client.set_exception(
                    ToolError(f"The connection to {self.record.name!r} was closed while it was opening.")
                )
            if not live.client.cancelled():
                live.client.exception()  # retrieved, because nobody may be waiting any more


async def _has_resources(client: Client) -> bool:
    """Returns whether the server has resources. Many servers declare the capability without having any; if listing fails, `list_resources`
    reports the error to the model."""
    if client.server_capabilities.resources is None:
        return False
    try:
        if (await client.list_resources()).resources:
            return True
        return bool((await client.list_resource_templates()).resource_templates)
    except (MCPError, ValidationError) as error:
        if is_closed(error):
            raise
        return not (isinstance(error, MCPError) and error.code == METHOD_NOT_FOUND)


async def _pages(ask: Callable[..., Awaitable[PaginatedResult]], what: str) -> list[Any]:
    page = await ask()
    entries, seen = list(getattr(page, what)), set[str]()
    while (cursor := page.next_cursor) and cursor not in seen:
        seen.add(cursor)
        page = await ask(cursor=cursor)
        entries += getattr(page, what)
    return entries
