"""Two traces aligned: which step is which, and where they first part ways."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from agents import Agent, function_tool
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.traces.recorder import NOON, Recorder
from timestep_lab import Lab
from timestep_lab.store.store import Store
from timestep_lab.store.trace_diff import common_pairs, diff_traces


def test_two_runs_that_differ_in_one_tool_argument_part_ways_exactly_there(store: Store, recorder: Recorder) -> None:
    left = recorder.weather_run(location="Berkeley")
    right = recorder.weather_run(location="Oakland", at=NOON + timedelta(hours=1), model="qwen3")
    recorder.writer.flush()
    rows = store.traces.diff(left, right)
    [first] = [row for row in rows if row.first_divergence]
    assert (first.kind, first.name, first.change) == ("tool", "get_weather", "changed")
    assert first.fields == {"input": ('{"location":"Berkeley"}', '{"location":"Oakland"}')}
    assert [row.change for row in rows].count("changed") == 1
    assert len(rows) == 7
    assert {row.name: row.fields["model"] for row in rows if "model" in row.fields} == {"gpt-4.1": ("gpt-4.1", "qwen3")}
    root = rows[0]
    assert root.left
    assert (root.left.input_tokens, root.left.duration_ms, root.left.cost_usd) == (200, 2000.0, 0.02)
    assert not [row for row in store.traces.diff(left, left) if row.change != "same"]


def test_a_run_is_compared_while_it_goes_on(store: Store, recorder: Recorder) -> None:
    done = recorder.weather_run()
    running = recorder.start()
    root = recorder.opened(running, "task", "Agent workflow")
    recorder.opened(running, "agent", "Personal Assistant", parent=root.span_id)
    recorder.writer.flush()
    assert store.traces.diff(done, running)
    assert {row.change for row in store.traces.diff(running, running)} == {"same"}
    [whole] = store.traces.payloads(running, [root.span_id])
    assert (whole["status"], whole["error"], whole["output"], whole["duration_ms"]) == ("pending", None, None, None)


def step(number: int, kind: str, name: str, parent: int | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "span_id": f"{number:016x}", "parent_id": None if parent is None else f"{parent:016x}", "kind": kind, "name": name, "agent": "A",
        "status": "ok", "error": None, "to_agent": None, "started_at": NOON + timedelta(milliseconds=number), "duration_ms": 1.0,
        "input_tokens": None, "output_tokens": None, "cost_usd": None, "input": None, "output": None, **fields,
    }  # fmt: skip


def test_a_step_put_in_between_moves_no_other() -> None:
    left = [step(0, "task", "run"), *(step(n, "tool", f"t{n}", 0, input=n) for n in range(1, 6))]
    right = [*left[:3], step(10, "tool", "new", 0, started_at=NOON + timedelta(milliseconds=2.5)), *left[3:]]
    rows = diff_traces(left, right)
    assert [(row.name, row.change) for row in rows if row.change != "same"] == [("new", "only_right")]
    assert [(row.name, row.change) for row in diff_traces(right, left) if row.change != "same"] == [
        ("new", "only_left")
    ]


def test_ids_and_the_order_of_keys_are_no_difference_and_the_prompt_is() -> None:
    call = {"type": "function_call", "name": "get_weather", "arguments": '{"a": 1, "b": 2}', "call_id": "c1", "id": "x"}
    other = {"id": "y", "call_id": "c2", "arguments": '{"b":2,"a":1}', "name": "get_weather", "type": "function_call"}
    assert [
        row.change
        for row in diff_traces([step(0, "generation", "m", input=[call])], [step(0, "generation", "n", input=[other])])
    ] == ["same"]
    [row] = diff_traces([step(0, "generation", "m", input="be kind")], [step(0, "generation", "m", input="be quick")])
    assert row.first_divergence


@pytest.mark.parametrize("name", ["id", "status", "timestamp"])
def test_what_a_tool_was_told_and_answered_is_a_difference_though_it_is_named_like_an_id(name: str) -> None:
    one, two = {name: "A-1"}, {name: "B-2"}
    for field in ("input", "output"):
        [row] = diff_traces([step(0, "tool", "look", **{field: one})], [step(0, "tool", "look", **{field: two})])
        assert [*row.fields] == [field]
    call = {"type": "function_call", "name": "look", "call_id": "c"}
    left, right = ([{**call, "id": "x", "arguments": json.dumps(told)}] for told in (one, two))
    [row] = diff_traces([step(0, "generation", "m", output=left)], [step(0, "generation", "m", output=right)])
    assert row.first_divergence


def test_a_trace_deeper_than_pythons_stack_is_compared() -> None:
    deep = [step(n, "tool", "t", n - 1 if n else None, input=n) for n in range(3000)]
    changed = [*deep[:-1], {**deep[-1], "input": "other"}]
    rows = diff_traces(deep, changed)
    assert [row.depth for row in rows if row.first_divergence] == [2999]


@settings(max_examples=100, deadline=None, database=None)
@given(st.lists(st.integers(0, 3), max_size=14), st.lists(st.integers(0, 3), max_size=14))
def test_the_alignment_is_as_long_as_any_can_be(left: list[int], right: list[int]) -> None:
    pairs = common_pairs(left, right)
    assert all(left[i] == right[j] for i, j in pairs)
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(pairs))
    longest = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            longest[i + 1][j + 1] = longest[i][j] + 1 if a == b else max(longest[i][j + 1], longest[i + 1][j])
    assert len(pairs) == longest[-1][-1]


@function_tool(needs_approval=True)
def refund(order: str) -> str:
    """Pay an order back."""
    return f"Refunded {order}"


async def test_a_run_that_paused_for_approval_and_its_fork_that_did_not_have_the_same_steps() -> None:
    lab = Lab(":memory:")
    billing = Agent(name="Billing", instructions="Help.", tools=[refund], model="demo/assistant")
    run = await (await lab.run('call refund {"order": "7712"}', agent=billing)).approve()
    fork = await lab.fork(run, tools={"refund": "Denied."}, agent=billing)
    rows = lab.trace(run).diff(fork)
    assert {row.change for row in rows} == {"same", "changed"}
    assert [row.kind for row in rows] == ["task", "agent", "turn", "generation", "tool", "turn", "generation"]
    assert [row.kind for row in rows if row.first_divergence] == ["tool"]
    await lab.aclose()


async def test_the_same_steps_match_whoever_decided_a_person_the_run_itself_or_the_record() -> None:
    lab = Lab(":memory:")
    asked = await (await lab.run("What is the weather in Berkeley?", model="demo/assistant")).approve()
    again = await lab.fork(asked)
    alone = await lab.run("What is the weather in Berkeley?", model="demo/assistant", approve="all")
    for other in (again, alone):
        assert {row.change for row in lab.trace(asked).diff(other)} <= {"same", "changed"}
        calls = lab.store.traces.graph([other.trace_id], "").nodes
        assert {node.name: node.calls for node in calls} == {"Personal Assistant": 1, "Weather Assistant": 1}
    await lab.aclose()


async def test_two_runs_of_one_agent_in_one_trace_stay_two() -> None:
    lab = Lab(":memory:")
    echo = Agent(name="Echo", instructions="Say it again.", model="demo/echo")
    once = await lab.run("Hello", agent=echo)
    spans = lab.store.traces.payloads(once.trace_id, [span.span_id for span in lab.store.traces.spans(once.trace_id)])
    later = [
        {**span, "span_id": f"{span['span_id']}b", "parent_id": span["parent_id"] and f"{span['parent_id']}b"}
        for span in spans
    ]
    assert [row.kind for row in diff_traces([*spans, *later], spans) if row.change == "only_left"].count("agent") == 1
    await lab.aclose()
