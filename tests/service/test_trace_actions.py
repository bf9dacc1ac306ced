"""What can be done with one trace: share it, delete it, add it to a data set, run it again with a change, decide what waits in it. The same
for a lab in a file and in Postgres; `tests/server/test_remote_lab.py` has the same of a served lab."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.postgres.server import shared_server
from timestep_lab import ConflictError, Lab, NotFoundError
from timestep_lab.model.errors import UsageError
from timestep_lab.runtime.settings import Settings
from timestep_lab.service import sharing
from timestep_lab.store.store import secret_of

SETTINGS = Settings.load(env={"WEATHER_MODE": "recorded", "TIMESTEP_LAB_DEMO_DELAY_MS": "0"})
ASKS, ANSWERS = "What's the weather in Berkeley?", "What's the weather in Oakland?"


@pytest.fixture(params=["duckdb", "postgres"])
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    if request.param == "duckdb":
        async with Lab(tmp_path / "lab.duckdb", settings=SETTINGS) as opened:
            yield opened
    else:
        with shared_server().lab_url() as url:
            async with Lab(url, settings=SETTINGS) as opened:
                yield opened


async def over(lab: Lab, run_id: str) -> Any:
    async with asyncio.timeout(30):
        while (run := lab.get_run(run_id)).status == "running":
            await asyncio.sleep(0.02)
    lab.flush()
    return run


async def test_a_shared_link_opens_its_trace_until_it_is_revoked_and_no_other_signature_does(lab: Lab) -> None:
    run = await lab.run("Hello", model="demo/echo")
    link = lab.trace_source.share(run.trace_id, days=3)
    assert lab.trace_source.shares() == lab.trace_source.shares(trace_id=run.trace_id) == [link]
    assert (link.title, (link.expires_at - link.created_at).days) == ("Hello", 3)
    assert lab.for_user("somebody else").trace_source.shares() == []
    db, secret, token = lab.store.db, secret_of(lab.store.db, lab.settings.secret), link.path.removeprefix("/share/")
    opened = sharing.opened(db, secret, token)
    assert opened is not None
    assert opened.trace_id == run.trace_id
    for wrong in (token[:-1], token.replace("shr_", "shr"), link.id, ""):
        assert sharing.opened(db, secret, wrong) is None
    assert sharing.opened(db, "another secret", token) is None
    with pytest.raises(NotFoundError):
        lab.for_user("somebody else").trace_source.revoke(link.id)
    lab.trace_source.revoke(link.id)
    assert sharing.opened(db, secret, token) is None
    with pytest.raises(NotFoundError):
        lab.trace_source.share("0" * 32)


async def test_deleting_a_trace_leaves_nothing_of_it_and_all_of_the_others(lab: Lab) -> None:
    long = "zebra " * 600  # Long histories are stored apart, each message once.
    first = await lab.run(f"{long} one", model="demo/echo")
    second = await lab.run("two", model="demo/echo", thread=first.thread_id)
    lab.flush()
    for run in (first, second):
        lab.score(run, "good", 1)
    lab.trace_source.share(first.trace_id)
    said = lab.trace_source.payloads(second.trace_id, [s.span_id for s in lab.trace_source.spans(second.trace_id)])
    lab.trace_source.delete(first.trace_id)
    assert [row["trace_id"] for row in lab.trace_source.page().data] == [second.trace_id]
    assert set(lab.sql("select distinct trace_id from spans")["trace_id"]) == {second.trace_id}
    assert list(lab.sql("select target_id from scores")["target_id"]) == [second.trace_id]
    assert lab.trace_source.shares() == []
    assert lab.trace_source.payloads(second.trace_id, [str(span["span_id"]) for span in said]) == said
    assert len(lab.threads[first.thread_id].items) == 4
    with pytest.raises(NotFoundError):
        lab.trace_source.delete(first.trace_id)
    lab.trace_source.delete(second.trace_id)
    left = lab.store.db.query(
        lab.store.user_id, "select count(*) from core.message_bodies where user_id = $1", [lab.store.user_id]
    )
    assert left.rows == [(0,)]
    # What was deleted is stored again when it is said again.
    third = await lab.run("three", model="demo/echo", thread=first.thread_id)
    lab.flush()
    [asked] = [s for s in lab.trace_source.whole_spans(third.trace_id) if s["kind"] == "generation"]
    assert str(asked["input"]).count("zebra") == 2 * 600


async def test_a_trace_that_waits_is_decided_where_it_is_shown_and_cannot_be_deleted_meanwhile(lab: Lab) -> None:
    run = await lab.run(ASKS)
    [call] = lab.trace_source.waiting(run.trace_id)
    assert call == run.interruptions[0]
    with pytest.raises(ConflictError, match="waits for approval"):
        lab.trace_source.delete(run.trace_id)
    await lab.trace_source.decide(run.trace_id, call.call_id, "approved")
    assert (await over(lab, run.id)).status == "completed"
    assert lab.trace_source.waiting(run.trace_id) == []
    with pytest.raises(NotFoundError, match="No call of trace"):
        await lab.trace_source.decide(run.trace_id, call.call_id, "approved")
    lab.trace_source.delete(run.trace_id)


async def test_traces_become_cases_of_a_data_set_each_once(lab: Lab) -> None:
    first, second = [await lab.run(text, model="demo/echo") for text in ("one", "two")]
    assert lab.datasets.add_traces(name="failures", trace_ids=[first.trace_id]).n_cases == 1
    record = lab.datasets.add_traces(name="failures", trace_ids=[first.trace_id, second.trace_id], expected="output")
    assert (record.version, record.n_cases) == (2, 3)
    assert lab.datasets.add_traces(name="failures", trace_ids=[first.trace_id]).version == 2
    cases = list(lab.datasets["failures"])
    assert [(case.input, case.expected) for case in cases] == [
        ("one", None),
        ("one", first.output),
        ("two", second.output),
    ]
    assert cases[0].metadata["trace_id"] == first.trace_id
    with pytest.raises(NotFoundError):
        lab.datasets.add_traces(name="failures", trace_ids=["0" * 32])


async def test_running_again_says_first_what_is_replayed_and_what_is_live(lab: Lab) -> None:
    run = await lab.run(ANSWERS)
    spans = {span["span_id"]: span for span in lab.trace_source.whole_spans(run.trace_id)}
    [tool] = [span for span in spans.values() if span["name"] == "get_weather"]
    call_id = tool["attributes"]["gen_ai.tool.call.id"]
    plan = await lab.trace_source.plan_again(run.trace_id)
    assert plan.text == "Replays all 6 steps as recorded. Asks no model and calls no tool."
    changed = await lab.trace_source.plan_again(
        run.trace_id, results={call_id: "It is 99 °F and raining frogs."}, on_tools="ask"
    )
    assert changed.text == (
        "Replays 5 steps as recorded, then asks demo/assistant as Weather Assistant. get_weather returns the result you entered. "
        "Other tools that may have side effects wait for your approval."
    )
    assert (changed.steps, changed.of_steps, changed.live_model) == (5, 6, "demo/assistant")
    other = await lab.trace_source.plan_again(run.trace_id, prompt="Hello", model="demo/echo", on_tools="live")
    assert other.text == "Replays no step, then asks demo/echo as Personal Assistant. Tools are called for real."
    assert len(lab.traces) == 1
    started = await lab.trace_source.run_again(run.trace_id, results={call_id: "It is 99 °F and raining frogs."})
    assert "raining frogs" in str((await over(lab, started.id)).output)
    assert lab.store.traces.start(started.trace_id).parent_trace_id == run.trace_id
    with pytest.raises(UsageError):
        await lab.trace_source.plan_again(run.trace_id, results={"none": "x"})
