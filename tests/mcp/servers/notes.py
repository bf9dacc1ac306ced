"""A small MCP server for tests: `python notes.py` speaks stdio, `python notes.py PORT` serves HTTP and says where."""

import os
import sys
from pathlib import Path

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

server = MCPServer("notes", log_level="ERROR")
READ_ONLY = ToolAnnotations(read_only_hint=True)


@server.tool(annotations=READ_ONLY)
def pid() -> str:
    """The id of the server's process."""
    return str(os.getpid())


@server.tool()
def write(file: str, text: str) -> str:
    """Append a line to a file, then, where the text says so, die."""
    with Path(file).open("a", encoding="utf-8") as notes:
        notes.write(f"{text}\n")
    if text == "last words":
        os._exit(1)
    return "written"


@server.tool()
async def work(steps: int, seconds: float, ctx: Context) -> str:
    """Work so many steps of so many seconds, and tell of each."""
    import anyio

    for step in range(steps):
        await anyio.sleep(seconds)
        await ctx.report_progress(step + 1, steps)
    return "done"


@server.tool(annotations=READ_ONLY)
def read(file: str) -> str:
    """All lines of a file. The first reading kills the server."""
    path = Path(file)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(f"{text}read\n", encoding="utf-8")
    if not text:
        os._exit(1)
    return text


@server.tool()
async def sleep(seconds: float) -> str:
    """Answer late."""
    import anyio

    await anyio.sleep(seconds)
    return "awake"


@server.tool()
def secret() -> str:
    """Fail, and give away what the environment says."""
    raise ToolError(f"the token is {os.environ['NOTES_TOKEN']}")


@server.tool(structured_output=False)
def picture() -> Image:
    """One white pixel."""
    return Image(data=b"GIF89a\x01\x00\x01\x00\x00\xff\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x00;", format="gif")


@server.tool(name="get weather/now")
def oddly_named() -> str:
    """A name that no model provider takes."""
    return "windy"


@server.tool()
def get_weather(location: str) -> str:
    """The same name as the built-in tool."""
    return f"{location}: look out of the window"


@server.tool()
async def learn(ctx: Context) -> str:
    """Have one more tool from now on, and tell those who listen."""
    server.add_tool(pid, name="learnt")
    await ctx.notify_tools_changed()
    return "learnt"


if __name__ == "__main__":
    if len(sys.argv) == 1:
        server.run()
    else:
        import socket

        import anyio
        import uvicorn

        with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
            print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", file=sys.stderr, flush=True)
            config = uvicorn.Config(server.streamable_http_app(), log_level="error")
            anyio.run(lambda: uvicorn.Server(config).serve(sockets=[listener]))
