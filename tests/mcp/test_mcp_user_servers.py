"""`lab.mcp`: adding servers, and refusing what cannot work before anything is kept."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from timestep_lab import Lab
from timestep_lab.model.errors import ConflictError, NotFoundError, SettingsError, ToolError, UsageError
from timestep_lab.model.records import McpServerRecord
from timestep_lab.runtime.mcp.server_records import redact, where_it_is
from timestep_lab.runtime.mcp.toolbox import McpCatalog
from timestep_lab.store.store import open_store

TIME = ["mcp-server-time"]


@pytest.fixture
def catalog() -> Iterator[McpCatalog]:
    store = open_store(":memory:")
    yield McpCatalog(store)
    store.close()


def test_a_server_is_kept_and_found_by_name_and_id(catalog: McpCatalog) -> None:
    record = catalog.add("time", command=TIME, env={"TZ": "UTC"}, require_approval="always")
    assert catalog.list() == [record]
    assert catalog.get("TIME") == catalog.get(record.id) == record
    assert record.require_approval == {"*": "always"}
    catalog.remove("time")
    assert catalog.list() == []


def test_the_headers_of_a_server_are_replaced_and_its_tools_stay(catalog: McpCatalog) -> None:
    record = catalog.add("docs", url="https://x.org/mcp", headers={"Authorization": "Bearer old", "X-Team": "a"})
    assert catalog.set_headers("docs", {"Authorization": "Bearer new"}).id == record.id
    assert catalog.get("docs").headers == {"Authorization": "Bearer new"}
    with pytest.raises(SettingsError, match="The header 'A b'"):
        catalog.set_headers("docs", {"A b": "c"})
    catalog.add("time", command=TIME)
    for name in ("time", "lab"):
        with pytest.raises(UsageError, match="is not reached over HTTP"):
            catalog.set_headers(name, {})


def test_a_command_in_one_text_is_split_as_a_shell_would(catalog: McpCatalog) -> None:
    record = catalog.add("time", command="mcp-server-time --local-timezone 'Europe/Oslo'")
    assert record.command == ("mcp-server-time", "--local-timezone", "Europe/Oslo")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "has neither a command nor a URL. Set exactly one"),
        ({"command": TIME, "url": "https://x.org/mcp"}, "has both a command and a URL"),
        ({"command": ["no-such-mcp"]}, "runs 'no-such-mcp', but there is no such program on the PATH. Install it"),
        ({"command": TIME, "headers": {"A": "b"}}, "it has no headers. Pass its secrets with env"),
        ({"url": "ftp://x.org"}, "is not one of http or https: 'ftp://x.org'"),
        ({"url": "x.org/mcp"}, "is not one of http or https"),
        ({"url": "http://u:hunter22@[x/?k=hunter33"}, "is not one of http or https: it cannot be read"),
        ({"url": "https://x.org", "env": {"A": "b"}}, "it has no env. Pass its secrets with headers"),
        ({"url": "https://x.org", "headers": {"A b": "c"}}, "The header 'A b'"),
        ({"url": "https://x.org", "headers": {"A": "hunter22\nB: c"}}, "The header 'A'"),
        ({"command": TIME, "timeout_s": 0}, "a timeout of 0 s"),
        ({"command": TIME, "require_approval": {"x": "maybe"}}, "The approval rule of 'x' is 'maybe'"),
    ],
)
def test_what_cannot_work_is_refused_with_the_next_step_and_not_kept(
    catalog: McpCatalog, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        catalog.add("it", **fields)
    assert message in str(caught.value)
    assert "hunter" not in str(caught.value)
    assert caught.value.next_step
    assert catalog.list() == []


def test_a_name_is_taken_once(catalog: McpCatalog) -> None:
    catalog.add("time", command=TIME)
    for name in ("Time", "lab", " "):
        with pytest.raises((ConflictError, SettingsError)):
            catalog.add(name, command=TIME)


def test_the_built_in_server_stays_and_an_unknown_one_is_told(catalog: McpCatalog) -> None:
    assert catalog.get("lab").name == "lab"
    with pytest.raises(UsageError, match="The built-in MCP server cannot be removed"):
        catalog.remove("lab")
    with pytest.raises(NotFoundError, match=r"There is no MCP server 'tme'\. Known servers: lab\."):
        catalog.get("tme")


async def test_a_server_can_be_tried_and_says_what_is_wrong(catalog: McpCatalog, notes_url: str) -> None:
    catalog.add("notes", url=notes_url)
    catalog.add("broken", command=[sys.executable, "-c", "raise SystemExit('no licence')"])
    assert "pid" in [tool.name for tool in await catalog.test("notes")]
    with pytest.raises(ToolError, match=r"'broken' .* exited on start with: no licence"):
        await catalog.test("broken")
    assert {tool.server for tool in await catalog.tools()} == {"lab", "notes"}
    assert [problem.server for problem in await catalog.problems()] == ["broken"]


async def test_a_tool_is_called_by_the_name_or_id_of_its_server_and_waits_for_no_other_server(notes_url: str) -> None:
    async with Lab(":memory:") as lab:
        notes = lab.mcp.add("notes", url=notes_url)
        lab.mcp.add("silent", command=[sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=60)
        called = lab.mcp.call("notes.pid"), lab.mcp.call(f"{notes.id}.pid", {})
        first, second = await asyncio.wait_for(asyncio.gather(*called), 30)
        assert (first.isdigit(), second) == (True, first)
        with pytest.raises(NotFoundError, match=r"'notes' has no usable tool 'pit'\. Its tools: pid, "):
            await lab.mcp.call("notes.pit")


async def test_a_program_that_was_removed_later_is_named(catalog: McpCatalog, tmp_path: Path) -> None:
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    catalog.add("mine", command=[str(program)])
    program.unlink()
    with pytest.raises(ToolError, match=r"'mine' runs .*, but there is no such program on the PATH"):
        await catalog.test("mine")


def test_secrets_of_a_record_are_in_none_of_its_texts() -> None:
    record = McpServerRecord(
        id="1",
        user_id="u",
        name="docs",
        url="https://user:hunter01@x.org/mcp?key=hunter02",
        headers={"Authorization": "Bearer hunter03"},
    )
    other = McpServerRecord(
        id="2", user_id="u", name="cli", command=("cli", "--key", "hunter04"), env={"K": "hunter04"}
    )
    assert where_it_is(record) == "https://x.org/mcp"
    assert where_it_is(other) == "cli --key ***"
    text = "401 for hunter01 hunter02 Bearer hunter03 and hunter03"
    assert redact(text, record) == "401 for *** *** *** and ***"
    assert "hunter03" not in repr(record)
    assert "K" not in repr(other).replace("McpServerRecord", "")


def test_tools_with_dots_and_slashes_in_their_names_are_given_to_agents_as_any_other() -> None:
    with Lab(":memory:") as lab:
        catalog, agents = lab.mcp, lab.agents
        ws, dotted = catalog.add("ws", url="https://x.org/mcp"), catalog.add("docs.v2", url="https://y.org/mcp")
        long = "a." * 100 + "b"
        tools = ["ws.a.b/c", "docs.v2.find.all", f"{ws.id}.{long}", "docs.v2.*"]
        agent = agents.create(name="Dots", tools=tools, approvals={"ws.a.b/c": "always"})
        wanted = (f"{ws.id}.a.b/c", f"{dotted.id}.find.all", f"{ws.id}.{long}", f"{dotted.id}.*")
        assert agent.tool_ids == wanted
        assert agent.approvals == {f"{ws.id}.a.b/c": "always"}
        with pytest.raises(NotFoundError, match=r"There is no MCP server 'wss', which the tool 'wss\.a\.b' refers to"):
            agents.tool_id("wss.a.b")
