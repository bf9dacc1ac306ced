"""`lab.mcp`: the user's own MCP servers, kept in the store, and what they offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from timestep_lab.runtime.mcp.builtin import NAME, builtin_record
from timestep_lab.runtime.mcp.server_records import check_record
from timestep_lab.types.errors import ConflictError, NotFoundError, ToolError, UsageError
from timestep_lab.types.ids import BUILTIN_MCP_SERVER, new_uuid
from timestep_lab.types.records import Json, McpServerRecord

if TYPE_CHECKING:
    from timestep_lab.runtime.mcp.toolbox import Toolbox
    from timestep_lab.runtime.mcp.toolset import ToolInfo
    from timestep_lab.store.store import Store

# In the class below, `list` is a method.
Tools: TypeAlias = "list[ToolInfo]"
Problems: TypeAlias = "list[ToolError]"


class McpCatalog:
    """`toolbox` gives the connections to ask; without it, each question opens and closes its own."""

    def __init__(self, store: Store, toolbox: Callable[[], Toolbox] | None = None) -> None:
        self._store = store
        self._toolbox = toolbox

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
                f"There is already an MCP server {name!r}.", f"Choose another name, or lab.mcp.remove({name!r}) first."
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


def _words(command: Sequence[str] | str | None) -> tuple[str, ...]:
    """A command line in one text is split as a shell would."""
    if isinstance(command, str):
        import shlex

        return tuple(shlex.split(command))
    return tuple(command or ())
