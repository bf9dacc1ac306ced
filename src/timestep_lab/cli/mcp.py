"""`timestep-lab mcp`: MCP servers, and the lab itself as an MCP server."""

from __future__ import annotations

from typing import Literal

import click

from timestep_lab.cli.context import console, json_option, print_json, run_async, say, store_option, with_lab
from timestep_lab.cli.render import print_rows
from timestep_lab.lab import Lab
from timestep_lab.model.errors import UsageError


@click.group("mcp")
def command() -> None:
    """List, add, test and remove MCP servers; serve the built-in tools, or the lab itself, to other agents."""


@command.command("list")
@json_option
@store_option
@with_lab
async def list_servers(lab: Lab, as_json: bool) -> int:
    """List the user's MCP servers (the built-in one, `lab`, always exists)."""
    servers = lab.mcp.list()
    rows = [[s.name, s.url or " ".join(s.command), s.id] for s in servers]
    if as_json:
        print_json([dict(zip(["name", "address", "id"], row, strict=True)) for row in rows])
    else:
        print_rows(console(), ["name", "address", "id"], rows)
    return 0


@command.command("add", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("server_command", nargs=-1, type=click.UNPROCESSED)
@click.option("--url", help="Address of a streamable-HTTP server, instead of a command.")
@click.option(
    "--header", "headers", multiple=True, metavar="NAME:VALUE", help="HTTP header sent with each request; repeatable."
)
@click.option(
    "--env", "env", multiple=True, metavar="NAME=VALUE", help="Environment variable for the command; repeatable."
)
@click.option(
    "--protocol",
    type=click.Choice(["2025-11-25", "2026-07-28"]),
    help="Protocol version; by default the newest that both sides know. Tools that elicit during a call need 2025-11-25.",
)
@store_option
@with_lab
async def add_server(
    lab: Lab,
    name: str,
    server_command: tuple[str, ...],
    url: str | None,
    headers: tuple[str, ...],
    env: tuple[str, ...],
    protocol: Literal["2025-11-25", "2026-07-28"] | None,
) -> int:
    """Add a server: `mcp add time -- mcp-server-time`, or `mcp add docs --url https://…/mcp`."""
    record = lab.mcp.add(
        name,
        command=list(server_command) or None,
        url=url,
        headers=_pairs(headers, ":"),
        env=_pairs(env, "="),
        protocol=protocol,
    )
    say(record.id)
    return 0


@command.command("headers")
@click.argument("name")
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME:VALUE",
    help="A header; repeatable. Without any, there are none.",
)
@store_option
@with_lab
async def set_headers(lab: Lab, name: str, headers: tuple[str, ...]) -> int:
    """Replace the HTTP headers of the server NAME (or id), such as an access token that has expired."""
    lab.mcp.set_headers(name, _pairs(headers, ":"))
    return 0


@command.command("remove")
@click.argument("name")
@store_option
@with_lab
async def remove_server(lab: Lab, name: str) -> int:
    """Remove the server NAME (or id)."""
    lab.mcp.remove(name)
    return 0


@command.command("tools")
@json_option
@store_option
@with_lab
async def list_tools(lab: Lab, as_json: bool) -> int:
    """List every tool of every server, by querying the servers."""
    tools, problems = await lab.toolbox.survey()
    if as_json:
        print_json(
            [
                {
                    "id": f"{t.server_id}.{t.name}",
                    "server": t.server,
                    "name": t.name,
                    "description": t.description,
                    "input_schema": t.input_schema,
                }
                for t in tools
            ]
        )
    else:
        print_rows(
            console(),
            ["server", "tool", "description"],
            [[t.server, t.name, (t.description or "").split("\n")[0]] for t in tools],
        )
    for problem in problems:
        say(f"left out: {problem}", err=True)
    return 0


@command.command("serve")
@click.option(
    "--lab",
    "of_lab",
    is_flag=True,
    help="Serve the lab itself: its agents, threads, traces and comparisons, read-only.",
)
@click.option("--write", is_flag=True, help="With --lab: also create, change and run agents, and annotate traces.")
@click.option(
    "--http",
    is_flag=True,
    help="Serve streamable HTTP instead of stdio. With --lab, clients send a token (timestep-lab token).",
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8766, show_default=True)
@store_option
def serve(of_lab: bool, write: bool, http: bool, host: str, port: int) -> int:
    """Serve the built-in tools (get_weather, think), or with --lab the lab itself, to other MCP clients."""
    from timestep_lab.runtime.mcp.serve import serve_http, serve_stdio

    if write and not of_lab:
        raise UsageError("The built-in tools are read-only.", "Add --lab.")
    if of_lab:
        _serve_lab(http, host, port, write)
    else:
        run_async(serve_http(host, port) if http else serve_stdio())
    return 0


@with_lab
async def _serve_lab(lab: Lab, http: bool, host: str, port: int, write: bool) -> None:
    from timestep_lab.runtime.mcp.serve import serve_app
    from timestep_lab.server.mcp import http_app, serve_stdio

    if not http:
        await serve_stdio(lab, write=write)
    elif not hasattr(lab, "store"):
        raise UsageError(
            "A served lab can be offered over HTTP only on its own machine.", "Run this command there, or omit --http."
        )
    else:
        await serve_app(http_app(lab, host, write=write), host, port)


def _pairs(texts: tuple[str, ...], mark: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, separator, value = text.partition(mark)
        if not separator:
            raise UsageError(f"{name!r} has no value.", f"Write it as NAME{mark}VALUE.")
        pairs[name.strip()] = value.strip()
    return pairs
