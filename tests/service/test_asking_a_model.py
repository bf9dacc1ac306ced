"""`lab.ask`: one model, one answer, no agent. The same for a lab in a file and a served one; `models.ask` says it as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.lab_process import LabProcess
from tests.server.remote import SETTINGS, remote_lab
from timestep_lab import Lab, NotFoundError, UsageError
from timestep_lab.model.errors import BudgetError, LabError, ProviderError, SettingsError
from timestep_lab.model.events import AnswerCompleted, AnswerDelta, AnswerStarted
from timestep_lab.server.pages.playground import recorded_request

LOOKUP = {"name": "get_weather", "description": "The weather.", "parameters": {"type": "object", "properties": {"location": {"type": "string"}}}}  # fmt: skip
SCHEMA = {"type": "json_schema", "name": "city", "schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}  # fmt: skip


@pytest.fixture(params=["local", "served"])
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    where = (
        remote_lab(request.getfixturevalue("served_lab"))
        if request.param == "served"
        else Lab(tmp_path / "lab.duckdb", settings=SETTINGS)
    )
    async with where as opened:
        yield opened


async def listen(events: AsyncIterator[Any], heard: list[Any]) -> None:
    async for event in events:
        heard.append(event)


def rows(lab: Lab, trace_id: str) -> tuple[Any, list[Any]]:
    return lab.trace_source.read(trace_id), [*lab.trace_source.whole_spans(trace_id)]


async def test_one_model_answers_once_and_the_call_is_a_trace_with_all_that_was_asked(lab: Lab) -> None:
    answer = await lab.ask("Say tea", model="demo/echo", instructions="Be brief.", model_settings={"temperature": 0.5}, metadata={"for": "a test"})  # fmt: skip
    assert "Say tea" in answer.text
    assert (answer.model, answer.cost_usd, answer.stop_reason) == ("demo/echo", 0.0, "stop")
    assert answer.usage is not None
    assert answer.usage.input_tokens > 0
    assert answer.ttft_ms is not None
    assert answer.duration_ms is not None
    trace, [span] = rows(lab, answer.trace_id)
    assert (trace["status"], trace["source"], trace["thread_id"]) == ("completed", "live", None)
    assert span["input"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say tea"}]
    assert span["attributes"]["model_config"]["temperature"] == 0.5


async def test_the_answer_comes_as_it_is_said(lab: Lab) -> None:
    events = [event async for event in lab.models.ask("one two three four", model="demo/echo")]
    assert isinstance(events[0], AnswerStarted)
    assert isinstance(events[-1], AnswerCompleted)
    said = [event.delta for event in events if isinstance(event, AnswerDelta)]
    assert len(said) > 2
    assert "".join(said) == events[-1].answer.text
    assert events[0].trace_id == events[-1].answer.trace_id


async def test_a_tool_that_the_model_wants_to_call_is_told_and_not_called(lab: Lab) -> None:
    events = [e async for e in lab.models.ask("What's the weather in Oslo?", model="demo/assistant", tools=[LOOKUP])]
    [call] = [item for item in events[-1].answer.items if item["type"] == "function_call"]  # type: ignore[attr-defined]
    assert (call["name"], "Oslo" in call["arguments"]) == ("get_weather", True)
    told = [event for event in events if isinstance(event, AnswerDelta) and event.field == "arguments"]
    assert {(event.call_id, event.tool) for event in told} == {(call["call_id"], "get_weather")}
    assert "".join(event.delta for event in told) == call["arguments"]
    # What came of it is the caller's to say: the conversation goes on with it.
    heard = {"type": "function_call_output", "call_id": call["call_id"], "output": '{"temperature_c": 14}'}
    items = [{"role": "user", "content": "What's the weather in Oslo?"}, dict(call), heard]
    assert "14" in (await lab.ask(items, model="demo/assistant", tools=[LOOKUP])).text


async def test_an_answer_has_the_form_that_was_asked_for(lab: Lab) -> None:
    answer = await lab.ask("Where?", model="demo/assistant", response_format=SCHEMA)
    assert json.loads(answer.text) == {"city": ""}
    [span] = rows(lab, answer.trace_id)[1]
    assert span["attributes"]["model_config"]["response_format"] == {**SCHEMA, "strict": False}


@pytest.mark.parametrize(
    ("kind", "words", "asked"),
    [
        (UsageError, "prompt is empty", {"prompt": " "}),
        (UsageError, "prompt is empty", {"prompt": []}),
        (UsageError, "Item 1 of the prompt is invalid: its type is 'foo'", {"prompt": [{"type": "foo"}]}),
        (UsageError, "Item 2 .* role is 'tool'", {"prompt": [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "a", "content": "y"}]}),
        (UsageError, "tool calls must be separate items", {"prompt": [{"role": "assistant", "content": "", "tool_calls": []}]}),
        (UsageError, "content is neither a string nor", {"prompt": [{"role": "user", "content": 5}]}),
        (UsageError, "content is neither a string nor", {"prompt": [{"role": "user", "content": ["hi"]}]}),
        (UsageError, "text of its input_text is not a string", {"prompt": [{"role": "user", "content": [{"type": "input_text", "text": 5}]}]}),
        (SettingsError, "The tool choice 'find' cannot be met", {"prompt": "Hi", "model_settings": {"tool_choice": "find"}}),
        (UsageError, "a function_call needs its arguments", {"prompt": [{"type": "function_call", "call_id": "a", "name": "f"}]}),
        (UsageError, "nonsense", {"prompt": "x", "model": "nonsense/model"}),
        (SettingsError, "temperature", {"prompt": "x", "model_settings": {"temperature": 9}}),
        (UsageError, "Tool 1 is invalid: it has no name", {"prompt": "x", "tools": [{"description": "?"}]}),
        (UsageError, "a function has no field 'paramters'. Did you mean 'parameters'", {"prompt": "x", "tools": [{"name": "a", "paramters": {}}]}),
        (SettingsError, "Unknown response format", {"prompt": "x", "response_format": {"type": "xml"}}),
        (NotFoundError, "file_nope", {"prompt": [{"role": "user", "content": [{"type": "input_image", "file_id": "file_nope"}]}]}),
    ],
)  # fmt: skip
async def test_what_cannot_be_asked_is_refused_before_anything_is_written(
    lab: Lab, kind: type[LabError], words: str, asked: dict[str, Any]
) -> None:
    with pytest.raises(kind, match=words):
        await lab.ask(**{"model": "demo/echo", **asked})
    assert lab.trace_source.page().data == []


async def test_what_the_provider_refuses_is_raised_in_its_words_and_kept_in_the_trace(lab: Lab) -> None:
    began: list[Any] = []
    with pytest.raises(ProviderError) as refused:
        await listen(
            lab.models.ask("x", model="demo/flaky?rate=1&seed=1", model_settings={"retry": {"max_retries": 0}}), began
        )
    trace, [span] = rows(lab, began[0].trace_id)
    assert trace["status"] == "failed"
    assert refused.value.message in span["error"]


async def test_a_schema_that_is_none_is_refused_in_words(lab: Lab) -> None:
    odd = {"type": "json_schema", "schema": {"type": "nonsense"}}
    with pytest.raises(ProviderError, match="demo/assistant cannot follow this JSON schema"):
        await lab.ask("x", model="demo/assistant", response_format=odd)


async def test_an_answer_has_its_time_and_what_was_said_until_then_is_kept(lab: Lab) -> None:
    began: list[Any] = []
    with pytest.raises(BudgetError, match=r"took longer than 2 s"):
        await listen(lab.models.ask("Count", model="demo/slow?tps=40&n=400&ttft=10", timeout_s=2), began)
    _, [span] = rows(lab, began[0].trace_id)
    assert span["error"] == "Cancelled before the answer was complete."
    assert "demo/slow (no language model)" in str(span["output"])


async def test_who_leaves_ends_the_answer(lab: Lab) -> None:
    events = lab.models.ask("Count", model="demo/slow?tps=20&n=400&ttft=10")
    first: Any = await anext(events)
    await anext(events)
    await events.aclose()
    deadline = time.monotonic() + 20
    while not (ended := [s for s in spans_of(lab, first.trace_id) if s["status"] != "pending"]):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert ended[0]["error"] == "Cancelled before the answer was complete."


def spans_of(lab: Lab, trace_id: str) -> list[Any]:
    """None while its first one is not written yet."""
    with contextlib.suppress(NotFoundError):
        return rows(lab, trace_id)[1]
    return []


def test_answers_are_their_users_own_and_nobody_else_is_answered(served_lab: LabProcess) -> None:
    with served_lab.nobody() as nobody, served_lab.anonymous() as ann, served_lab.anonymous() as ben:
        assert nobody.post("/api/v1/models/ask", json={"prompt": "x"}).status_code == 401
        answer = ann.post("/api/v1/models/ask", json={"prompt": "A secret", "model": "demo/echo"}).json()
        assert "secret" in answer["text"]
        assert ann.get(f"/api/v1/traces/{answer['trace_id']}").status_code == 200
        assert ben.get(f"/api/v1/traces/{answer['trace_id']}").status_code == 404
        refused = ann.post("/api/v1/models/ask", json={"prompt": "x", "model": "demo/echo", "timeout_s": 0})
        assert (refused.status_code, "timeout_s" in refused.text) == (422, True)


# -- what was asked in a recorded step, to be changed and asked again


SPAN = {
    "name": "chat", "kind": "generation", "status": "ok", "agent": None, "model": None,
}  # fmt: skip
CALL = {"type": "function_call", "call_id": "c1", "name": "lookup", "arguments": '{"id": 7}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "seven"}
FOREIGN = {
    "chat completions": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Which?"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "lookup", "arguments": '{"id": 7}'}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "seven"},
    ],
    "opentelemetry": [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "content": "Which?"}]},
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "c1", "name": "lookup", "arguments": {"id": 7}}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "seven"}]},
    ],
    "anthropic": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Which?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "lookup", "input": {"id": 7}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "seven"}]},
    ],
    "responses": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which?"}, CALL, RESULT],
}  # fmt: skip


class Recorded:
    """As much of `Traces` as the reading of a step asks."""

    def __init__(self, *spans: dict[str, Any]) -> None:
        self._spans = {span["span_id"]: span for span in spans}

    def columns(self, trace_id: str) -> dict[str, Any]:
        spans = list(self._spans.values())
        return {"span_id": [s["span_id"] for s in spans], "kind": [s["kind"] for s in spans], "started_us": [*range(len(spans))]}  # fmt: skip

    def payloads(self, trace_id: str, ids: list[str]) -> list[dict[str, Any]]:
        return [self._spans[id] for id in ids if id in self._spans]


@pytest.mark.parametrize("form", FOREIGN)
def test_whatever_wrote_the_trace_its_request_can_be_asked_again(form: str) -> None:
    attributes = {"gen_ai.request.temperature": 0.3, "gen_ai.request.max_tokens": 50, "gen_ai.request.model": "gpt-4.1"}
    traces: Any = Recorded({**SPAN, "span_id": "a", "input": FOREIGN[form], "attributes": attributes})
    found = recorded_request(traces, "t", "a")
    assert (found.instructions, found.model) == ("Be brief.", "gpt-4.1")
    assert found.model_settings == {"temperature": 0.3, "max_tokens": 50}
    first, call, result = found.items
    assert (first["role"], first["content"]) == ("user", "Which?")
    assert (call["type"], call["call_id"], call["name"], json.loads(call["arguments"])) == ("function_call", "c1", "lookup", {"id": 7})  # fmt: skip
    assert result == RESULT
    assert found.notes == ["The offered tools were not recorded."]


async def test_the_tools_of_a_step_are_those_that_its_agent_was_offered_last_and_the_request_can_be_asked(
    tmp_path: Path,
) -> None:
    async with Lab(tmp_path / "lab.duckdb", settings=SETTINGS) as lab:
        run = await lab.run("What's the weather in Oakland?")
        spans = [s for s in lab.trace_source.whole_spans(run.trace_id) if s["kind"] == "generation"]
        last = spans[-1]
        found = recorded_request(lab.trace_source, run.trace_id, last["span_id"])
        assert found.agent == last["agent"]
        assert {"get_weather", "think"} <= {str(tool["name"]) for tool in found.tools}
        assert found.items[0]["role"] == "user"
        answer = await lab.ask(found.items, model="demo/assistant", instructions=found.instructions, tools=found.tools, model_settings=found.model_settings)  # fmt: skip
        assert answer.text == run.output
        with pytest.raises(NotFoundError, match="is not a model call"):
            recorded_request(lab.trace_source, run.trace_id, "nope")
