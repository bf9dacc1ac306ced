"""Real servers for the tests in this folder, and a check that none of them is left running."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mcp.weather_service import WeatherService
from timestep_lab.model.ids import LOCAL_USER, new_uuid
from timestep_lab.model.records import AgentRecord, McpServerRecord
from timestep_lab.runtime.mcp.toolbox import Toolbox
from timestep_lab.runtime.settings import Settings

MISBEHAVING = str(Path(__file__).parent / "servers" / "misbehaving.py")
NOTES = str(Path(__file__).parent / "servers" / "notes.py")

MakeToolbox = Callable[..., Toolbox]


def server(name: str, **fields: Any) -> McpServerRecord:
    return McpServerRecord(id=fields.pop("id", new_uuid()), user_id=LOCAL_USER, name=name, **fields)


def notes_server(name: str = "notes", **fields: Any) -> McpServerRecord:
    return server(name, command=(sys.executable, NOTES), **fields)


def misbehaving_server(fault: str, name: str = "bad") -> McpServerRecord:
    """See `servers/misbehaving.py` for the faults."""
    return server(name, command=(sys.executable, MISBEHAVING, fault))


def agent(*tool_ids: str, **fields: Any) -> AgentRecord:
    return AgentRecord(id="a", user_id="u", name="Agent", tool_ids=tool_ids, **fields)


@pytest.fixture(autouse=True)
async def nothing_is_left_running() -> AsyncIterator[None]:
    """No test leaves a task or a child process behind. (Set up first, so looked at last.)"""
    before = _tasks()
    children = _children()
    yield
    await asyncio.sleep(0)
    assert _tasks() - before == set()
    deadline = time.monotonic() + 3
    while (left := _children() - children) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert left == set()


def _tasks() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


def _children() -> set[str]:
    children: set[str] = set()
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # A thread that ended between the two looks.
            children.update((task / "children").read_text().split())
    return children


@pytest.fixture
async def toolbox() -> AsyncIterator[MakeToolbox]:
    """Makes toolboxes over servers, with recorded weather unless told otherwise, and closes them."""
    made: list[Toolbox] = []

    def make(*servers: McpServerRecord, settings: Settings | None = None) -> Toolbox:
        made.append(Toolbox(servers, settings or Settings(weather_mode="recorded")))
        return made[-1]

    yield make
    for box in made:
        await box.aclose()


@pytest.fixture
def weather_service() -> Iterator[WeatherService]:
    with WeatherService() as service:
        yield service


ENDS_WITH_US = (
    "import os, sys, threading; threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()"
)
"""In a child whose standard input we hold: it ends when we do, even when we are killed."""
SERVE_LAB = "import asyncio; from timestep_lab.runtime.mcp.serve import serve_http; asyncio.run(serve_http(port=0))"
SERVE_MISBEHAVING = f"import runpy; sys.argv[0] = {MISBEHAVING!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
SERVE_NOTES = f"import runpy; sys.argv[0] = {NOTES!r}; runpy.run_path(sys.argv[0], run_name='__main__')"


class HttpServer:
    """A child process that serves MCP at `url`."""

    def __init__(self, program: str, *arguments: str) -> None:
        command = [sys.executable, "-c", f"{ENDS_WITH_US}; {program}", *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stderr is not None
        self.url = self.process.stderr.readline().decode().split()[-1]

    @property
    def port(self) -> str:
        return self.url.split(":")[2].split("/")[0]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.fixture(scope="session")
def notes_url() -> Iterator[str]:
    """The small server over streamable HTTP, shared by the tests that do not hurt it."""
    running = HttpServer(SERVE_NOTES, "0")
    yield running.url
    running.kill()


@pytest.fixture
def mortal_notes() -> Iterator[HttpServer]:
    running = HttpServer(SERVE_NOTES, "0")
    yield running
    running.kill()


@contextlib.contextmanager
def misbehaving_over_http(fault: str) -> Iterator[str]:
    running = HttpServer(SERVE_MISBEHAVING, fault, "0")
    try:
        yield running.url
    finally:
        running.kill()


@pytest.fixture(scope="session")
def lab_url() -> Iterator[str]:
    """Our own `serve_http` in a process of its own."""
    running = HttpServer(SERVE_LAB)
    yield running.url
    running.kill()
