"""The built-in server offered to others: over stdio, as MCP clients start it, and over streamable HTTP at `/mcp`."""

from __future__ import annotations

from timestep_lab.runtime.mcp.builtin import builtin_server, builtin_tools
from timestep_lab.runtime.settings import Settings
from timestep_lab.types.errors import UsageError


async def serve_stdio(settings: Settings | None = None) -> None:
    """Speak MCP on standard input and output until the input ends."""
    from mcp.server.stdio import stdio_server

    server = builtin_server(builtin_tools(settings or Settings.load()), for_others=True)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


async def serve_http(host: str = "127.0.0.1", port: int = 8766, settings: Settings | None = None) -> None:
    """Serve `http://host:port/mcp` until cancelled or signalled. Port 0 takes a free one; the address goes to standard error.

    On a loopback address, requests with a foreign Host or Origin header are refused (DNS rebinding). Raises `UsageError` when the
    address cannot be had.
    """
    import socket
    import sys

    import uvicorn

    server = builtin_server(builtin_tools(settings or Settings.load()), for_others=True)
    # An answer a request and no session: any number of processes may share the load, and a restart loses nobody.
    app = server.streamable_http_app(host=host, json_response=True, stateless_http=True)
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
