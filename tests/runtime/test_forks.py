"""A fork says again what was recorded, word for word, and is live from the span where something changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from agents import Agent, function_tool

from tests.runtime.bench import Bench, calls, last, says
from timestep_lab.types.errors import MissingKeyError, NotFoundError, ProviderError, RunError
from timestep_lab.types.events import RunFailed, RunPaused


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
    fixed = (await fork(bench, run.trace_id, tools={"other": "unused"})).run
    assert story(bench, fixed.trace_id) == story(bench, run.trace_id)


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
    with pytest.raises(RunError, match="not that of a run"):
        await fork(bench, run.trace_id, agent=shop.agent)
