"""`lab.mcp`: a user's MCP servers and their tools, as operations. A module of its own because the MCP SDK takes seconds to import."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Len

from timestep_lab.model.awaiting import says_await
from timestep_lab.model.codec import JsonObject
from timestep_lab.model.display import redact_url
from timestep_lab.runtime.mcp.toolbox import McpCatalog
from timestep_lab.service import operation as op

ON_ITS_MACHINE = "A served lab does not start commands. Pass url=…, or add the server on the lab's own machine: timestep-lab mcp add."


@says_await("lab.mcp")
@op.noun("mcp")
class Mcp(McpCatalog):
    """MCP servers: `.add(name, command=[…])`, `.add(name, url=…)`, `.add_function(f)`, `.list()`, `.remove(name)`, `await .tools()`."""

    list = op.get("/mcp")(McpCatalog.list)
    add = op.post("/mcp", status=201, local={"command": ON_ITS_MACHINE, "env": ON_ITS_MACHINE})(McpCatalog.add)
    tools = op.get("/mcp/tools")(McpCatalog.tools)
    survey = op.get("/mcp/survey")(McpCatalog.survey)
    resources = op.get("/mcp/resources")(McpCatalog.resources)
    read_resource = op.get("/mcp/resource")(McpCatalog.read_resource)
    prompts = op.get("/mcp/prompts")(McpCatalog.prompts)
    get_prompt = op.post("/mcp/prompts")(McpCatalog.get_prompt)
    set_headers = op.put("/mcp/{server}/headers")(McpCatalog.set_headers)
    forget = op.delete("/mcp/{server_id}")(McpCatalog.forget)

    @op.post("/mcp/call")
    async def call(self, tool_id: Annotated[str, Len(1, 500)], arguments: JsonObject | None = None) -> str:
        """Calls a tool directly, without approval, and returns its text (images as JSON): `await lab.mcp.call("time.now", {…})`. `tool_id`:
        `server.tool`, with the server's name or id.

        Raises `NotFoundError` for an unknown tool, `ToolError` when its server cannot be reached or it reports an error.
        """
        async with self._connected() as toolbox:
            return await toolbox.call(tool_id, dict(arguments or {}))

    def __repr__(self) -> str:
        """Lists the servers without connecting to them; `await lab.mcp.survey()` checks whether they answer."""
        listed = [
            f"  {server.name}  {redact_url(server.url) if server.url else ' '.join(server.command)}"
            for server in self.list()
        ]
        return "\n".join(["MCP servers:", "  lab  (built in)", *listed])
