"""One long-lived connection to one server. It opens on first use, is kept, and opens again after the server has died.

The client lives in a task of its own: whoever asks first may be cancelled, or finish, while others still use it; and anyio
wants a scope left by the task that entered it. Each event loop that asks has a connection of its own.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from mcp.shared.exceptions import MCPError
from mcp.types import CONNECTION_CLOSED, REQUEST_TIMEOUT, CallToolResult, Tool
from pydantic import ValidationError

from timestep_lab.model.errors import LabError, ToolError
from timestep_lab.model.records import McpServerRecord
from timestep_lab.runtime.mcp.server_records import redact, where_it_is
from timestep_lab.runtime.mcp.transports import Signs, client_for
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from mcp import Client
    from mcp.server import Server


# -- What went wrong with a server, in words that name it, say the next step, and hold none of its secrets


def is_closed(error: BaseException) -> bool:
    return isinstance(error, MCPError) and error.code == CONNECTION_CLOSED


def connect_error(record: McpServerRecord, error: BaseException, *, said: str, http_status: int | None) -> ToolError:
    """`said` is what a child process wrote to its standard error."""
    cause = error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, LabError):
        return ToolError(cause.message, cause.next_step, server=record.name)
    if isinstance(cause, TimeoutError) or _timed_out(cause):
        what = f"did not answer within {record.timeout_s:g} s"
        step = "Is it an MCP server? A slow first start may need a longer timeout_s."
    elif http_status in (401, 403):
        what, step = f"answered HTTP {http_status}", "It wants other credentials: set its headers again."
    elif record.url:
        what = (
            f"answered HTTP {http_status}"
            if http_status and http_status >= 400
            else f"gave no answer ({_short(cause)})"
        )
        step = "Check that the URL is that of its MCP endpoint and that the server runs."
    else:
        last_line = said.splitlines()[-1][:300] if said else ""
        what = f"ended at its start and said: {last_line}" if last_line else f"did not start ({_short(cause)})"
        step = "Run the command by hand to see what it needs."
    message = f"The MCP server {record.name!r} ({where_it_is(record)}) {what}."
    return ToolError(redact(message, record), step, server=record.name)


def call_error(record: McpServerRecord, what: str, error: BaseException, *, broken: bool) -> ToolError:
    """`what` is the tool's name, or `tools/list`."""
    if _timed_out(error):
        happened = f"did not answer {what} within {record.timeout_s:g} s"
        step = "Try again, or give the server a longer timeout_s."
    elif broken:
        happened = f"went away during {what}, and whether the call took effect is not known"
        step = "Look before calling again; the connection opens anew with the next call."
    elif isinstance(error, ValidationError):
        happened = f"answered {what} with what is not of the protocol ({_first_fault(error)})"
        step = "The server has to be mended; until then its tools are left out, and those of other servers work."
        if what != "tools/list":
            step = "The server has to be mended; its other tools work."
    elif not isinstance(error, MCPError | RuntimeError):
        happened = f"answered {what} with what cannot be read ({type(error).__name__}: {_short(error)})"
        step = "The server has to be mended; the others work."
    else:
        happened = f"refused {what}: {_short(error)}"
        step = "Compare the tool's name and arguments with the catalogue."
    message = f"The MCP server {record.name!r} {happened}."
    return ToolError(redact(message, record), step, server=record.name, tool=what)


def _timed_out(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or (isinstance(error, MCPError) and error.code == REQUEST_TIMEOUT)


def _first_fault(error: ValidationError) -> str:
    """`tools.0.inputSchema.type: Input should be 'object'`."""
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}"[:300]


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300].rstrip(".") if lines else type(error).__name__


# --

T = TypeVar("T")

TOOL_LIST_S = 60.0
"""A tool list is asked for again after this time, or at once when the server says that it changed."""

LONGEST_CALL_S = 24 * 3600.0
"""Of a tool that goes on reporting progress."""

FAILED_S = 10.0
"""A server that could not be reached is not tried again for this time, so that it does not slow down every run."""


class _Live:
    """A connection in one event loop."""

    def __init__(self) -> None:
        self.client: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self.signs = Signs()
        self.task: asyncio.Task[None] | None = None
        self.tools: list[Tool] | None = None
        self.tools_until = 0.0

    async def hear(self, message: Any) -> None:
        if getattr(message, "method", "") == "notifications/tools/list_changed":
            self.tools = None


class Connection:
    """`builtin` is a server in this process, talked to instead of the record's command or URL."""

    def __init__(self, record: McpServerRecord, builtin: Server[Any] | None = None) -> None:
        self.record = record
        self._builtin = builtin
        self._lives: WeakKeyDictionary[asyncio.AbstractEventLoop, _Live] = WeakKeyDictionary()
        self._failure: tuple[float, ToolError] | None = None

    async def tools(self, *, retry_now: bool = False) -> list[Tool]:
        """What the server offers, `allowed_tools` applied. Raises `ToolError` naming the server when it cannot say.

        A failure is remembered for `FAILED_S` seconds, unless `retry_now`.
        """
        if self._failure and not retry_now and time.monotonic() - self._failure[0] < FAILED_S:
            raise self._failure[1]
        live = self._live()
        try:
            if live.tools is None or live.tools_until < time.monotonic():
                tools = await self._request("tools/list", _all_pages, repeatable=True)
                live = self._live()
                live.tools, live.tools_until = tools, time.monotonic() + TOOL_LIST_S
            tools = live.tools
        except ToolError as error:
            self._failure = (time.monotonic(), error)
            raise
        self._failure = None
        allowed = self.record.allowed_tools
        return [tool for tool in tools if allowed is None or tool.name in allowed]

    async def call(self, tool: Tool, arguments: dict[str, Any]) -> CallToolResult:
        """Call a tool. A call that may have taken effect is not repeated, unless the server says the tool bears it. It has the record's
        time to answer, and again so much from each progress that the server reports.

        Raises `ToolError` when no result came; a result that says `is_error` is returned.
        """
        hints = tool.annotations
        if tool.output_schema is not None:
            # The client will import this to check the result; it takes up to 2 s, which the event loop must not stand still.
            await in_thread(importlib.import_module, "jsonschema")

        async def send(client: Client) -> CallToolResult:
            loop, patience = asyncio.get_running_loop(), self.record.timeout_s
            async with asyncio.timeout(patience) as limit:

                async def still_at_it(progress: float, total: float | None, message: str | None) -> None:
                    limit.reschedule(loop.time() + patience)

                return await client.call_tool(
                    tool.name, arguments, read_timeout_seconds=LONGEST_CALL_S, progress_callback=still_at_it
                )

        return await self._request(
            tool.name, send, repeatable=bool(hints and (hints.read_only_hint or hints.idempotent_hint))
        )

    async def aclose(self) -> None:
        """Close in every loop, and wait for it in this one."""
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
            # Shielded: a caller that gives up must not take the connection away from the others.
            client = await asyncio.shield(live.client)
            try:
                return await send(client)
            # The client raises MCPError for a refusal, RuntimeError when closed, and for an answer that is not of the protocol
            # whatever its parsing meets: ValidationError, re.error of a pattern in a schema, RecursionError.
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
            self._lives[loop] = live = _Live()
            live.task = asyncio.create_task(self._hold(live), name=f"mcp {self.record.name}")
        return live

    async def _hold(self, live: _Live) -> None:
        """The task in which the client is opened and closed."""
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(self.record.timeout_s):
                    client = client_for(self.record, live.signs, live.hear, self._builtin)
                    await stack.enter_async_context(client)
                live.client.set_result(client)
                await live.signs.gone.wait()
        except Exception as error:  # noqa: BLE001 - it goes to whoever waits; that a lost connection closes badly is no news
            if not live.client.done():
                said = await asyncio.to_thread(live.signs.stderr.text)
                failure = connect_error(self.record, error, said=said, http_status=live.signs.http_status)
                live.client.set_exception(failure)
        finally:
            live.signs.gone.set()
            live.signs.stderr.close()
            if not live.client.done():  # cancelled, with the event loop or by a closing toolbox
                live.client.set_exception(ToolError(f"The connection to {self.record.name!r} was closed as it opened."))
            if not live.client.cancelled():
                live.client.exception()  # read, since nobody may be waiting any more


async def _all_pages(client: Client) -> list[Tool]:
    page = await client.list_tools()
    tools, seen = list(page.tools), set[str]()
    while (cursor := page.next_cursor) and cursor not in seen:
        seen.add(cursor)
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
    return tools
