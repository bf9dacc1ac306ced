"""The toolbox's tools inside real Agents SDK runs: calls, failures, approvals, and a run that goes on in another toolbox."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from agents import Agent, RunConfig, Runner, RunState, ToolCallItem, ToolCallOutputItem, set_trace_processors
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.tracing import FunctionSpanData, Span, Trace, TracingProcessor, get_trace_provider
from mcp.types import CallToolResult

from tests.mcp.conftest import MakeToolbox, agent, server
from timestep_lab.model.ids import BUILTIN_MCP_SERVER
from timestep_lab.model.records import AgentRecord, McpServerRecord
from timestep_lab.runtime.mcp.sdk_tools import FailedOutput, ToolSet, output_of

WEATHER = f"{BUILTIN_MCP_SERVER}.get_weather"
ASK_IN_BERKELEY = {WEATHER: {"argument": "location", "contains": "berkeley"}}


class Spans(TracingProcessor):
    """Keeps the function spans that ended."""

    def __init__(self) -> None:
        self.ended: list[Span[Any]] = []

    def on_span_end(self, span: Span[Any]) -> None:
        if isinstance(span.span_data, FunctionSpanData):
            self.ended.append(span)

    def on_trace_start(self, trace: Trace) -> None: ...
    def on_trace_end(self, trace: Trace) -> None: ...
    def on_span_start(self, span: Span[Any]) -> None: ...
    def shutdown(self) -> None: ...
    def force_flush(self) -> None: ...


@pytest.fixture
def spans() -> Iterator[Spans]:
    spans = Spans()
    # What was there comes back: a lab of a later test in this process listens too. The SDK has no public way to ask.
    before = list(get_trace_provider()._multi_processor._processors)
    set_trace_processors([spans])
    yield spans
    set_trace_processors(before)


def sdk_agent(tools: ToolSet, *turns: Any) -> Agent[Any]:
    return Agent(name="Agent", model=ScriptedModel([*turns]), tools=tools.tools, mcp_servers=tools.mcp_servers)


def weather_calls(*places: str) -> list[Any]:
    return [function_call("get_weather", {"location": place}, call_id=f"call_{n}") for n, place in enumerate(places)]


def outputs(result: Any) -> list[ToolCallOutputItem]:
    return [item for item in result.new_items if isinstance(item, ToolCallOutputItem)]


async def test_a_call_reaches_the_server_and_its_text_the_model(toolbox: MakeToolbox, spans: Spans) -> None:
    tools = await toolbox().tools_for(agent(WEATHER))
    result = await Runner.run(sdk_agent(tools, weather_calls("Oslo"), [assistant_message("cold")]), "Oslo?")
    assert result.final_output == "cold"
    [output] = outputs(result)
    assert json.loads(output.output)["location"] == "Oslo, Norway"
    [call] = [item for item in result.new_items if isinstance(item, ToolCallItem)]
    assert call.tool_origin is not None
    assert call.tool_origin.mcp_server_name == "lab"
    [span] = spans.ended
    assert span.span_data.mcp_data == {"server": "lab", "server_id": BUILTIN_MCP_SERVER, "tool": "get_weather"}
    assert span.error is None


async def test_a_failure_is_told_to_the_model_and_marked_in_item_and_span_and_the_run_goes_on(
    toolbox: MakeToolbox, spans: Spans
) -> None:
    tools = await toolbox().tools_for(agent(WEATHER))
    result = await Runner.run(sdk_agent(tools, weather_calls("Atlantis"), [assistant_message("sorry")]), "?")
    [output] = outputs(result)
    assert isinstance(output.output, FailedOutput)
    assert "no recorded weather for 'Atlantis'" in json.loads(output.output)["error"]
    assert output.custom_data == {"error": output.output}
    [span] = spans.ended
    assert "Atlantis" in span.error["message"]
    assert result.final_output == "sorry"


async def test_pictures_reach_the_model_as_pictures(toolbox: MakeToolbox, notes_url: str) -> None:
    tools = await toolbox(server("notes", url=notes_url)).tools_for(agent("notes.picture"))
    turns = [[function_call("picture", {}, call_id="call_0")], [assistant_message("white")]]
    result = await Runner.run(sdk_agent(tools, *turns), "?")
    [part] = outputs(result)[0].raw_item["output"]
    assert part["type"] == "input_image"
    assert part["image_url"].startswith("data:image/gif;base64,R0lGOD")


async def test_only_the_call_whose_arguments_meet_the_rule_waits_for_a_person(toolbox: MakeToolbox) -> None:
    tools = await toolbox().tools_for(agent(WEATHER, approvals=ASK_IN_BERKELEY))
    turns = [weather_calls("Oakland", "South Berkeley", "Oslo"), [assistant_message("done")]]
    paused = await Runner.run(sdk_agent(tools, *turns), "?")
    [waiting] = paused.interruptions
    assert waiting.call_id == "call_1"
    assert tools.reason_to_ask("get_weather", waiting.arguments) == 'location contains "berkeley"'


async def paused_in(toolbox: MakeToolbox, record: AgentRecord, *servers: McpServerRecord) -> str:
    tools = await toolbox(*servers).tools_for(record)
    result = await Runner.run(sdk_agent(tools, weather_calls("Berkeley")), "?")
    assert len(result.interruptions) == 1
    return result.to_state().to_string()


async def test_a_paused_run_goes_on_with_the_tools_of_another_toolbox(toolbox: MakeToolbox, notes_url: str) -> None:
    record = agent(WEATHER, "notes.pid", approvals=ASK_IN_BERKELEY)
    state_json = await paused_in(toolbox, record, server("notes", id="n", url=notes_url))
    later = await toolbox(server("notes", id="n", url=notes_url), server("more", url=notes_url)).tools_for(record)
    root = sdk_agent(later, [assistant_message("foggy")])
    state = await RunState.from_string(root, state_json)
    [waiting] = state.get_interruptions()
    state.approve(waiting)
    result = await Runner.run(root, state)
    assert result.final_output == "foggy"
    assert json.loads(outputs(result)[-1].output)["location"].startswith("Berkeley")


async def test_an_approved_call_is_not_carried_out_by_another_server_that_took_the_name(
    toolbox: MakeToolbox, notes_url: str
) -> None:
    state_json = await paused_in(toolbox, agent(WEATHER, approvals=ASK_IN_BERKELEY))
    impostor = await toolbox(server("notes", url=notes_url)).tools_for(agent("notes.get_weather"))
    root = sdk_agent(impostor, [assistant_message("never said")])
    state = await RunState.from_string(root, state_json)
    state.approve(state.get_interruptions()[0])
    with pytest.raises(Exception, match="different recipient"):
        await Runner.run(root, state, run_config=RunConfig(tracing_disabled=True))


async def test_a_client_tool_hands_its_arguments_on(toolbox: MakeToolbox) -> None:
    tools = await toolbox().tools_for(agent("switch_theme"))
    turns = [[function_call("switch_theme", {"theme": "dark"}, call_id="call_0")], [assistant_message("done")]]
    result = await Runner.run(sdk_agent(tools, *turns), "dark please")
    assert json.loads(outputs(result)[0].output) == {"status": "sent to the client", "arguments": {"theme": "dark"}}
    assert tools.server_of("switch_theme") is None


def test_what_a_tool_gives_that_is_no_text_reaches_the_model_as_what_it_is() -> None:
    kept: dict[str, bytes] = {}

    def keep(name: str, content: bytes) -> Any:
        kept[name] = content
        return SimpleNamespace(id=f"file_{len(kept)}", filename=name)

    def result(*blocks: dict[str, Any]) -> CallToolResult:
        return CallToolResult.model_validate({"content": blocks})

    data = base64.b64encode(b"12345").decode()
    blob = {"uri": "file:///tmp/report.pdf", "mimeType": "application/pdf", "blob": data}
    picture = {"uri": "file:///dot.png", "mimeType": "image/png", "blob": data}
    told = output_of(
        result(
            {"type": "text", "text": "Look:"}, {"type": "audio", "data": data, "mimeType": "audio/wav"},
            {"type": "resource", "resource": blob}, {"type": "resource", "resource": {"uri": "file:///a.txt", "text": "A note."}},
        ), keep, "see",
    )  # fmt: skip
    assert kept == {"see.wav": b"12345", "report.pdf": b"12345"}
    assert told.startswith("Look:\n")
    assert told.endswith("A note.")
    assert '"file_id": "file_1"' in told
    assert data not in told
    seen = output_of(result({"type": "text", "text": "A dot."}, {"type": "resource", "resource": picture}), keep, "see")
    assert [part.type for part in seen] == ["text", "image"]
    assert seen[1].image_url == f"data:image/png;base64,{data}"
    long = output_of(result({"type": "text", "text": "x" * 5_000_000}), keep, "see")
    assert len(long) < 201_000
    assert "Cut after 200,000 of 5,000,000 characters" in long
    assert len(kept["see.txt"]) == 5_000_000
    without = output_of(result({"type": "audio", "data": data, "mimeType": "audio/wav"}))
    assert without == "(audio/wav, 5 bytes, not stored)"
    broken = output_of(result({"type": "image", "data": "no base64", "mimeType": "image/png"}), keep, "see")
    assert broken == "(image/png, which is not valid base64)"
    link = {"type": "resource_link", "uri": "file:///a.txt", "name": "a.txt", "mimeType": "text/plain"}
    assert json.loads(output_of(result(link), keep, "see")) == link
