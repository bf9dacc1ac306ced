"""What the toolbox hands out: a tool as the catalogue shows it, and the tools of one agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from timestep_lab.model.errors import ToolError
from timestep_lab.model.records import Json
from timestep_lab.runtime.tools.approval_rules import Rule, reason_to_ask

if TYPE_CHECKING:
    from agents import Tool
    from agents.mcp import MCPServer


class FailedOutput(str):
    """What the model reads when a tool failed: `{"error": "…"}`. Its type tells the failure from an answer that looks like it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolInfo:
    """One tool of one server, as the server describes it."""

    server_id: str
    """Empty for a client tool."""
    server: str
    """The server's name; empty for a client tool."""
    name: str
    title: str = ""
    description: str = ""
    input_schema: Mapping[str, Json] = field(default_factory=dict)
    """JSON Schema of the arguments."""
    output_schema: Mapping[str, Json] | None = None
    """JSON Schema of the structured result; None when the server does not say."""
    read_only: bool = False
    """The server says that calling it changes nothing."""

    @property
    def id(self) -> str:
        """What stands in `AgentRecord.tool_ids`: `<server id>.<tool>`, or a client tool's bare name."""
        return f"{self.server_id}.{self.name}" if self.server_id else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSet:
    """The tools of one agent, ready for `agents.Agent(tools=toolset.tools, mcp_servers=toolset.mcp_servers)`.

    MCP tools come as `FunctionTool`s: only those see the arguments of a call when they decide whether it needs approval, and
    a paused run finds them again by name alone. So `mcp_servers` is empty; it is here for servers that the SDK must hold itself.
    """

    mcp_servers: list[MCPServer] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    missing: list[ToolError] = field(default_factory=list)
    """One error for each tool or server that the agent names and that cannot be had now. The run goes on without it."""
    infos: Mapping[str, ToolInfo] = field(default_factory=dict)
    """The name that the model sees to what it stands for."""
    rules: Mapping[str, Rule] = field(default_factory=dict)
    """The name that the model sees to its approval rule."""

    def server_of(self, tool_name: str) -> str | None:
        """Name of the MCP server behind the name that the model sees; None for a client tool or an unknown name."""
        info = self.infos.get(tool_name)
        return info.server or None if info else None

    def reason_to_ask(self, tool_name: str, arguments: Mapping[str, Any] | str | None) -> str:
        """Why this call waits for a person, e.g. `location contains "berkeley"`; empty when it does not."""
        return reason_to_ask(self.rules.get(tool_name, "never"), arguments) or ""
