"""A run that reaches a limit is stopped as an outcome of its own, with what was said kept: over handoffs, pauses and forks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, RunHooks, Runner, function_tool

from tests.runtime.bench import calls, says, scripted
from tests.server.served import SETTINGS, serve
from tests.wire import Reply, WireServer, Words, anthropic_messages
from timestep_lab import Lab
from timestep_lab.model.errors import BudgetError, UsageError
from timestep_lab.model.events import RunStopped
from timestep_lab.model.ids import new_uuid

WEATHER = "What is the weather in Oakland?"


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with Lab(tmp_path / "lab.duckdb", settings=SETTINGS) as lab:
        yield lab


async def test_a_run_of_several_agents_stops_at_its_tokens_and_keeps_what_was_done(lab: Lab) -> None:
    whole = await lab.run(WEATHER)
    used = whole.usage.input_tokens + whole.usage.output_tokens
    last: Any = None
    stream = lab.stream(WEATHER, max_tokens_total=used // 4)
    async for event in stream:
        last = event
    assert isinstance(last, RunStopped)
    assert last.limit == "max_tokens_total"
    run = lab.get_run(stream.run.id)
    assert run.status == "stopped"
    assert run.error is not None
    assert "max_tokens_total=" in run.error
    assert run.agent == "Weather Assistant"
    assert [item.type for item in run.thread.items][:2] == ["user_message", "handoff"]
    assert 0 < run.usage.input_tokens < whole.usage.input_tokens
    assert lab.store.traces.get(run.trace_id)["status"] == "stopped"
    again = await lab.run("Say hello.", thread=run.thread, model="demo/echo")
    assert again.status == "completed"


async def test_an_answer_that_went_over_is_kept_whole_and_one_that_fits_completes(lab: Lab) -> None:
    over = await lab.run("Say this after me.", model="demo/echo", max_tokens_total=1)
    assert over.status == "stopped"
    assert "Say this after me." in (over.output or "")
    fits = await lab.run(
        "Say this after me.", model="demo/echo", max_tokens_total=10_000, budget_usd=1, timeout_s=60, max_tool_calls=0
    )
    assert fits.status == "completed"


async def test_no_tool_is_called_more_often_than_allowed(lab: Lab) -> None:
    called = []

    @function_tool
    def look(place: str) -> str:
        called.append(place)
        return "fog"

    model = scripted(
        [*says("Looking."), *calls(("look", {"place": "Rome"}))], calls(("look", {"place": "Oslo"})), says("Fog.")
    )
    agent = Agent(name="Looker", model=model, tools=[look])
    run = await lab.run("Where?", agent=agent, max_tool_calls=1)
    assert (run.status, called, run.output) == ("stopped", ["Rome"], "Looking.")
    assert "max_tool_calls=" in (run.error or "")
    assert run.record.metadata["stopped_by"] == "max_tool_calls"


async def test_time_stops_an_answer_under_way_and_a_tool_and_keeps_the_text(lab: Lab) -> None:
    run = await lab.run("Tell me a long story.", model="demo/slow?ttft=10&tps=5", timeout_s=0.6)
    assert run.status == "stopped"
    assert run.output
    assert [item.data["status"] for item in run.thread.items if item.type == "assistant_message"] == ["incomplete"]

    @function_tool
    async def sleep() -> str:
        await asyncio.sleep(30)
        return "slept"

    agent = Agent(name="Sleeper", model=scripted(calls(("sleep", {})), says("Slept.")), tools=[sleep])
    run = await lab.run("Sleep.", agent=agent, timeout_s=0.3)
    assert (run.status, run.record.metadata["stopped_by"]) == ("stopped", "timeout_s")


async def test_an_agent_inside_of_a_tool_is_stopped_too(lab: Lab) -> None:
    inner = Agent(name="Inner", instructions="Speak.", model=lab.router.get_model("demo/echo"))
    tool = inner.as_tool("ask_inner", "Ask.")
    agent = Agent(name="Outer", model=scripted(calls(("ask_inner", {"input": "Hello"})), says("Done.")), tools=[tool])
    run = await lab.run("Ask.", agent=agent, max_tokens_total=3)
    assert run.status == "stopped"


async def test_what_an_agent_inside_of_a_tool_calls_counts_and_stops_the_whole(lab: Lab) -> None:
    called = []

    @function_tool
    def look(place: str) -> str:
        called.append(place)
        return "fog"

    def outer() -> Agent[Any]:
        places = [calls(("look", {"place": place})) for place in ("Rome", "Oslo", "Bonn")]
        inner = Agent(name="Inner", model=scripted(*places, says("Fog.")), tools=[look])
        asks = scripted(calls(("ask", {"input": "Where?"})), says("Done."))
        return Agent(name="Outer", model=asks, tools=[inner.as_tool("ask", "Ask.")])

    run = await lab.run("Ask.", agent=outer(), max_tool_calls=3)
    assert (run.status, run.record.metadata["stopped_by"]) == ("stopped", "max_tool_calls")
    assert called == ["Rome", "Oslo"]  # `ask` itself was the first of three.
    called.clear()
    run = await lab.run("Ask.", agent=outer(), max_tool_calls=4)
    assert (run.status, run.output, called) == ("completed", "Done.", ["Rome", "Oslo", "Bonn"])


async def test_a_run_that_a_tool_begins_itself_counts_too_and_its_own_hooks_are_called(lab: Lab) -> None:
    heard, called = [], []

    class Hooks(RunHooks[Any]):
        async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
            heard.append(tool.name)

    @function_tool
    def look(place: str) -> str:
        called.append(place)
        return "fog"

    @function_tool
    async def research() -> str:
        model = scripted(calls(("look", {"place": "Rome"})), calls(("look", {"place": "Oslo"})), says("Fog."))
        found = await Runner.run(Agent(name="Inner", model=model, tools=[look]), "Where?", hooks=Hooks())
        return str(found.final_output)

    agent = Agent(name="Outer", model=scripted(calls(("research", {})), says("Done.")), tools=[research])
    run = await lab.run("Research.", agent=agent, max_tool_calls=2)
    assert (run.status, called, heard) == ("stopped", ["Rome"], ["look"])
    assert (await Runner.run(Agent(name="Free", model=scripted(says("Hi."))), "Hi")).final_output == "Hi."


async def test_a_stored_agent_carries_limits_that_hold_for_its_runs_and_no_others(lab: Lab) -> None:
    made = lab.agents.update("Personal Assistant", max_tool_calls=0, max_tokens_total=10_000)
    assert (made.max_tool_calls, made.max_tokens_total, made.budget_usd, made.timeout_s) == (0, 10_000, None, None)
    stopped = await lab.run(WEATHER)
    assert (stopped.status, stopped.record.metadata["stopped_by"]) == ("stopped", "max_tool_calls")
    allowed = await lab.run(WEATHER, max_tool_calls=9)
    assert allowed.status == "completed"
    other = await lab.run(WEATHER, agent="Weather Assistant")
    assert other.status == "completed"
    again = lab.agents.update("Personal Assistant", max_tool_calls=None)
    assert (again.max_tool_calls, again.max_tokens_total) == (None, 10_000)
    assert (await lab.run(WEATHER)).status == "completed"
    changed = lab.agents.diff(f"Personal Assistant@{made.version}", again)
    assert changed.values.tolist() == [["max_tool_calls", 0, None]]
    assert lab.agents.restore(f"Personal Assistant@{made.version}").max_tool_calls == 0
    for wrong in ({"budget_usd": 0}, {"max_tool_calls": -1}, {"timeout_s": float("inf")}):
        with pytest.raises(UsageError):
            lab.agents.create(name="Wrong", **wrong)  # type: ignore[arg-type]
    assert [agent.name for agent in lab.agents] == ["Personal Assistant", "Weather Assistant"]


async def test_each_replay_has_the_limits_of_its_run_or_those_given(lab: Lab) -> None:
    run = await lab.run(WEATHER)
    model = "demo/assistant"
    for replayed in await lab.replay(run, times=2, model=model, max_tool_calls=1, approve_all=True):
        assert isinstance(replayed.error, BudgetError)
        assert (replayed.error.code, replayed.output) == ("max_tool_calls", None)
    tokens = await lab.replay(run, model=model, max_tokens_total=5)
    assert [one.error.code for one in tokens if one.error] == ["max_tokens_total"]
    slow = await lab.replay(run, model="demo/slow?ttft=5000&tps=1", timeout_s=0.2)
    assert [one.error.code for one in slow if one.error] == ["timeout_s"]
    free = await lab.replay(run, model=model)
    assert [one.error for one in free] == [None]
    stopped = await lab.run(WEATHER, max_tool_calls=1)
    assert [one.error.code for one in await lab.replay(stopped, model=model) if one.error] == ["max_tool_calls"]
    with pytest.raises(UsageError, match="is not a valid limit"):
        await lab.replay(run, max_tool_calls=-1)
    with pytest.raises(UsageError, match=r"no limit or argument 'max_tool_cals'\. Did you mean 'max_tool_calls'\?"):
        await lab.replay(run, max_tool_cals=1)


async def test_each_answer_of_a_comparison_has_the_limits_given_or_those_of_its_agent(lab: Lab) -> None:
    lab.agents.update("Weather Assistant", max_tool_calls=0)
    cases = [{"id": "one", "input": WEATHER}]
    grid = await lab.compare(cases, agents=["Personal Assistant", "Weather Assistant"])
    assert [cell.status for cell in grid.cells] == ["done", "error"]
    assert ["max_tool_calls" in (cell.error or "") for cell in grid.cells] == [False, True]
    grid = await lab.compare(cases, agents=["Personal Assistant", "Weather Assistant"], max_tool_calls=5)
    assert [cell.status for cell in grid.cells] == ["done", "done"]
    few = await lab.compare(cases, models=["demo/echo"], max_tokens_total=1)
    assert [cell.status for cell in few.cells] == ["error"]
    again = await lab.compare(cases, models=["demo/echo"])
    assert [cell.status for cell in again.cells] == ["done"]


async def test_each_answer_of_a_comparison_may_cost_so_much(tmp_path: Path) -> None:
    with WireServer(anthropic_messages) as provider:
        provider.will(Reply(Words("Fog.")))
        known = {"wire": f"{provider.url}/v1"}
        settings = replace(
            SETTINGS, anthropic_api_key="a-key", anthropic_base_url=provider.url, openai_compatible=known
        )
        async with Lab(tmp_path / "lab.duckdb", settings=settings) as lab:
            asked: Any = {"models": ["anthropic/claude-haiku-4-5"], "cache": "off"}
            over = await lab.compare(["One", "Two"], **asked, budget_usd_per_answer=1e-9)
            assert [cell.status for cell in over.cells] == ["error", "error"]
            assert all("budget_usd" in (cell.error or "") for cell in over.cells)
            assert [cell.status for cell in (await lab.compare(["One"], **asked, budget_usd_per_answer=1)).cells] == [
                "done"
            ]
            with pytest.raises(UsageError, match="price"):
                await lab.compare(["One"], models=["openai_compatible/wire/nobodys"], budget_usd_per_answer=1)
            with pytest.raises(UsageError, match="above 0"):
                await lab.compare(["One"], **asked, budget_usd_per_answer=0)


async def test_limits_hold_over_a_pause_in_another_process_and_waiting_costs_no_time(tmp_path: Path) -> None:
    path = tmp_path / "lab.duckdb"
    async with Lab(path, settings=SETTINGS) as lab:
        paused = await lab.run("What is the weather in Berkeley?", timeout_s=5, max_tool_calls=1)
        assert paused.status == "needs_approval"
        assert [i.data["name"] for i in paused.thread.items if i.type == "tool_call"] == ["think", "get_weather"]
    async with Lab(path, settings=SETTINGS) as lab:
        run = await lab.get_run(paused.id).approve()
        assert (run.status, run.record.metadata["stopped_by"]) == ("stopped", "max_tool_calls")
        assert "max_tool_calls" in (run.error or "")


async def test_a_fork_has_the_limits_of_its_run_unless_others_are_given(lab: Lab) -> None:
    stopped = await lab.run(WEATHER, max_tool_calls=1)
    assert stopped.status == "stopped"
    same = await lab.fork(stopped)
    assert (same.status, same.error) == ("stopped", stopped.error)
    freed = await lab.fork(
        stopped, again=True, span_id=_first_generation(lab, stopped), max_tool_calls=9, on_tools="live"
    )
    assert (freed.status, freed.error) == ("completed", None)


def _first_generation(lab: Lab, run: Any) -> str:
    return next(span.span_id for span in lab.store.traces.spans(run.trace_id) if span.kind == "generation")


@pytest.mark.parametrize(
    "limit",
    [{"budget_usd": 0}, {"budget_usd": -1}, {"max_tokens_total": 0}, {"max_tokens_total": 1.5}, {"timeout_s": float("inf")},
     {"timeout_s": "1"}, {"max_tool_calls": -1}, {"max_tool_calls": True}],
)  # fmt: skip
async def test_what_is_no_limit_is_refused_before_anything_is_written(lab: Lab, limit: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(limit))}=") as refused:
        await lab.run("Hello", **limit)
    assert refused.value.param == next(iter(limit))
    assert lab.threads.list() == []


async def test_a_budget_in_money_needs_models_whose_price_is_known(lab: Lab) -> None:
    agent = Agent(name="Priceless", model=scripted(says("Hello.")))
    with pytest.raises(UsageError, match=r"price of \w+ is not known"):
        await lab.run("Hello", agent=agent, budget_usd=1)


async def test_a_served_lab_keeps_the_same_limits(tmp_path: Path) -> None:
    async with serve(tmp_path / "lab.duckdb") as server:
        lab = await asyncio.to_thread(Lab, server.url, token=server.token(new_uuid()))
        stream = lab.stream(WEATHER, max_tool_calls=0)
        last: Any = None
        async for event in stream:
            last = event
        assert isinstance(last, RunStopped)
        assert (last.limit, stream.run.status) == ("max_tool_calls", "stopped")
        freed = await lab.fork(stream.run, max_tool_calls=9)
        assert freed.status == "stopped"
        await lab.aclose()
