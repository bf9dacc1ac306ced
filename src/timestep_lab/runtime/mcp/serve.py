"""MCP servers of this process: the built-in one over stdio, as started by MCP clients, and over streamable HTTP at `/mcp`;
and functions of this process, over HTTP on this machine."""

from __future__ import annotations

import hmac
import json
import socket
import threading
from typing import TYPE_CHECKING

from timestep_lab.model.errors import ConflictError, UsageError
from timestep_lab.runtime.settings import Settings
from timestep_lab.runtime.tools.builtin import builtin_server, builtin_tools

if TYPE_CHECKING:
    from agents import FunctionTool
    from mcp.server import Server
    from starlette.types import ASGIApp, Receive, Scope, Send


async def serve_stdio(settings: Settings | None = None) -> None:
    """Serves MCP on standard input and output until the input ends."""
    from mcp.server.stdio import stdio_server

    server = builtin_server(builtin_tools(settings or Settings.load()), for_others=True)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


async def serve_http(host: str = "127.0.0.1", port: int = 8766, settings: Settings | None = None) -> None:
    """Serves `http://host:port/mcp` until cancelled or signalled. Port 0 picks a free one; the address is printed to standard error.

    On a loopback address, requests with a foreign Host or Origin header are rejected (DNS rebinding). Raises `UsageError` when the
    address is not available.
    """
    server = builtin_server(builtin_tools(settings or Settings.load()), for_others=True)
    # One response per request and no sessions: any number of processes can share the load, and a restart loses nothing.
    await serve_app(server.streamable_http_app(host=host, json_response=True, stateless_http=True), host, port)


async def serve_app(app: ASGIApp, host: str, port: int) -> None:
    """Serves an app that has the path `/mcp`, as `serve_http` does."""
    import sys

    import uvicorn

    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UsageError(
            f"{host}:{port} cannot be listened on ({error.strerror or error}).", "Choose another --port."
        ) from error
    with listener:
        bound = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        print(f"MCP at http://{shown}:{bound}/mcp", file=sys.stderr, flush=True)  # noqa: T201 - for a person at a terminal
        await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener])


def tool_of(function: object) -> FunctionTool:
    """Returns a function as a tool. Raises `UsageError` for what cannot be served."""
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
            f"{function!r} is not a function with a name.", "Give a function made with def, or a FunctionTool."
        )
    made: FunctionTool = function_tool(function, strict_mode=False, failure_error_function=None)
    return made


class FunctionServer:
    """Functions of this process as an MCP server on a loopback address, in a thread, for the lifetime of the process. Requires `token`.
    Port 0 picks a free one. Raises `ConflictError` when the port is taken."""

    def __init__(self, port: int, token: str) -> None:
        import uvicorn

        self.tools: dict[str, FunctionTool] = {}
        self.token = token
        try:
            self._listener = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            raise ConflictError(
                f"Port {port} of this machine, where the functions of this lab are served, is taken, perhaps by another notebook.",
                "Serve these under another name: lab.mcp.add_function(f, server='more_functions')",
            ) from error
        self.port: int = self._listener.getsockname()[1]
        app = function_server(self.tools).streamable_http_app(host="127.0.0.1", json_response=True, stateless_http=True)
        self._server = uvicorn.Server(uvicorn.Config(_WithToken(app, token), log_level="warning"))
        threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, name="timestep-lab functions", daemon=True
        ).start()

    def close(self) -> None:
        """Stops serving."""
        self._server.should_exit = True


class _WithToken:
    """Middleware that accepts requests with the bearer token, and lifespan events."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        if scope["type"] == "lifespan" or hmac.compare_digest(given, self._expected):
            return await self._app(scope, receive, send)
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"This server is for the lab that started it."})


def function_server(tools: dict[str, FunctionTool]) -> Server:
    """Returns an MCP server, not yet running, of the current tools in `tools`."""
    from agents.tool_context import ToolContext
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
    )

    async def list_tools(_: ServerRequestContext, _params: PaginatedRequestParams | None) -> ListToolsResult:
        offered = [
            Tool(name=name, description=tool.description, input_schema=tool.params_json_schema)
            for name, tool in tools.items()
        ]
        return ListToolsResult(tools=offered)

    async def call_tool(_: ServerRequestContext, params: CallToolRequestParams) -> CallToolResult:
        tool = tools.get(params.name)
        if tool is None:
            raise MCPError(INVALID_PARAMS, f"There is no function {params.name!r}. Functions: {', '.join(tools)}.")
        arguments = json.dumps(params.arguments or {})
        context = ToolContext(None, tool_name=params.name, tool_call_id="", tool_arguments=arguments)
        try:
            answer = await tool.on_invoke_tool(context, arguments)
        except Exception as error:  # noqa: BLE001 - raised by the function; its caller is told
            text = TextContent(type="text", text=f"{type(error).__name__}: {error}")
            return CallToolResult(content=[text], is_error=True)
        answer_text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, default=str)
        return CallToolResult(content=[TextContent(type="text", text=answer_text)])

    return Server("functions", on_list_tools=list_tools, on_call_tool=call_tool)
