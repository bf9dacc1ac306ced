"""`Lab("http://…", token=…)` against a really served lab: it gives what a local lab on the same file gives, or says that it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import html
import inspect
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas
import pytest

from tests.server.lab_process import LabProcess
from tests.server.remote import ANSWERS, ASKS, SETTINGS, Both, remote_lab
from timestep_lab import Lab
from timestep_lab.cli import main
from timestep_lab.model.errors import (
    AuthError,
    ConflictError,
    DataError,
    LabError,
    MissingKeyError,
    NotFoundError,
    StoreUnavailableError,
    UsageError,
)
from timestep_lab.model.events import ItemUpdated
from timestep_lab.model.ids import new_uuid
from timestep_lab.service.client import Connection


@pytest.fixture
async def both(lab: LabProcess) -> AsyncIterator[Both]:
    opened = Both(lab)
    yield opened
    await opened.aclose()


@pytest.fixture
async def remote(lab: LabProcess) -> AsyncIterator[Lab]:
    opened = remote_lab(lab)
    yield opened
    await opened.aclose()


def same(left: pandas.DataFrame, right: pandas.DataFrame) -> None:
    assert len(left)
    pandas.testing.assert_frame_equal(left, right)


# -- runs and threads


async def test_a_run_tells_the_same_events_as_a_local_one(both: Both) -> None:
    told = []
    for lab in (both.remote, both.local):
        stream = lab.stream(ANSWERS)
        events = [event async for event in stream]
        told.append(([e.type for e in events if not isinstance(e, ItemUpdated)], stream.text, stream.run.output))
        assert stream.run.status == "completed"
    assert told[0] == told[1]


async def test_a_run_and_its_thread_are_read_back_as_they_are_in_the_store(both: Both) -> None:
    run = await both.remote.run(ANSWERS, metadata={"why": "test", "attempt": {"n": 1}}, max_turns=7)
    stored = both.local.get_run(run.id)
    assert run.record == stored.record
    assert run.thread.items == stored.thread.items
    assert run.thread.transcript() == stored.thread.transcript()
    same(run.thread.df(), stored.thread.df())
    again = await both.remote.run("And in Rome?", thread=run.thread_id)
    assert again.thread_id == run.thread_id
    assert [t.record for t in both.remote.threads] == [t.record for t in both.local.threads]


async def test_threads_are_made_renamed_paged_and_deleted(both: Both) -> None:
    made = [both.remote.threads.create(f"number {n}") for n in range(3)]
    assert made[0].rename("first").title == both.local.threads[made[0].id].title == "first"
    page = both.remote.threads.page(limit=2)
    assert page == both.local.threads.page(limit=2)
    assert both.remote.threads.page(limit=2, after=page.after) == both.local.threads.page(limit=2, after=page.after)
    made[1].delete()
    assert len(both.remote.threads) == len(both.local.threads) == 2
    assert repr(both.remote.threads) == repr(both.local.threads)


async def test_messages_and_attachments_reach_the_model_as_from_a_local_lab(both: Both) -> None:
    said = [{"role": "user", "content": "My name is Ada."}, {"role": "user", "content": "Say it."}]
    run = await both.remote.run(said, model="demo/echo")
    assert run.output == (await both.local.run(said, model="demo/echo")).output
    file = both.remote.files.add_bytes("note.txt", b"The code is 4711.")
    run = await both.remote.run("Read this.", model="demo/echo", attachments=[{"id": file.id}])
    [shown] = run.thread.items[0].data["attachments"]
    assert shown == {"id": file.id, "name": "note.txt", "mime_type": "text/plain", "size": 17}
    here = await both.local.run("Read this.", model="demo/echo", attachments=[{"id": file.id}])
    assert here.output == run.output
    assert "4711" in here.output
    assert here.thread.items[0].data["attachments"] == [shown]


async def test_leaving_a_stream_early_stops_the_run_and_keeps_what_was_said(both: Both) -> None:
    stream = both.remote.stream("Tell me a long story.", model="demo/slow?ttft=0&tps=20&n=400")
    async with functools.partial(asyncio.timeout, 20)():
        events = aiter(stream)
        async for event in events:
            if isinstance(event, ItemUpdated) and len(stream.text) > 20:
                break
        await events.aclose()  # type: ignore[attr-defined]
        while both.local.get_run(stream.run.id).status == "running":
            await asyncio.sleep(0.05)
    run = both.local.get_run(stream.run.id)
    assert run.status == "cancelled"
    assert len(run.output or "") >= 20


async def test_a_fork_replays_there_and_goes_on_with_the_change(both: Both) -> None:
    run = await both.remote.run(ANSWERS)
    fork = await both.remote.fork(run, tools={"get_weather": "It is 99 °F and raining frogs."})
    assert fork.status == "completed"
    assert both.local.store.traces.start(fork.trace_id).parent_trace_id == run.trace_id
    same(both.remote.diff(run, fork), both.local.diff(run, fork))


async def test_what_is_done_with_a_trace_is_done_there_as_here(both: Both) -> None:
    run = await both.remote.run(ANSWERS)
    link = both.remote.trace_source.share(run.trace_id, days=2)
    assert both.remote.trace_source.shares() == [link]
    assert both.local.trace_source.shares() == [
        replace(link, path=both.local.trace_source.shares()[0].path)
    ]  # Its own secret.
    plans = [await lab.trace_source.plan_again(run.trace_id, model="demo/echo") for lab in (both.remote, both.local)]
    assert plans[0] == plans[1]
    started = await both.remote.trace_source.run_again(run.trace_id, prompt="Hello", model="demo/echo")
    while both.local.get_run(started.id).status == "running":
        await asyncio.sleep(0.02)
    added = both.remote.datasets.add_traces(name="kept", trace_ids=[run.trace_id], expected="output")
    assert added == both.local.datasets.list()[0]
    waits = await both.remote.run(ASKS)
    [call] = both.remote.trace_source.waiting(waits.trace_id)
    assert call == both.local.trace_source.waiting(waits.trace_id)[0]
    await both.remote.trace_source.decide(waits.trace_id, call.call_id, "rejected", message="No.")
    while both.local.get_run(waits.id).status in ("running", "needs_approval"):
        await asyncio.sleep(0.02)
    both.remote.trace_source.revoke(link.id)
    both.remote.trace_source.delete(run.trace_id)
    assert both.local.trace_source.shares() == []
    with pytest.raises(NotFoundError):
        both.local.trace_source.read(run.trace_id)


async def test_a_run_on_tape_there_asks_no_tool_and_says_what_was_never_recorded(both: Both) -> None:
    asked = 'call think {"thought": "once"}'
    assert (await both.remote.run(asked)).status == "completed"
    tape = 'tape:agent == "Personal Assistant"'
    again = await both.remote.run(asked, tools=tape)
    tools = both.local.sql("select tool, status from tool_calls where trace_id = $1", [again.trace_id])
    assert (again.status, tools.values.tolist()) == ("completed", [["think", "ok"]])
    other = await both.remote.run('call think {"thought": "never"}', tools=tape)
    assert (other.status, other.record.error_type) == ("failed", "TapeMissError")
    cases = f"select trace_id, input from traces where trace_id = '{again.trace_id}'"
    grids = [await lab.compare(cases, agents="Personal Assistant", tools=tape) for lab in (both.remote, both.local)]
    assert {str(grid.tape) for grid in grids} == {
        "1 of 1 call from tape · 0 misses (0 answers not judged) · by candidate: Personal Assistant 0.0 %"
    }
    with pytest.raises(UsageError, match="tape:<trace filter>"):
        both.remote.tape("x")


async def test_runs_are_listed_and_started_as_operations_and_a_model_is_checked_before_it_is_asked(both: Both) -> None:
    for lab in (both.remote, both.local):
        events = [event async for event in lab.runs.start(ASKS, model="demo/assistant")]
        assert events[-1].type == "run.needs_approval"
        [waiting] = lab.runs.list(status="needs_approval", limit=1)
        decided = [e async for e in lab.runs.decide(waiting.run.id)]
        assert decided[-1].type == "run.completed"
        assert await lab.models.check("demo/echo") == "demo/echo"
        with pytest.raises(MissingKeyError, match="ANTHROPIC_API_KEY"):
            await lab.models.check("anthropic/claude-sonnet-4")
        with pytest.raises(UsageError, match=r"lab\.runs\.start takes no 'promt'. Did you mean 'prompt'"):
            lab.runs.start(promt="x")  # type: ignore[call-arg]
    assert both.remote.runs.list() == both.local.runs.list()
    assert both.remote.models.resolve("") == both.local.models.resolve("")


async def test_objects_are_taken_where_ids_are(both: Both) -> None:
    for lab in (both.local, both.remote):
        run = await lab.run("Hello.", model="demo/echo")
        more = await lab.run("And again.", model="demo/echo", thread=run.thread)
        lab.flush()
        assert more.record.thread_id == run.record.thread_id
        by_id = lab.trace(run).diff(more.trace_id)
        assert lab.trace(run).diff(more) == lab.trace(run.trace_id).diff(lab.trace(more)) == by_id
        with pytest.raises(UsageError, match="is not a trace"):
            lab.trace(5)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="is not a thread"):
            await lab.run("Hello.", thread=5)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="cannot use prompt=None"):
            await lab.run(None)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="metadata"):
            await lab.run("Hello.", metadata="nightly")  # type: ignore[arg-type]


# -- why it went wrong


async def test_why_and_outlook_are_the_same_on_both_sides_and_tell_how_far_they_are(both: Both) -> None:
    for _ in range(2):
        run = await both.remote.run(ANSWERS, approve="all")
    plans = [
        await lab.why(run.trace_id, wrong="contains:Oakland", k=2, replays=2, plan=True)
        for lab in (both.remote, both.local)
    ]
    assert plans[0] == plans[1]
    seen: list[tuple[int, int]] = []
    found = await both.remote.why(
        run.trace_id, wrong="contains:Oakland", k=2, replays=2, on_progress=lambda *n: seen.append(n)
    )  # fmt: skip
    here = await both.local.why(run.trace_id, wrong="contains:Oakland", k=2, replays=2)
    assert (found.verdict, found.rows(), found.outlook) == (here.verdict, here.rows(), here.outlook)
    assert found.replays > 0
    assert here.replays == 0, "what the server replayed is kept for everybody who opens the lab"
    assert seen
    outlooks = [await lab.outlook(run.trace_id, "contains:Oakland", k=2) for lab in (both.remote, both.local)]
    same(outlooks[0].df(), outlooks[1].df())
    assert outlooks[0].right, "the answer passes the scorer"
    assert not (await both.remote.outlook(run.trace_id, wrong="contains:Oakland", k=2)).right
    told = both.remote.connection.post(
        f"/api/v1/traces/{run.trace_id}/why", {"wrong": "contains:Oakland", "k": 2, "replays": 2}
    )
    assert told["outlook"]["decisions"][0]["step"] == 1


async def test_blame_is_the_same_on_both_sides(both: Both) -> None:
    both.remote.agents.create(name="Desk", instructions="Be kind.", model="demo/echo")
    both.remote.agents.update("Desk", instructions="Be brief.", model_settings={"temperature": 1, "max_tokens": 3})
    cases = [{"input": f"Say word{n}.", "expected": f"word{n}"} for n in range(8)]
    plans = [
        await lab.blame(good="Desk@1", bad="Desk", cases=cases, scorers="contains", plan=True)
        for lab in (both.remote, both.local)
    ]
    assert plans[0] == plans[1]
    seen: list[tuple[int, int]] = []
    found = await both.remote.blame(
        good="Desk@1", bad="Desk", cases=cases, scorers="contains", on_progress=lambda *n: seen.append(n)
    )
    here = await both.local.blame(good="Desk@1", bad="Desk", cases=cases, scorers="contains")
    assert (found.verdict, found.culprits, found.changes) == (here.verdict, here.culprits, here.changes)
    assert found.rows() == here.rows()
    assert [grid.candidates for grid in found.grids] == [grid.candidates for grid in here.grids]
    assert seen[-1][0] == found.calls
    with pytest.raises(UsageError, match="Nothing differs"):
        await both.remote.blame(good="Desk@1", bad="Desk@1", cases=cases, scorers="contains")


async def test_replays_are_the_same_on_both_sides(both: Both) -> None:
    run = await both.remote.run(ANSWERS, approve="all")
    found, here = [await lab.replay(run.trace_id, times=3, on_tools="tape") for lab in (both.remote, both.local)]
    told = [
        [(one.output, one.agent, one.error, [item["type"] for item in one.items]) for one in many]
        for many in (found, here)
    ]
    assert told[0] == told[1]
    [lost] = await both.remote.replay(run.trace_id, on_tools="tape", prompt="What is the weather in Rome?")
    [gone] = await both.local.replay(run.trace_id, on_tools="tape", prompt="What is the weather in Rome?")
    assert type(lost.error) is type(gone.error)
    assert str(lost.error) == str(gone.error)
    with pytest.raises(UsageError, match="A function as the replacement of a tool"):
        await both.remote.replay(run.trace_id, results={"x": lambda: 1})


async def test_leaving_a_search_stops_it_and_it_goes_on_without_paying_twice(both: Both) -> None:
    run = await both.remote.run(ANSWERS, approve="all")
    events = both.remote.causes.why(run.trace_id, wrong="contains:Oakland", k=20, concurrency=1)
    async for event in events:
        assert event.type == "cause.progress"
        if event.done:
            break
    await events.aclose()
    found = await both.local.why(run.trace_id, wrong="contains:Oakland", k=20)
    made = sum(share.n for share in found.outlook.shares)
    assert found.replays < made


async def test_what_went_wrong_is_kept_as_a_test_with_its_tape(both: Both) -> None:
    run = await both.remote.run(ANSWERS, approve="all")
    kept = both.remote.causes.keep(run.trace_id, "failures", wrong="contains:Oakland")
    assert (kept.version, kept.n_cases) == (1, 1)
    assert both.local.causes.keep(run.trace_id, "failures", wrong="contains:Oakland").version == 1
    grid = await both.local.compare("failures", agents="Personal Assistant", tools="tape")
    assert {score.value for cell in grid.cells for score in cell.scores} == {0.0}
    assert grid.tape is not None
    assert grid.tape.miss_rate("Personal Assistant") == 0.0
    with pytest.raises(UsageError, match="both given"):
        both.remote.causes.keep(run.trace_id, "failures", wrong="contains:a", right="b")


# -- agents, tools, models


async def test_agents_are_the_same_on_both_sides(both: Both) -> None:
    made = both.remote.agents.create(
        name="Botanist", instructions="Know plants.", tools=["get_weather", "switch_theme"], model="demo/echo",
        handoffs=["Weather Assistant"], approvals={"get_weather": "always"}, model_settings={"temperature": 0.5},
        budget_usd=0.5, max_tokens_total=9000, timeout_s=60, max_tool_calls=3,
    )  # fmt: skip
    assert made == both.local.agents.get("botanist") == both.remote.agents["Botanist"]
    assert (made.budget_usd, made.max_tokens_total, made.timeout_s, made.max_tool_calls) == (0.5, 9000, 60.0, 3)
    changed = both.remote.agents.update(
        "Botanist", model=None, timeout_s=None, handoffs=[both.local.agents.get("Personal Assistant")]
    )
    assert changed == both.local.agents.get(made.id)
    assert (changed.model, changed.timeout_s, changed.max_tool_calls) == (None, None, 3)
    assert both.remote.agents.tool_id("think") == both.local.agents.tool_id("think")
    same(both.remote.agents.df(), both.local.agents.df())
    assert both.remote.agents.versions("Botanist") == both.local.agents.versions("Botanist")
    assert both.remote.agents.get("Botanist@1") == made
    same(both.remote.agents.diff("Botanist@1", changed), both.local.agents.diff(made, "Botanist@2"))
    run = await both.remote.run(ANSWERS, agent=made, approve="all")
    assert both.local.store.traces.start(run.trace_id).metadata["agent_version"] == 1
    both.remote.agents.delete("Botanist")
    assert both.remote.agents.list() == both.local.agents.list()


async def test_servers_tools_and_models_are_those_of_the_served_lab(both: Both) -> None:
    server = both.remote.mcp.add("docs", url="http://mcp.invalid/mcp", headers={"X-Key": "secret"}, timeout_s=1)
    assert replace(both.local.mcp.get("docs"), headers={"X-Key": ""}) == server
    assert "secret" not in repr(both.remote.mcp.list())
    assert both.remote.mcp.set_headers("docs", {"X-Token": "secret"}).headers == {"X-Token": ""}
    assert both.local.mcp.get("docs").headers == {"X-Token": "secret"}
    assert await both.remote.mcp.tools() == await both.local.mcp.tools()
    think = next(tool.id for tool in await both.remote.mcp.tools() if tool.name == "think")
    for lab in (both.remote, both.local):
        assert await lab.mcp.call(think, {"thought": "Is it so?"}) == "Noted."
        with pytest.raises(NotFoundError, match="nowhere"):
            await lab.mcp.call("nowhere.tool")
    with pytest.raises(LabError) as there:
        await both.remote.mcp.test("docs")
    with pytest.raises(type(there.value)):
        await both.local.mcp.test("docs")
    both.remote.mcp.remove("docs")
    assert both.local.mcp.list() == []
    assert both.remote.router.providers() == both.local.router.providers()
    assert await both.remote.router.list_models("demo") == await both.local.router.list_models("demo")
    assert "demo/assistant" in await both.remote.router.list_models()


# -- rows and views


QUERY = """select 1 as a, 2.5::double as b, 'nan'::double as c, 1.10::decimal(9, 2) as d, timestamp '2026-01-02 03:04:05.678901' as e,
date '2026-01-02' as f, interval 3 hours as g, [1, null] as h, {'x': [timestamp '2026-01-02']} as i, null as j, 'ü"\n' as k,
170141183460469231731687303715884105727::hugeint as l, 'ab'::blob as m union all select 2, null, null, null, null, null, null, null,
null, null, null, null, null order by a"""


async def test_sql_gives_the_frame_that_a_local_lab_gives(both: Both) -> None:
    same(both.remote.sql(QUERY), both.local.sql(QUERY))
    run = await both.remote.run(ANSWERS)
    both.remote.flush()
    for view in ("traces", "spans", "generations", "tool_calls", "handoffs", "messages", "usage"):
        same(*(lab.sql(f"select * from {view} order by all") for lab in (both.remote, both.local)))
    query = "select trace_id from traces where started_at >= $1 and model = $2"
    since = run.record.started_at.replace(tzinfo=None)
    same(*(lab.sql(query, [since, run.model]) for lab in (both.remote, both.local)))
    same(*(lab.sql("select $1 as a", [float("nan")]) for lab in (both.remote, both.local)))


async def test_the_trace_views_show_what_the_local_ones_show(both: Both) -> None:
    runs = [await both.remote.run(text) for text in (ANSWERS, "What's the weather in Rome?", ASKS)]
    both.remote.flush()
    for run in runs:
        there, here = both.remote.trace(run), both.local.trace(run)
        same(there.df(), here.df())
        assert there.trace == here.trace
        assert there.static_html() == here.static_html()
        assert there.snapshot().buffers == here.snapshot().buffers
        assert there.source.graph_of(run.trace_id) == here.source.graph_of(run.trace_id)
    there_all, here_all = (
        both.remote.explorer(filter='status == "completed"'),
        both.local.explorer(filter='status == "completed"'),
    )
    same(there_all.df(), here_all.df())
    assert there_all.sql == here_all.sql
    assert there_all.snapshot() == here_all.snapshot()
    assert both.remote.traces.source.suggest("mod", 3) == both.local.traces.source.suggest("mod", 3)
    assert there_all.source.graph() == here_all.source.graph()
    same(both.remote.diff(*runs[:2]), both.local.diff(*runs[:2]))
    several: list[dict[str, Any]] = [
        {"agent": "Personal Assistant"},
        {},
        {"traces": [runs[0].trace_id]},
        {"traces": []},
    ]
    for asked in several:
        assert both.remote.handoffs(**asked).graph == both.local.handoffs(**asked).graph


async def test_a_score_on_a_trace_or_a_span_is_one_on_both_sides(both: Both) -> None:
    run = await both.remote.run(ANSWERS)
    note = both.remote.score(run, "good", 0.5, label="fair", note="as expected")
    assert both.local.trace_source.scores(run.trace_id) == [note] == both.remote.trace_source.scores(run.trace_id)
    [span, *_] = both.remote.trace_source.spans(run.trace_id)
    assert both.local.trace_source.spans(run.trace_id) == both.remote.trace_source.spans(run.trace_id)
    second = both.local.score(run.trace_id, "quick", 1, span_id=span.span_id)
    assert both.remote.trace_source.scores(run.trace_id) == [note, second]
    for lab in (both.remote, both.local):
        with pytest.raises(NotFoundError, match="no span"):
            lab.score(run, "quick", 1, span_id="0" * 16)
        with pytest.raises(UsageError, match="a value or a label"):
            lab.score(run, "quick")


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".parquet", ".html"])
async def test_traces_go_out_to_files_and_come_in_again(
    both: Both, lab: LabProcess, tmp_path: Path, ending: str
) -> None:
    run = await both.remote.run(ANSWERS)
    both.remote.flush()
    file = tmp_path / f"traces{ending}"
    assert both.remote.export(file) == 1
    if ending == ".html":
        assert "get_weather" in file.read_text()
        return
    other = remote_lab(lab)
    assert other.import_traces(file).added == len(run.trace.df()) == other.import_traces(file).spans
    assert list(other.traces.df()["trace_id"]) == [run.trace_id]
    await other.aclose()


# -- comparing


async def test_a_comparison_there_is_the_grid_it_would_be_here(both: Both) -> None:
    asked: dict[str, Any] = {
        "models": ["demo/echo", "demo/assistant"], "scorers": ["contains:Oslo", {"type": "exact"}], "epochs": 2, "seed": 3,
    }  # fmt: skip
    data = pandas.DataFrame(
        {"question": ["Weather in Oslo?", "Weather in Rome?"], "expected": ["Weather in Oslo?", "x"]}
    )
    events: list[str] = []
    grid = await both.remote.compare(data, on_event=lambda event: events.append(event.type), **asked)
    assert grid.status == "completed"
    assert (events[0], events[-1]) == ("comparison.started", "comparison.ended")
    known = both.local.comparison(grid.id)
    both.remote.flush()
    for frame in ("df", "summary", "significance"):
        same(getattr(grid, frame)(), getattr(known, frame)())
    assert grid.to_json() == both.remote.comparison(grid.id).to_json() == known.to_json()
    assert [c.id for c in both.remote.comparisons()] == [grid.id]
    assert both.remote.grid_view(grid).static_html() == both.local.grid_view(known).static_html()
    plan = await both.remote.plan(data, **asked)
    assert plan.rows == (await both.local.plan(data, **asked)).rows
    both.remote.arena(grid.id, seed=1).vote("left")
    assert both.local.arena(grid.id).votes == both.remote.arena(grid.id).votes != []


async def test_a_comparison_there_that_stops_itself_is_the_one_it_would_be_here(
    both: Both, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = await both.remote.compare(
        [{"input": f"word{n}", "expected": f"word{n}"} for n in range(30)], models=["demo/echo", "demo/slow?ttft=0&tps=100000&n=2"],
        scorers=["contains"], stop="settled", margin=0.1, alpha=0.02, concurrency=2,
    )  # fmt: skip
    assert "no worse by more than 10 points" in capsys.readouterr().out
    [pair] = grid.pair_rows
    assert (pair.outcome, pair.margin, pair.level) == ("worse", 0.1, 0.98)
    assert len(grid.cells) < 60
    known = both.local.comparison(grid.id)
    assert grid.to_json() == known.to_json()
    assert (
        html.escape(grid.verdict)
        in both.remote.grid_view(grid).static_html()
        == both.local.grid_view(known).static_html()
    )


async def test_a_comparison_that_is_left_stops_and_can_be_resumed(remote: Lab) -> None:
    comparison = await remote.prepare_comparison(
        [f"question {n}" for n in range(6)], models=["demo/slow?ttft=20&tps=200&n=20"], concurrency=1
    )
    seen = []
    async for event in comparison.events():
        seen.append(event.type)
        if event.type == "cell.done":
            comparison.cancel()
    stopped = comparison.grid()
    assert (seen[-1], stopped.status) == ("comparison.ended", "cancelled")
    assert 1 <= len(stopped.cells) < 6
    grid = await remote.compare(resume=stopped.id)
    assert (grid.id, grid.status, len(grid.cells)) == (stopped.id, "completed", 6)


async def test_traces_and_comparisons_there_are_scored_as_they_would_be_here(both: Both) -> None:
    run = await both.remote.run("Say lamp.", model="demo/echo")
    scored = await both.remote.score_traces([run.trace_id], scorers=["contains:lamp", "contains:bulb"])
    same(scored, await both.local.score_traces('model == "demo/echo"', scorers=["contains:lamp", "contains:bulb"]))
    assert list(scored.columns) == ["trace_id", "contains:lamp", "contains:bulb", "note"]
    async with both.remote.watch(scorers="contains:bulb") as watch:
        await both.remote.run("Say bulb.", model="demo/echo")
    assert (watch.scored, watch.last_error) == (1, None)
    grid = await both.remote.compare(["Say lamp."], models="demo/echo", scorers="contains:lamp")
    again = await both.remote.rescore(grid, scorers="contains:bulb")
    assert again.to_json() == both.local.comparison(grid.id).to_json()
    assert again.scorers == ["contains:lamp", "contains:bulb"]
    with pytest.raises(UsageError, match="a Python function"):
        await both.remote.score_traces(scorers=lambda output: 1.0)


async def test_data_sets_are_those_of_the_served_lab(both: Both, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("input,expected,topic\nSay lamp.,lamp,a\nSay bulb.,bulb,b\n")
    made = both.remote.datasets.create("mine", str(tmp_path / "q.csv"), tags=["t"])
    assert both.local.datasets.versions("mine") == [made]
    assert both.remote.datasets["mine"] == both.local.datasets["mine@1"]
    await both.remote.run("Say three.", model="demo/echo")
    both.remote.datasets.from_traces("asked", 'model == "demo/echo"')
    assert [case.input for case in both.local.datasets["asked"]] == ["Say three."]
    grid = await both.remote.compare("mine", models="demo/echo", scorers="contains")
    assert grid.record.name == "mine@1"
    assert len(grid.summary(by="topic")) == 2
    both.remote.datasets.delete("mine")
    assert "mine" not in both.local.datasets


# -- files


async def test_files_and_vector_stores_are_those_of_the_served_lab(both: Both, tmp_path: Path) -> None:
    path = tmp_path / "animals.txt"
    path.write_text("Zebras have stripes. " * 3)
    file = both.remote.files.add(path)
    kept = both.local.files.get(file.id)
    assert kept == file == both.remote.files.get(file.id)
    assert both.remote.files.content(file.id) == path.read_bytes() == b"".join(both.remote.files.stream(file.id))
    assert both.remote.files.list() == [file]
    store = await both.remote.vector_stores.create("zoo", files=[file], metadata={"about": "animals"})
    assert [m.status for m in store.files()] == ["completed"]
    found = await store.search("stripes of zebras", k=3)
    assert found == await both.local.vector_stores.search(store.id, "stripes of zebras", 3) != []
    assert both.remote.vector_stores.get("zoo").record.metadata == {"about": "animals"}
    unreadable = both.remote.files.add_bytes("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(20))
    for lab in (both.remote, both.local):
        with pytest.raises(DataError, match="picture"):
            await lab.vector_stores.add_file(store.id, unreadable)
    assert both.remote.vector_stores.store_files(store.id) == both.local.vector_stores.store_files(store.id)
    store.delete()
    both.remote.files.delete(file.id)
    assert both.local.vector_stores.list() == []
    with pytest.raises(NotFoundError):
        both.remote.files.content(file.id)


# -- errors


async def carried_out(asked: Callable[[Lab], Any], lab: Lab) -> None:
    answer = asked(lab)
    if asyncio.iscoroutine(answer):
        await answer


WRONG: dict[str, Callable[[Lab], Any]] = {
    "an agent that is not there": lambda lab: lab.agents.get("Nobody"),
    "a name that is taken": lambda lab: lab.agents.create(name="Personal Assistant"),
    "an unknown prefix": lambda lab: lab.agents.create(name="x", model="nobody/model"),
    "an unknown setting": lambda lab: lab.agents.create(name="x", model_settings={"temperatur": 1}),
    "an unknown tool": lambda lab: lab.agents.create(name="x", tools=["get_wether"]),
    "an unknown field": lambda lab: lab.agents.update("Personal Assistant", colour="red"),
    "a field of the wrong type": lambda lab: lab.agents.create(name="x", tools="think"),
    "a setting that JSON does not have": lambda lab: lab.agents.create(
        name="x", model_settings={"top_p": float("nan")}
    ),
    "an empty page": lambda lab: lab.threads.page(limit=0),
    "a page after a thread that is not there": lambda lab: lab.threads.page(after="thread_none"),
    "a branch of a thread that is not there": lambda lab: lab.threads.branch("thread_none", "item_none"),
    "a server that is not there": lambda lab: lab.agents.tool_id("nowhere.tool"),
    "an address that is none": lambda lab: lab.mcp.add("x", url="ftp://example.org"),
    "a thread that is not there": lambda lab: lab.threads["thread_none"],
    "a run that is not there": lambda lab: lab.get_run("run_none"),
    "an approval that is not there": lambda lab: lab.approvals["run_none"],
    "a trace that is not there": lambda lab: lab.trace("0" * 32),
    "a filter with a mistake": lambda lab: lab.explorer(filter="model == ").df(),
    "SQL with a mistake": lambda lab: lab.sql("selec 1"),
    "no query": lambda lab: lab.sql(""),
    "half a character as a parameter of SQL": lambda lab: lab.sql("select $1 as a", ["\ud83d"]),
    "SQL that writes": lambda lab: lab.sql("drop table traces"),
    "a comparison that is not there": lambda lab: lab.comparison("cmp_none"),
    "a file that is not there": lambda lab: lab.files.get("file_none"),
    "a chat with a model of no provider": lambda lab: lab.chat(model="nobody/model"),
    "a run of an unknown model": lambda lab: lab.run("Hello", model="nobody/model"),
    "an empty prompt": lambda lab: lab.run(" "),
    "a thread that is not there to go on in": lambda lab: lab.run("Hello", thread="thread_none"),
    "metadata that the lab keeps itself": lambda lab: lab.run("Hello", metadata={"options": "mine"}),
    "a file that is not there, attached": lambda lab: lab.run("Hello", attachments=[{"id": "file_none"}]),
    "a name instead of an attachment": lambda lab: lab.run("Hello", attachments=["note.txt"]),
    "an attachment without an id": lambda lab: lab.run("Hello", attachments=[{"name": "note.txt"}]),
    "a message whose content is none": lambda lab: lab.run([{"role": "user", "content": [5]}]),
    "a type that is none": lambda lab: lab.ask([{"type": [], "role": "user", "content": "Hi"}], model="demo/echo"),
    "a format that is none": lambda lab: lab.ask("Hi", model="demo/echo", response_format={"type": []}),
    "a file of traces that is not there": lambda lab: lab.import_traces("/nowhere/traces.json"),
    "a file that has no traces": lambda lab: lab.import_traces(__file__),
    "a folder that is not there": lambda lab: lab.export("/nowhere/traces.json"),
    "a folder that is not there for a page": lambda lab: lab.export("/nowhere/traces.html"),
    "a folder instead of a file for my data": lambda lab: lab.my_data.export("/"),
    "a format of traces that is none": lambda lab: lab.export("traces.txt"),
    "a comparison with an unknown scorer": lambda lab: lab.compare(["a"], models=["demo/echo"], scorers=["exakt"]),
    "a comparison with an unknown option": lambda lab: lab.compare(["a"], models=["demo/echo"], epoch=2),
    "a comparison with a number as scorers": lambda lab: lab.compare(["a"], models=["demo/echo"], scorers=5),
    "a comparison with None as scorers": lambda lab: lab.compare(["a"], models=["demo/echo"], scorers=None),
    "a comparison with an unknown column": lambda lab: lab.compare(
        ["a"], models=["demo/echo"], columns={"inputs": "x"}
    ),
    "settings that are none": lambda lab: lab.run("Hello", model_settings="cold"),
    "handoffs of a trace that is not there": lambda lab: lab.handoffs(traces=["0" * 32]),
    "handoffs of an agent that is not there": lambda lab: lab.handoffs("Nobody"),
    "handoffs of traces and a filter": lambda lab: lab.handoffs(traces=["0" * 32], filter="turns > 1"),
    "an order with a mistake": lambda lab: lab.explorer(order="colour"),
    "on_miss without a tape": lambda lab: lab.run("Hello", on_miss="ask"),
    "a comparison of no cases": lambda lab: lab.compare([], models=["demo/echo"]),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_mistake_is_told_as_a_local_lab_tells_it(both: Both, wrong: str) -> None:
    told = []
    for lab in (both.remote, both.local):
        with pytest.raises(LabError) as error:
            await carried_out(WRONG[wrong], lab)
        told.append(
            (type(error.value), error.value.message, error.value.next_step, error.value.param, vars(error.value))
        )
    assert told[0] == told[1]


def an_sdk_agent() -> Any:
    import agents as sdk

    return sdk.Agent(name="Here")


def a_provider() -> Any:
    from timestep_lab.runtime.providers.demo import Provider

    return Provider


ONLY_LOCAL: dict[str, Callable[[Lab], Any]] = {
    "store": lambda lab: lab.store,
    "runner": lambda lab: lab.runner,
    "toolbox": lambda lab: lab.toolbox,
    "writer": lambda lab: lab.writer,
    "serving": lambda lab: lab.serve(),
    "another user": lambda lab: lab.for_user("somebody"),
    "an SDK agent": lambda lab: lab.stream("Hello", agent=an_sdk_agent()),
    "an SDK agent for a paused run": lambda lab: lab.resume("run_1", {}, agent=an_sdk_agent()),
    "a function in a comparison": lambda lab: lab.compare(["a"], agents=[len]),
    "a function that judges": lambda lab: lab.why("0" * 32, wrong=len),
    "a service in a comparison": lambda lab: lab.compare(["a"], agents=["http://127.0.0.1:9/x"]),
    "an SDK agent in a comparison": lambda lab: lab.compare(["a"], agents=[an_sdk_agent()]),
    "an SDK agent in a graph": lambda lab: lab.handoffs(an_sdk_agent()),
    "a function as a scorer": lambda lab: lab.compare(["a"], models=["demo/echo"], scorers=[lambda output: 1.0]),
    "a function as a tool's answer": lambda lab: lab.fork("0" * 32, tools={"think": lambda arguments: "x"}),
    "a command as an MCP server": lambda lab: lab.mcp.add("time", command=["mcp-server-time"]),
    "a live duel": lambda lab: lab.chat(models=["demo/assistant", "demo/echo"]),
    "a provider of one's own": lambda lab: lab.router.add(a_provider()),
    "an id of one's own": lambda lab: lab.agents.create(name="x", id="mine"),
    "metadata of a thread": lambda lab: lab.threads.create("x", {"agent_id": "y"}),
}


@pytest.mark.parametrize("what", ONLY_LOCAL)
async def test_what_cannot_be_remote_says_so_and_what_to_do(remote: Lab, what: str) -> None:
    with pytest.raises(UsageError, match="is not available in a served lab") as error:
        await carried_out(ONLY_LOCAL[what], remote)
    assert error.value.next_step


async def test_what_stays_with_the_server_is_no_attribute_and_everything_else_can_be_looked_at(both: Both) -> None:
    for name in ("store", "runner", "toolbox", "writer"):
        assert not hasattr(both.remote, name)
    seen = dict(inspect.getmembers(both.remote))
    assert {name for name in dir(both.local) if not name.startswith("_")} - seen.keys() == {"store"}


async def test_a_mistyped_keyword_is_told_as_by_a_local_lab(both: Both) -> None:
    calls: tuple[Callable[[Any], Any], ...] = (
        lambda lab: lab.run("x", modle="demo/echo"), lambda lab: lab.stream("x", modle="demo/echo"),
        lambda lab: lab.compare(["x"], modles=["demo/echo"]), lambda lab: lab.plan(["x"], modles=["demo/echo"]),
        lambda lab: lab.fork("0" * 32, tool={}),
    )  # fmt: skip
    for call in calls:
        told = []
        for lab in (both.remote, both.local):
            with pytest.raises(UsageError, match="Did you mean") as error:
                await carried_out(call, lab)
            told.append(str(error.value))
        assert told[0] == told[1]


def test_agents_without_a_model_are_listed_with_the_default_model_of_the_server(
    lab: LabProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEFAULT_AGENT_MODEL", "demo/client")
    monkeypatch.setenv("TIMESTEP_LAB_TOKEN", lab.tokens.issue(new_uuid()))
    assert main(["agents", "list", "--store", lab.url]) == 0
    shown = capsys.readouterr().out
    assert "demo/assistant" in shown
    assert "demo/client" not in shown


def test_the_terminal_lists_shows_and_annotates_the_traces_of_a_served_lab(
    lab: LabProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMESTEP_LAB_TOKEN", lab.tokens.issue(new_uuid()))
    served = ["--store", lab.url]
    assert main(["run", "Hello there", "--model", "demo/echo", *served]) == 0
    capsys.readouterr()
    assert main(["traces", "list", "--json", *served]) == 0
    [trace] = json.loads(capsys.readouterr().out)
    assert main(["traces", "show", trace["trace_id"][:12], *served]) == 0
    assert "demo/echo" in capsys.readouterr().out
    assert main(["traces", "annotate", trace["trace_id"][:12], "helpful", "1", "--note", "to the point", *served]) == 0
    capsys.readouterr()
    assert main(["sql", "select name, value from scores", "--json", *served]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "helpful", "value": 1}]
    with Lab(lab.url) as there:
        [score] = there.trace_source.scores(trace["trace_id"])
    assert (score.name, score.value, score.note) == ("helpful", 1, "to the point")


async def test_a_duckdb_file_of_traces_is_refused_and_nothing_of_it_is_read(remote: Lab, tmp_path: Path) -> None:
    import duckdb

    file = tmp_path / "traces.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute("create view lab_spans as select 1 as span_id")
    with pytest.raises(DataError, match=r"\.duckdb files"):
        remote.import_traces(file)


# -- who may


async def test_two_tokens_are_two_users_who_see_nothing_of_each_other(lab: LabProcess) -> None:
    a, b = remote_lab(lab), remote_lab(lab)
    heard: list[str] = []
    run = await b.run(ASKS)
    end = a.changes.subscribe(lambda change: heard.append(change.id))  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        while not heard:  # It listens: all topics were told once.
            await asyncio.sleep(0.02)
    later = await b.run(ANSWERS)
    b.agents.create(name="Mine")
    mine = await a.run(ANSWERS)
    async with asyncio.timeout(10):
        while mine.id not in heard:
            await asyncio.sleep(0.02)
    end()
    assert not {run.id, run.thread_id, run.trace_id, later.id, later.thread_id, later.trace_id} & set(heard)
    assert (len(a.threads), len(a.approvals), len(a.agents), len(a.traces)) == (1, 0, 2, 1)
    for asked in (
        lambda: a.get_run(run.id), lambda: a.threads[run.thread_id], lambda: a.trace(run), lambda: a.approvals[run.id],
        lambda: a.chat(thread=run.thread_id), lambda: a.export("x.json", trace_ids=[run.trace_id]),
    ):  # fmt: skip
        with pytest.raises(NotFoundError):
            asked()
    for awaited in (a.cancel(run.id), a.resume(run.id, {}).result(), a.fork(run), a.run("Hi", thread=run.thread_id)):
        with pytest.raises(NotFoundError):
            await awaited
    assert set(a.sql("select trace_id from spans")["trace_id"]) == {mine.trace_id}
    assert b.get_run(run.id).status == "needs_approval"
    await a.aclose()
    await b.aclose()


def test_nobody_at_the_address_is_said_with_the_next_step() -> None:
    with pytest.raises(StoreUnavailableError, match=r"http://127.0.0.1:9 cannot be reached .*timestep-lab serve"):
        Lab("http://127.0.0.1:9", token="x", settings=SETTINGS)


def test_no_token_a_wrong_one_and_an_address_that_is_none_are_said(lab: LabProcess) -> None:
    with pytest.raises(AuthError, match="timestep-lab token"):
        Lab(lab.url, settings=SETTINGS)
    with pytest.raises(AuthError, match="not valid"):
        Lab(lab.url, token="forged", settings=SETTINGS)
    with pytest.raises(AuthError, match="sign-in link"):
        Lab(f"{lab.url}/?key=wrong", settings=SETTINGS)
    with pytest.raises(UsageError, match="not a valid address"):
        Lab("http://", token="x", settings=SETTINGS)


async def test_the_owner_comes_in_by_the_printed_link_or_by_a_token_from_the_command_line(
    lab: LabProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.server.lab_process import SECRET

    monkeypatch.setenv("TIMESTEP_LAB_SECRET", SECRET)
    assert main(["token", "--store", str(lab.store)]) == 0
    monkeypatch.setenv("TIMESTEP_LAB_TOKEN", capsys.readouterr().out.strip())
    monkeypatch.setenv("TIMESTEP_LAB_STORE", lab.url)
    by_link, by_token = Lab(lab.sign_in_link, settings=SETTINGS), Lab()
    try:
        own = Lab(lab.store, settings=SETTINGS)
        assert by_link.user_id == by_token.user_id == own.store.user_id  # type: ignore[attr-defined]
        assert str(by_token.settings.token) not in repr(by_token.settings) + repr(by_token)
        await own.aclose()
    finally:
        await by_link.aclose()
        await by_token.aclose()


async def test_two_who_decide_at_once_are_told_apart(both: Both) -> None:
    run = await both.remote.run(ASKS)
    here = both.local.get_run(run.id)
    results = await asyncio.gather(run.approve(), here.approve(), return_exceptions=True)
    assert sorted(type(r).__name__ for r in results) == ["ConflictError", "Run"]
    with pytest.raises(ConflictError):
        await both.remote.resume(run.id, {}).result()


class Slow(BaseHTTPRequestHandler):
    """Answers after half a second."""

    def do_GET(self) -> None:
        time.sleep(0.5)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None: ...


def test_a_lab_that_is_closed_while_a_request_is_pending_keeps_no_thread_waiting() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = Connection(f"http://127.0.0.1:{server.server_port}", "")
        asked = threading.Thread(target=connection.get, args=("/",), daemon=True)
        asked.start()
        time.sleep(0.1)
        connection.close()
        asked.join(timeout=10)
        assert not asked.is_alive()
        with pytest.raises(StoreUnavailableError, match="was closed by this process"):
            connection.get("/")
        server.shutdown()
