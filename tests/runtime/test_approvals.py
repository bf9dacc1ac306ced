"""A run that waits for a person waits in the store, is resumed by one, and runs each tool once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, HostedMCPTool, function_tool

from tests.postgres.server import shared_server
from tests.runtime.bench import SETTINGS, Bench, calls, last, open_bench, says, scripted
from tests.wire import Block, Reply, WireServer, Words, openai_responses
from timestep_lab import Lab
from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import ConflictError, NotFoundError, RunError, UsageError
from timestep_lab.model.events import ItemReplaced, RunCancelled, RunCompleted, RunPaused, RunStarted
from timestep_lab.model.records import McpServerRecord
from timestep_lab.runtime import approvals
from timestep_lab.store.liveness import sweep

BERKELEY = "What is the weather in Berkeley?"


@pytest.fixture(params=["duckdb", "postgres"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param == "duckdb":
        async with open_bench() as bench:
            yield bench
    else:
        with shared_server().lab_url() as url:
            async with open_bench(url) as bench:
                yield bench


async def paused(bench: Bench, prompt: str = BERKELEY, agent: Any = None, **options: Any) -> RunPaused:
    end = last(await bench.run(prompt, agent, **options))
    assert isinstance(end, RunPaused)
    return end


async def test_a_place_in_berkeley_asks_first_and_says_why(bench: Bench) -> None:
    end = await paused(bench)
    [call] = end.interruptions
    assert (call.name, call.server, call.agent) == ("get_weather", "lab", "Weather Assistant")
    assert call.reason == 'location contains "berkeley"'
    assert json.loads(call.arguments) == {"location": "Berkeley"}
    assert bench.items(end.run.thread_id, "tool_call")[-1].data["status"] == "needs_approval"
    [asked] = bench.items(end.run.thread_id, "approval")
    assert (asked.data["decision"], asked.data["run_id"]) == (None, end.run.id)
    assert bench.store.runs.get(end.run.id).status == "needs_approval"


async def test_an_approved_run_goes_on_to_its_answer(bench: Bench) -> None:
    end = await paused(bench)
    events = await bench.approve(end.run.id)
    assert isinstance(events[0], RunStarted)
    assert events[0].resumed
    run = last(events).run
    assert (run.status, run.id, run.trace_id) == ("completed", end.run.id, end.run.trace_id)
    assert run.output
    assert "Berkeley" in run.output
    assert run.usage.requests == 4, "usage counts both halves of the run"
    assert bench.items(run.thread_id, "approval")[0].data["decision"] == "approved"
    assert [i.type for i in bench.items(run.thread_id)].count("approval") == 1
    assert bench.store.run_states.get(run.id).status == "done"


async def test_an_agent_that_goes_on_after_a_pause_is_one_call_of_one_agent_in_the_graph(bench: Bench) -> None:
    end = await paused(bench)
    bench.writer.flush()
    before = bench.store.traces.graph([end.run.trace_id])
    await bench.approve(end.run.id)
    bench.writer.flush()
    after = bench.store.traces.graph([end.run.trace_id])
    assert [(node.path, node.calls) for node in after.nodes] == [
        ("Personal Assistant", 1), ("Personal Assistant/Weather Assistant", 1),
    ]  # fmt: skip
    [way] = after.edges
    assert (way.from_path, way.to_path, way.count) == (after.nodes[0].path, after.nodes[1].path, 1)
    assert after.nodes[1].p50_ms > before.nodes[1].p50_ms, "its time is that before and after the pause"  # type: ignore[operator]


async def test_a_rejection_reaches_the_model_word_for_word(bench: Bench) -> None:
    end = await paused(bench)
    decision = {"decision": "rejected", "message": "Not today."}
    run = last(await bench.resume(end.run.id, {end.interruptions[0].call_id: decision})).run
    assert run.status == "completed"
    call = bench.items(run.thread_id, "tool_call")[-1].data
    assert (call["status"], call["output"]) == ("rejected", "Not today.")
    outputs = [i["output"] for i in bench.store.threads.session_items(run.thread_id) if i.get("call_id") == call["call_id"]
               and "output" in i]  # fmt: skip
    assert outputs == ["Not today."]


def places(*names: str) -> tuple[Agent[Any], list[str]]:
    """An agent that looks up several places at once and must ask for each."""
    done: list[str] = []

    @function_tool(needs_approval=True)
    async def look(place: str) -> str:
        done.append(place)
        return f"{place}: fine"

    model = scripted(calls(*[("look", {"place": name}) for name in names]), says("All looked at."))
    return Agent(name="Scout", model=model, tools=[look]), done


async def test_parallel_calls_are_decided_in_any_order_and_each_runs_once(bench: Bench) -> None:
    agent, done = places("A", "B", "C")
    end = await paused(bench, "look", agent)
    a, b, c = (call.call_id for call in end.interruptions)
    second = last(await bench.resume(end.run.id, {b: "approved"}))
    assert isinstance(second, RunPaused)
    assert [call.call_id for call in second.interruptions] == [a, c]
    assert done == ["B"]
    third = last(await bench.resume(end.run.id, {c: {"decision": "rejected"}, a: True}))
    assert isinstance(third, RunCompleted)
    assert done == ["B", "A"]
    assert [i.data["decision"] for i in bench.items(end.run.thread_id, "approval")] == [
        "approved",
        "approved",
        "rejected",
    ]
    assert third.run.output == "All looked at."


async def test_of_two_who_approve_at_once_one_wins_and_the_tool_runs_once(bench: Bench) -> None:
    agent, done = places("A")
    end = await paused(bench, "look", agent)
    both = await asyncio.gather(bench.approve(end.run.id), bench.approve(end.run.id), return_exceptions=True)
    [lost] = [r for r in both if isinstance(r, ConflictError)]
    [won] = [r for r in both if isinstance(r, list)]
    assert last(won).run.status == "completed"
    assert "this process" in str(lost) or "is not waiting for approval" in str(lost)
    assert done == ["A"]


async def test_the_loser_is_told_which_process_is_at_it(bench: Bench) -> None:
    end = await paused(bench)
    run = bench.store.runs.get(end.run.id)
    approvals.claim(bench.store, run, {})
    with pytest.raises(ConflictError, match="is being resumed by this process since"):
        await bench.approve(end.run.id)


async def test_a_claim_whose_lease_is_over_may_be_taken(bench: Bench) -> None:
    end = await paused(bench)
    approvals.claim(bench.store, bench.store.runs.get(end.run.id), {})
    bench.store.run_states.update(end.run.id, lease_until=utc_now())
    assert last(await bench.approve(end.run.id)).run.status == "completed"


async def test_a_claim_whose_lease_is_over_is_offered_again(bench: Bench) -> None:
    end = await paused(bench)
    approvals.claim(bench.store, bench.store.runs.get(end.run.id), {})
    assert sweep(bench.store.db) == 0
    bench.store.run_states.update(end.run.id, lease_until=utc_now())
    assert sweep(bench.store.db) == 1
    assert [state.run_id for state in bench.store.run_states.find(status="pending")] == [end.run.id]
    assert bench.store.runs.get(end.run.id).status == "needs_approval"


async def test_decisions_are_checked_and_a_wrong_one_changes_nothing(bench: Bench) -> None:
    end = await paused(bench)
    call_id = end.interruptions[0].call_id
    for wrong in ({}, {"call_other": "approved"}, {call_id: "perhaps"}, {call_id: {"decision": None}}):
        with pytest.raises(UsageError):
            await bench.resume(end.run.id, wrong)
    with pytest.raises(NotFoundError):
        await bench.resume("run_nowhere", {call_id: "approved"})
    assert bench.store.run_states.get(end.run.id).status == "pending"
    assert last(await bench.approve(end.run.id)).run.status == "completed"
    with pytest.raises(ConflictError, match="is not waiting for approval; its status is completed"):
        await bench.resume(end.run.id, {call_id: "approved"})


async def test_always_is_remembered_for_this_tool_in_this_thread(bench: Bench) -> None:
    end = await paused(bench)
    always = {"decision": "approved", "always": True}
    await bench.resume(end.run.id, {end.interruptions[0].call_id: always})
    again = last(await bench.run(BERKELEY, thread_id=end.run.thread_id, agent=bench.weather))
    assert again.run.status == "completed"
    elsewhere = last(await bench.run(BERKELEY))
    assert elsewhere.run.status == "needs_approval"


@pytest.mark.parametrize(("approve", "status"), [("all", "completed"), ("none", "rejected")])
async def test_a_run_may_approve_or_refuse_everything(bench: Bench, approve: Any, status: str) -> None:
    run = last(await bench.run(BERKELEY, approve=approve)).run
    assert run.status == "completed"
    assert bench.items(run.thread_id, "tool_call")[-1].data["status"] == status
    [asked] = bench.items(run.thread_id, "approval")
    assert asked.data["decision"] == ("approved" if approve == "all" else "rejected")


async def test_the_talk_may_go_on_while_a_call_waits(bench: Bench) -> None:
    end = await paused(bench)
    between = last(await bench.run("hello again", thread_id=end.run.thread_id, model="demo/echo")).run
    assert between.status == "completed"
    run = last(await bench.approve(end.run.id)).run
    assert run.status == "completed"
    agent = Agent(name="Reader", model=(model := scripted(says("Read."))))
    await bench.run("and now?", agent, thread_id=run.thread_id)
    heard = model.calls[0].input
    places = {item["call_id"]: n for n, item in enumerate(heard) if item.get("type") == "function_call"}
    for n, item in enumerate(heard):
        if item.get("type") == "function_call_output":
            assert n == places[item["call_id"]] + 1, "an answer stands right behind its call"


async def test_a_run_goes_on_as_it_was_although_its_agents_changed(bench: Bench) -> None:
    end = await paused(bench)
    bench.store.agents.update(bench.weather.id, name="Somebody Else", tool_ids=(), instructions="Say no.")
    bench.store.agents.delete(bench.personal.id)
    run = last(await bench.approve(end.run.id)).run
    assert (run.status, run.last_agent) == ("completed", "Weather Assistant")


async def test_a_run_goes_on_although_its_server_was_renamed(bench: Bench) -> None:
    record = McpServerRecord(
        id="srv", user_id=bench.store.user_id, name="clock", command=("mcp-server-time",), env={"TZ": "UTC"}
    )  # fmt: skip
    bench.store.mcp_servers.insert(record)
    model = bench.script(calls(("get_current_time", {"timezone": "UTC"})), says("It is late."))
    agent = bench.agent("Clock", tool_ids=("srv.get_current_time",), approvals={"*": "always"}, model=model)
    end = await paused(bench, "What time is it?", agent)
    bench.store.mcp_servers.update("srv", name="watch")
    run = last(await bench.approve(end.run.id)).run
    assert run.status == "completed"
    assert bench.items(run.thread_id, "tool_call")[-1].data["server"] == "clock"


async def test_a_lost_server_is_named_and_the_run_goes_on_waiting(bench: Bench) -> None:
    bench.store.mcp_servers.insert(
        McpServerRecord(id="srv", user_id=bench.store.user_id, name="vault", command=("false",), env={"KEY": "hunter2"})
    )
    agent = bench.agent("Both", tool_ids=(*bench.weather.tool_ids, "srv.*"), approvals=bench.weather.approvals)
    end = await paused(bench, agent=agent, model="demo/assistant")
    assert "hunter2" not in json.dumps(dict(bench.store.run_states.get(end.run.id).agent_snapshot))
    bench.store.mcp_servers.delete("srv")
    with pytest.raises(RunError, match="'vault' of this paused run was removed"):
        await bench.approve(end.run.id)
    assert bench.store.runs.get(end.run.id).status == "needs_approval"
    assert bench.store.run_states.get(end.run.id).status == "pending"


async def test_a_run_of_an_sdk_agent_needs_the_same_agent_in_another_process(tmp_path: Path) -> None:
    async with open_bench(tmp_path / "lab.duckdb") as first:
        agent, _ = places("A")
        end = await paused(first, "look", agent)
    async with open_bench(tmp_path / "lab.duckdb") as second:
        with pytest.raises(RunError, match="exists only in the process that created it"):
            await second.approve(end.run.id)
        with pytest.raises(RunError, match="was started with the agent 'Scout'"):
            await second.approve(end.run.id, agent=Agent(name="Other"))
        same, done = places("A")
        same.model = scripted(says("Looked."))
        run = last(await second.approve(end.run.id, agent=same)).run
        assert (run.output, done) == ("Looked.", ["A"])


async def test_a_run_of_an_sdk_agent_is_decided_after_a_restart_with_the_agent_made_again(tmp_path: Path) -> None:
    """The error says the very line; approving, rejecting and resuming take the agent."""
    before = Lab(tmp_path / "lab.duckdb", settings=SETTINGS)
    runs = [await before.run("look", agent=places("A")[0]) for _ in range(3)]
    await before.aclose()
    after = Lab(tmp_path / "lab.duckdb", settings=SETTINGS)
    to_approve, to_reject, to_resume = [after.approvals[run.id] for run in runs]
    with pytest.raises(RunError) as refused:
        await to_approve.approve()
    line = f'lab.approvals["{to_approve.id}"].approve(agent=my_agent)'
    assert str(refused.value).endswith(line)

    my_agent, done = places("A")
    my_agent.model = scripted(says("Looked."))
    run = await eval(line, {"lab": after, "my_agent": my_agent})
    assert (run.status, run.output, done) == ("completed", "Looked.", ["A"])
    my_agent.model = scripted(says("Then not."))
    run = await to_reject.reject("Not now.", agent=my_agent)
    assert (run.status, run.output, done) == ("completed", "Then not.", ["A"])
    my_agent.model = scripted(says("Looked again."))
    decisions = {call.call_id: {"decision": "approved"} for call in to_resume.interruptions}
    run = await after.resume(to_resume.id, decisions, agent=my_agent).result()
    assert (run.status, run.output, done) == ("completed", "Looked again.", ["A", "A"])
    await after.aclose()


# -- calls of MCP servers that the provider itself makes


LISTED = Block({"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "docs", "tools": []})
ASKED = Block(
    {
        "type": "mcp_approval_request",
        "id": "mcpr_1",
        "server_label": "docs",
        "name": "search",
        "arguments": '{"q": "fog"}',
    }
)
MADE: dict[str, Any] = {
    "type": "mcp_call", "id": "mcp_1", "server_label": "docs", "name": "search", "arguments": '{"q": "fog"}', "output": "found it",
    "error": None, "status": "completed", "approval_request_id": None,
}  # fmt: skip


@asynccontextmanager
async def hosted(*steps: Reply) -> AsyncIterator[tuple[Bench, Agent]]:
    """An agent with a hosted MCP server, whose provider answers with `steps`."""
    docs: Any = {
        "type": "mcp",
        "server_label": "docs",
        "server_url": "https://example.org/mcp",
        "require_approval": "always",
    }
    with WireServer(openai_responses) as server:
        server.will(*steps)
        settings = {"openai_api_key": "k", "openai_base_url": f"{server.url}/v1", "openai_responses": True}
        async with open_bench(**settings) as bench:
            yield bench, Agent(name="Reader", model="openai/gpt-4.1", tools=[HostedMCPTool(tool_config=docs)])


async def test_a_call_that_the_provider_makes_is_shown_with_its_tool_and_server() -> None:
    failed = {
        **MADE,
        "id": "mcp_2",
        "output": None,
        "error": {"type": "http_error", "code": 404, "message": "no such page"},
        "status": "failed",
    }
    unreached = {**LISTED.block, "server_label": "mail", "error": "no route"}
    async with hosted(Reply(LISTED, Block(unreached), Block(MADE), Block(failed), Words("Fog."))) as (bench, agent):
        run = last(await bench.run("Read.", agent)).run
        shown = [item.data for item in bench.items(run.thread_id, "tool_call")]
    assert [(call["server"], call["name"], call["status"], call["output"], call["error"]) for call in shown] == [
        ("mail", "mcp_list_tools", "failed", None, "no route"), ("docs", "search", "completed", "found it", None),
        ("docs", "search", "failed", None, "no such page"),
    ]  # fmt: skip
    assert shown[1]["arguments"] == '{"q": "fog"}'


@pytest.mark.parametrize("approved", [True, False])
async def test_a_call_that_the_provider_asks_for_is_approved_or_rejected_like_any_other(approved: bool) -> None:
    made = [Block({**MADE, "approval_request_id": "mcpr_1"})] if approved else []
    async with hosted(Reply(LISTED, ASKED), Reply(*made, Words("Done."))) as (bench, agent):
        end = await paused(bench, "Read.", agent)
        [call] = end.interruptions
        assert (call.server, call.name, call.arguments) == ("docs", "search", '{"q": "fog"}')
        decided = await bench.resume(end.run.id, {"mcpr_1": "approved" if approved else "rejected"})
        assert (last(decided).run.status, last(decided).run.output) == ("completed", "Done.")
        [item] = bench.items(end.run.thread_id, "tool_call")
        [span] = bench.spans("tool")
    status, output, error = ("completed", "found it", None) if approved else ("rejected", approvals.REJECTED, None)
    assert (item.data["status"], item.data["output"], item.data["error"]) == (status, output, error)
    assert (item.data["server"], item.data["name"]) == ("docs", "search")
    assert (span["name"], span["status"]) == ("search", "ok" if approved else "rejected")
    assert span["ended_at"] is not None


async def test_a_damaged_state_is_an_error_and_the_run_goes_on_waiting(bench: Bench) -> None:
    end = await paused(bench)
    bench.store.run_states.update(end.run.id, state='{"$schemaVersion": "99.0"}')
    with pytest.raises(RunError, match="cannot be read"):
        await bench.approve(end.run.id)
    assert bench.store.run_states.get(end.run.id).status == "pending"


async def test_cancelling_a_paused_run_withdraws_it(bench: Bench) -> None:
    end = await paused(bench)
    await bench.runner.cancel(end.run.id)
    assert bench.store.runs.get(end.run.id).status == "cancelled"
    assert bench.items(end.run.thread_id, "tool_call")[-1].data["status"] == "rejected"
    assert bench.items(end.run.thread_id, "approval")[0].data["decision"] == "rejected"
    assert [s["status"] for s in bench.spans("tool") if s["name"] == "get_weather"] == ["rejected"]
    with pytest.raises(ConflictError):
        await bench.approve(end.run.id)
    with pytest.raises(ConflictError, match="has already ended"):
        await bench.runner.cancel(end.run.id)


async def test_a_resume_that_is_cancelled_is_over(bench: Bench) -> None:
    started = asyncio.Event()

    @function_tool(needs_approval=True)
    async def slow() -> str:
        started.set()
        await asyncio.sleep(30)
        return "never"

    agent = Agent(name="Slow", model=scripted(calls(("slow", {}))), tools=[slow])
    end = await paused(bench, "go", agent)
    resuming = asyncio.create_task(bench.approve(end.run.id))
    await started.wait()
    await bench.runner.cancel(end.run.id)
    assert isinstance((await resuming)[-1], RunCancelled)
    assert bench.store.run_states.get(end.run.id).status == "done"
    assert bench.items(end.run.thread_id, "tool_call")[0].data["status"] == "failed"


async def test_the_trace_shows_each_call_once_with_its_approval(bench: Bench) -> None:
    agent, _ = places("A", "B")
    end = await paused(bench, "look", agent)
    a, b = (call.call_id for call in end.interruptions)
    bench.writer.flush()
    query = "select tool, arguments->>'place' as place, status, approval from tool_calls order by 2"
    assert [tuple(r.values()) for r in bench.store.sql(query).dicts()] == [
        ("look", "A", "pending", "pending"), ("look", "B", "pending", "pending"),
    ]  # fmt: skip
    await bench.resume(end.run.id, {a: "approved", b: "rejected"})
    bench.writer.flush()
    assert [tuple(r.values()) for r in bench.store.sql(query).dicts()] == [
        ("look", "A", "ok", "approved"), ("look", "B", "rejected", "rejected"),
    ]  # fmt: skip
    [trace] = bench.store.sql("select trace_id, status, ended_at from traces").dicts()
    assert (trace["trace_id"], trace["status"]) == (end.run.trace_id, "completed")
    assert trace["ended_at"] is not None


@pytest.mark.parametrize("way", ["refused", "refused elsewhere", "cancelled", "refused at once", "one by one"])
async def test_a_refused_call_stands_under_the_agent_that_made_it(bench: Bench, way: str) -> None:
    agent, _ = places("A", "B")
    if way == "refused at once":
        await bench.run("look", agent=agent, approve="none")
    else:
        end = await paused(bench, "look", agent)
        a, b = (call.call_id for call in end.interruptions)
        if way == "refused elsewhere":
            # Another process knows nothing of the trace but what is stored.
            bench.runner._services.processor._routes.clear()
        if way == "cancelled":
            await bench.runner.cancel(end.run.id)
        elif way == "one by one":
            await bench.resume(end.run.id, {a: "rejected"})
            await bench.resume(end.run.id, {b: "rejected"})
        else:
            await bench.resume(end.run.id, {a: "rejected", b: "rejected"})
    bench.writer.flush()
    spans = {span["span_id"]: span for span in bench.spans()}
    refused = [span for span in spans.values() if span["kind"] == "tool"]
    assert [span["status"] for span in refused] == ["rejected", "rejected"]
    for span in refused:
        above = []
        while span["parent_id"]:
            span = spans[span["parent_id"]]
            above.append(span["kind"])
        assert above[:2] == ["turn", "agent"]


async def test_a_decision_is_told_to_the_reader_as_a_change_of_its_item(bench: Bench) -> None:
    end = await paused(bench)
    events = await bench.approve(end.run.id)
    changed = [e.item for e in events if isinstance(e, ItemReplaced)]
    assert [(i.type, i.data.get("decision") or i.data.get("status")) for i in changed][:3] == [
        ("approval", "approved"), ("tool_call", "in_progress"), ("tool_call", "completed"),
    ]  # fmt: skip
    assert replace(changed[0]) == bench.store.threads.get_item(changed[0].id)
