"""What a server asks in the middle of a call is answered by a person where approvals are, in any process; resources and prompts are read."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.mcp.conftest import misbehaving_over_http
from tests.server.served import SETTINGS
from timestep_lab import Lab
from timestep_lab.model.errors import ToolError, UsageError
from timestep_lab.runtime.approvals import filled_in
from timestep_lab.store.base import Change

ASKING = str(Path(__file__).parent / "servers" / "asking.py")


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with Lab(tmp_path / "lab.duckdb", settings=SETTINGS) as lab:
        lab.mcp.add("asking", command=[sys.executable, ASKING])
        lab.agents.create(name="Host", tools=["asking.book", "asking.consult"], model="demo/assistant")
        yield lab


async def test_a_form_is_filled_in_by_a_person_and_the_call_goes_on(lab: Lab) -> None:
    run = await lab.run("call book {}", agent="Host", timeout_s=60)
    assert run.status == "needs_approval"
    [asked] = run.interruptions
    assert (asked.name, asked.server, asked.asks, asked.reason) == ("book", "asking", "elicitation", "Whose table?")
    assert asked.form is not None
    assert [waiting.id for waiting in lab.approvals] == [run.id]
    with pytest.raises(UsageError, match="needs 'name'"):
        await run.approve()
    with pytest.raises(UsageError, match="no field 'chairs'"):
        await run.approve(answer={"name": "Ada", "chairs": 1})
    done = await run.approve(answer={"name": "Ada"})
    assert done.status == "completed"
    assert [i.data["output"] for i in done.thread.items if i.type == "tool_call"] == ["Friday: 2 seats for Ada"]
    assert [i.data["decision"] for i in done.thread.items if i.type == "approval"] == ["approved"]
    assert len(lab.approvals) == 0


async def test_a_tool_that_asks_in_the_middle_of_its_work_is_answered_by_the_protocol_in_which_it_can(lab: Lab) -> None:
    lab.mcp.add("before", command=[sys.executable, ASKING], protocol="2025-11-25")
    assert [server.protocol for server in lab.mcp.list() if server.name != "lab"] == [None, "2025-11-25"]
    lab.agents.create(name="Old", tools=["before.*"], model="demo/assistant")
    run = await lab.run("call greet {}", agent="Old")
    assert [(call.asks, call.reason) for call in run.interruptions] == [("elicitation", "Who is there?")]
    assert (await run.approve(answer={"name": "Ada"})).output == "greet answered: Hello Ada"
    booked = await (await lab.run("call book {}", agent="Old")).approve(answer={"name": "Ada"})
    assert "2 seats for Ada" in (booked.output or "")
    with pytest.raises(ToolError):
        await lab.toolbox.call("asking.greet", {})


async def test_a_person_may_take_longer_than_the_servers_time_while_the_stream_is_silent(lab: Lab) -> None:
    with misbehaving_over_http("asks") as url:
        lab.mcp.add("silent", url=url, timeout_s=1.5)
        lab.agents.create(name="Patient", tools=["silent.fine"], model="demo/assistant")
        asked = await lab.run("call fine {}", agent="Patient")
        await asyncio.sleep(2)
        assert (await asked.approve(answer={"name": "Ada"})).output == "fine answered: well"


async def test_a_refused_form_is_told_to_the_server(lab: Lab) -> None:
    done = await (await lab.run("call book {}", agent="Host")).reject("No.")
    assert [i.data["output"] for i in done.thread.items if i.type == "tool_call"] == [
        "Friday: nothing booked (decline)"
    ]
    unasked = await lab.run("call book {}", agent="Host", approve="none")
    assert unasked.status == "completed"
    assert "nothing booked" in (unasked.output or "")


async def test_a_dismissed_question_is_neither_accepted_nor_declined_and_only_a_question_can_be(lab: Lab) -> None:
    asked = await lab.run("call book {}", agent="Host")
    assert "asking asks: Whose table?" in repr(asked)
    assert 'run.approve(answer={"name": …, "seats": …})' in repr(asked)
    done = await asked.dismiss()
    [output] = [i.data["output"] for i in done.thread.items if i.type == "tool_call"]
    assert output == "Friday: nothing booked (cancel)"
    assert [i.data["decision"] for i in done.thread.items if i.type == "approval"] == ["dismissed"]
    lab.agents.create(
        name="Careful", tools=["asking.book"], approvals={"asking.book": "always"}, model="demo/assistant"
    )
    permission = await lab.run("call book {}", agent="Careful")
    with pytest.raises(UsageError, match="book asks no question to dismiss"):
        await permission.dismiss()


async def test_a_question_of_a_run_that_is_cancelled_leaves_no_error_behind(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = await lab.run("call book {}", agent="Host")
    await lab.cancel(waiting.id)
    await lab.mcp.test("asking")
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_server_asks_the_model_when_a_person_lets_it(lab: Lab) -> None:
    run = await lab.run("call consult {}", agent="Host")
    assert [(call.asks, call.form) for call in run.interruptions] == [("sampling", None)]
    assert "Say yes." in run.interruptions[0].arguments
    done = await run.approve()
    assert done.status == "completed"
    assert "it said I am demo/assistant" in (done.output or "")
    assert len([span for span in lab.store.traces.spans(run.trace_id) if span.kind == "generation"]) == 3
    refused = await (await lab.run("call consult {}", agent="Host")).reject()
    assert [i.data["status"] for i in refused.thread.items if i.type == "tool_call"] == ["failed"]


async def test_a_question_is_answered_from_another_process_or_withdrawn(lab: Lab) -> None:
    run = await lab.run("call book {}", agent="Host")
    live = lab.runner._live.pop(run.id)  # As it is in a process that did not start the run.
    there = asyncio.create_task(lab.get_run(run.id).approve(answer={"name": "Ada", "seats": 3}))
    await asyncio.sleep(0.1)
    lab.runner._live[run.id] = live
    lab.runner._changed(Change("approvals", lab.store.user_id, run.id))
    done = await asyncio.wait_for(there, 20)
    assert (done.status, "3 seats for Ada" in (done.output or "")) == ("completed", True)
    waiting = await lab.run("call book {}", agent="Host")
    await lab.cancel(waiting.id)
    assert lab.get_run(waiting.id).status == "cancelled"
    assert len(lab.approvals) == 0


async def test_nobody_is_asked_in_a_call_by_hand(lab: Lab) -> None:
    assert await lab.toolbox.call("asking.book", {}) == "Friday: nothing booked (cancel)"
    with pytest.raises(ToolError):
        await lab.toolbox.call("asking.consult", {})


async def test_resources_and_prompts_are_listed_read_and_used(lab: Lab) -> None:
    found = {one.uri: one for one in await lab.mcp.resources()}
    assert found["note://today"].server == "asking"
    assert found["note://{day}"].is_template
    [read] = await lab.mcp.read_resource("asking", "note://friday")
    assert (read.text, read.data) == ("Nothing on friday.", None)
    [prompt] = await lab.mcp.prompts()
    assert (prompt.name, prompt.arguments, prompt.required) == ("review", ("topic",), ("topic",))
    said = await lab.mcp.get_prompt("asking", "review", {"topic": "tea"})
    assert said == [{"role": "user", "content": [{"type": "input_text", "text": "Review tea."}]}]
    with pytest.raises(UsageError, match=r"arguments.*topic"):
        await lab.mcp.get_prompt("asking", "review", {"topic": 5})  # type: ignore[dict-item]
    assert "Review tea." in ((await lab.run(said, model="demo/echo")).output or "")
    with pytest.raises(ToolError, match="asking"):
        await lab.mcp.read_resource("asking", "nothing://here")


async def test_an_agent_reads_the_resources_of_its_server_by_tools_that_rules_apply_to(lab: Lab) -> None:
    rules = {"asking.read_resource": {"argument": "uri", "contains": "friday"}}
    lab.agents.create(name="Reader", tools=["asking.*"], approvals=rules, model="demo/assistant")
    told = (await lab.run("call list_resources", agent="Reader")).output or ""
    assert "note://today" in told
    assert "note://{day}" in told
    read = await lab.run('call read_resource {"uri": "note://today"}', agent="Reader")
    assert read.output == "read_resource answered: Tea at five."
    asked = await lab.run('call read_resource {"uri": "note://friday"}', agent="Reader")
    assert [(call.server, call.reason) for call in asked.interruptions] == [("asking", 'uri contains "friday"')]
    assert (await asked.approve()).output == "read_resource answered: Nothing on friday."
    missing = await lab.run('call read_resource {"uri": "nothing://here"}', agent="Reader")
    assert [item.data["status"] for item in missing.thread.items if item.type == "tool_call"] == ["failed"]


def test_a_form_takes_its_defaults_and_refuses_what_does_not_fit() -> None:
    form = {
        "type": "object", "required": ["n"],
        "properties": {"n": {"type": "integer", "minimum": 1}, "sure": {"type": "boolean", "default": True}},
    }  # fmt: skip
    assert filled_in(form, {"n": 2}) == {"n": 2, "sure": True}
    for wrong in ({}, {"n": 0}, {"n": "2"}, {"n": 1, "x": 1}):
        with pytest.raises(UsageError):
            filled_in(form, wrong)


FORMAT_CASES = {
    "email": (["ada@example.org", "a.b+c@mail.example.org"], ["ada", "ada@", "@example.org", "ada@example", "a b@example.org", "a@b@example.org"]),
    "uri": (["https://example.org/a?b", "urn:isbn:1", "mailto:ada@example.org"], ["example", "https://", "https://exa mple.org", ""]),
    "date": (["1815-12-10"], ["1815-12-32", "10.12.1815", "1815-12-10T00:00:00Z", "soon"]),
    "date-time": (["1815-12-10T12:00:00Z", "1815-12-10T12:00:00+01:00"], ["1815-12-10", "1815-12-10T12:00:00", "noon"]),
}  # fmt: skip


@pytest.mark.parametrize("format", FORMAT_CASES)
def test_a_text_of_a_form_has_the_format_that_the_server_asks_for(format: str) -> None:
    form = {"type": "object", "properties": {"it": {"type": "string", "format": format}}}
    right, wrong = FORMAT_CASES[format]
    for text in right:
        assert filled_in(form, {"it": text}) == {"it": text}
    for text in wrong:
        with pytest.raises(UsageError, match=f"The form is not valid: it: .* is not a '{format}'"):
            filled_in(form, {"it": text})


def test_choices_limits_and_lists_of_a_form_are_held() -> None:
    titled = {"oneOf": [{"const": "a", "title": "Ant"}, {"const": "b", "title": "Bee"}]}
    form = {
        "type": "object",
        "properties": {
            "one": {"type": "string", **titled}, "plain": {"type": "string", "enum": ["x", "y"], "enumNames": ["X", "Y"]},
            "many": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"anyOf": titled["oneOf"]}, "default": ["a"]},
            "n": {"type": "number", "minimum": 0, "maximum": 10, "default": 3.14}, "yes": {"type": "boolean"},
            "text": {"type": "string", "minLength": 2, "maxLength": 3},
        },
    }  # fmt: skip
    assert filled_in(form, {"one": "b", "plain": "y", "yes": False, "text": "abc"}) == {
        "one": "b", "plain": "y", "yes": False, "text": "abc", "many": ["a"], "n": 3.14,
    }  # fmt: skip
    for wrong in (
        {"one": "c"}, {"one": "Bee"}, {"plain": "X"}, {"many": []}, {"many": ["a", "b", "a"]}, {"many": ["c"]}, {"many": "a"},
        {"n": 11}, {"n": "3"}, {"yes": "yes"}, {"text": "a"}, {"text": "abcd"},
    ):  # fmt: skip
        with pytest.raises(UsageError, match=f"The form is not valid: {next(iter(wrong))}"):
            filled_in(form, wrong)
