"""The lab's own MCP server: `get_weather`, `think`, and, where there is a lab, `file_search`.

It runs in this process without a socket; `serve.py` offers it to others.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from timestep_lab.model.errors import LabError, UsageError
from timestep_lab.model.ids import BUILTIN_MCP_SERVER, LOCAL_USER
from timestep_lab.model.records import McpServerRecord

if TYPE_CHECKING:
    from mcp.server import Server

    from timestep_lab.runtime.files import VectorStores
    from timestep_lab.runtime.settings import Settings
    from timestep_lab.runtime.tools.weather import Weather

NAME = "lab"
BUILTIN_TOOLS: tuple[str, ...] = ("get_weather", "think", "file_search")

_BORN = datetime(2026, 1, 1, tzinfo=UTC)
"""Fixed, so that the record of a paused run is the same in any process."""

Answer = str | Mapping[str, Any]
"""A text, or an object that goes out as JSON text and as structured content."""
Handler = Callable[[Mapping[str, Any]], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltinTool:
    """A tool and what carries it out. The handler gets arguments that fit `input_schema` as far as `check_arguments` looks."""

    name: str
    title: str
    description: str
    input_schema: dict[str, Any]
    handler: Handler
    output_schema: dict[str, Any] | None = None
    asks_the_world: bool = False


def builtin_record() -> McpServerRecord:
    """The built-in server as a record. It has neither command nor URL: it is this process."""
    return McpServerRecord(id=BUILTIN_MCP_SERVER, user_id=LOCAL_USER, name=NAME, created_at=_BORN)


def builtin_tools(
    settings: Settings | None = None, weather: Weather | None = None, stores: Callable[[], VectorStores] | None = None
) -> list[BuiltinTool]:
    """`weather` replaces what the settings say about where weather comes from; without `stores` there is no `file_search`."""
    from timestep_lab.runtime.tools import file_search, think
    from timestep_lab.runtime.tools import weather as weather_tool

    source = weather or weather_tool.Weather(weather_tool.WeatherSettings.of(settings))

    async def get_weather(arguments: Mapping[str, Any]) -> Answer:
        return await source.get(arguments["location"], arguments.get("unit", "fahrenheit"))

    async def take_thought(arguments: Mapping[str, Any]) -> Answer:
        return think.think(arguments["thought"])

    tools = [
        BuiltinTool(
            name="get_weather",
            title="Weather",
            description=weather_tool.DESCRIPTION,
            input_schema=weather_tool.INPUT_SCHEMA,
            output_schema=weather_tool.OUTPUT_SCHEMA,
            handler=get_weather,
            asks_the_world=True,
        ),
        BuiltinTool(
            name="think",
            title="Think",
            description=think.DESCRIPTION,
            input_schema=think.INPUT_SCHEMA,
            handler=take_thought,
        ),
    ]
    if stores is not None:
        ready = stores

        async def search(arguments: Mapping[str, Any]) -> Answer:
            limit, store = arguments.get("limit", 5), arguments.get("vector_store")
            return await file_search.file_search(ready(), arguments["query"], store, limit)

        tools.append(
            BuiltinTool(
                name="file_search",
                title="Search files",
                description=file_search.DESCRIPTION,
                input_schema=file_search.INPUT_SCHEMA,
                handler=search,
            )
        )
    return tools


def builtin_server(tools: list[BuiltinTool], *, for_others: bool = False) -> Server[Any]:
    """The server, not yet running.

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
        Tool,
        ToolAnnotations,
    )
    from mcp.types import TextContent as Text

    offered = [
        Tool(
            name=tool.name,
            title=tool.title,
            description=tool.description,
            input_schema=tool.input_schema,
            output_schema=tool.output_schema if for_others else None,
            annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=tool.asks_the_world),
        )
        for tool in tools
    ]
    by_name = {tool.name: tool for tool in tools}

    async def list_tools(
        _context: ServerRequestContext[Any], _params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return ListToolsResult(tools=offered)

    async def call_tool(_context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        tool = by_name.get(params.name)
        if tool is None:
            raise MCPError(INVALID_PARAMS, f"There is no tool {params.name!r}. There are: {', '.join(by_name)}.")
        try:
            answer = await tool.handler(check_arguments(params.arguments or {}, tool.input_schema))
        except LabError as error:
            return CallToolResult(content=[Text(type="text", text=str(error))], is_error=True)
        if isinstance(answer, str):
            return CallToolResult(content=[Text(type="text", text=answer)])
        text = Text(type="text", text=json.dumps(answer, ensure_ascii=False))
        return CallToolResult(content=[text], structured_content=dict(answer))

    return Server(NAME, version=version("timestep-lab"), on_list_tools=list_tools, on_call_tool=call_tool)


def check_arguments(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Names and JSON types, which is all that our own schemas ask for beside what the tools check. Raises `UsageError`."""
    known = schema["properties"]
    for name, value in arguments.items():
        if name not in known:
            raise UsageError(f"There is no argument {name!r}.", f"There are: {', '.join(known)}.", param=name)
        kind, said = (str, "text") if known[name]["type"] == "string" else (int, "a whole number")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UsageError(f"The argument {name!r} is {value!r}, which is not {said}.", f"Give {said}.", param=name)
    for name in schema["required"]:
        if name not in arguments:
            raise UsageError(f"The argument {name!r} is missing.", f"It is: {known[name]['description']}", param=name)
    return arguments
