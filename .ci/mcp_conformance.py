"""Whether the lab's MCP client and its own MCP server follow the specification, by the protocol's official conformance suite.

    python .ci/mcp_conformance.py [--keep FOLDER]

The suite (npm's `@modelcontextprotocol/conformance`, with the Node.js it needs) is installed into FOLDER, or one that is thrown away.
Prints a line for each scenario, and why one does not apply; ends with 1 when one that applies fails.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SUITE = ("@modelcontextprotocol/conformance", "node@22")
PER_SCENARIO_S = 120

NO_TEST_TOOLS = "it calls a tool of a test server by name; the lab's server offers get_weather and think alone"
NO_RESOURCES = "the lab's server offers tools, and no resources"
NO_PROMPTS = "the lab's server offers tools, and no prompts"
NO_OAUTH = "the lab sends the headers that a server was added with; it does not sign in by OAuth"
SERVER_DOES_NOT_APPLY = {
    "logging-set-level": "the lab's server sends no log messages",
    "completion-complete": "the lab's server offers no prompts or templates to complete",
    **dict.fromkeys(
        (
            "tools-call-simple-text", "tools-call-image", "tools-call-audio", "tools-call-embedded-resource", "tools-call-mixed-content",
            "tools-call-with-logging", "tools-call-error", "tools-call-with-progress", "tools-call-sampling", "tools-call-elicitation",
            "json-schema-2020-12", "elicitation-sep1034-defaults", "elicitation-sep1330-enums", "server-sse-polling",
        ),
        NO_TEST_TOOLS,
    ),
    **dict.fromkeys(
        (
            "resources-list", "resources-read-text", "resources-read-binary", "resources-templates-read", "resources-subscribe",
            "resources-unsubscribe",
        ),
        NO_RESOURCES,
    ),
    **dict.fromkeys(
        (
            "prompts-list", "prompts-get-simple", "prompts-get-with-args", "prompts-get-embedded-resource", "prompts-get-with-image",
        ),
        NO_PROMPTS,
    ),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--keep", type=Path, help="a folder for the suite, to be used again")
    parser.add_argument("--client", metavar="URL", help="be the client of one scenario; the suite calls it so")
    asked = parser.parse_args()
    if asked.client:
        asyncio.run(be_client(asked.client))
        return 0
    failed = []
    with ExitStack() as stack:
        folder = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        suite = installed(folder)
        servers, clients = scenarios(suite)
        url = stack.enter_context(served())
        for kind, names in (("server", servers), ("client", clients)):
            for name in names:
                reason = SERVER_DOES_NOT_APPLY.get(name) if kind == "server" else _of_client(name)
                if reason:
                    print(f"{kind} {name}: does not apply: {reason}", flush=True)
                    continue
                command = f"{sys.executable} {Path(__file__).resolve()} --client"
                options = ["--url", url] if kind == "server" else ["--command", command]
                done = run([*suite, kind, "--scenario", name, *options], folder)
                print(f"{kind} {name}: {'passes' if done.returncode == 0 else 'FAILS'}", flush=True)
                if done.returncode:
                    failed.append(name)
                    print("   ", "\n    ".join((done.stdout + done.stderr).strip().splitlines()[-12:]), flush=True)
    return 1 if failed else 0


def _of_client(name: str) -> str:
    return NO_OAUTH if name.startswith("auth/") else ""


async def be_client(url: str) -> None:
    """Connect as a lab does, and call every tool; a form that is asked for is accepted as its defaults fill it in."""
    from timestep_lab.model.ids import LOCAL_USER, new_uuid
    from timestep_lab.model.records import McpServerRecord
    from timestep_lab.runtime.approvals import filled_in
    from timestep_lab.runtime.mcp.questions import ASKER, Question, Reply
    from timestep_lab.runtime.mcp.toolbox import Toolbox

    async def accepts(question: Question) -> Reply:
        return Reply(decision="approved", content=filled_in(question.schema or {}, {}), text="yes", model="none")

    ASKER.set(accepts)
    toolbox = Toolbox([McpServerRecord(id=new_uuid(), user_id=LOCAL_USER, name="suite", url=url)])
    try:
        for tool in await toolbox.catalogue():
            if tool.server == "suite":
                fields: dict[str, Any] = dict(tool.input_schema.get("properties") or {})
                await toolbox.call(
                    tool.id, {name: 1 if one.get("type") == "number" else "x" for name, one in fields.items()}
                )
    finally:
        await toolbox.aclose()


@contextmanager
def served() -> Iterator[str]:
    """Address of the lab's own server."""
    program = "import sys; from timestep_lab.cli.root import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "mcp", "serve", "--http", "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())
    assert server.stderr is not None
    try:
        line = server.stderr.readline()
        yield line.split()[-1].replace("127.0.0.1", "localhost")
    finally:
        server.terminate()
        server.wait(20)


def installed(folder: Path) -> list[str]:
    """The command of the suite, run by the Node.js that it needs."""
    if not (folder / "node_modules").exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--silent", "--no-audit", *SUITE], cwd=folder, check=True, timeout=600)
    modules = folder / "node_modules"
    return [str(modules / "node" / "bin" / "node"), str(modules / SUITE[0] / "dist" / "index.js")]


def scenarios(suite: list[str]) -> tuple[list[str], list[str]]:
    """Names of those for servers, and of those for clients."""
    told = subprocess.run([*suite, "list"], capture_output=True, text=True, check=True).stdout
    servers, _, clients = told.partition("Client scenarios")
    return re.findall(r"^\s+- (\S+)", servers, re.M), re.findall(r"^\s+- (\S+)", clients, re.M)


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=PER_SCENARIO_S
    )


if __name__ == "__main__":
    sys.exit(main())
