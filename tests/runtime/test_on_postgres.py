"""What runs promise holds on the other store too, with two database handles as two processes have them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import pytest

from tests.mcp.test_mcp_questions import ASKING
from tests.postgres.server import shared_server
from tests.runtime.bench import calls, last, open_bench, says
from tests.server.served import SETTINGS
from timestep_lab import Lab
from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import ConflictError, UsageError
from timestep_lab.model.events import RunPaused, RunStarted
from timestep_lab.runtime.tape import record
from timestep_lab.store.liveness import sweep


@pytest.fixture
def lab_url() -> Iterator[str]:
    with shared_server().lab_url() as url:
        yield url


async def test_a_run_pauses_in_one_place_and_is_approved_once_in_another(lab_url: str) -> None:
    async with open_bench(lab_url) as first, open_bench(lab_url) as second:
        end = last(await first.run("What is the weather in Berkeley?"))
        assert isinstance(end, RunPaused)
        both = await asyncio.gather(first.approve(end.run.id), second.approve(end.run.id), return_exceptions=True)
        [won] = [events for events in both if isinstance(events, list)]
        [lost] = [error for error in both if isinstance(error, ConflictError)]
        assert lost.next_step
        run = last(won).run
        assert (run.status, run.trace_id) == ("completed", end.run.trace_id)
        first.writer.flush()
        second.writer.flush()
        assert second.store.sql("select tool, status, approval from tool_calls order by started_at").rows == [
            ("think", "ok", "not_needed"), ("get_weather", "ok", "approved"),
        ]  # fmt: skip
        graph = second.store.traces.graph([run.trace_id])
        assert [(node.path, node.calls) for node in graph.nodes] == [
            ("Personal Assistant", 1), ("Personal Assistant/Weather Assistant", 1),
        ]  # fmt: skip
        assert [(way.to_path, way.count) for way in graph.edges] == [("Personal Assistant/Weather Assistant", 1)]
        [trace] = second.store.sql("select status, ended_at from traces").dicts()
        assert trace["status"] == "completed"
        assert trace["ended_at"] is not None


async def test_a_second_turn_from_elsewhere_is_refused_and_a_cancel_from_there_heard(lab_url: str) -> None:
    async with open_bench(lab_url) as first, open_bench(lab_url) as second:
        stream = first.runner.stream("go", agent=first.personal, model="demo/slow?ttft=0&tps=50&n=500")
        run = (await anext(stream)).run  # type: ignore[union-attr]
        with pytest.raises(ConflictError, match="still active"):
            await second.run("me too", thread_id=run.thread_id)
        await second.runner.cancel(run.id)
        assert [event.type async for event in stream][-1] == "run.cancelled"
        assert second.store.runs.get(run.id).status == "cancelled"


async def test_a_claim_that_lapsed_is_offered_again(lab_url: str) -> None:
    async with open_bench(lab_url) as bench:
        agent = bench.agent("Asks", tool_ids=bench.weather.tool_ids, approvals={"*": "always"},
                            model=bench.script(calls(("get_weather", {"location": "Oslo"})), says("Cold.")))  # fmt: skip
        end = last(await bench.run("Oslo?", agent))
        [call] = end.interruptions  # type: ignore[attr-defined]
        resuming = bench.runner.resume(end.run.id, {call.call_id: "approved"})
        assert isinstance(await anext(resuming), RunStarted)
        await resuming.aclose()
        bench.store.run_states.update(end.run.id, status="claimed", lease_until=utc_now())
        bench.store.runs.update(end.run.id, status="running")
        assert sweep(bench.store.db) == 1
        assert bench.store.runs.get(end.run.id).status == "needs_approval"


async def test_a_paused_fork_goes_on_elsewhere_with_what_was_replaced(lab_url: str) -> None:
    async with open_bench(lab_url) as first, open_bench(lab_url) as second:
        run = last(await first.approve(last(await first.run("What is the weather in Berkeley?")).run.id)).run
        point = next(s["span_id"] for s in first.spans("tool") if s["name"] == "get_weather")
        events = first.runner.fork(run.trace_id, point, again=True, tools={"think": "Replaced."})
        end = last([event async for event in events])
        assert isinstance(end, RunPaused)
        again = last(await second.approve(end.run.id)).run
        assert (again.status, again.output is not None) == ("completed", True)
        changes = second.runner.changes_of(again)
        assert changes is not None
        assert changes.tools == {"think": "Replaced."}


async def test_a_run_on_tape_is_answered_as_it_was_recorded_elsewhere(lab_url: str) -> None:
    async with open_bench(lab_url) as first, open_bench(lab_url) as second:
        asked = "What is the weather in Berkeley?"
        run = last(await first.approve(last(await first.run(asked)).run.id)).run
        first.writer.flush()
        tape = record(second.store, [run.trace_id])
        again = last(await second.run(asked, tape=tape)).run
        assert (again.status, again.output) == ("completed", run.output)
        told = [(s["name"], s["approval"]) for s in second.spans("tool") if s["trace_id"] == again.trace_id]
        assert ("get_weather", "approved") in told
        missed = last(await second.run("What is the weather in Oakland?", tape=tape)).run
        assert missed.error_type == "TapeMissError"


async def test_a_paused_fork_on_tape_goes_on_elsewhere_on_its_tape(lab_url: str) -> None:
    async with open_bench(lab_url) as first, open_bench(lab_url) as second:
        run = last(await first.run('call think {"thought": "once"}')).run
        assert run.status == "completed"
        events = first.runner.fork(
            run.trace_id, prompt='call think {"thought": "twice"}', on_tools="tape", on_miss="ask"
        )
        end = last([event async for event in events])
        assert isinstance(end, RunPaused)
        again = last(await second.approve(end.run.id)).run
        assert again.status == "completed"
        [call] = [s for s in second.spans("tool") if s["trace_id"] == again.trace_id]
        assert '"timestep.tape":"live"' in str(call["attributes"]).replace(" ", "").replace("'", '"')


async def test_what_an_mcp_server_asks_is_answered_from_another_process_refused_there_or_withdrawn(
    lab_url: str,
) -> None:
    async with Lab(lab_url, settings=SETTINGS) as first, Lab(lab_url, settings=SETTINGS) as second:
        first.mcp.add("asking", command=[sys.executable, ASKING])
        first.mcp.add("before", command=[sys.executable, ASKING], protocol="2025-11-25")
        spoken = {server.name: server.protocol for server in second.mcp.list()}
        assert (spoken["asking"], spoken["before"]) == (None, "2025-11-25")
        first.agents.create(name="Host", tools=["asking.book"], model="demo/assistant")
        run = await first.run("call book {}", agent="Host")
        assert [(call.asks, call.reason) for call in run.interruptions] == [("elicitation", "Whose table?")]
        assert [waiting.id for waiting in second.approvals] == [run.id]
        there = second.get_run(run.id)
        with pytest.raises(UsageError, match="needs 'name'"):
            await there.approve()
        done = await asyncio.wait_for(there.approve(answer={"name": "Ada", "seats": 3}), 30)
        assert (done.status, "3 seats for Ada" in (done.output or "")) == ("completed", True)
        refused = await first.run("call book {}", agent="Host")
        done = await asyncio.wait_for(second.get_run(refused.id).reject("No."), 30)
        assert "nothing booked (decline)" in (done.output or "")
        waiting = await first.run("call book {}", agent="Host")
        await second.cancel(waiting.id)
        for _ in range(100):
            if first.get_run(waiting.id).status == "cancelled":
                break
            await asyncio.sleep(0.1)
        assert first.get_run(waiting.id).status == "cancelled"
        assert len(second.approvals) == 0
