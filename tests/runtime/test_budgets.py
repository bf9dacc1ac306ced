"""A run that reaches a limit is stopped as an outcome of its own, with what was said kept: over handoffs, pauses and forks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, function_tool

from tests.runtime.bench import calls, says, scripted
from tests.server.served import SETTINGS, serve
from timestep_lab import Lab
from timestep_lab.model.errors import UsageError
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
        [*says("LabViews."), *calls(("look", {"place": "Rome"}))], calls(("look", {"place": "Oslo"})), says("Fog.")
    )
    agent = Agent(name="Looker", model=model, tools=[look])
    run = await lab.run("Where?", agent=agent, max_tool_calls=1)
    assert (run.status, called, run.output) == ("stopped", ["Rome"], "LabViews.")
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
    with pytest.raises(UsageError, match="is no limit") as refused:
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
