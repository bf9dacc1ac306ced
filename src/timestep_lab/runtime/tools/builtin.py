"""The lab's built-in MCP server: `get_weather`, `think`, and, if there is a lab, `file_search`.

It runs in this process without a socket; `mcp/serve.py` serves it to other programs.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import LabError, UsageError
from timestep_lab.model.ids import BUILTIN_MCP_SERVER, LOCAL_USER
from timestep_lab.model.records import McpServerRecord
from timestep_lab.runtime.mcp.sdk_tools import ToolInfo
from timestep_lab.runtime.stream_items import arguments_object
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from agents import FunctionTool
    from mcp.server import Server

    from timestep_lab.runtime.approvals import Rule
    from timestep_lab.runtime.files.vector_stores import VectorStore, VectorStores
    from timestep_lab.runtime.settings import Settings
    from timestep_lab.runtime.tools.weather import Weather


T = TypeVar("T")
NAME = "lab"
BUILTIN_TOOLS: tuple[str, ...] = ("get_weather", "think", "file_search")

_BORN = datetime(2026, 1, 1, tzinfo=UTC)
"""Fixed, so that the record of a paused run is identical in every process."""

Answer = str | Mapping[str, object]
"""Text, or an object that is returned as JSON text and as structured content."""
Handler = Callable[[Mapping[str, Any]], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltinTool:
    """A tool and its handler. The handler receives arguments that `check_arguments` has validated against `input_schema`."""

    name: str
    title: str
    description: str
    input_schema: dict[str, Json]
    handler: Handler
    output_schema: dict[str, Json] | None = None
    asks_the_world: bool = False


# --- think: a tool with which a model writes down a thought

THINK_DESCRIPTION = (
    "Think about something before acting: what was asked, what is known, which tool or agent fits. "
    "It obtains no information and changes nothing; it only writes the thought down."
)

THINK_INPUT: dict[str, Json] = {
    "type": "object",
    "properties": {"thought": {"type": "string", "description": "The thought, as a text."}},
    "required": ["thought"],
    "additionalProperties": False,
}


def think(thought: str) -> str:
    """Records a thought. Raises `UsageError` for an empty one."""
    if not thought.strip():
        raise UsageError("The thought is empty.", "Give thought as text.", param="thought")
    return "Noted."


# --- file_search: passages from the user's vector stores

MAX_RESULTS = 20

SEARCH_DESCRIPTION = (
    "Search the user's files by meaning and words. Gives passages with the file each comes from; "
    "name the files that an answer rests on."
)
SEARCH_INPUT: dict[str, Json] = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "description": "What to look for, in a few words or a question."},
        "vector_store": {
            "type": "string",
            "description": "Name or id of one vector store; without it, all are searched.",
        },
        "limit": {"type": "integer", "minimum": 1, "maximum": MAX_RESULTS, "default": 5},
    },
    "required": ["query"],
    "additionalProperties": False,
}


class Passage(TypedDict):
    """A result of `file_search`."""

    file: str
    file_id: str
    vector_store: str
    passage: int
    score: float
    text: str


async def file_search(stores: VectorStores, query: str, vector_store: str | None, limit: int) -> Mapping[str, object]:
    """Returns `{"kind": "file_search", "query", "results": [{"file", "file_id", "vector_store", "passage", "score", "text"}]}`, best first.

    Raises `UsageError` for a limit out of range or if there is nothing to search, `NotFoundError` for an unknown store, and the
    errors of embedding the query.
    """
    if not 1 <= limit <= MAX_RESULTS:
        raise UsageError(f"Invalid limit {limit}.", f"Use 1 to {MAX_RESULTS}.", param="limit")
    searched: list[VectorStore]
    if vector_store:
        searched = [await in_thread(stores.get, vector_store)]
    else:
        searched = await in_thread(stores.list)
    if not searched:
        raise UsageError(
            "There is no vector store to search.", "Create one: await lab.vector_stores.create(name, files=[…])"
        )
    results: list[Passage] = [
        {
            "file": hit.filename,
            "file_id": hit.file_id,
            "vector_store": store.name,
            "passage": hit.position,
            "score": round(hit.score, 3),
            "text": hit.text,
        }
        for store in searched
        for hit in await store.search(query, limit)
    ]
    results.sort(key=lambda result: -result["score"])
    return {"kind": "file_search", "query": query, "results": results[:limit]}


# --- The server


def builtin_record() -> McpServerRecord:
    """The record of the built-in server. It has neither command nor URL, because it is this process."""
    return McpServerRecord(id=BUILTIN_MCP_SERVER, user_id=LOCAL_USER, name=NAME, created_at=_BORN)


def builtin_tools(
    settings: Settings | None = None, weather: Weather | None = None, stores: Callable[[], VectorStores] | None = None
) -> list[BuiltinTool]:
    """Returns the tools. `weather` overrides the weather settings; without `stores` there is no `file_search`."""
    from timestep_lab.runtime.tools import weather as weather_tool

    source = weather or weather_tool.Weather(weather_tool.WeatherSettings.of(settings))

    async def get_weather(arguments: Mapping[str, Any]) -> Answer:
        return await source.get(arguments["location"], arguments.get("unit", "fahrenheit"))

    async def take_thought(arguments: Mapping[str, Any]) -> Answer:
        return think(arguments["thought"])

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
            description=THINK_DESCRIPTION,
            input_schema=THINK_INPUT,
            handler=take_thought,
        ),
    ]
    if stores is not None:
        ready = stores

        async def search(arguments: Mapping[str, Any]) -> Answer:
            limit, store = arguments.get("limit", 5), arguments.get("vector_store")
            return await file_search(ready(), arguments["query"], store, limit)

        tools.append(
            BuiltinTool(
                name="file_search",
                title="Search files",
                description=SEARCH_DESCRIPTION,
                input_schema=SEARCH_INPUT,
                handler=search,
            )
        )
    return tools


def builtin_server(tools: list[BuiltinTool], *, for_others: bool = False) -> Server:
    """Returns the server, not yet running.

    `for_others` announces output schemas. In this process they are omitted: a client validates results against them, and
    the first validation imports jsonschema, which takes 2 s with the format checkers that come with Jupyter.
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

    async def list_tools(_context: ServerRequestContext, _params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=offered)

    async def call_tool(_context: ServerRequestContext, params: CallToolRequestParams) -> CallToolResult:
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


def check_arguments(arguments: Mapping[str, T], schema: Mapping[str, Any]) -> Mapping[str, T]:
    """Checks names, JSON types and limits of arguments; the tools check the rest. Raises `UsageError`."""
    known = schema["properties"]
    for name, value in arguments.items():
        if name not in known:
            raise UsageError(f"There is no argument {name!r}.", f"There are: {', '.join(known)}.", param=name)
        kind, expected = (str, "text") if known[name]["type"] == "string" else (int, "a whole number")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UsageError(f"The argument {name!r} is {value!r}, not {expected}.", f"Give {expected}.", param=name)
        if isinstance(value, int) and not known[name]["minimum"] <= value <= known[name]["maximum"]:
            limits = f"{known[name]['minimum']} to {known[name]['maximum']:,}"
            raise UsageError(f"Invalid {name} {value}.", f"Use {limits}.", param=name)
    for name in schema["required"]:
        if name not in arguments:
            raise UsageError(
                f"The argument {name!r} is missing.", f"Description: {known[name]['description']}", param=name
            )
    return arguments


# --- `switch_theme`: a client tool, executed by the client (notebook chat or served page), which returns its result


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

    async def needs_approval(_context: object, arguments: dict[str, Json], _call_id: str) -> bool:
        return reason_to_ask(rule, arguments) is not None

    return FunctionTool(
        name=info.name,
        description=info.description,
        params_json_schema=dict(info.input_schema),
        on_invoke_tool=invoke,
        needs_approval=needs_approval if rule != "never" else False,
    )
