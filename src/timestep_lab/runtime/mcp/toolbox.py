"""The toolbox: connections to all MCP servers of one user, opened on first use, and the tools of each agent."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, TypeVar
from urllib.parse import urlsplit

from annotated_types import Interval, Len

from timestep_lab.model.codec import ErrorForm, Json, JsonObject, Moment
from timestep_lab.model.errors import ConflictError, NotFoundError, ToolError, UsageError
from timestep_lab.model.ids import BUILTIN_MCP_SERVER, new_uuid
from timestep_lab.model.records import AgentRecord, McpServerRecord
from timestep_lab.runtime.mcp.connection import SERVED_HERE, Connection
from timestep_lab.runtime.mcp.questions import message_item
from timestep_lab.runtime.mcp.sdk_tools import (
    Call,
    Keep,
    PromptInfo,
    ResourceContent,
    ResourceInfo,
    ToolInfo,
    ToolSet,
    as_text,
    function_tool,
    public_names,
    recorded_tool,
    rule_of,
)
from timestep_lab.runtime.mcp.server_records import check_record, redact, split_tool_id
from timestep_lab.runtime.tools import builtin
from timestep_lab.runtime.tools.builtin import CLIENT_TOOLS, client_tool
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from agents import FunctionTool
    from agents import Tool as SdkTool
    from mcp.types import Tool
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

    from timestep_lab.runtime.approvals import Rule
    from timestep_lab.runtime.files.vector_stores import VectorStores
    from timestep_lab.runtime.mcp.serve import FunctionServer
    from timestep_lab.runtime.settings import Settings
    from timestep_lab.store.store import Store

T = TypeVar("T")

# --- `lab.mcp`: the user's MCP servers in the store, and what they offer

_SERVED_AT = "http://127.0.0.1:"
"""Prefix of the URL of a process's own functions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpServerView:
    """A server as it can be shown: header names without their values."""

    id: str
    user_id: str
    name: str
    url: str | None
    command: Sequence[str]
    header_names: Sequence[str]
    allowed_tools: Sequence[str] | None
    require_approval: Mapping[str, Json]
    timeout_s: float
    protocol: str | None = None
    created_at: Moment

    @classmethod
    def of(cls, record: McpServerRecord) -> McpServerView:
        """Returns the view of a server."""
        values = {name: getattr(record, name) for name in cls.__slots__ if name != "header_names"}
        return cls(**values, header_names=sorted(record.headers))

    def record(self) -> McpServerRecord:
        """Returns the server, without header values, which are not sent."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "header_names"}
        few = None if self.allowed_tools is None else tuple(self.allowed_tools)
        headers = dict.fromkeys(self.header_names, "")
        return McpServerRecord(**{**values, "command": tuple(self.command), "allowed_tools": few, "headers": headers})


class _Shown:
    """Annotation marker for a server that is encoded as `McpServerView`."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema as schema

        view = handler.generate_schema(McpServerView)
        return schema.union_schema(
            [schema.is_instance_schema(McpServerRecord), schema.no_info_after_validator_function(McpServerView.record, view)],
            serialization=schema.plain_serializer_function_ser_schema(McpServerView.of, return_schema=view),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The tools of all servers that respond, and the errors of the others."""

    tools: list[ToolInfo]
    problems: list[Annotated[ToolError, ErrorForm()]]


ServerId = Annotated[str, Len(1, 200)]
Address = Annotated[str, Len(1, 8000)]
ShownServer = Annotated[McpServerRecord, _Shown()]
# In the class below, `list` is a method.
Servers: TypeAlias = "list[ShownServer]"
Tools: TypeAlias = "list[ToolInfo]"
Problems: TypeAlias = "list[ToolError]"
Resources: TypeAlias = "list[ResourceInfo]"
Contents: TypeAlias = "list[ResourceContent]"
Prompts: TypeAlias = "list[PromptInfo]"
Messages: TypeAlias = "list[dict[str, Json]]"


class McpCatalog:
    """`lab.mcp`. `toolbox` returns the open connections; without it, every call opens and closes its own."""

    def __init__(self, store: Store, toolbox: Callable[[], Toolbox] | None = None) -> None:
        self._store = store
        self._toolbox = toolbox
        self._served: dict[str, FunctionServer] = {}
        """Servers of this process's functions, by name."""

    def add(
        self,
        name: Annotated[str, Len(0, 200)],
        *,
        command: Sequence[str] | str | None = None,
        env: Mapping[str, str] | None = None,
        url: Annotated[str, Len(0, 2000)] | None = None,
        headers: Mapping[str, str] | None = None,
        allowed_tools: Sequence[str] | None = None,
        require_approval: str | JsonObject | None = None,
        timeout_s: Annotated[float, Interval(le=600)] = 30.0,
        protocol: Literal["2025-11-25", "2026-07-28"] | None = None,
    ) -> ShownServer:
        """Adds a server: `add("time", command=["mcp-server-time"])` or `add("docs", url="https://…/mcp", headers={…})`.

        Its tools are named `time.get_current_time`, or `time.*` for all. A server with resources also has the tools `docs.list_resources`
        and `docs.read_resource`. `require_approval` is a rule for all its tools, or maps tool names to rules (`runtime.approvals`).
        `protocol`: the protocol version, by default the newest that both sides support. Tools that ask the user during a call (FastMCP's
        `ctx.elicit`) require "2025-11-25" or older.

        Nothing is started; `await lab.mcp.test("time")` does that. Raises `SettingsError` for an invalid configuration, `ConflictError`
        if the name is taken.
        """
        name = name.strip()
        if name.casefold() == builtin.NAME or any(server.name.casefold() == name.casefold() for server in self.list()):
            raise ConflictError(
                f"There is already an MCP server {name!r}.",
                f"Choose another name, or lab.mcp.remove({name!r}) first.",
                command=f"Choose another name, or remove it first: timestep-lab mcp remove {name}",
            )
        if isinstance(require_approval, str):
            require_approval = {"*": require_approval}
        record = McpServerRecord(
            id=new_uuid(), user_id=self._store.user_id, name=name, command=_words(command), env=dict(env or {}), url=url,
            headers=dict(headers or {}), allowed_tools=None if allowed_tools is None else tuple(allowed_tools),
            require_approval=dict(require_approval or {}), timeout_s=timeout_s, protocol=protocol,
        )  # fmt: skip
        if self._store.quota:
            self._store.quota.take_tool_server()
        return self._store.mcp_servers.insert(check_record(record))

    def add_function(
        self,
        function: Callable[..., object] | FunctionTool,
        *,
        server: str = "functions",
        require_approval: Json = None,
    ) -> str:
        """Serves a Python function, or an Agents SDK function tool, to stored agents while this process lives; returns its tool id.

            def refund(order: str, amount: float) -> str: ...
            lab.agents.create(name="Billing", tools=[lab.mcp.add_function(refund, require_approval="always")])

        The tool's name, description and parameters are read from the function's name, docstring and annotations. It runs in a thread of
        this process, even if another process on this machine runs the agent. When this process ends, the tool is unavailable until the
        function is added again, here or in a new process; paused runs can then resume. `require_approval` is a rule as in
        `runtime.approvals`.

        Raises `UsageError` for an unsupported function, `ConflictError` when another process serves functions under the name `server`.
        """
        from timestep_lab.runtime.mcp.serve import FunctionServer, tool_of

        tool = tool_of(function)
        rule = require_approval if require_approval is not None else "always" if tool.needs_approval else None
        known = next((record for record in self.list() if record.name.casefold() == server.casefold()), None)
        if known is not None and not (known.url or "").startswith(_SERVED_AT):
            raise ConflictError(
                f"There is already an MCP server {server!r}.", "Choose another name: add_function(f, server=…)"
            )
        if server not in self._served:
            port = 0 if known is None else urlsplit(known.url or "").port or 0
            token = secrets.token_urlsafe(24) if known is None else known.headers["Authorization"].split()[1]
            self._served[server] = FunctionServer(port, token)
        served = self._served[server]
        served.tools[tool.name] = tool
        # The new revision changes the URL, so that cached tool lists are not used.
        url = f"{_SERVED_AT}{served.port}{SERVED_HERE}{secrets.token_hex(4)}"
        rules = {**(known.require_approval if known else {}), tool.name: rule or "never"}
        if known is None:
            headers = {"Authorization": f"Bearer {served.token}"}
            record = self.add(server, url=url, headers=headers, require_approval=rules, timeout_s=600.0)
        else:
            check_record(replace(known, url=url, require_approval=rules))
            record = self._store.mcp_servers.update(known.id, url=url, require_approval=rules)
        return f"{record.name}.{tool.name}"

    def close(self) -> None:
        """Stops serving the functions of this process."""
        while self._served:
            self._served.popitem()[1].close()

    def list(self) -> Servers:
        """Returns the user's servers, oldest first, without the built-in one."""
        return self._store.mcp_servers.find()

    def get(self, name: str) -> McpServerRecord:
        """Returns a server by name or id; `lab` is the built-in one. Raises `NotFoundError`."""
        if name in (builtin.NAME, BUILTIN_MCP_SERVER):
            return builtin.builtin_record()
        servers = self.list()
        for server in servers:
            if name == server.id or name.casefold() == server.name.casefold():
                return server
        known = ", ".join([builtin.NAME, *(server.name for server in servers)])
        raise NotFoundError(f"There is no MCP server {name!r}.", f"Known servers: {known}.")

    def set_headers(self, server: ServerId, headers: Mapping[str, str]) -> ShownServer:
        """Replaces the headers of a server, by name or id, such as an access token that has expired. Agents keep its tools.

        Raises `NotFoundError`, and `UsageError` for a server without a URL.
        """
        record = self.get(server)
        if record.url is None:
            raise UsageError(f"The MCP server {record.name!r} is not reached over HTTP.", "It has no headers to set.")
        check_record(replace(record, headers=dict(headers)))
        return self._store.mcp_servers.update(record.id, headers=dict(headers))

    def remove(self, name: str) -> None:
        """Removes a server. Agents that use its tools continue without them. Raises `NotFoundError`."""
        record = self.get(name)
        if record.id == BUILTIN_MCP_SERVER:
            raise UsageError("The built-in MCP server cannot be removed.", "Remove its tools from an agent instead.")
        self.forget(record.id)

    def forget(self, server_id: ServerId) -> None:
        """Removes a server by id. Agents that use its tools continue without them. Raises `NotFoundError`."""
        self._store.mcp_servers.delete(server_id)

    async def test(self, name: str) -> Tools:
        """Connects to a server and returns its tools. Raises `NotFoundError`, or `ToolError` with the server's problem."""
        record = self.get(name)
        catalogue = await self.survey()
        for problem in catalogue.problems:
            if problem.server == record.name:
                raise problem
        return [tool for tool in catalogue.tools if tool.server_id == record.id]

    async def tools(self) -> Tools:
        """Returns the tools of all servers that respond, the built-in one first; for the others see `problems()`."""
        return (await self.survey()).tools

    async def resources(self) -> Resources:
        """Returns the resources of all servers that respond; `await lab.mcp.read_resource(server, uri)` reads one. For the others see
        `problems()`."""
        async with self._connected() as toolbox:
            return await toolbox.resources()

    async def read_resource(self, server: ServerId, uri: Address) -> Contents:
        """Returns the contents of a resource. Raises `NotFoundError` for the server, `ToolError` when it rejects the request."""
        name = self.get(server).name
        async with self._connected() as toolbox:
            return await toolbox.read_resource(name, uri)

    async def prompts(self) -> Prompts:
        """Returns the prompts of all servers; `await lab.mcp.get_prompt(server, name, {…})` fills one in."""
        async with self._connected() as toolbox:
            return await toolbox.prompts()

    async def get_prompt(self, server: ServerId, name: ServerId, arguments: dict[str, str] | None = None) -> Messages:
        """Returns a filled-in prompt as messages for `lab.run`: `await lab.run(await lab.mcp.get_prompt("notes", "review", {…}))`.
        Raises `NotFoundError` for the server, `ToolError` when it rejects the request."""
        server_name = self.get(server).name
        async with self._connected() as toolbox:
            return await toolbox.get_prompt(server_name, name, arguments or {})

    async def problems(self) -> Problems:
        """Returns one error per server that does not respond."""
        return (await self.survey()).problems

    async def survey(self) -> Survey:
        """Returns the tools of all servers that respond, and the errors of the others."""
        async with self._connected() as toolbox:
            tools, problems = await toolbox.survey()
        return Survey(tools=tools, problems=problems)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Toolbox]:
        if self._toolbox is not None:
            yield self._toolbox()
            return
        toolbox = Toolbox(self._store.mcp_servers.find)
        try:
            yield toolbox
        finally:
            await toolbox.aclose()


def _words(command: Sequence[str] | str | None) -> tuple[str, ...]:
    """Splits a command line given as one string like a shell."""
    if isinstance(command, str):
        import shlex

        return tuple(shlex.split(command))
    return tuple(command or ())


Definitions = Mapping[str, Sequence[Mapping[str, "Json"]]]
"""Maps an MCP server's name to its tools as recorded in a trace (`GenAI.TOOL_DEFINITIONS`)."""
ToolUse = tuple[Connection, "Tool", ToolInfo]
KEPT_TOOL_SETS = 32
"""Agents of one user whose tools are kept for their next runs."""


class Toolbox:
    """Connections to MCP servers. `servers` are the user's, or a function that reads them on each use; the built-in one is always included.

    A record with the built-in server's id replaces it, to restrict its tools or to require approval. With `vector_stores`, the
    built-in server also has `file_search`.
    """

    def __init__(
        self,
        servers: Sequence[McpServerRecord] | Callable[[], Sequence[McpServerRecord]],
        settings: Settings | None = None,
        *,
        vector_stores: Callable[[], VectorStores] | None = None,
    ) -> None:
        self._read = servers if callable(servers) else None
        self._settings, self._vector_stores = settings, vector_stores
        self._connections: dict[str, Connection] = {}
        self._server_of: dict[str, str] = {}
        self._made: dict[str, tuple[AgentRecord, list[ToolUse], ToolSet]] = {}
        """Maps an agent's id to its latest tools and what they were made of."""
        self._set(() if callable(servers) else servers)

    @property
    def servers(self) -> tuple[McpServerRecord, ...]:
        """The servers in the order of tool names and the catalogue: the built-in one, then the user's, oldest first."""
        return tuple(connection.record for connection in self._connections.values())

    def with_servers(self, servers: Sequence[McpServerRecord]) -> Toolbox:
        """Returns a separate toolbox for other servers, for a run that resumes with its original servers. The caller closes it."""
        return Toolbox(servers, self._settings, vector_stores=self._vector_stores)

    async def tools_for(
        self, agent: AgentRecord, servers: Sequence[McpServerRecord] | None = None, recorded: Definitions | None = None
    ) -> ToolSet:
        """Returns the tools in `agent.tool_ids`, with the approval rules of the agent and of its servers.

        `servers`: the user's, if just read. `recorded` maps a server's name to its tools as recorded in a trace; such a server is connected
        only when one of them is called. Unavailable tools are reported in `.missing`, with one error per server or tool; nothing is raised.
        The same object is returned as long as neither the agent nor its servers' tools have changed.
        """
        await self._refresh(servers)
        missing: list[ToolError] = []
        wanted: dict[str, list[str]] = {}
        client_tools: list[str] = []
        for tool_id in agent.tool_ids:
            server_id, name = self._split(tool_id)
            if server_id:
                wanted.setdefault(server_id, []).append(name)
            elif name in CLIENT_TOOLS:
                client_tools.append(name)
            else:
                missing.append(_unknown(tool_id, agent))
        # In the toolbox's order, independent of tool_ids: names and RunState depend on nothing else.
        connections = [c for server_id, c in self._connections.items() if server_id in wanted]
        uses: list[ToolUse] = []
        for picked in await asyncio.gather(
            *(
                self._pick(c, wanted[c.record.id], missing, recorded=(recorded or {}).get(c.record.name))
                for c in connections
            )
        ):
            uses += picked
        known = self._made.get(agent.id)
        if known and not missing and known[0] == agent and _same(known[1], uses):
            return known[2]
        tool_set = self._tool_set(agent, uses, client_tools, missing)
        if not missing and recorded is None:
            if len(self._made) >= KEPT_TOOL_SETS:
                self._made.clear()
            self._made[agent.id] = (agent, uses, tool_set)
        return tool_set

    def _tool_set(
        self, agent: AgentRecord, uses: list[ToolUse], client_tools: list[str], missing: list[ToolError]
    ) -> ToolSet:
        texts = agent.tool_descriptions
        uses = [(c, tool, replace(info, description=texts.get(info.id, info.description))) for c, tool, info in uses]
        infos = [info for _, _, info in uses]
        names = public_names(infos, client_tools)
        rules = [rule_of(agent, connection.record, info) for connection, _, info in uses]
        tools: list[SdkTool] = [
            function_tool(
                info, name, rule, _caller(connection, tool), partial(redact, record=connection.record), self._keep
            )
            for (connection, tool, info), name, rule in zip(uses, names, rules, strict=True)
        ]
        default: Rule = agent.approvals.get("*", "never")
        client_rules = [agent.approvals.get(name, default) for name in client_tools]
        tools += [client_tool(CLIENT_TOOLS[name], rule) for name, rule in zip(client_tools, client_rules, strict=True)]
        self._server_of.update({name: info.server for name, info in zip(names, infos, strict=True)})
        return ToolSet(
            tools=tools,
            missing=missing,
            infos={**dict(zip(names, infos, strict=True)), **{name: CLIENT_TOOLS[name] for name in client_tools}},
            rules=dict(zip([*names, *client_tools], [*rules, *client_rules], strict=True)),
        )

    async def catalogue(self, *, retry_now: bool = True) -> list[ToolInfo]:
        """Returns the tools of all servers that respond; `survey` also returns the errors of the others."""
        tools, _ = await self.survey(retry_now=retry_now)
        return tools

    async def survey(self, *, retry_now: bool = True) -> tuple[list[ToolInfo], list[ToolError]]:
        """Returns the catalogue, and one error per server that does not respond."""
        await self._refresh()
        missing: list[ToolError] = []
        picked = await asyncio.gather(
            *(self._pick(c, ["*"], missing, retry_now=retry_now) for c in self._connections.values())
        )
        return [info for uses in picked for _, _, info in uses], missing

    async def resources(self) -> list[ResourceInfo]:
        """Returns the resources of all servers that respond."""
        listings = await self._of_each(Connection.resources)
        return [ResourceInfo.of(connection.record.name, one) for connection, ones in listings for one in ones]

    async def read_resource(self, server: str, uri: str) -> list[ResourceContent]:
        """Reads a resource. Raises `ToolError`."""
        result = await (await self._named(server)).read_resource(uri)
        return [ResourceContent.of(one) for one in result.contents]

    async def prompts(self) -> list[PromptInfo]:
        """Returns the prompts of all servers that respond."""
        listings = await self._of_each(Connection.prompts)
        return [PromptInfo.of(connection.record.name, one) for connection, ones in listings for one in ones]

    async def get_prompt(self, server: str, name: str, arguments: dict[str, str]) -> list[dict[str, Json]]:
        """Fills in a prompt. Raises `ToolError`."""
        result = await (await self._named(server)).get_prompt(name, arguments)
        return [message_item(message) for message in result.messages]

    async def _of_each(self, ask: Callable[[Connection], Awaitable[list[T]]]) -> list[tuple[Connection, list[T]]]:
        """Returns the listing of each server that responds."""
        await self._refresh()
        connections = list(self._connections.values())
        answers = await asyncio.gather(*map(ask, connections), return_exceptions=True)
        for one in answers:
            if isinstance(one, BaseException) and not isinstance(one, ToolError):
                raise one
        pairs = zip(connections, answers, strict=True)
        return [(connection, one) for connection, one in pairs if not isinstance(one, BaseException)]

    async def _named(self, server: str) -> Connection:
        await self._refresh()
        return next(c for c in self._connections.values() if c.record.name == server)

    async def call(self, tool_id: str, arguments: dict[str, Json]) -> str:
        """Calls a tool directly, without approval, and returns its text (images as JSON).

        Raises `NotFoundError` for an unknown tool, `ToolError` when its server cannot be reached or the tool reports an error.
        """
        await self._refresh()
        server_id, name = self._split(tool_id)
        if not server_id:
            raise NotFoundError(f"There is no tool {tool_id!r}.", "See the ids of all tools: await lab.mcp.tools()")
        connection = self._connections[server_id]
        tools = {tool.name: tool for tool in await connection.tools(retry_now=True)}
        if name not in tools:
            raise NotFoundError(*_not_offered(connection.record, name, tools))
        result = await connection.call(tools[name], arguments)
        text = as_text(result)
        if result.is_error:
            message = redact(f"{name} failed: {text}", connection.record)
            raise ToolError(message, server=connection.record.name, tool=name)
        return text

    def server_of(self, tool_name: str) -> str | None:
        """Returns the server's name for a tool name last shown to a model; for one agent use `ToolSet.server_of`."""
        return self._server_of.get(tool_name)

    async def aclose(self) -> None:
        """Closes all connections. The toolbox can be used again; it reconnects."""
        await asyncio.gather(*(connection.aclose() for connection in self._connections.values()))

    # -- servers

    async def _refresh(self, servers: Sequence[McpServerRecord] | None = None) -> None:
        if self._read is not None:
            for connection in self._set(await in_thread(self._read) if servers is None else servers):
                await connection.aclose()

    def _set(self, records: Sequence[McpServerRecord]) -> list[Connection]:
        """Replaces the servers. Connections whose record is unchanged are kept; returns the others."""
        ordered = sorted(records, key=lambda r: (r.id != BUILTIN_MCP_SERVER, r.created_at, r.id))
        if not ordered or ordered[0].id != BUILTIN_MCP_SERVER:
            ordered.insert(0, builtin.builtin_record())
        old = self._connections
        self._connections = {
            record.id: old[record.id] if record.id in old and old[record.id].record == record else self._connect(record)
            for record in ordered
        }
        current_ids = set(map(id, self._connections.values()))
        return [connection for connection in old.values() if id(connection) not in current_ids]

    def _connect(self, record: McpServerRecord) -> Connection:
        if record.id != BUILTIN_MCP_SERVER:
            return Connection(record)
        tools = builtin.builtin_tools(self._settings, stores=self._vector_stores)
        return Connection(record, builtin.builtin_server(tools))

    @property
    def _keep(self) -> Keep | None:
        stores = self._vector_stores
        return None if stores is None else lambda name, content: stores().files.add_bytes(name, content)

    # -- tools

    def _split(self, tool_id: str) -> tuple[str, str]:
        """Splits `<server id or name>.<tool>` into server id and tool; the id is empty for client tools and unknown servers."""
        parts = split_tool_id(tool_id, self.servers)
        return (parts[0].id, parts[1]) if parts else ("", tool_id)

    async def _pick(
        self, connection: Connection, names: Sequence[str], missing: list[ToolError], *, retry_now: bool = False,
        recorded: Sequence[Mapping[str, Json]] | None = None,
    ) -> list[ToolUse]:  # fmt: skip
        """Returns the tools in `names` (`*`: all) in the server's order; adds unavailable ones to `missing`."""
        record = connection.record
        known = [recorded_tool(definition) for definition in recorded or ()]
        try:
            all_known = known and {*names} - {"*"} <= {tool.name for tool in known}
            tools = known if all_known else await connection.tools(retry_now=retry_now)
        except ToolError as error:
            missing.append(error)
            return []
        offered = [tool.name for tool in tools]
        for name in names:
            if name != "*" and name not in offered:
                missing.append(ToolError(*_not_offered(record, name, offered), server=record.name, tool=name))
        return [(connection, tool, ToolInfo.of(record, tool)) for tool in tools if "*" in names or tool.name in names]


def _same(some: Sequence[ToolUse], others: Sequence[ToolUse]) -> bool:
    """Returns whether these are the same tools of the same connections."""
    return len(some) == len(others) and all(a[0] is b[0] and a[1] is b[1] for a, b in zip(some, others, strict=True))


def _not_offered(server: McpServerRecord, name: str, offered: Iterable[str]) -> tuple[str, str]:
    """Returns a message and the next step."""
    return f"The MCP server {server.name!r} has no usable tool {name!r}.", f"Its tools: {', '.join(offered) or 'none'}."


def _caller(connection: Connection, tool: Tool) -> Call:
    return lambda arguments: connection.call(tool, arguments)


def _unknown(tool_id: str, agent: AgentRecord) -> ToolError:
    server, dot, name = tool_id.partition(".")
    if dot:
        message = f"Agent {agent.name!r} uses the tool {name!r} of an MCP server that does not exist ({server})."
        return ToolError(message, "Add the server again, or remove the tool from the agent.", server=server, tool=name)
    known = ", ".join(CLIENT_TOOLS)
    return ToolError(
        f"Agent {agent.name!r} uses an unknown tool {tool_id!r}.", f"Client tools are: {known}.", tool=tool_id
    )
