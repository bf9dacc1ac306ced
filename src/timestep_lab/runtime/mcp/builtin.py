"""The lab's own MCP server: `get_weather` and `think`. It runs in this process without a socket; `serve.py` offers it to others."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from timestep_lab.runtime.tools import think
from timestep_lab.types.errors import LabError, UsageError
from timestep_lab.types.ids import BUILTIN_MCP_SERVER, LOCAL_USER
from timestep_lab.types.records import McpServerRecord

if TYPE_CHECKING:
    from mcp.server import Server

    from timestep_lab.runtime.settings import Settings
    from timestep_lab.runtime.tools.weather import Weather

NAME = "lab"
_BORN = datetime(2026, 1, 1, tzinfo=UTC)
"""Fixed, so that the record of a paused run is the same in any process."""
BUILTIN_TOOLS: tuple[str, ...] = ("get_weather", "think")


def builtin_record() -> McpServerRecord:
    """The built-in server as a record. It has neither command nor URL: it is this process."""
    return McpServerRecord(id=BUILTIN_MCP_SERVER, user_id=LOCAL_USER, name=NAME, created_at=_BORN)


def builtin_server(
    settings: Settings | None = None, weather: Weather | None = None, *, for_others: bool = False
) -> Server[Any]:
    """The server, not yet running. `weather` replaces what the settings say about where weather comes from.

    `for_others` announces the schemas of results. In this process they are left out: a client checks results against them, and
    the first check imports jsonschema, which takes 2 s with the format checkers that come with Jupyter.
    """
    from importlib.metadata import version

    from mcp.server import Server, ServerRequestContext
    from mcp.shared.exceptions import MCPError
    from mcp.types import (
        INVALID_PARAMS,
        CallToolRequestParams,
        CallToolResult,
        ListToolsResult,
        PaginatedRequestParams,
        TextContent,
        Tool,
        ToolAnnotations,
    )  # fmt: skip

    from timestep_lab.runtime.tools.weather import DESCRIPTION, INPUT_SCHEMA, OUTPUT_SCHEMA, Weather, WeatherSettings

    source = weather or Weather(WeatherSettings.of(settings))
    tools = [
        Tool(
            name="get_weather",
            title="Weather",
            description=DESCRIPTION,
            input_schema=INPUT_SCHEMA,
            output_schema=OUTPUT_SCHEMA if for_others else None,
            annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=True),
        ),
        Tool(
            name="think",
            title="Think",
            description=think.DESCRIPTION,
            input_schema={
                "type": "object",
                "properties": {"thought": {"type": "string", "description": "The thought."}},
                "required": ["thought"],
                "additionalProperties": False,
            },
            annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False),
        ),
    ]

    async def list_tools(
        _context: ServerRequestContext[Any], _params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return ListToolsResult(tools=tools)

    async def call_tool(_context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        try:
            if params.name == "get_weather":
                answer = await source.get(**_texts(params.arguments, "location", unit="fahrenheit"))
                text = json.dumps(answer, ensure_ascii=False)
                return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=answer)
            if params.name == "think":
                text = think.think(**_texts(params.arguments, "thought"))
                return CallToolResult(content=[TextContent(type="text", text=text)])
        except LabError as error:
            return CallToolResult(content=[TextContent(type="text", text=str(error))], is_error=True)
        raise MCPError(INVALID_PARAMS, f"There is no tool {params.name!r}. There are: {', '.join(BUILTIN_TOOLS)}.")

    return Server(NAME, version=version("timestep-lab"), on_list_tools=list_tools, on_call_tool=call_tool)


def _texts(arguments: dict[str, Any] | None, required: str, **optional: str) -> dict[str, str]:
    """The arguments, all of which are texts. Raises `UsageError` for one that is missing, unknown or no text."""
    given = arguments or {}
    unknown = sorted(set(given) - {required, *optional})
    if unknown:
        raise UsageError(f"There is no argument {unknown[0]!r}.", f"There are: {', '.join((required, *optional))}.")
    if required not in given:
        raise UsageError(f"The argument {required!r} is missing.", "Give it as a text.", param=required)
    for name, value in given.items():
        if not isinstance(value, str):
            raise UsageError(f"The argument {name!r} is {value!r}, which is no text.", "Give a text.", param=name)
    return {**optional, **given}
