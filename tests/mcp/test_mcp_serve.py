"""The built-in server as others reach it: the official client over stdio and over streamable HTTP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import httpx
import pytest
from mcp import Client, StdioServerParameters

from tests.mcp.conftest import SERVE_LAB, HttpServer
from timestep_lab.model.errors import UsageError
from timestep_lab.runtime.mcp.serve import serve_http

STDIO = "import asyncio; from timestep_lab.runtime.mcp.serve import serve_stdio; asyncio.run(serve_stdio())"


async def test_the_official_client_lists_and_calls_its_tools_over_stdio() -> None:
    child = StdioServerParameters(command=sys.executable, args=["-c", STDIO], env={"WEATHER_MODE": "recorded"})
    async with Client(child) as client:
        assert client.server_info is not None
        assert client.server_info.name == "lab"
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"get_weather", "think"}
        assert tools["get_weather"].output_schema is not None
        result = await client.call_tool("get_weather", {"location": "Reykjavik"})
        assert result.structured_content["location"] == "Reykjavík, Capital Region, Iceland"
        failed = await client.call_tool("get_weather", {"location": "Atlantis"})
        assert failed.is_error


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_clients_of_both_protocol_eras_call_its_tools_over_http(lab_url: str, mode: str) -> None:
    async with Client(lab_url, mode=mode) as client:
        assert (await client.call_tool("think", {"thought": "hm"})).content[0].text == "Noted."


async def test_a_web_page_cannot_reach_it_by_another_name(lab_url: str) -> None:
    async with httpx.AsyncClient() as http:
        answer = await http.post(lab_url, headers={"Host": "evil.example", "Origin": "https://evil.example"}, json={})
    assert answer.status_code in (403, 421)


async def test_a_taken_port_is_told(lab_url: str) -> None:
    port = int(lab_url.split(":")[2].split("/")[0])
    with pytest.raises(UsageError, match=r"cannot be listened on .* Choose another --port"):
        await serve_http("127.0.0.1", port)


def test_it_stops_cleanly_when_it_is_told_to() -> None:
    running = HttpServer(SERVE_LAB)
    try:
        os.kill(running.process.pid, signal.SIGTERM)
        assert running.process.wait(10) in (0, -signal.SIGTERM)
        assert running.process.stderr is not None
        assert b"Traceback" not in running.process.stderr.read()
    except subprocess.TimeoutExpired:
        pytest.fail("it did not stop")
    finally:
        running.kill()
