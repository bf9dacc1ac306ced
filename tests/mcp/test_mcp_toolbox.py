"""The toolbox over real servers: who sees what, what is asked first, and what happens when a server is not well."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.mcp.conftest import (
    SERVE_NOTES,
    HttpServer,
    MakeToolbox,
    agent,
    misbehaving_over_http,
    misbehaving_server,
    notes_server,
    server,
)
from tests.mcp.weather_service import WeatherService
from timestep_lab.model.errors import LabError, NotFoundError, ToolError
from timestep_lab.model.ids import BUILTIN_MCP_SERVER
from timestep_lab.model.records import McpServerRecord
from timestep_lab.runtime.mcp.toolbox import Toolbox
from timestep_lab.runtime.settings import Settings

WEATHER = f"{BUILTIN_MCP_SERVER}.get_weather"
THINK = f"{BUILTIN_MCP_SERVER}.think"


def notes(url: str, name: str = "notes", **fields: Any) -> McpServerRecord:
    return server(name, url=url, **fields)


async def names(box: Toolbox, *tool_ids: str) -> list[str]:
    return [tool.name for tool in (await box.tools_for(agent(*tool_ids))).tools]


# -- who sees what


async def test_an_agent_sees_the_tools_it_names_and_no_others(toolbox: MakeToolbox) -> None:
    box = toolbox()
    assert await names(box, THINK) == ["think"]
    assert await names(box, f"{BUILTIN_MCP_SERVER}.*", "switch_theme") == ["get_weather", "think", "switch_theme"]
    assert await names(box) == []


async def test_a_server_may_be_named_in_a_tool_id_and_may_offer_only_some_of_its_tools(
    toolbox: MakeToolbox, notes_url: str
) -> None:
    box = toolbox(notes(notes_url, allowed_tools=("pid", "sleep")))
    assert await names(box, "notes.*") == ["pid", "sleep"]
    assert await names(box, "notes.sleep") == ["sleep"]
    tools = await box.tools_for(agent("notes.secret", "notes.pid"))
    assert [tool.name for tool in tools.tools] == ["pid"]
    assert str(tools.missing[0]) == "The MCP server 'notes' has no usable tool 'secret'. Its tools: pid, sleep."


async def test_unknown_tools_are_told_and_leave_the_others_alone(toolbox: MakeToolbox) -> None:
    tools = await toolbox().tools_for(agent("teleport", "gone.search", THINK))
    assert [tool.name for tool in tools.tools] == ["think"]
    assert [str(error) for error in tools.missing] == [
        "Agent 'Agent' uses an unknown tool 'teleport'. Client tools are: switch_theme.",
        "Agent 'Agent' uses the tool 'search' of an MCP server that does not exist (gone). "
        "Add the server again, or remove the tool from the agent.",
    ]


async def test_tools_that_share_a_name_get_their_servers_in_front_and_odd_names_are_made_sendable(
    toolbox: MakeToolbox, notes_url: str
) -> None:
    box = toolbox(notes(notes_url, "my notes"))
    tools = await box.tools_for(agent("my notes.get_weather", WEATHER, "my notes.get weather/now"))
    assert [tool.name for tool in tools.tools] == ["lab__get_weather", "get_weather_now", "my_notes__get_weather"]
    assert [tools.server_of(tool.name) for tool in tools.tools] == ["lab", "my notes", "my notes"]
    assert box.server_of("get_weather_now") == "my notes"
    assert await names(box, "my notes.get_weather") == ["get_weather"]


async def test_names_and_order_do_not_depend_on_the_order_of_tool_ids(toolbox: MakeToolbox, notes_url: str) -> None:
    box = toolbox(notes(notes_url))
    ids = ["notes.get_weather", WEATHER, "notes.pid", THINK]
    assert await names(box, *ids) == await names(box, *reversed(ids))


async def test_the_catalogue_lists_every_tool_with_its_schema(toolbox: MakeToolbox, notes_url: str) -> None:
    found = {info.id: info for info in await toolbox(notes(notes_url, id="n")).catalogue()}
    assert list(found)[:3] == [WEATHER, THINK, "n.pid"]
    assert found[WEATHER].input_schema["required"] == ["location"]
    assert (found["n.pid"].server, found["n.pid"].read_only, found["n.write"].read_only) == ("notes", True, False)
    assert found["n.pid"].output_schema is not None


async def test_a_tool_that_a_server_gets_while_it_runs_is_there_for_the_next_run(toolbox: MakeToolbox) -> None:
    box = toolbox(notes_server())
    assert "learnt" not in await names(box, "notes.*")
    await box.call("notes.learn", {})
    async with asyncio.timeout(10):
        while "learnt" not in await names(box, "notes.*"):
            await asyncio.sleep(0.05)


# -- what is asked first


async def test_the_agents_rule_comes_before_the_servers_and_the_narrower_before_the_wider(
    toolbox: MakeToolbox, notes_url: str
) -> None:
    box = toolbox(notes(notes_url, require_approval={"*": "always", "pid": "never"}))
    approvals = {"notes.sleep": {"argument": "seconds", "equals": 60}, "switch_theme": "always"}
    tools = await box.tools_for(agent("notes.*", WEATHER, "switch_theme", approvals=approvals))
    asks = {name: tools.reason_to_ask(name, {"seconds": 1}) for name in tools.rules}
    assert asks["write"] == "this tool always asks"
    assert asks["pid"] == ""
    assert asks["sleep"] == ""
    assert tools.reason_to_ask("sleep", '{"seconds": 60}') == "seconds equals 60"
    assert asks["switch_theme"] == "this tool always asks"
    assert asks["lab__get_weather"] == ""


async def test_a_rule_for_all_of_an_agents_tools_covers_those_it_does_not_name(
    toolbox: MakeToolbox, notes_url: str
) -> None:
    approvals = {"*": "always", f"{BUILTIN_MCP_SERVER}.*": "never", WEATHER: {"argument": "unit", "equals": "celsius"}}
    tools = await toolbox(notes(notes_url)).tools_for(agent(WEATHER, THINK, "notes.pid", approvals=approvals))
    assert tools.rules == {"get_weather": approvals[WEATHER], "think": "never", "pid": "always"}


# -- servers that are not well


def crashing(**fields: object) -> McpServerRecord:
    program = "import os, sys; sys.exit('no such database: ' + os.environ['TOKEN'])"
    return server("crashing", command=(sys.executable, "-c", program), env={"TOKEN": "hunter22"}, **fields)


async def test_time_over_stdio_and_two_over_http_work_beside_one_that_crashes_and_the_message_names_it(
    toolbox: MakeToolbox, lab_url: str, notes_url: str
) -> None:
    box = toolbox(
        server("time", command=("mcp-server-time",)),
        server("served lab", url=lab_url),
        notes(notes_url, headers={"Authorization": "Bearer hunter22"}),
        crashing(),
    )
    tools = await box.tools_for(agent("time.convert_time", "served lab.think", "notes.pid", "crashing.*"))
    assert [tool.name for tool in tools.tools] == ["convert_time", "think", "pid"]
    [error] = tools.missing
    assert error.server == "crashing"
    assert "The MCP server 'crashing'" in str(error)
    assert "exited on start with: no such database: ***." in str(error)
    assert "hunter22" not in str(error)
    times = {"source_timezone": "Asia/Tokyo", "time": "12:00", "target_timezone": "UTC"}
    converted, thought, pid = await asyncio.gather(
        box.call("time.convert_time", times),
        box.call("served lab.think", {"thought": "hm"}),
        box.call("notes.pid", {}),
    )
    assert json.loads(converted)["target"]["datetime"].endswith("T03:00:00+00:00")
    assert thought == "Noted."
    assert pid.isdigit()


async def test_a_server_that_failed_is_not_tried_again_by_every_run_but_is_when_asked(
    toolbox: MakeToolbox, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    program = f"open({str(starts)!r}, 'a').write('x')"
    box = toolbox(server("brief", command=(sys.executable, "-c", program)))
    for _ in range(3):
        [error] = (await box.tools_for(agent("brief.*"))).missing
        assert "The MCP server 'brief'" in str(error)
    assert starts.read_text() == "x"
    _, [error] = await box.survey()
    assert error.server == "brief"
    assert starts.read_text() == "xx"


async def test_a_url_that_nobody_answers_is_named_without_its_secrets(toolbox: MakeToolbox) -> None:
    box = toolbox(
        server("docs", url="http://user:hunter22@127.0.0.1:9/mcp?key=hunter33", headers={"X-Key": "hunter44"})
    )
    [error] = (await box.tools_for(agent("docs.*"))).missing
    assert "The MCP server 'docs' (http://127.0.0.1:9/mcp) did not respond" in str(error)
    assert "hunter" not in str(error)


async def test_a_page_that_is_no_mcp_server_is_told_by_its_status(
    toolbox: MakeToolbox, weather_service: WeatherService
) -> None:
    box = toolbox(server("docs", url=f"{weather_service.url}/mcp"))
    [error] = (await box.tools_for(agent("docs.*"))).missing
    assert "answered HTTP 501" in str(error)
    with misbehaving_over_http("older transport") as url:
        _, [older] = await toolbox(server("sse", url=url)).survey()
    assert "answered HTTP 405. Use its streamable HTTP endpoint, often /mcp; the older SSE" in str(older)


async def test_a_server_that_never_answers_is_given_up_in_its_time(toolbox: MakeToolbox) -> None:
    box = toolbox(server("silent", command=(sys.executable, "-c", "import time; time.sleep(60)"), timeout_s=0.5))
    started = time.monotonic()
    [error] = (await box.tools_for(agent("silent.*"))).missing
    assert "did not respond within 0.5 s" in str(error)
    assert time.monotonic() - started < 8


async def test_a_server_whose_process_was_killed_is_started_again(toolbox: MakeToolbox) -> None:
    box = toolbox(notes_server(env={"NOTES_TOKEN": "hunter22"}))
    first = int(await box.call("notes.pid", {}))
    with pytest.raises(ToolError, match=r"^secret failed: Error executing tool secret: the token is \*\*\*$"):
        await box.call("notes.secret", {})
    os.kill(first, signal.SIGKILL)
    second = int(await box.call("notes.pid", {}))
    assert second != first


async def test_an_http_server_that_was_started_again_is_found_again(
    toolbox: MakeToolbox, mortal_notes: HttpServer, tmp_path: Path
) -> None:
    box = toolbox(notes(mortal_notes.url))
    first = await box.call("notes.pid", {})
    mortal_notes.kill()
    with pytest.raises(ToolError, match="The MCP server 'notes'"):
        await box.call("notes.write", {"file": str(tmp_path / "notes"), "text": "hello"})
    again = HttpServer(SERVE_NOTES, mortal_notes.port)
    try:
        assert await box.call("notes.pid", {}) != first
    finally:
        again.kill()


async def test_a_call_that_may_have_taken_effect_is_never_made_twice(toolbox: MakeToolbox, tmp_path: Path) -> None:
    box, file = toolbox(notes_server()), tmp_path / "notes"
    with pytest.raises(ToolError, match="disconnected during write; whether the call took effect is unknown"):
        await box.call("notes.write", {"file": str(file), "text": "last words"})
    assert file.read_text() == "last words\n"


async def test_a_call_that_changes_nothing_is_made_again_when_the_server_died_underway(
    toolbox: MakeToolbox, tmp_path: Path
) -> None:
    file = tmp_path / "notes"
    assert await toolbox(notes_server()).call("notes.read", {"file": str(file)}) == "read\n"


@pytest.mark.parametrize("over_http", [False, True])
async def test_a_tool_that_reports_progress_has_more_time(
    toolbox: MakeToolbox, notes_url: str, over_http: bool
) -> None:
    box = toolbox(notes(notes_url, timeout_s=6.0) if over_http else notes_server(timeout_s=6.0))
    await box.call("notes.pid", {})
    assert await box.call("notes.work", {"steps": 8, "seconds": 0.9}) == "done"


async def test_a_call_that_takes_too_long_ends_with_the_servers_name_and_the_server_stays(
    toolbox: MakeToolbox, notes_url: str
) -> None:
    box = toolbox(notes(notes_url, timeout_s=1.0))
    with pytest.raises(ToolError, match="'notes' did not respond to sleep within 1 s"):
        await box.call("notes.sleep", {"seconds": 60})
    assert (await box.call("notes.pid", {})).isdigit()


async def test_a_server_that_is_stuck_after_a_call_is_started_again(toolbox: MakeToolbox) -> None:
    box = toolbox(replace(misbehaving_server("gets stuck"), timeout_s=2.0))
    with pytest.raises(ToolError, match="did not respond to fine within 2 s"):
        await box.call("bad.fine", {})
    with pytest.raises(ToolError, match="did not respond to tools/list within 2 s"):
        await box.call("bad.ws.a/b", {})
    assert await box.call("bad.ws.a/b", {}) == "well"


async def test_a_caller_that_gives_up_takes_nothing_from_the_others(toolbox: MakeToolbox, notes_url: str) -> None:
    box = toolbox(notes(notes_url))
    impatient = asyncio.create_task(box.call("notes.sleep", {"seconds": 60}))
    patient = asyncio.create_task(box.call("notes.pid", {}))
    await asyncio.sleep(0.05)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    assert (await patient).isdigit()
    assert await box.call("notes.pid", {}) == await patient


# -- one toolbox, many askers


async def test_servers_added_or_changed_later_are_seen_and_the_others_keep_their_connection(notes_url: str) -> None:
    servers = [notes_server(id="1")]
    box = Toolbox(lambda: servers, Settings(weather_mode="recorded"))
    try:
        pid = await box.call("notes.pid", {})
        servers.append(notes(notes_url, "more", id="2"))
        assert await box.call("notes.pid", {}) == pid
        assert await box.call("more.pid", {}) != pid
        servers.pop()
        with pytest.raises(NotFoundError, match=r"no tool 'more\.pid'"):
            await box.call("more.pid", {})
    finally:
        await box.aclose()


def test_a_toolbox_works_in_one_event_loop_after_another() -> None:
    box = Toolbox([], Settings(weather_mode="recorded"))

    async def ask() -> str:
        return await box.call(THINK, {"thought": "hm"})

    assert [asyncio.run(ask()) for _ in range(2)] == ["Noted.", "Noted."]


async def test_the_built_in_server_answers_within_milliseconds_once_it_runs(toolbox: MakeToolbox) -> None:
    box = toolbox()
    await box.call(THINK, {"thought": "first"})
    started = time.perf_counter()
    for _ in range(50):
        await box.call(THINK, {"thought": "again"})
    assert (time.perf_counter() - started) / 50 < 0.05


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("think", {}, "The argument 'thought' is missing"),
        ("think", {"thought": ""}, "The thought is empty"),
        ("think", {"thought": 7}, "'thought' is 7, not text"),
        ("get_weather", {"location": "Oslo", "day": "tomorrow"}, "There is no argument 'day'"),
        ("get_weather", {"location": "Atlantis"}, "no recorded weather for 'Atlantis'"),
        ("fly", {}, "has no usable tool 'fly'"),
    ],
)
async def test_the_built_in_tools_say_what_is_wrong_with_a_call(
    toolbox: MakeToolbox, tool: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(LabError, match=message):
        await toolbox().call(f"{BUILTIN_MCP_SERVER}.{tool}", arguments)


# -- a server that answers what the protocol does not have


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        ("schema of text", "tools.1.inputSchema.type: "),
        ("schema true", "tools.1.inputSchema: "),
        ("schema missing", "tools.1.inputSchema: "),
        ("tools no list", "tools: "),
    ],
)
async def test_a_server_whose_tool_list_is_malformed_is_left_out_with_a_notice_and_the_others_work(
    toolbox: MakeToolbox, notes_url: str, fault: str, where: str
) -> None:
    box = toolbox(misbehaving_server(fault), notes(notes_url))
    tools, problems = await box.survey()
    assert {tool.server for tool in tools} == {"lab", "notes"}
    [problem] = problems
    assert problem.server == "bad"
    assert f"sent an invalid response to tools/list ({where}" in str(problem)
    assert "and other servers work" in str(problem)
    given = await box.tools_for(agent("bad.fine", "notes.pid"))
    assert [tool.name for tool in given.tools] == ["pid"]
    assert [error.server for error in given.missing] == ["bad"]


@pytest.mark.parametrize("fault", ["unknown content", "content null", "content missing text"])
async def test_a_malformed_result_is_a_failed_call_and_the_connection_stays_good(
    toolbox: MakeToolbox, fault: str
) -> None:
    box = toolbox(misbehaving_server(fault))
    for _ in range(2):
        with pytest.raises(ToolError, match=r"'bad' sent an invalid response to fine \(.*content") as caught:
            await box.call("bad.fine", {})
        assert caught.value.server == "bad"


@pytest.mark.parametrize("over_http", [False, True])
async def test_an_error_of_a_server_is_told_in_its_words_whatever_its_code_and_ends_no_other_call(
    toolbox: MakeToolbox, over_http: bool
) -> None:
    with misbehaving_over_http("locked") if over_http else nullcontext() as url:
        box = toolbox(server("bad", url=url) if url else misbehaving_server("locked"))
        other = asyncio.create_task(box.call("bad.ws.a/b", {}))
        await asyncio.sleep(0.5)
        with pytest.raises(ToolError) as caught:
            await box.call("bad.fine", {})
        assert str(caught.value) == "The MCP server 'bad' rejected fine: The database is locked."
        assert await other == "well"


async def test_what_a_server_says_beside_an_errors_words_is_told_too(toolbox: MakeToolbox) -> None:
    with pytest.raises(ToolError, match=r'rejected fine: Invalid params \({"missing": \["day"\]}\)\. Compare the tool'):
        await toolbox(misbehaving_server("picky")).call("bad.fine", {})
    with pytest.raises(ToolError, match=r"^fine failed: the tool reported an error without a message$"):
        await toolbox(misbehaving_server("error without words")).call("bad.fine", {})


async def test_a_line_that_is_no_message_fails_its_own_call_at_once_or_is_told_when_the_time_is_over(
    toolbox: MakeToolbox, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ToolError, match=r"unreadable response to fine \(It is no JSON-RPC response: .*It is locked"):
        await toolbox(misbehaving_server("error of text")).call("bad.fine", {})
    slow = replace(misbehaving_server("not json"), timeout_s=2.0)
    with pytest.raises(ToolError, match=r"within 2 s; the last line that it wrote is no MCP message: I am at work\."):
        await toolbox(slow).call("bad.fine", {})
    [problem] = (await toolbox(misbehaving_server("usage")).survey())[1]
    assert "exited on start with: usage: misbehaving --key KEY." in str(problem)
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize(("fault", "text"), [("latin-1", "well"), ("half an emoji", "a\ufffd")])
async def test_output_with_characters_that_do_not_exist_is_read_and_the_connection_stays_good(
    toolbox: MakeToolbox, fault: str, text: str
) -> None:
    box = toolbox(misbehaving_server(fault))
    assert [await box.call("bad.fine", {}) for _ in range(2)] == [text, text]


async def test_a_name_that_is_listed_twice_is_one_tool_and_a_list_without_end_is_told(toolbox: MakeToolbox) -> None:
    assert await names(toolbox(misbehaving_server("names twice")), "bad.*") == ["fine", "ws_a_b"]
    [problem] = (await toolbox(misbehaving_server("pages without end")).survey())[1]
    assert "tools/list (it does not end after 1,000 pages)" in str(problem)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("expired token", r"answered HTTP 401 to fine\. Check its credentials"),
        ("stream that breaks off", "disconnected during fine; whether the call took effect is unknown"),
    ],
)
async def test_a_token_that_expires_later_and_a_stream_that_breaks_off_are_told_as_such(
    toolbox: MakeToolbox, fault: str, message: str
) -> None:
    with misbehaving_over_http(fault) as url, pytest.raises(ToolError, match=message):
        await toolbox(server("bad", url=url)).call("bad.fine", {})


OAUTH = 'Bearer scope="read", resource_metadata="http://x/.well-known/oauth-protected-resource"'


@pytest.mark.parametrize(
    ("challenge", "headers", "step"),
    [
        (OAUTH, {}, r"It requires OAuth, and the lab does not sign in for you: get an access token with the scope 'read' and set it: lab\.mcp\.set_headers\('notion'"),
        (f'{OAUTH}, error="invalid_token"', {"authorization": "Bearer old"}, "Its access token has expired or is not valid: get another one"),
        ('Bearer error="insufficient_scope", scope="files:write"', {"Authorization": "Bearer weak"}, "does not suffice: get one with the scope 'files:write'"),
        ("", {}, "Check its credentials"),
    ],
)  # fmt: skip
async def test_a_server_that_refuses_credentials_is_told_with_what_it_wants(
    toolbox: MakeToolbox, challenge: str, headers: dict[str, str], step: str
) -> None:
    class Refuse(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(403 if "insufficient" in challenge else 401)
            if challenge:
                self.send_header("WWW-Authenticate", challenge)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as refusing:
        threading.Thread(target=refusing.serve_forever, kwargs={"poll_interval": 0.01}).start()
        box = toolbox(server("notion", url=f"http://127.0.0.1:{refusing.server_port}/mcp", headers=headers))
        with pytest.raises(ToolError) as caught:
            await box.call("notion.search", {})
        refusing.shutdown()
    assert re.search(step, str(caught.value))


async def test_a_name_with_dots_is_that_of_the_longest_server_that_fits(toolbox: MakeToolbox) -> None:
    box = toolbox(misbehaving_server("none", "x"), misbehaving_server("none", "x.ws"))
    assert await names(box, "x.ws.a/b") == []
    assert await names(box, "x.ws.ws.a/b") == ["ws_a_b"]
    assert await box.call("x.fine", {}) == "well"


async def test_a_server_that_has_resources_alone_is_read_by_tools_and_one_that_cannot_list_them_says_so_when_asked(
    toolbox: MakeToolbox,
) -> None:
    box = toolbox(misbehaving_server("resources only", "docs"), misbehaving_server("resources no list", "bad"))
    assert await names(box, "docs.*") == ["list_resources", "read_resource"]
    assert await box.call("docs.list_resources", {}) == (
        '{"resources": [{"name": "b", "uri": "a://b"}], "resourceTemplates": []}'
    )
    assert await names(box, "bad.*") == ["fine", "ws_a_b", "list_resources", "read_resource"]
    with pytest.raises(ToolError, match=r"The MCP server 'bad' sent an invalid response to resources/list"):
        await box.call("bad.list_resources", {})
    with pytest.raises(ToolError, match="read_resource needs a uri"):
        await box.call("bad.read_resource", {})
