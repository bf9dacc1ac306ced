"""`lab.mcp`: the user's own MCP servers, kept in the store, and what they offer."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from timestep_lab.model.awaiting import says_await
from timestep_lab.model.errors import ConflictError, NotFoundError, ToolError, UsageError
from timestep_lab.model.ids import BUILTIN_MCP_SERVER, new_uuid
from timestep_lab.model.records import Json, McpServerRecord
from timestep_lab.runtime.mcp.builtin import NAME, builtin_record
from timestep_lab.runtime.mcp.server_records import check_record

if TYPE_CHECKING:
    from agents import FunctionTool

    from timestep_lab.runtime.mcp.serve import FunctionServer
    from timestep_lab.runtime.mcp.toolbox import Toolbox
    from timestep_lab.runtime.mcp.toolset import ToolInfo
    from timestep_lab.store.store import Store

_SERVED_AT = "http://127.0.0.1:"
"""How the address of a process's own functions begins."""

# In the class below, `list` is a method.
Tools: TypeAlias = "list[ToolInfo]"
Problems: TypeAlias = "list[ToolError]"


@says_await("lab.mcp")
class McpCatalog:
    """`toolbox` gives the connections to ask; without it, each question opens and closes its own."""

    def __init__(self, store: Store, toolbox: Callable[[], Toolbox] | None = None) -> None:
        self._store = store
        self._toolbox = toolbox
        self._served: dict[str, FunctionServer] = {}
        """Functions of this process, by the name of their server."""

    def add(
        self,
        name: str,
        *,
        command: Sequence[str] | str | None = None,
        env: Mapping[str, str] | None = None,
        url: str | None = None,
        headers: Mapping[str, str] | None = None,
        allowed_tools: Sequence[str] | None = None,
        require_approval: Mapping[str, Json] | str | None = None,
        timeout_s: float = 30.0,
    ) -> McpServerRecord:
        """Keep a server: `add("time", command=["mcp-server-time"])` or `add("docs", url="https://…/mcp", headers={…})`.

        Its tools are then called `time.get_current_time`, or `time.*` for all. `require_approval` is a rule for all its tools, or
        tool name to rule (`tools.approval_rules`). Nothing is started: `await lab.mcp.test("time")` does that.
        Raises `SettingsError` for what cannot work, `ConflictError` when the name is taken.
        """
        name = name.strip()
        if name.casefold() == NAME or any(server.name.casefold() == name.casefold() for server in self.list()):
            raise ConflictError(
                f"There is already an MCP server {name!r}.",
                f"Choose another name, or lab.mcp.remove({name!r}) first.",
                command=f"Choose another name, or remove it first: timestep-lab mcp remove {name}",
            )
        if isinstance(require_approval, str):
            require_approval = {"*": require_approval}
        record = McpServerRecord(
            id=new_uuid(),
            user_id=self._store.user_id,
            name=name,
            command=_words(command),
            env=dict(env or {}),
            url=url,
            headers=dict(headers or {}),
            allowed_tools=None if allowed_tools is None else tuple(allowed_tools),
            require_approval=dict(require_approval or {}),
            timeout_s=timeout_s,
        )
        return self._store.mcp_servers.insert(check_record(record))

    def add_function(
        self,
        function: Callable[..., Any] | FunctionTool,
        *,
        server: str = "functions",
        require_approval: Json = None,
    ) -> str:
        """Serve a Python function, or an Agents SDK function tool, to stored agents while this process lives; the tool's name for them.

            def refund(order: str, amount: float) -> str: ...
            lab.agents.create(name="Billing", tools=[lab.mcp.add_function(refund, require_approval="always")])

        What it is called, says and takes is read from its name, docstring and annotations. It runs here, in a thread, also when another
        process of this machine runs the agent. When this process is gone, the agents say so; adding the function again, here or in a new
        process, serves it as before, for paused runs too. `require_approval` is a rule as in `tools.approval_rules`.

        Raises `UsageError` for what is no such function, `ConflictError` when another process serves under the name `server`.
        """
        from timestep_lab.runtime.mcp.serve import FunctionServer

        tool = _function_tool(function)
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
        # The number makes it another address: a tool list kept of the old one is asked for anew.
        url = f"{_SERVED_AT}{served.port}/mcp?revision={secrets.token_hex(4)}"
        rules = {**(known.require_approval if known else {}), tool.name: rule or "never"}
        if known is None:
            headers = {"Authorization": f"Bearer {served.token}"}
            record = self.add(server, url=url, headers=headers, require_approval=rules, timeout_s=600.0)
        else:
            check_record(replace(known, url=url, require_approval=rules))
            record = self._store.mcp_servers.update(known.id, url=url, require_approval=rules)
        return f"{record.name}.{tool.name}"

    def close(self) -> None:
        """Serve the functions of this process no longer."""
        while self._served:
            self._served.popitem()[1].close()

    def list(self) -> list[McpServerRecord]:
        """The user's servers, oldest first; the built-in one is not among them."""
        return self._store.mcp_servers.find()

    def get(self, name: str) -> McpServerRecord:
        """By name or id; `lab` is the built-in one. Raises `NotFoundError`."""
        if name in (NAME, BUILTIN_MCP_SERVER):
            return builtin_record()
        servers = self.list()
        for server in servers:
            if name == server.id or name.casefold() == server.name.casefold():
                return server
        known = ", ".join([NAME, *(server.name for server in servers)])
        raise NotFoundError(f"There is no MCP server {name!r}.", f"There are: {known}.")

    def remove(self, name: str) -> None:
        """Forget a server. Agents that name its tools go on without them. Raises `NotFoundError`."""
        record = self.get(name)
        if record.id == BUILTIN_MCP_SERVER:
            raise UsageError("The built-in MCP server stays.", "Take its tools from an agent instead.")
        self._store.mcp_servers.delete(record.id)

    async def test(self, name: str) -> Tools:
        """Connect to a server now, and list what it offers. Raises `NotFoundError`, or `ToolError` with what is wrong."""
        record = self.get(name)
        tools, problems = await self._survey()
        for problem in problems:
            if problem.server == record.name:
                raise problem
        return [tool for tool in tools if tool.server_id == record.id]

    async def tools(self) -> Tools:
        """Every tool of every server that answers, the built-in one first; `problems()` says what is wrong with the others."""
        return (await self._survey())[0]

    async def problems(self) -> Problems:
        """One error for each server that does not answer now."""
        return (await self._survey())[1]

    async def _survey(self) -> tuple[Tools, Problems]:
        if self._toolbox is not None:
            return await self._toolbox().survey()
        from timestep_lab.runtime.mcp.toolbox import Toolbox

        toolbox = Toolbox(self._store.mcp_servers.find)
        try:
            return await toolbox.survey()
        finally:
            await toolbox.aclose()


def _function_tool(function: Any) -> FunctionTool:
    from agents import FunctionTool, function_tool

    if isinstance(function, FunctionTool):
        if callable(function.needs_approval):
            raise UsageError(
                f"{function.name} decides by a function of its own what needs approval, which no other process can ask.",
                'Give a rule: require_approval="always", or {"argument": …, "contains": …}.',
            )
        return function
    if not callable(function) or not hasattr(function, "__name__") or function.__name__ == "<lambda>":
        raise UsageError(
            f"{function!r} is no function with a name.", "Give a function made with def, or a FunctionTool."
        )
    made: FunctionTool = function_tool(function, strict_mode=False, failure_error_function=None)
    return made


def _words(command: Sequence[str] | str | None) -> tuple[str, ...]:
    """A command line in one text is split as a shell would."""
    if isinstance(command, str):
        import shlex

        return tuple(shlex.split(command))
    return tuple(command or ())
