"""The documented views: the same names and columns in every lab, from spans as they were recorded."""

from __future__ import annotations

import json

import pytest

from tests.traces.recorder import Recorder
from timestep_lab.store.store import Store

VIEWS = {
    "traces": "trace_id thread_id user_id workflow agent_path model status started_at ended_at duration_ms n_spans n_errors turns "
    "input_tokens output_tokens cost_usd input output n_unpriced end_user outcome source ttft_ms tags "
    "failed_tools error_types",
    "spans": "trace_id span_id parent_id kind name agent status error model provider started_at ended_at duration_ms input_tokens "
    "output_tokens cost_usd attributes input output",
    "generations": "trace_id span_id agent provider model input_tokens output_tokens cached_tokens reasoning_tokens cost_usd queue_ms "
    "rate_limit_ms ttft_ms duration_ms stop_reason status error started_at input output",
    "tool_calls": "trace_id span_id agent server tool arguments result status error approval duration_ms started_at",
    "handoffs": "trace_id from_agent to_agent started_at",
    "messages": "thread_id item_id trace_id role agent text created_at",
    "usage": "day provider model calls input_tokens output_tokens cost_usd",
    "scores": "target target_id name value label note source created_at",
}


def test_every_view_has_its_documented_columns_in_order(store: Store) -> None:
    for view, columns in VIEWS.items():
        found = store.sql(f"select * from {view}").columns
        assert found[: len(columns.split())] == tuple(columns.split())
        if view != "spans":  # It also shows what generations and tools know, after the documented columns.
            assert len(found) == len(columns.split())


def test_a_run_shows_in_all_views(store: Store, recorder: Recorder) -> None:
    trace_id = recorder.weather_run()
    recorder.writer.flush()
    [trace] = store.sql("select * from traces").dicts()
    expected = {
        "trace_id": trace_id, "thread_id": "thr_1", "workflow": "Agent workflow", "agent_path": "Personal Assistant → Weather Assistant",
        "model": "gpt-4.1", "status": "completed", "duration_ms": 2000.0, "n_spans": 7, "n_errors": 0, "turns": 2,
        "input_tokens": 200, "output_tokens": 40, "cost_usd": pytest.approx(0.02), "input": "Umbrella in Berkeley?",
        "output": "No umbrella needed.",
    }  # fmt: skip
    assert trace == {**trace, **expected}
    [call] = store.sql("select * from tool_calls").dicts()
    assert (call["server"], call["tool"], call["result"], call["approval"]) == (
        "weather",
        "get_weather",
        "sunny",
        "approved",
    )
    assert json.loads(call["arguments"]) == {"location": "Berkeley"}
    into = "select arguments->>'location', arguments->>'$.location' from tool_calls"
    assert store.sql(into).rows == [("Berkeley", "Berkeley")]
    assert store.sql("select from_agent, to_agent from handoffs").rows == [("Personal Assistant", "Weather Assistant")]
    [usage] = store.sql("select * from usage").dicts()
    assert (usage["calls"], usage["model"], usage["input_tokens"], usage["cost_usd"]) == (
        2,
        "gpt-4.1",
        200,
        pytest.approx(0.02),
    )
    assert store.sql("select ttft_ms, stop_reason from generations order by started_at").rows == [
        (40.0, None),
        (40.0, "stop"),
    ]
    assert store.sql("select count(*) from spans where attributes->>'place' = '7'").one() == (1,)


def test_a_cost_that_is_not_wholly_known_is_what_is_known_and_a_number_of_calls_without_price(
    store: Store, recorder: Recorder
) -> None:
    trace_id = recorder.start()
    recorder.ended(trace_id, "generation", "m", input_tokens=10, output_tokens=1, cost_usd=0.5)
    recorder.ended(trace_id, "generation", "m", input_tokens=10, output_tokens=1)
    recorder.writer.flush()
    trace = store.traces.get(trace_id)
    assert (trace["cost_usd"], trace["n_unpriced"]) == (0.5, 1)


def test_a_trace_with_a_failed_step_is_completed_and_with_a_failed_root_failed(
    store: Store, recorder: Recorder
) -> None:
    survived = recorder.weather_run(fails=True)
    failed = recorder.start()
    recorder.ended(failed, "task", "Agent workflow", status="error", error="it broke")
    recorder.writer.flush()
    assert (store.traces.get(survived)["status"], store.traces.get(survived)["n_errors"]) == ("completed", 1)
    assert store.traces.get(failed)["status"] == "failed"
