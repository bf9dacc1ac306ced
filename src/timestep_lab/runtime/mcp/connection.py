"""A persistent connection to one server. It opens on first use and is reopened after the server has died.

The client lives in a task of its own: the first caller may be cancelled or finish while others still use it, and anyio
requires that a scope is exited by the task that entered it. Each event loop has a connection of its own.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from mcp import Client
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp.types import (
    CONNECTION_CLOSED,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
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
from timestep_lab.runtime.mcp.server_records import redact, where_it_is
from timestep_lab.runtime.mcp.transports import EXCHANGE, Exchange, Signs, client_for
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from mcp.server import Server


# -- Errors of a server: they name it, state the next step, and contain none of its secrets


SERVED_HERE = "/mcp?revision="
"""In the URL of functions that a process of the lab serves (`lab.mcp.add_function`)."""


def connect_error(record: McpServerRecord, error: BaseException, *, stderr_text: str, exchange: Exchange) -> ToolError:
    """Converts an exception during connecting. `said` is the last line that the child process wrote."""
    http_status = exchange.http_status
    cause = error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, LabError):
        return ToolError(cause.message, cause.next_step, server=record.name)
    if isinstance(cause, TimeoutError) or _timed_out(cause):
        what = f"did not respond within {record.timeout_s:g} s"
        step = "Check that it is an MCP server. A slow first start may need a longer timeout_s."
        if stderr_text:
            what += f"; it wrote: {stderr_text}"
    elif http_status in (401, 403):
        what, step = f"answered HTTP {http_status}", _credentials(record, exchange.challenge)
    elif record.url:
        what = (
            f"answered HTTP {http_status}"
            if http_status and http_status >= 400
            else f"did not respond ({_short(cause)})"
        )
        step = "Check that the URL is its MCP endpoint and that the server is running."
        if http_status == 405:
            step = "Use its streamable HTTP endpoint, often /mcp; the older SSE transport, often at /sse, is not supported."
        if SERVED_HERE in record.url:
            step = f"It is served by a notebook or script that has ended; add its functions again: lab.mcp.add_function(f, server={record.name!r})."
    else:
        what = f"exited on start with: {stderr_text}" if stderr_text else f"did not start ({_short(cause)})"
        if isinstance(cause, MCPError) and cause.code != CONNECTION_CLOSED:
            what = f"refused to connect: {_short(cause)}"
        step = "Run the command manually to see what it needs."
    message = f"The MCP server {record.name!r} ({where_it_is(record)}) {what}."
    return ToolError(redact(message, record), step, server=record.name)


def _credentials(record: McpServerRecord, challenge: str) -> str:
    """The step after a refusal. A server that signs people in (OAuth) says where (RFC 9728), and what is wrong with a token (RFC 6750)."""
    stderr_text = {name.lower(): value for name, value in re.findall(r'([\w-]+)="([^"]*)"', challenge)}
    scope = f" with the scope {stderr_text['scope']!r}" if stderr_text.get("scope") else ""
    if stderr_text.get("error") == "insufficient_scope":
        return f"Its access token does not suffice: get one{scope} and set it with lab.mcp.set_headers."
    if any(name.lower() == "authorization" for name in record.headers):
        what = "has expired or is not valid" if stderr_text.get("error") == "invalid_token" else "was refused"
        return f"Its access token {what}: get another one{scope} and set it with lab.mcp.set_headers."
    if "resource_metadata" in stderr_text:
        return (
            "It requires OAuth, and the lab does not sign in for you: get an access token"
            f"{scope} and set it: lab.mcp.set_headers({record.name!r}, {{'Authorization': 'Bearer …'}})."
        )
    return "Check its credentials and set them with lab.mcp.set_headers."


def call_error(
    record: McpServerRecord, what: str, error: BaseException, *, lost: bool, exchange: Exchange, noise: str
) -> ToolError:
    """Converts an exception during a request. `what` is the tool's name, or `tools/list`. `lost`: no answer can come any more. `noise` is
    what the child process wrote instead of messages."""
    http_status = exchange.http_status
    code = error.code if isinstance(error, MCPError) else None
    step = "" if what == "tools/list" else "Compare the tool's name and arguments with the catalogue."
    if _timed_out(error):
        happened = f"did not respond to {what} within {record.timeout_s:g} s"
        step = "Try again, or set a longer timeout_s for the server."
        if noise:
            happened += f"; the last line that it wrote is no MCP message: {noise}"
    elif lost:
        happened = f"disconnected during {what}; whether the call took effect is unknown"
        step = "Check before calling again; the next call reconnects."
    elif isinstance(error, ValidationError):
        happened = f"sent an invalid response to {what} ({_first_fault(error)})"
        step = "The server needs to be fixed; until then its tools are unavailable, and other servers work."
        if what != "tools/list":
            step = "The server needs to be fixed; its other tools work."
    elif code == PARSE_ERROR or not isinstance(error, MCPError):
        # The client raises RuntimeError for a result that does not have the form that the tool declares.
        kind = "" if isinstance(error, MCPError | RuntimeError) else f"{type(error).__name__}: "
        happened = f"sent an unreadable response to {what} ({kind}{_short(error)})"
        step = "The server needs to be fixed; other servers work."
    elif http_status in (401, 403):
        happened, step = f"answered HTTP {http_status} to {what}", _credentials(record, exchange.challenge)
    elif http_status is not None and (http_status == 429 or http_status >= 500):
        happened, step = f"answered HTTP {http_status} to {what}: {_short(error)}", "Try again later."
    else:
        more = f" ({json.dumps(error.data, ensure_ascii=False)[:300]})" if error.data else ""
        happened = f"rejected {what}: {_short(error)}{more}"
        if code not in (INVALID_PARAMS, METHOD_NOT_FOUND):
            step = ""
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

ENDING_S = 0.1
"""Maximum duration between the failure of a request and the end of its connection."""

MOST_PAGES = 1000
"""Maximum number of pages of a listing."""

FAILED_S = 10.0
"""A server that could not be reached is not retried for this many seconds, so that it does not slow down every run."""


class _Live:
    """A connection in one event loop."""

    def __init__(self, server: str) -> None:
        self.questions = Questions(server)
        self.client: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self.signs = Signs()
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
        self._holding: set[asyncio.Task[None]] = set()
        """Tasks of all connections, including those that are still being closed after a new one has replaced them."""
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
        # A name is called, so that of two tools with one name only the first can be.
        offered = {tool.name: tool for tool in reversed(tools)}
        named = [tool for tool in tools if offered[tool.name] is tool]
        if await _has_resources(client):
            named += [tool for name, tool in self._resource_tools.items() if name not in offered]
        return named

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
        """Closes the connections of all loops, and waits until this loop's are closed."""
        running = asyncio.get_running_loop()
        for loop, live in list(self._lives.items()):
            if loop is running:
                live.signs.gone.set()
            elif loop.is_running():
                loop.call_soon_threadsafe(live.signs.gone.set)
        self._lives.clear()
        if here := [task for task in list(self._holding) if task.get_loop() is running]:
            await asyncio.wait(here)

    async def _request(self, what: str, send: Callable[[Client], Awaitable[T]], *, repeatable: bool) -> T:
        was_refused = was_lost = False
        while True:
            live = self._live()
            # Shielded: a caller that gives up must not close the connection for others.
            client = await asyncio.shield(live.client)
            exchange = Exchange()
            before = EXCHANGE.set(exchange)
            try:
                return await send(client)
            # The client raises MCPError for a rejection, RuntimeError for a result without its declared form and, for an invalid response,
            # whatever its parsing raises: ValidationError, re.error of a pattern in a schema, RecursionError.
            except Exception as error:  # noqa: BLE001 - none is the lab's own fault, and each is raised again as a ToolError
                if isinstance(error, MCPError) and error.code == CONNECTION_CLOSED and not exchange.is_cut:
                    # Servers use this code too. Only a connection that has ended says so itself, perhaps a moment later.
                    with suppress(TimeoutError):
                        await asyncio.wait_for(live.signs.gone.wait(), ENDING_S)
                lost = live.signs.gone.is_set() or exchange.is_cut
                refused = exchange.session_refused and not was_refused
                if _timed_out(error):
                    # Slow, or stuck? The list is requested next, and a server that does not answer that is started again.
                    live.tools_until = 0.0
                    if what == "tools/list" and not live.questions.under_way:
                        live.signs.gone.set()
                if refused:
                    live.signs.gone.set()
                elif not (lost and repeatable and not was_lost):
                    noise = live.signs.noise
                    raise call_error(self.record, what, error, lost=lost, exchange=exchange, noise=noise) from None
                was_refused, was_lost = was_refused or refused, was_lost or not refused
            finally:
                EXCHANGE.reset(before)

    def _live(self) -> _Live:
        loop = asyncio.get_running_loop()
        live = self._lives.get(loop)
        if live is None or live.signs.gone.is_set():
            self._lives[loop] = live = _Live(self.record.name)
            task = asyncio.create_task(self._hold(live), name=f"mcp {self.record.name}")
            self._holding.add(task)
            task.add_done_callback(self._holding.discard)
        return live

    async def _hold(self, live: _Live) -> None:
        """Opens and closes the client in a task of its own."""
        exchange = Exchange()
        EXCHANGE.set(exchange)
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(self.record.timeout_s):
                    client = client_for(
                        self.record, live.signs, live.hear, self._builtin, None if self._builtin else live.questions
                    )
                    await stack.enter_async_context(client)
                live.client.set_result(client)
                hearing = asyncio.create_task(_hear_changes(client, live))
                try:
                    await live.signs.gone.wait()
                finally:
                    hearing.cancel()
                    await asyncio.wait([hearing])
        except Exception as error:  # noqa: BLE001 - it goes to whoever waits; that a lost connection closes badly is not news
            if not live.client.done():
                stderr_text = await asyncio.to_thread(live.signs.quoted)
                failure = connect_error(self.record, error, stderr_text=stderr_text, exchange=exchange)
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


async def _hear_changes(client: Client, live: _Live) -> None:
    """Listens for changes of the tools. Servers of earlier protocol versions report them without being asked."""
    offered = client.server_capabilities
    tools = bool(offered.tools and offered.tools.list_changed)
    resources = bool(offered.resources and offered.resources.list_changed)
    if client.protocol_version < "2026-07-28" or not (tools or resources):
        return
    # A server that does not report changes after all, or no longer, is asked again after TOOL_LIST_S, as any other.
    with suppress(MCPError, SubscriptionLost, TimeoutError):
        async with client.listen(tools_list_changed=tools, resources_list_changed=resources) as changes:
            async for _ in changes:
                live.tools = None


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
        if isinstance(error, MCPError) and error.code == CONNECTION_CLOSED:
            raise
        return not (isinstance(error, MCPError) and error.code == METHOD_NOT_FOUND)


async def _pages(ask: Callable[..., Awaitable[PaginatedResult]], what: str) -> list[Any]:
    page = await ask()
    entries, seen = list(getattr(page, what)), set[str]()
    while (cursor := page.next_cursor) and cursor not in seen:
        seen.add(cursor)
        if len(seen) == MOST_PAGES:
            raise RuntimeError(f"it does not end after {MOST_PAGES:,} pages")
        page = await ask(cursor=cursor)
        entries += getattr(page, what)
    return entries
