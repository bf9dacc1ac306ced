"""A fork says again what was recorded, word for word, and is live from the span where something changed."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    AgentHooks,
    FunctionTool,
    FunctionToolResult,
    GuardrailFunctionOutput,
    InputGuardrail,
    OutputGuardrail,
    RunContextWrapper,
    ToolOutputImage,
    ToolOutputText,
    ToolsToFinalOutputResult,
    function_tool,
    handoff,
)
from agents.testing import function_call
from pydantic import BaseModel

from tests.runtime.bench import Bench, calls, last, open_bench, says
from timestep_lab.model.errors import MissingKeyError, NotFoundError, ProviderError, RunError, UsageError
from timestep_lab.model.events import RunFailed, RunPaused
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import McpServerRecord
from timestep_lab.runtime.span_records import read_only
from timestep_lab.runtime.tape import record


class Shop:
    """An agent with a tool that counts, and a model whose calls are counted."""

    def __init__(self, bench: Bench, *more: Any) -> None:
        self.counted: list[str] = []

        @function_tool
        def count(word: str) -> str:
            self.counted.append(word)
            return f"{word}: {len(self.counted)}"

        steps = [calls(("count", {"word": "a"})), calls(("count", {"word": "b"})), says("Two words."), *more]
        self.name = bench.script(*steps)
        self.model = bench.router.scripts[self.name]
        self.agent = Agent(name="Counter", model=self.name, tools=[count])

    @property
    def asked(self) -> int:
        return len(self.model.inner.calls)  # type: ignore[attr-defined]


async def fork(bench: Bench, trace_id: str, span_id: str | None = None, **changes: Any) -> Any:
    return last([event async for event in bench.runner.fork(trace_id, span_id, **changes)])


def story(bench: Bench, trace_id: str) -> list[tuple[Any, ...]]:
    """What was said and what tools gave, byte for byte, without ids and times."""
    bench.writer.flush()
    rows = bench.store.sql("select kind, name, agent, input, output from spans where trace_id = $1 and kind in "
                           "('generation', 'tool', 'handoff') order by started_at", [trace_id])  # fmt: skip
    return [tuple(row) for row in rows.rows]


def parsed(rows: list[tuple[Any, ...]]) -> list[list[Any]]:
    return [[json.loads(cell) if cell and cell[0] in "[{" else cell for cell in row] for row in rows]


def shown(bench: Bench, thread_id: str) -> list[tuple[Any, ...]]:
    return [
        (i.type, i.agent, i.data.get("text"), i.data.get("arguments"), i.data.get("output"))
        for i in bench.items(thread_id)
    ]


async def test_an_unchanged_fork_is_byte_equal_and_asks_nobody(bench: Bench) -> None:
    shop = Shop(bench)
    run = last(await bench.run("count", shop.agent)).run
    again = (await fork(bench, run.trace_id)).run
    assert (again.status, again.output) == ("completed", "Two words.")
    assert (shop.asked, shop.counted) == (3, ["a", "b"]), "no model and no tool was called"
    assert story(bench, again.trace_id) == story(bench, run.trace_id)
    assert shown(bench, again.thread_id) == shown(bench, run.thread_id)
    assert again.usage.input_tokens == 0
    assert again.thread_id != run.thread_id


async def test_handoffs_and_approved_calls_are_replayed_without_asking(bench: Bench) -> None:
    end = last(await bench.run("What is the weather in Berkeley?"))
    assert isinstance(end, RunPaused)
    run = last(await bench.approve(end.run.id)).run
    again = (await fork(bench, run.trace_id)).run
    assert (again.status, again.output) == ("completed", run.output)
    # Equal as JSON: the SDK's state, which the pause went through, has another order of keys.
    assert parsed(story(bench, again.trace_id)) == parsed(story(bench, run.trace_id))


async def test_a_fork_names_its_parent_and_span(bench: Bench) -> None:
    shop = Shop(bench)
    run = last(await bench.run("count", shop.agent)).run
    span = bench.spans("generation")[1]["span_id"]
    again = (await fork(bench, run.trace_id, span)).run
    bench.writer.flush()
    start = bench.store.traces.start(again.trace_id)
    assert (start.parent_trace_id, start.fork_span_id) == (run.trace_id, span)
    assert bench.store.traces.forks(run.trace_id) == [again.trace_id]


async def test_a_changed_model_is_live_from_that_span_on(bench: Bench) -> None:
    shop = Shop(bench)
    run = last(await bench.run("count", shop.agent)).run
    other = bench.script(says("Another end."))
    span = bench.spans("generation")[2]["span_id"]
    again = (await fork(bench, run.trace_id, span, model=other)).run
    assert again.output == "Another end."
    assert (shop.asked, shop.counted) == (3, ["a", "b"])
    [call] = bench.router.scripts[other].inner.calls  # type: ignore[attr-defined]
    assert [item["output"] for item in call.input if item.get("type") == "function_call_output"] == ["a: 1", "b: 2"]
    old, new = story(bench, run.trace_id), story(bench, again.trace_id)
    assert new[:4] == old[:4]
    assert new[4] != old[4]


async def test_a_changed_model_without_a_span_is_live_from_the_start(bench: Bench) -> None:
    shop = Shop(bench)
    run = last(await bench.run("count", shop.agent)).run
    again = (await fork(bench, run.trace_id, model=bench.script(says("At once.")))).run
    assert (again.output, shop.asked) == ("At once.", 3)


async def test_a_changed_prompt_is_what_the_model_hears(bench: Bench) -> None:
    shop = Shop(bench, says("Nothing to count."))
    run = last(await bench.run("count", shop.agent)).run
    again = (await fork(bench, run.trace_id, prompt="count nothing", instructions="Be exact.")).run
    assert (again.output, again.input) == ("Nothing to count.", "count nothing")
    heard = shop.model.inner.calls[-1]  # type: ignore[attr-defined]
    assert (heard.input[0]["content"], heard.system_instructions) == ("count nothing", "Be exact.")


async def test_a_changed_tool_is_live_from_its_first_call_on(bench: Bench) -> None:
    shop = Shop(bench, calls(("count", {"word": "c"})), says("One word."))
    run = last(await bench.run("count", shop.agent)).run
    again = (
        await fork(bench, run.trace_id, tools={"count": lambda arguments: {"word": arguments["word"], "n": 100}})
    ).run
    assert again.output == "One word."
    assert shop.asked == 5, "the first answer was replayed, the two after the tool were live"
    assert shop.counted == ["a", "b"], "the tool itself was not called"
    assert [json.loads(i.data["output"]) for i in bench.items(again.thread_id, "tool_call")] == [
        {"word": "a", "n": 100}, {"word": "c", "n": 100},
    ]  # fmt: skip


async def test_a_span_may_be_run_live_again_although_nothing_changed(bench: Bench) -> None:
    shop = Shop(bench, says("Said anew."))
    run = last(await bench.run("count", shop.agent)).run
    span = bench.spans("generation")[2]["span_id"]
    assert (await fork(bench, run.trace_id, span, again=True)).run.output == "Said anew."


async def test_the_past_of_the_thread_comes_along(bench: Bench) -> None:
    model = bench.script(says("Hello Ada."), says("You are Ada."), says("Still Ada."))
    agent = Agent(name="Friend", model=model)
    first = last(await bench.run("I am Ada.", agent)).run
    second = last(await bench.run("Who am I?", agent, thread_id=first.thread_id)).run
    again = (await fork(bench, second.trace_id, prompt="And who am I?")).run
    assert again.output == "Still Ada."
    heard = bench.router.scripts[model].inner.calls[-1].input  # type: ignore[attr-defined]
    assert [m["content"] if isinstance(m["content"], str) else m["content"][0]["text"] for m in heard] == [
        "I am Ada.", "Hello Ada.", "And who am I?",
    ]  # fmt: skip
    assert len(bench.items(first.thread_id)) == 4, "the parent's thread stays as it was"


async def test_a_failed_run_fails_again_in_the_same_way(bench: Bench) -> None:
    model = bench.script(ProviderError("No power.", provider="demo"))
    run = last(await bench.run("go", Agent(name="Weak", model=model))).run
    end = await fork(bench, run.trace_id)
    assert isinstance(end, RunFailed)
    assert "No power." in end.error["message"]
    other = bench.script(says("Powered."))
    assert (
        await fork(bench, run.trace_id, bench.spans("generation")[0]["span_id"], model=other)
    ).run.output == "Powered."


async def test_what_cannot_be_forked_says_so(bench: Bench) -> None:
    shop = Shop(bench)
    run = last(await bench.run("count", shop.agent)).run
    with pytest.raises(NotFoundError):
        await fork(bench, "0" * 32)
    with pytest.raises(NotFoundError, match="no span 'ffff'"):
        await fork(bench, run.trace_id, "ffff")
    with pytest.raises(MissingKeyError):
        await fork(bench, run.trace_id, model="anthropic/claude-sonnet-4-5")
    bench.runner._sdk_agents.clear()
    with pytest.raises(RunError, match="SDK Agent object"):
        await fork(bench, run.trace_id)
    assert (await fork(bench, run.trace_id, agent=shop.agent)).run.status == "completed"
    bench.store.threads.delete(run.thread_id)
    with pytest.raises(RunError, match="does not belong to a run"):
        await fork(bench, run.trace_id, agent=shop.agent)


# -- what was replaced stays replaced


class Till:
    """An agent whose refunds are asked about, and counted when they really happen."""

    def __init__(self, bench: Bench, *more: Any) -> None:
        self.refunds: list[str] = []

        @function_tool(needs_approval=True)
        def refund(order: str) -> str:
            self.refunds.append(order)
            return f"Refunded {order}."

        @function_tool(needs_approval=True)
        def write(text: str) -> str:
            return f"Wrote {text}."

        model = bench.script(*more)
        self.agent = Agent(name="Till", model=model, tools=[refund, write])
        self.inner = bench.router.scripts[model].inner

    @property
    def asked(self) -> int:
        return len(self.inner.calls)  # type: ignore[attr-defined]


def heard(bench: Bench, thread_id: str) -> list[Any]:
    """What the model read of tools, in order."""
    return [
        e["output"] for e in bench.store.threads.session_items(thread_id) if e.get("type") == "function_call_output"
    ]


async def test_a_replaced_tool_is_never_called_also_when_its_call_was_paused_and_approved(bench: Bench) -> None:
    till = Till(bench, calls(("refund", {"order": "7712"})), says("Done."), says("Denied, then."))
    run = last(await bench.run("refund 7712", till.agent)).run
    run = last(await bench.approve(run.id)).run
    again = (await fork(bench, run.trace_id, tools={"refund": "DENIED"})).run
    assert (again.status, again.output) == ("completed", "Denied, then."), "what is not called needs no approval"
    assert (heard(bench, again.thread_id), till.refunds) == (["DENIED"], ["7712"])


@pytest.mark.parametrize("prompt", [None, "Refund it."], ids=["after a replayed answer", "live from the start"])
@pytest.mark.parametrize("process", ["the same", "another"])
async def test_what_was_replaced_stays_replaced_when_a_fork_pauses_and_goes_on(
    tmp_path: Any, process: str, prompt: str | None
) -> None:
    path = tmp_path / "lab.duckdb"
    pay, write = calls(("refund", {"order": "1"})), calls(("write", {"text": "x"}))
    async with open_bench(path) as bench:
        till = Till(bench, calls(("refund", {"order": "0"})), says("Done."), write, pay, says("End."))
        run = last(await bench.run("refund", till.agent)).run
        run = last(await bench.approve(run.id)).run
        new = {"prompt": prompt, "instructions": {"Till": "Be brief."}} if prompt else {}
        end = await fork(bench, run.trace_id, tools={"refund": "DENIED"}, **new)
        assert isinstance(end, RunPaused)
        if process == "the same":
            end = last(await bench.approve(end.run.id))
            assert (end.run.output, till.refunds) == ("End.", ["0"])
            return
    async with open_bench(path) as bench:
        till = Till(bench, pay, says("End."))
        end = last(await bench.approve(end.run.id, agent=till.agent))
        assert (end.run.output, till.refunds) == ("End.", [])
        assert heard(bench, end.run.thread_id) == [*([] if prompt else ["DENIED"]), "Wrote x.", "DENIED"]
        assert till.inner.calls[0].system_instructions == ("Be brief." if prompt else None)  # type: ignore[attr-defined]


async def test_a_fork_of_stored_agents_goes_on_after_its_pause_with_what_was_replaced(bench: Bench) -> None:
    end = last(await bench.run("What is the weather in Berkeley?"))
    run = last(await bench.approve(end.run.id)).run
    told = (await fork(bench, run.trace_id, tools={"get_weather": "It rains frogs."})).run
    assert (told.status, "frogs" in heard(bench, told.thread_id)[-1]) == ("completed", True)
    live = await fork(bench, run.trace_id, again=True)
    assert isinstance(live, RunPaused), "a call that is live is asked about"
    live = last(await bench.approve(live.run.id))
    assert (live.run.status, "frogs" in str(live.run.output)) == ("completed", False)


async def test_a_fork_that_replaced_a_tool_by_a_function_goes_on_only_where_the_function_is(bench: Bench) -> None:
    till = Till(bench, calls(("refund", {"order": "0"})), says("Done."), calls(("write", {"text": "x"})), says("End."))
    run = last(await bench.run("refund", till.agent)).run
    run = last(await bench.approve(run.id)).run
    end = await fork(bench, run.trace_id, tools={"refund": lambda arguments: "NO"})
    assert isinstance(end, RunPaused)
    bench.runner._changes.clear()  # As in another process.
    with pytest.raises(
        RunError, match="replaced 'refund' by a function, which exists only in the process that created it"
    ):
        await bench.approve(end.run.id)
    assert bench.store.runs.get(end.run.id).status == "needs_approval", "it goes on waiting"


async def test_a_fork_whose_parent_is_gone_refuses_to_go_on(bench: Bench) -> None:
    till = Till(bench, calls(("refund", {"order": "0"})), says("Done."), calls(("write", {"text": "x"})), says("End."))
    run = last(await bench.run("refund", till.agent)).run
    run = last(await bench.approve(run.id)).run
    end = await fork(bench, run.trace_id, tools={"refund": "NO"})
    bench.store.threads.delete(run.thread_id)
    with pytest.raises(RunError, match=r"a fork of trace .* which no longer exists"):
        await bench.approve(end.run.id)


async def test_a_fork_of_a_fork_keeps_what_was_replaced(bench: Bench) -> None:
    pay = [calls(("refund", {"order": str(n)})) for n in range(3)]
    till = Till(bench, pay[0], says("Done."), says("First fork."), pay[1], says("Second fork."))
    run = last(await bench.run("refund", till.agent)).run
    run = last(await bench.approve(run.id)).run
    first = (await fork(bench, run.trace_id, tools={"refund": "DENIED"})).run
    second = (await fork(bench, first.trace_id, prompt="Please refund")).run
    assert (second.output, heard(bench, second.thread_id), till.refunds) == ("Second fork.", ["DENIED"], ["0"])


async def test_names_that_the_run_does_not_have_are_refused_with_the_one_that_was_meant(bench: Bench) -> None:
    till = Till(bench, calls(("refund", {"order": "0"})), says("Done."))
    run = last(await bench.run("refund", till.agent)).run
    runs = len(bench.store.runs.find())
    for wrong, message in [
        ({"tools": {"refnd": "X"}}, "There is no tool 'refnd' in this run. Did you mean 'refund'?"),
        ({"instructions": {"Til": "x"}}, "There is no agent 'Til' in this run. Did you mean 'Till'?"),
        ({"agent": "Till"}, "agent='Till' is not an Agent of the Agents SDK"),
        ({"instructions": 5}, "instructions=5 is neither a string nor a mapping of agent names to strings"),
        ({"tools": {"refund": object()}}, "cannot be encoded as JSON"),
        ({"results": {"call_x": "y"}}, "This run has no call 'call_x'"),
    ]:
        with pytest.raises(UsageError) as refused:
            await fork(bench, run.trace_id, **wrong)
        assert message in str(refused.value)
    assert len(bench.store.runs.find()) == runs, "nothing was written"


async def test_a_tool_inside_an_agent_used_as_a_tool_cannot_be_replaced_and_that_is_said(bench: Bench) -> None:
    till = Till(bench, says("Unused."))
    desk = Agent(name="Desk", model=bench.script(says("Hi.")), tools=[till.agent.as_tool("ask_till", "Asks the till.")])
    run = last(await bench.run("hi", desk)).run
    with pytest.raises(UsageError, match="agent behind the tool 'ask_till' has the tool 'refund'"):
        await fork(bench, run.trace_id, tools={"refund": "DENIED"})


# -- a replay is exact


class Point(BaseModel):
    x: int = 1


@dataclass
class Wind:
    speed: float


class Weather(BaseModel):
    day: date
    wind: Wind


RESULTS: dict[str, Any] = {
    "a model with defaults": Point(), "keys that are numbers": {1: "a"}, "a tuple": (1, 2), "nothing": None, "not a number": float("nan"),
    "an object": {"a": [1, None]}, "an image": ToolOutputImage(image_url="data:image/png;base64,AAAA", detail="low"),
    "parts": [ToolOutputText(text="Look:"), ToolOutputImage(image_url="data:image/png;base64,AAAA")], "true": True, "text": "{1: 2}",
}  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
async def test_the_model_hears_of_a_replayed_call_exactly_what_it_heard(bench: Bench, name: str) -> None:
    @function_tool
    def give() -> Any:
        return RESULTS[name]

    model = bench.script(calls(("give", {})), says("Thanks."), says("Thanks again."))
    run = last(await bench.run("give", Agent(name="Giver", model=model, tools=[give]))).run
    again = (await fork(bench, run.trace_id, bench.spans("generation")[1]["span_id"], again=True)).run
    assert again.output == "Thanks again."
    told = [
        [item["output"] for item in call.input if item.get("type") == "function_call_output"]
        for call in bench.router.scripts[model].inner.calls  # type: ignore[attr-defined]
    ]
    assert told[1] == told[2] != []
    assert shown(bench, again.thread_id)[:2] == shown(bench, run.thread_id)[:2]
    twice = (await fork(bench, again.trace_id)).run
    assert heard(bench, twice.thread_id) == heard(bench, run.thread_id), "also in a fork of the fork"


async def test_what_a_tool_returned_has_its_type_again_for_a_function_that_decides_over_the_end(bench: Bench) -> None:
    asked: list[str] = []

    @function_tool
    def get_weather(city: str) -> list[Weather]:
        asked.append(city)
        return [Weather(day=date(2026, 1, 2), wind=Wind(3.5))]

    def ends(_: Any, results: list[FunctionToolResult]) -> ToolsToFinalOutputResult:
        [weather] = results[0].output
        return ToolsToFinalOutputResult(is_final_output=True, final_output=f"{weather.day.year}: {weather.wind.speed}")

    model = bench.script(*[calls(("get_weather", {"city": "Oslo"}))] * 2)
    agent = Agent(name="Caster", model=model, tools=[get_weather], tool_use_behavior=ends)
    run = last(await bench.run("go", agent)).run
    bench.writer.flush()
    again = (await fork(bench, run.trace_id)).run
    on_tape = last(await bench.run("go", agent, tape=record(bench.store, [run.trace_id]))).run
    assert (run.output, again.output, on_tape.output, asked) == ("2026: 3.5", "2026: 3.5", "2026: 3.5", ["Oslo"])


async def test_a_dataclass_is_an_answer_as_json_and_is_replayed_as_one(bench: Bench) -> None:
    @function_tool
    def blow() -> Wind:
        return Wind(3.5)

    agent = Agent(
        name="Vane", model=bench.script(calls(("blow", {}))), tools=[blow], tool_use_behavior="stop_on_first_tool", output_type=Wind
    )  # fmt: skip
    run = last(await bench.run("go", agent)).run
    again = (await fork(bench, run.trace_id)).run
    assert (run.output, again.output) == ('{"speed": 3.5}', '{"speed": 3.5}')
    [span, _] = bench.spans("tool")
    assert json.loads(span["output"]) == {"speed": 3.5}


async def test_a_call_with_arguments_that_are_no_json_is_replayed_and_on_tape_without_asking(bench: Bench) -> None:
    @function_tool
    def look(order: str) -> str:
        return order

    broken = [function_call("look", '{"order": ', call_id="call_1")]
    model = bench.script(*[broken, says("Sorry.")] * 3)
    agent = Agent(name="Desk", model=model, tools=[look])
    run = last(await bench.run("go", agent)).run
    bench.writer.flush()
    again = (await fork(bench, run.trace_id)).run
    on_tape = last(await bench.run("go", agent, tape=record(bench.store, [run.trace_id]))).run
    assert [one.output for one in (run, again, on_tape)] == ["Sorry."] * 3
    assert heard(bench, again.thread_id) == heard(bench, on_tape.thread_id) == heard(bench, run.thread_id)


async def test_a_run_that_a_raising_tool_ended_ends_so_again(bench: Bench) -> None:
    tried = []

    @function_tool(failure_error_function=None)
    def burst() -> str:
        tried.append(1)
        raise ValueError("Too hot.")

    model = bench.script(calls(("burst", {})), says("Never said."))
    run = last(await bench.run("go", Agent(name="Oven", model=model, tools=[burst]))).run
    assert run.status == "failed"
    again = (await fork(bench, run.trace_id)).run
    assert (again.status, again.error_type, again.error) == (run.status, run.error_type, run.error)
    assert len(tried) == 1
    assert len(bench.router.scripts[model].inner.calls) == 1  # type: ignore[attr-defined]


async def test_a_tool_whose_error_the_model_read_is_replayed_with_it(bench: Bench) -> None:
    @function_tool
    def burst() -> str:
        raise ValueError("Too hot.")

    model = bench.script(calls(("burst", {})), says("Sorry."))
    run = last(await bench.run("go", Agent(name="Oven", model=model, tools=[burst]))).run
    again = (await fork(bench, run.trace_id)).run
    assert story(bench, again.trace_id) == story(bench, run.trace_id)
    assert heard(bench, again.thread_id) == heard(bench, run.thread_id)
    errors = bench.store.sql("select error from spans where kind = 'tool'").rows
    assert errors[0] == errors[1] != (None,)


async def test_decisions_are_replayed_as_they_were_made(bench: Bench) -> None:
    both = calls(("refund", {"order": "1"}), ("refund", {"order": "2"}))
    till = Till(bench, both, says("One of two."))
    end = last(await bench.run("refund both", till.agent))
    assert isinstance(end, RunPaused)
    ids = [call.call_id for call in end.interruptions]
    said = {ids[0]: {"decision": "approved"}, ids[1]: {"decision": "rejected", "message": "Not that one."}}
    run = last(await bench.resume(end.run.id, said)).run
    again = (await fork(bench, run.trace_id)).run
    assert (again.output, till.refunds, till.asked) == ("One of two.", ["1"], 2)
    assert (
        sorted(heard(bench, again.thread_id)) == sorted(heard(bench, run.thread_id)) == ["Not that one.", "Refunded 1."]
    )
    for kind in ("tool_call", "approval"):
        before, after = (
            sorted(
                (i.data["call_id"], i.data.get("status"), i.data.get("decision"), i.data.get("output"))
                for i in bench.items(t, kind)
            )
            for t in (run.thread_id, again.thread_id)
        )
        assert before == after != []


async def test_of_parallel_calls_only_the_named_one_changes(bench: Bench) -> None:
    counted: list[str] = []

    @function_tool
    def count(word: str) -> str:
        counted.append(word)
        return f"{word}: {len(counted)}"

    three = calls(*(("count", {"word": word}) for word in "abc"))
    model = bench.script(three, says("Three."), says("By result."), says("By span."))
    run = last(await bench.run("count", Agent(name="Counter", model=model, tools=[count]))).run
    a, _, c = (entry["output"] for entry in bench.store.threads.session_items(run.thread_id) if "output" in entry)
    by_result = (await fork(bench, run.trace_id, results={three[1].call_id: {"n": 9}})).run
    assert (by_result.output, heard(bench, by_result.thread_id)) == ("By result.", [a, '{"n": 9}', c])
    [span] = [
        s["span_id"]
        for s in bench.spans("tool")
        if s["trace_id"] == run.trace_id and json.loads(s["input"]) == {"word": "b"}
    ]
    by_span = (await fork(bench, run.trace_id, span, again=True, on_tools="live")).run
    assert (by_span.output, heard(bench, by_span.thread_id)) == ("By span.", [a, "b: 4", c])
    assert len(counted) == 4


async def test_a_fork_has_the_context_of_the_run_or_says_that_it_needs_it(bench: Bench) -> None:
    @function_tool
    def who(context: RunContextWrapper[Any]) -> str:
        return str(context.context)

    model = bench.script(
        calls(("who", {})), says("Ada."), calls(("who", {})), says("Ada again."), calls(("who", {})), says("Eve.")
    )
    agent = Agent(name="Host", model=model, tools=[who])
    run = last(await bench.run("who?", agent, context="ADA")).run
    again = (await fork(bench, run.trace_id, prompt="who is it?")).run
    assert heard(bench, again.thread_id) == ["ADA"]
    bench.runner._contexts.clear()  # As in another process.
    with pytest.raises(RunError, match=r"was given a context \(str\)"):
        await fork(bench, run.trace_id, prompt="who is it?", agent=agent)
    assert (await fork(bench, run.trace_id, agent=agent)).run.status == "completed", "a replay needs none"
    other = (await fork(bench, run.trace_id, prompt="who?", agent=agent, context="EVE")).run
    assert heard(bench, other.thread_id) == ["EVE"]


async def test_an_unchanged_fork_runs_nothing_of_the_users_code(bench: Bench) -> None:
    ran: list[str] = []

    def note(what: str, value: Any) -> Any:
        ran.append(what)
        return value

    def passes(*_: Any) -> Any:
        return note("guardrail", GuardrailFunctionOutput(output_info=None, tripwire_triggered=False))

    class PipelineAnswer(AgentHooks):
        async def on_tool_start(self, *_: Any) -> None:
            note("hook", None)

        on_start = on_end = on_handoff = on_tool_end = on_llm_start = on_llm_end = on_tool_start  # type: ignore[assignment]

    @function_tool
    def look() -> str:
        return str(note("tool", "Seen."))

    helper = Agent(name="Helper", model=bench.script(calls(("look", {})), says("Looked.")), tools=[look])
    desk = Agent(
        name="Desk", model=bench.script(calls(("ask", {"input": "look"})), says("Done.")),
        instructions=lambda context, agent: note("instructions", f"Be number {len(ran)}."),
        tools=[helper.as_tool("ask", "Asks the helper.", is_enabled=lambda context, agent: note("enabled", True))],
        output_guardrails=[OutputGuardrail(guardrail_function=passes, name="out")], hooks=PipelineAnswer(),
    )  # fmt: skip
    front = Agent(
        name="Front", model=bench.script(calls(("transfer_to_desk", {}))),
        handoffs=[handoff(desk, on_handoff=lambda context: note("handoff", None))],
        input_guardrails=[InputGuardrail(guardrail_function=passes, name="in")],
    )  # fmt: skip
    run = last(await bench.run("go", front)).run
    assert run.output == "Done."
    assert set(ran) == {"guardrail", "tool", "instructions", "enabled", "handoff", "hook"}
    ran.clear()
    again = (await fork(bench, run.trace_id)).run
    assert (again.output, ran) == ("Done.", [])
    told = "select input from spans where trace_id = $1 and kind = 'generation' and agent = 'Desk' order by started_at"
    assert bench.store.sql(told, [again.trace_id]).rows == bench.store.sql(told, [run.trace_id]).rows
    assert shown(bench, again.thread_id) == [
        i for i in shown(bench, run.thread_id) if i[3] != "{}" or i[0] != "tool_call"
    ]


@pytest.mark.parametrize("side", ["input", "output"])
async def test_a_run_that_a_guardrail_stopped_is_stopped_again_without_asking_it(bench: Bench, side: str) -> None:
    asked: list[str] = []

    def stops(*_: Any) -> Any:
        asked.append(side)
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    agent = Agent(name="Guarded", model=bench.script(says("Said.")))
    if side == "input":
        agent.input_guardrails = [InputGuardrail(guardrail_function=stops, name="no")]
    else:
        agent.output_guardrails = [OutputGuardrail(guardrail_function=stops, name="no")]
    run = last(await bench.run("go", agent)).run
    again = (await fork(bench, run.trace_id)).run
    assert (again.status, again.error, asked) == ("failed", run.error, [side])


async def test_one_agents_instructions_or_model_may_change_and_what_came_before_it_is_replayed(bench: Bench) -> None:
    desk_model, other = bench.script(says("From the desk."), says("Briefly.")), bench.script(says("Another desk."))
    front_model = bench.script(calls(("transfer_to_desk", {})))
    desk = Agent(name="Desk", model=desk_model, instructions="Be polite.")
    run = last(await bench.run("go", Agent(name="Front", model=front_model, handoffs=[desk]))).run
    assert (await fork(bench, run.trace_id, instructions={"Desk": "Be brief."})).run.output == "Briefly."
    assert bench.router.scripts[desk_model].inner.calls[-1].system_instructions == "Be brief."  # type: ignore[attr-defined]
    assert (await fork(bench, run.trace_id, model={"Desk": other})).run.output == "Another desk."
    assert len(bench.router.scripts[front_model].inner.calls) == 1  # type: ignore[attr-defined]


async def test_a_tool_call_keeps_the_class_of_what_it_raised(bench: Bench) -> None:
    @function_tool
    def told(word: str) -> str:
        """Tells the model."""
        raise KeyError(word)

    @function_tool(failure_error_function=None)
    def ends(word: str) -> str:
        """Ends the run."""
        raise LookupError(word)

    model = bench.script(calls(("told", {"word": "a"})), calls(("ends", {"word": "b"})), says("Never."))
    await bench.run("go", Agent(name="Raiser", model=model, tools=[told, ends]))
    found = {span["name"]: json.loads(span["attributes"]).get("error.type") for span in bench.spans("tool")}
    assert found == {"told": "KeyError", "ends": "LookupError"}


async def test_an_answer_keeps_the_tools_that_its_agent_was_offered_once(bench: Bench) -> None:
    shop = Shop(bench)
    tool = shop.agent.tools[0]
    assert isinstance(tool, FunctionTool)
    read_only(tool)
    await bench.run("count", shop.agent)
    offers = [json.loads(span["attributes"]).get("gen_ai.tool.definitions") for span in bench.spans("generation")]
    schema = tool.params_json_schema
    said = {"type": "function", "name": "count", "description": "", "parameters": schema, "read_only": True}
    assert offers == [[said], None, None]


async def test_a_fork_takes_the_tools_of_a_server_that_is_away_from_the_trace_and_does_not_wait_for_it(
    bench: Bench, tmp_path: Path
) -> None:
    answers = str(Path(__file__).parent.parent / "mcp" / "servers" / "misbehaving.py")
    record = bench.store.mcp_servers.insert(
        McpServerRecord(
            id=new_id("case"), user_id=bench.store.user_id, name="far", command=(sys.executable, answers, "")
        )
    )
    model = bench.script(calls(("fine", {})), says("Well."), says("Well again."))
    agent = bench.agent("Asker", model=model, tool_ids=(f"{record.id}.*",))
    run = last(await bench.run("go", agent)).run
    assert run.output == "Well."
    bench.store.mcp_servers.update(record.id, command=(sys.executable, "-c", "import time; time.sleep(600)"))
    began = time.monotonic()
    again = (await fork(bench, run.trace_id)).run
    changed = (await fork(bench, run.trace_id, bench.spans("generation")[1]["span_id"], again=True)).run
    assert (again.output, changed.output) == ("Well.", "Well again.")
    assert time.monotonic() - began < 5, "the mute server is not asked"
    inner = bench.router.scripts[model].inner
    assert [[tool.name for tool in call.tools] for call in inner.calls] == [["fine", "ws_a_b"]] * 3  # type: ignore[attr-defined]


class PayDesk:
    """An agent that looks up and pays; what it does for real is in `done`."""

    def __init__(self, bench: Bench, *more: Any) -> None:
        self.done: list[str] = []

        @read_only
        @function_tool
        def look(order: str) -> str:
            self.done.append(f"look {order}")
            return f"Order {order}."

        @function_tool
        def pay(order: str) -> str:
            self.done.append(f"pay {order}")
            return f"Paid {order}."

        steps = calls(("look", {"order": "1"})), calls(("pay", {"order": "1"})), says("Paid.")
        self.name = bench.script(*steps, *more)
        self.agent = Agent(name="Till", model=self.name, tools=[look, pay])


async def test_a_fork_that_goes_live_again_asks_before_it_calls_a_tool_that_may_change_the_world(bench: Bench) -> None:
    more = calls(("look", {"order": "2"})), calls(("pay", {"order": "2"})), says("Paid again.")
    desk = PayDesk(bench, *more)
    run = last(await bench.run("pay", desk.agent)).run
    desk.done.clear()
    end = await fork(bench, run.trace_id, bench.spans("generation")[0]["span_id"], again=True)
    assert isinstance(end, RunPaused)
    assert desk.done == ["look 2"], "what only reads is called without asking"
    assert [(call.name, json.loads(call.arguments)) for call in end.interruptions] == [("pay", {"order": "2"})]
    assert last(await bench.approve(end.run.id)).run.output == "Paid again."
    assert desk.done == ["look 2", "pay 2"]


async def test_on_tools_says_whether_a_fork_asks_first(bench: Bench) -> None:
    more = calls(("pay", {"order": "2"})), says("Paid again.")
    desk = PayDesk(bench, *more, *more)
    run = last(await bench.run("pay", desk.agent)).run
    span = bench.spans("generation")[0]["span_id"]
    assert (await fork(bench, run.trace_id, span, again=True, on_tools="live")).run.output == "Paid again."
    assert isinstance(await fork(bench, run.trace_id, span, prompt="Pay!", on_tools="ask"), RunPaused)
    with pytest.raises(UsageError, match="on_tools='perhaps'"):
        await fork(bench, run.trace_id, span, again=True, on_tools="perhaps")
