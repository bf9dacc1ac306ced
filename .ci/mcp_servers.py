"""Whether an agent of a lab can use what well-known MCP servers offer: tools, resources, prompts, elicitation, progress, images.

    python .ci/mcp_servers.py [--servers 'everything;git'] [--keep FOLDER]

Each server is installed in an environment of its own (in FOLDER, or one that is thrown away), from npm or PyPI, and used by an agent that
calls what it is told to. Prints a table: "not offered" is held, too, where the protocol says what a server offers. Ends with 1 when
something failed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src")]

from timestep_lab import Lab, Run  # noqa: E402

COLUMNS = ("tools", "resources", "prompts", "elicitation", "progress", "images")
TIMEOUT_S = 10
"""Of servers that report progress; a call goes on for longer than that."""
TOKEN = "a-token"
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000" "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)  # fmt: skip


@dataclass(frozen=True)
class Use:
    """A call of `tool`, or a prompt of that name, and what its answer contains. `answer` fills in the form that the server asks for."""

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    says: str = ""
    answer: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Server:
    """`command` begins with the program's name; `{folder}` in it, in `env` and in arguments is the server's own folder. One with `program`
    serves HTTP, at the port that it is given, to who has the token."""

    package: str
    command: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    program: str = ""
    protocol: Literal["2025-11-25"] | None = None
    timeout_s: float = 60
    uses: Mapping[str, Sequence[Use]] = field(default_factory=dict)


def read(uri: str, says: str) -> Use:
    return Use("read_resource", {"uri": uri}, says)


FASTMCP = '''
import asyncio, sys
from fastmcp import Context, FastMCP
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier
from fastmcp.utilities.types import Image
from mcp_types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult
from pydantic import BaseModel
server = FastMCP("bearer", auth=StaticTokenVerifier(tokens={sys.argv[2]: {"client_id": "lab", "scopes": []}}))
class Who(BaseModel):
    name: str
FORM = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
@server.tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b
@server.tool
async def work(seconds: int, ctx: Context) -> str:
    """Work, and report on it."""
    for second in range(seconds):
        await asyncio.sleep(1)
        await ctx.report_progress(second + 1, seconds)
    return f"worked {seconds} s"
@server.tool
def greet(ctx: Context) -> str | InputRequiredResult:
    """Greet who is there."""
    said = (ctx.input_responses or {}).get("who")
    if said is None:
        return InputRequiredResult(input_requests={"who": ElicitRequest(params=ElicitRequestFormParams(message="Who?", requested_schema=FORM))})
    return f"{said.action}: Hello {(said.content or {}).get('name')}"
@server.tool
async def interrupt(ctx: Context) -> str:
    """Ask in the middle of the work."""
    said = await ctx.elicit("Who?", response_type=Who)
    return f"{said.action}: Hello {said.data.name}"
@server.tool
def picture() -> Image:
    """A pixel."""
    return Image(data=bytes.fromhex("PIXEL"), format="png")
@server.resource("note://today")
def today() -> str:
    return "Tea at five."
@server.resource("note://{day}")
def other(day: str) -> str:
    return f"Nothing on {day}."
@server.prompt
def review(topic: str) -> str:
    return f"Review {topic}."
server.run(transport="http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False)
'''.replace("PIXEL", PIXEL.hex())

SERVERS = {
    "server-everything": Server(
        "@modelcontextprotocol/server-everything",
        ["mcp-server-everything"],
        timeout_s=TIMEOUT_S,
        uses={
            "tools": [
                Use("echo", {"message": "tea"}, "Echo: tea"),
                Use("get-sum", {"a": 2, "b": 3}, "5"),
                Use("get-structured-content", {"location": "Chicago"}, "temperature"),
                Use("get-resource-links", {"count": 2}, "demo://resource"),
                Use("get-annotated-message", {"messageType": "success"}, "success"),
            ],
            "resources": [
                Use("list_resources", says="architecture.md"),
                read("demo://resource/dynamic/text/7", "Resource 7"),
                read("demo://resource/dynamic/blob/7", "stored as a file in the lab"),
                Use("get-resource-reference", {"resourceType": "Text", "resourceId": 1}, "Resource 1"),
            ],
            "prompts": [
                Use("simple-prompt", says="prompt"),
                Use("args-prompt", {"city": "Oslo"}, "Oslo"),
                Use("resource-prompt", {"resourceType": "Text", "resourceId": "1"}, "Resource 1"),
            ],
            "elicitation": [
                Use("trigger-elicitation-request", says="Ada", answer={"name": "Ada"}),
            ],
            "progress": [Use("trigger-long-running-operation", {"duration": TIMEOUT_S + 3, "steps": 8}, "completed")],
            "images": [
                Use("get-tiny-image", says="data:image/png"),
                Use("get-annotated-message", {"messageType": "debug", "includeImage": True}, "data:image/png"),
            ],
        },
    ),
    "server-filesystem": Server(
        "@modelcontextprotocol/server-filesystem",
        ["mcp-server-filesystem", "{folder}/data"],
        uses={
            "tools": [
                Use("write_file", {"path": "{folder}/data/tea.txt", "content": "at five"}, "tea.txt"),
                Use("read_text_file", {"path": "{folder}/data/tea.txt"}, "at five"),
                Use("edit_file", {"path": "{folder}/data/tea.txt", "edits": [{"oldText": "five", "newText": "six"}]}, "six"),
                Use("list_directory", {"path": "{folder}/data"}, "tea.txt"),
                Use("read_text_file", {"path": "/etc/passwd"}, "outside allowed directories"),
            ],
            "images": [Use("read_media_file", {"path": "{folder}/data/pixel.png"}, "data:image/png")],
        },
    ),
    "server-memory": Server(
        "@modelcontextprotocol/server-memory",
        ["mcp-server-memory"],
        env={"MEMORY_FILE_PATH": "{folder}/data/memory.jsonl"},
        uses={
            "tools": [
                Use("create_entities", {"entities": [{"name": "Ada", "entityType": "person", "observations": ["likes tea"]}]}, "Ada"),
                Use("search_nodes", {"query": "tea"}, "Ada"),
                Use("read_graph", says="likes tea"),
            ],
            "resources": [read("memory://knowledge-graph", "likes tea")],
        },
    ),
    "mcp-server-git": Server(
        "mcp-server-git",
        ["mcp-server-git", "--repository", "{folder}/data"],
        uses={
            "tools": [
                Use("git_status", {"repo_path": "{folder}/data"}, "pixel.png"),
                Use("git_add", {"repo_path": "{folder}/data", "files": ["pixel.png"]}, "staged"),
                Use("git_commit", {"repo_path": "{folder}/data", "message": "A pixel"}, "committed"),
                Use("git_log", {"repo_path": "{folder}/data"}, "A pixel"),
                Use("git_status", {"repo_path": "/"}, "outside"),
            ],
        },
    ),
    "mcp-server-time": Server(
        "mcp-server-time",
        ["mcp-server-time"],
        uses={
            "tools": [
                Use("get_current_time", {"timezone": "Europe/Oslo"}, "Europe/Oslo"),
                Use("convert_time", {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}, "21:00"),
                Use("get_current_time", {"timezone": "Mars"}, "error"),
            ],
        },
    ),
    "mcp-server-fetch": Server(
        "mcp-server-fetch",
        ["mcp-server-fetch", "--allow-private-ips"],
        uses={
            "tools": [Use("fetch", {"url": "{page}"}, "Tea at five")],
            "prompts": [Use("fetch", {"url": "{page}"}, "Tea at five")],
        },
    ),
    "FastMCP, HTTP, bearer token": Server(
        "fastmcp",
        program=FASTMCP,
        timeout_s=TIMEOUT_S,
        uses={
            "tools": [Use("add", {"a": 2, "b": 3}, "5"), Use("add", {"a": "x"}, "error")],
            "resources": [Use("list_resources", says="note://{{day}}"), read("note://today", "Tea at five."), read("note://friday", "friday")],
            "prompts": [Use("review", {"topic": "tea"}, "Review tea.")],
            "elicitation": [Use("greet", says="accept: Hello Ada", answer={"name": "Ada"})],
            "progress": [Use("work", {"seconds": TIMEOUT_S + 3}, f"worked {TIMEOUT_S + 3} s")],
            "images": [Use("picture", says="data:image/png")],
        },
    ),
}  # fmt: skip
BEARER = SERVERS["FastMCP, HTTP, bearer token"]
INTERRUPTED = {"elicitation": [Use("interrupt", says="accept: Hello Ada", answer={"name": "Ada"})]}
SERVERS["FastMCP, by protocol 2025-11-25"] = replace(BEARER, protocol="2025-11-25", uses={**BEARER.uses, **INTERRUPTED})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--servers", default=";".join(SERVERS), help="names or parts of names, with ; between them")
    parser.add_argument("--keep", type=Path, help="a folder for the servers' environments, to be used again")
    asked = parser.parse_args()
    names = [name for name in SERVERS if any(part in name for part in asked.servers.split(";"))]
    failed: list[str] = []
    with ExitStack() as stack:
        folder = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        page = stack.enter_context(web_page())
        print(f"| server | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}", flush=True)
        for name in names:
            cells = asyncio.run(tried(name, SERVERS[name], folder.resolve(), page))
            print(f"| {name} | {' | '.join('✓' if cell == 'works' else cell for cell in cells)} |", flush=True)
            failed += [cell for cell in cells if cell not in ("works", "not offered")]
    return 1 if failed else 0


async def tried(name: str, server: Server, folder: Path, page: str) -> list[str]:
    """What stands in each column of this server's row."""
    place = folder / server.package.rpartition("/")[2]
    try:
        programs = await asyncio.to_thread(installed, server, place)
    except (subprocess.SubprocessError, OSError) as error:
        return [f"not installed: {error}"[:120]] * len(COLUMNS)
    data(place / "data")

    def filled(text: str) -> str:
        return text.replace("{folder}", str(place)).replace("{page}", page)

    with ExitStack() as stack:
        async with Lab(":memory:") as lab:
            if server.program:
                url = stack.enter_context(served(programs / "python", place, server.program))
                lab.mcp.add(
                    "it",
                    url=url,
                    headers={"Authorization": f"Bearer {TOKEN}"},
                    timeout_s=server.timeout_s,
                    protocol=server.protocol,
                )
                lab.mcp.add(
                    "stranger", url=url, headers={"Authorization": "Bearer of-another"}, timeout_s=server.timeout_s
                )
            else:
                command = [str(programs / server.command[0]), *map(filled, server.command[1:])]
                env = {key: filled(value) for key, value in server.env.items()}
                lab.mcp.add("it", command=command, env=env, timeout_s=server.timeout_s)
            lab.agents.create(name="Agent", tools=["it.*"], model="demo/assistant")
            cells = []
            for column in COLUMNS:
                uses = server.uses.get(column, ())
                try:
                    for use in uses:
                        arguments = json.loads(filled(json.dumps(dict(use.arguments))))
                        said = await (prompted if column == "prompts" else called)(lab, use, arguments)
                        if use.says.replace("{{", "{").replace("}}", "}") not in said:
                            raise AssertionError(f"{use.tool} said: {said}")
                    cells.append("works" if uses else await offered_none(lab, column))
                except Exception as error:  # noqa: BLE001 - whatever is wrong stands in the table
                    cells.append(" ".join(f"FAILS: {type(error).__name__}: {error}".split())[:300].replace("|", "/"))
            if server.program and "HTTP 401" not in str(await lab.mcp.problems()):
                cells[0] = "FAILS: a wrong token is taken"
            return cells


async def called(lab: Lab, use: Use, arguments: Mapping[str, Any]) -> str:
    """What the agent read of the call, after its form was filled in."""
    run: Run = await lab.run(f"call {use.tool} {json.dumps(arguments)}", agent="Agent", timeout_s=120)
    if use.answer:
        asked = [call.asks for call in run.interruptions]
        if asked != ["elicitation"]:
            raise AssertionError(f"{use.tool} asked {asked}")
        run = await run.approve(answer=use.answer)
    if run.status != "completed":
        raise AssertionError(f"the run is {run.status}: {run.error}")
    [output] = [item.data["output"] for item in run.thread.items if item.type == "tool_call"]
    return str(output)


async def prompted(lab: Lab, use: Use, arguments: Mapping[str, Any]) -> str:
    """What a model was asked with the prompt."""
    messages = await lab.mcp.get_prompt("it", use.tool, dict(arguments))
    run = await lab.run(messages, model="demo/echo")
    if run.status != "completed":
        raise AssertionError(f"the run is {run.status}: {run.error}")
    return json.dumps(messages, ensure_ascii=False)


async def offered_none(lab: Lab, column: str) -> str:
    listed: Mapping[str, Any] = {"resources": lab.mcp.resources, "prompts": lab.mcp.prompts}
    if column in listed and (found := [one.name for one in await listed[column]() if one.server == "it"]):
        return f"FAILS: {found} are not tried"
    return "not offered"


def installed(server: Server, place: Path) -> Path:
    """The folder of its programs."""
    if server.package.startswith("@"):
        place.mkdir(parents=True, exist_ok=True)
        if not (place / "node_modules").exists():
            npm = ["npm", "install", "--silent", "--no-audit", server.package]
            subprocess.run(npm, cwd=place, check=True, capture_output=True, timeout=600)
        return place / "node_modules" / ".bin"
    if not (place / "bin" / "python").exists():
        venv.create(place, with_pip=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "-q", server.package]
        subprocess.run(pip, check=True, capture_output=True, timeout=900)
    return place / "bin"


def data(folder: Path) -> None:
    """A new folder that is a repository, with a picture in it that is not committed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "pixel.png").write_bytes(PIXEL)
    for words in (["init", "-q"], ["config", "user.name", "Ada"], ["config", "user.email", "ada@example.org"]):
        subprocess.run(["git", *words], cwd=folder, check=True)


@contextmanager
def served(python: Path, place: Path, program: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (place / "server.py").write_text(program)
    with (place / "log").open("w") as log:
        server = subprocess.Popen([python, place / "server.py", str(port), TOKEN], stdout=log, stderr=log)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        server.terminate()
        server.wait(20)


@contextmanager
def web_page() -> Iterator[str]:
    """The address of a page on this machine."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/page"
            body = (
                b"<html><body><h1>Today</h1><p>Tea at five, and cake for everybody.</p></body></html>" if found else b""
            )
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/page"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    os.environ.setdefault("TIMESTEP_LAB_DEMO_DELAY_MS", "0")
    sys.exit(main())
