"""What was acknowledged survives `kill -9`, nothing looks alive that is dead, and a paused run goes on elsewhere."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, function_tool

from tests.postgres.server import shared_server
from tests.runtime import worker
from tests.runtime.bench import calls, last, open_bench, says, scripted
from tests.runtime.forks import Worker
from tests.runtime.worker import CHANGES, LIVE, PAYS, counter, errand_agent, fork_of_a_refund
from timestep_lab.store.base import SYSTEM_USER, Statement
from timestep_lab.store.store import open_store

KILLS = 50


@pytest.fixture(params=["duckdb", "postgres"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where several processes find the same lab."""
    if request.param == "duckdb":
        yield str(tmp_path / "lab.duckdb")
    else:
        with shared_server().lab_url() as url:
            yield url


async def test_a_run_paused_in_a_killed_process_is_approved_in_another_with_one_trace(lab: str) -> None:
    other = Worker(worker.ask, lab)
    paused = other.hear()
    assert paused["status"] == "needs_approval"
    other.kill()
    async with open_bench(lab) as bench:
        assert bench.store.runs.get(paused["run"]).status == "needs_approval"
        run = last(await bench.approve(paused["run"])).run
        assert (run.status, run.trace_id) == ("completed", paused["trace"])
        assert run.output
        assert "Berkeley" in run.output
        bench.writer.flush()
        [trace] = bench.store.sql("select trace_id, status, ended_at, n_errors from traces").dicts()
        assert (trace["trace_id"], trace["status"], trace["n_errors"]) == (paused["trace"], "completed", 0)
        assert trace["ended_at"] is not None
        tools = bench.store.sql("select tool, status, approval from tool_calls order by started_at").rows
        assert tools == [("think", "ok", "not_needed"), ("get_weather", "ok", "approved")]
        shown = [i.type for i in bench.items(run.thread_id)]
        assert shown == ["user_message", "handoff", "tool_call", "tool_call", "approval", "assistant_message"]


ASKED = {"tool": [0, 1, 0], "prompt": [1, 1, 0], "model": [0, 0, 1], "instructions": [0, 1, 0]}
"""What the models of the front desk, the till and another are asked by a fork with that change: nothing that is replayed."""


@pytest.mark.parametrize("way", ["completes", "approved here", "approved in another process", "approved after kill -9"])
@pytest.mark.parametrize("change", list(CHANGES))
async def test_a_fork_keeps_what_was_changed_whichever_way_it_comes_to_its_end(
    lab: str, tmp_path: Path, change: str, way: str
) -> None:
    refunds = tmp_path / "refunds"
    pay_again = calls(("refund", {"order": LIVE})), says("End.")
    other: Worker | None = None
    if way in ("approved in another process", "approved after kill -9"):
        other = Worker(worker.fork_and_wait, lab, str(refunds), change)
        paused = other.hear()
        assert (paused["status"], paused["asked"]) == ("needs_approval", ASKED[change])
        if way == "approved after kill -9":
            other.kill()
    async with open_bench(lab) as bench:
        if other:
            own, others = ((), pay_again) if change == "model" else (pay_again, ())
            agent, models = counter(bench, refunds, (), own, others)
            end, asked = bench.store.runs.get(paused["run"]), [model.calls for model in models]
        else:
            live = [says("End.")] if way == "completes" else [calls(("write", {"text": "x"})), *pay_again]
            agent, paused_here, asked = await fork_of_a_refund(bench, refunds, change, *live)
            assert [len(calls) for calls in asked] == ASKED[change]
            end = paused_here.run
        decided = 0
        while end.status == "needs_approval":
            decided += 1
            end = last(await bench.approve(end.id, agent=agent)).run
        assert (end.status, end.output) == ("completed", "End.")
        entries = bench.store.threads.session_items(end.thread_id)
        heard = [entry["output"] for entry in entries if entry.get("type") == "function_call_output"][1:]
    if other and way == "approved in another process":
        other.kill()
    told = [] if change in ("prompt", "model", "instructions") else ["DENIED"]
    if way == "completes":
        assert (decided, heard, refunds.read_text().split()) == (0, told, [PAYS])
    elif change == "tool":
        assert (decided, heard) == (1, ["DENIED", "Wrote x.", "DENIED"])
        assert refunds.read_text().split() == [PAYS], "what was replaced is not called, and needs no decision"
    else:
        assert (decided, heard) == (2, ["Wrote x.", f"Refunded {LIVE}."])
        assert refunds.read_text().split() == [PAYS, LIVE], (
            "what was not replaced is called, once, when it was approved"
        )
    if change == "instructions" and asked[1]:
        assert {call.system_instructions for call in asked[1]} == {"Be brief."}


async def test_a_tool_that_had_finished_when_the_resume_was_killed_is_not_run_again(lab: str, tmp_path: Path) -> None:
    file = tmp_path / "errands"
    first = Worker(worker.errand, lab, str(file))
    run_id = first.hear()["run"]
    first.kill()
    second = Worker(worker.errand_approve, lab, str(file), run_id)
    assert second.hear() == {"done": "quick"}
    time.sleep(1.0)  # The trace is told of it as well, on a machine that is busy, too.
    second.kill()
    async with open_bench(lab) as bench:
        assert bench.store.runs.get(run_id).status == "needs_approval", "the run is offered again"
        [waiting] = bench.store.run_states.find(status="pending")
        assert waiting.run_id == run_id
        agent = errand_agent(file, hang=False)
        agent.model = (model := scripted(says("Both done.")))
        run = last(await bench.approve(run_id, agent=agent)).run
        assert (run.status, run.output) == ("completed", "Both done.")
        assert file.read_text().split() == ["quick", "long"]
        answers = [i["output"] for i in model.calls[0].input if i.get("type") == "function_call_output"]
        assert answers == ["quick is done", "long is done"]
        bench.writer.flush()
        rows = bench.store.sql("select tool, status, approval from tool_calls order by tool, status").rows
        assert rows == [("long", "error", "approved"), ("long", "ok", "approved"), ("quick", "ok", "approved")]
        ids = bench.store.sql("select count(*), count(distinct span_id) from spans").rows[0]
        assert ids[0] == ids[1], "the attempt that died is a row of its own"
        states = [(i.data["name"], i.data["status"]) for i in bench.items(run.thread_id, "tool_call")]
        assert states == [("quick", "completed"), ("long", "completed")]


async def test_a_resume_killed_after_its_calls_goes_on_from_there(tmp_path: Path) -> None:
    """The tools were through and the model was answering: the model is asked again, the tools are not."""
    ran: list[str] = []

    @function_tool(needs_approval=True)
    def once() -> str:
        ran.append("once")
        return "done once"

    path = tmp_path / "lab.duckdb"
    async with open_bench(path) as bench:
        agent = Agent(name="Careful", tools=[once], model=scripted(calls(("once", {}))))
        end = last(await bench.run("go", agent))
        state = bench.store.run_states.get(end.run.id)
        agent.model = scripted(says("Half an answer"))
        await bench.approve(end.run.id)
        # As a killed process leaves it: claimed and running, the answer not yet in the thread.
        [message] = bench.items(end.run.thread_id, "assistant_message")
        bench.store.threads.delete_item(message.id)
        bench.store.threads.pop_session_item(end.run.thread_id)
        bench.store.run_states.update(end.run.id, status="claimed", claimed_by="prc_dead", state=state.state)
        bench.store.runs.update(end.run.id, status="running", process_id="prc_dead")
    async with open_bench(path) as bench:
        agent.model = scripted(says("The answer."))
        run = last(await bench.approve(end.run.id, agent=agent)).run
        assert (run.status, run.output, ran) == ("completed", "The answer.", ["once"])


async def test_what_a_killed_process_could_not_tell_the_trace_is_told_by_the_next(tmp_path: Path) -> None:
    async with open_bench(tmp_path / "lab.duckdb") as bench:
        agent = errand_agent(tmp_path / "errands", hang=False)
        end = last(await bench.run("go", agent))
        quick = bench.items(end.run.thread_id, "tool_call")[0]
        # As a kill right after the first tool leaves it: the thread knows of the result, the trace does not.
        done = {"status": "completed", "output": "quick is done", "duration_ms": 5.0}
        bench.store.threads.save_item(replace(quick, data={**quick.data, **done}))
        agent.model = scripted(says("Both done."))
        run = last(await bench.approve(end.run.id, agent=agent)).run
        assert run.status == "completed"
        assert (tmp_path / "errands").read_text().split() == ["long"]
        bench.writer.flush()
        rows = bench.store.sql("select tool, status, approval, result from tool_calls order by started_at").rows
        assert rows == [("quick", "ok", "approved", "quick is done"), ("long", "ok", "approved", "long is done")]


async def test_a_run_whose_process_died_before_its_trace_was_written_is_approved_all_the_same(lab: str) -> None:
    """The pause is in the store when it is acknowledged; the trace follows within a moment, in which a process can be killed."""
    async with open_bench(lab) as bench:
        end = last(await bench.run("What is the weather in Berkeley?"))
        bench.writer.flush()
        totals = "trace_deltas" if bench.store.db.dialect == "duckdb" else "trace_rollups"
        for table in ("traces_raw", totals, "spans_raw", "open_spans"):
            bench.store.db.write(SYSTEM_USER, [Statement(f"delete from core.{table}")])
    async with open_bench(lab) as bench:
        run = last(await bench.approve(end.run.id)).run
        assert (run.status, run.trace_id) == ("completed", end.run.trace_id)
        bench.writer.flush()
        [trace] = bench.store.sql("select trace_id, status, thread_id from traces").dicts()
        assert tuple(trace.values()) == (run.trace_id, "completed", run.thread_id)
        assert bench.store.sql("select tool, status, approval from tool_calls").rows == [
            ("get_weather", "ok", "approved")
        ]


@pytest.mark.timeout(120)
def test_fifty_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Two processes at a time on one lab, each killed at a random moment."""
    rng = random.Random(20261122)
    path = str(tmp_path / "lab.duckdb")
    open_store(path).close()
    acknowledged: list[dict[str, Any]] = []
    kills = 0
    while kills < KILLS:
        others = [Worker(worker.talk, path) for _ in range(min(2, KILLS - kills))]
        for other in others:
            acknowledged.append(other.hear())
            time.sleep(rng.uniform(0, 0.05))
            acknowledged += other.kill()
            kills += 1
    store = open_store(path)
    try:
        items = {row["id"]: row["data"] for row in _items(store)}
        for told in acknowledged:
            if "item" in told:
                assert json.loads(items[told["item"]])["text"] == told["text"]
            else:
                assert store.runs.get(told["run"]).status == told["status"]
        runs = store.runs.find()
        assert len(runs) >= KILLS
        assert not [run for run in runs if run.status == "running"]
        assert "interrupted" in {run.status for run in runs}
        assert not [data for data in items.values() if json.loads(data).get("status") == "in_progress"]
        assert store.sql("select count(*) from spans where status = 'pending'").rows == [(0,)]
    finally:
        store.close()


def _items(store: Any) -> list[dict[str, Any]]:
    return list(
        store.db.query(store.user_id, "select id, data from thread_items where user_id = $1", [store.user_id]).dicts()
    )


async def test_the_talk_goes_on_after_a_kill_and_the_model_knows_what_was_said(lab: str) -> None:
    other = Worker(worker.ramble, lab)
    begun = other.hear()["begun"]
    time.sleep(0.6)
    other.kill()
    async with open_bench(lab) as bench:
        [run] = bench.store.runs.find()
        assert run.status == "interrupted"
        [message] = bench.items(run.thread_id, "assistant_message")
        assert (message.id, message.data["status"]) == (begun, "incomplete")
        said = message.data["text"]
        assert len(said) > 10
        model = scripted(says("I go on."))
        end = last(await bench.run("go on", Agent(name="Next", model=model), thread_id=run.thread_id)).run
        assert end.output == "I go on."
        heard = [m["content"] for m in model.calls[0].input if m.get("role") == "assistant"]
        assert heard == [said]
