"""`switch_theme`: a client tool, executed by the client (notebook chat or served page), which returns its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from timestep_lab.runtime.mcp.sdk_tools import ToolInfo
from timestep_lab.runtime.stream_items import arguments_object

if TYPE_CHECKING:
    from agents import FunctionTool

    from timestep_lab.runtime.approvals import Rule

SWITCH_THEME = ToolInfo(
    server_id="",
    server="",
    name="switch_theme",
    title="Switch theme",
    description="Switch the colours of the chat between light and dark.",
    input_schema={
        "type": "object",
        "properties": {"theme": {"type": "string", "enum": ["light", "dark"], "description": "The theme to show."}},
        "required": ["theme"],
        "additionalProperties": False,
    },
)

CLIENT_TOOLS: Mapping[str, ToolInfo] = {SWITCH_THEME.name: SWITCH_THEME}
"""All client tools by name, which is also their id."""


def client_tool(info: ToolInfo, rule: Rule = "never") -> FunctionTool:
    """Returns the tool for an SDK agent. A call passes the arguments to the client and ends the turn (`StopAtTools`)."""
    from agents import FunctionTool

    from timestep_lab.runtime.approvals import reason_to_ask

    async def invoke(_context: object, arguments_json: str) -> str:
        return json.dumps({"status": "sent to the client", "arguments": arguments_object(arguments_json)})

    async def needs_approval(_context: object, arguments: dict[str, Any], _call_id: str) -> bool:
        return reason_to_ask(rule, arguments) is not None

    return FunctionTool(
        name=info.name,
        description=info.description,
        params_json_schema=dict(info.input_schema),
        on_invoke_tool=invoke,
        needs_approval=needs_approval if rule != "never" else False,
    )
