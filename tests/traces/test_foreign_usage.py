"""Tokens and costs of spans that other programs send: inclusive counts, stated costs, and never a span lost for its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.traces.test_foreign_traces import send
from tests.traces.test_interchange import as_protobuf, request, span
from timestep_lab.model.display import cost_text
from timestep_lab.runtime.interchange import read_otlp
from timestep_lab.runtime.interchange.otlp_in import PROTOBUF
from timestep_lab.store.store import Store, open_store
from timestep_lab.ui.trace_view import facts_line

CLAUDE = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "anthropic",
    "gen_ai.request.model": "claude-sonnet-4-5",
}
SEEN = "select input_tokens, output_tokens, cached_tokens, cost_usd from generations"
RIGHT = (2110, 33, 2000, pytest.approx(0.0015))
"""10 tokens in that were not cached, 100 written to the cache, 2,000 read from it, 33 out."""


def usage(**counts: int) -> dict[str, Any]:
    return {f"gen_ai.usage.{name.replace('__', '.')}": count for name, count in counts.items()}


def one(attributes: dict[str, Any]) -> tuple[Any, ...]:
    store = open_store(":memory:")
    decoded = read_otlp(as_protobuf(request(span(1, "chat", attributes))), PROTOBUF, None, store.user_id)
    assert (decoded.rejected, decoded.store(store.db)) == (0, 1)
    [row] = store.sql(SEEN).rows
    store.close()
    return row


@pytest.mark.parametrize(
    "counts",
    [
        {"input_tokens": 2110, "cache_read__input_tokens": 2000, "cache_creation__input_tokens": 100},
        {"input_tokens": 2110, "cache_read_input_tokens": 2000, "cache_creation_input_tokens": 100},
        {"input_tokens": 2110, "cache_read_tokens": 2000, "cache_write__input_tokens": 100},
        {"input_tokens": 2110, "details__cache_read_tokens": 2000, "details__cache_write_tokens": 100},
        {"input_tokens": 10, "cache_read_input_tokens": 2000, "cache_creation_input_tokens": 100},
    ],
    ids=["conventions", "OpenLLMetry", "short names", "details", "counted apart"],
)
def test_tokens_of_the_cache_are_part_of_the_input_under_every_name_and_priced_as_what_they_are(
    counts: dict[str, int],
) -> None:
    assert one({**CLAUDE, **usage(output_tokens=33, **counts)}) == RIGHT


def test_openinference_and_langfuse_say_what_was_read_from_the_cache_and_written_to_it() -> None:
    counts = {"prompt": 2110, "completion": 33, "prompt_details.cache_read": 2000, "prompt_details.cache_write": 100}
    openinference = {
        "openinference.span.kind": "LLM", "llm.provider": "anthropic", "llm.model_name": "claude-sonnet-4-5",
        **{f"llm.token_count.{name}": count for name, count in counts.items()},
    }  # fmt: skip
    assert one(openinference) == RIGHT
    details = {"input": 10, "output": 33, "cache_read_input_tokens": 2000, "cache_creation_input_tokens": 100}
    assert one({**CLAUDE, "langfuse.observation.usage_details": json.dumps(details)}) == RIGHT


def test_a_stated_total_tells_that_cached_tokens_were_counted_apart() -> None:
    counts = usage(input_tokens=3000, output_tokens=33, cache_read_input_tokens=2000, total_tokens=5033)
    assert one({**CLAUDE, **counts})[:3] == (5000, 33, 2000)
    counts = usage(input_tokens=3000, output_tokens=33, cache_read_input_tokens=2000, total_tokens=3033)
    assert one({**CLAUDE, **counts})[:3] == (3000, 33, 2000)


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "claude-opus-4-5", "claude-sonnet-4-5"])
def test_a_cached_count_above_the_input_loses_no_span_and_costs_never_less_than_nothing(model: str) -> None:
    counts = usage(input_tokens=10, output_tokens=5, cache_read__input_tokens=2000)
    tokens_in, _, cached, cost = one({**CLAUDE, "gen_ai.request.model": model, **counts})
    assert (tokens_in, cached) == (2010, 2000)
    assert 0 < cost < one({**CLAUDE, "gen_ai.request.model": model, **usage(input_tokens=2010, output_tokens=5)})[3]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gen_ai.cost.total_cost", 0.25),
        ("operation.cost", 0.25),
        ("llm.cost.total", 0.25),
        ("langfuse.observation.cost_details", '{"input": 0.2, "output": 0.05}'),
        ("langfuse.observation.cost_details", '{"input": 9, "total": 0.25}'),
    ],
)
def test_a_cost_that_the_sender_states_wins_over_the_price_table(store: Store, name: str, value: Any) -> None:
    spans = [span(1, "stated", {**CLAUDE, **usage(input_tokens=10, output_tokens=5), name: value}),
             span(2, "looked up", {**CLAUDE, **usage(input_tokens=10, output_tokens=5)}, parent=3)]  # fmt: skip
    read_otlp(as_protobuf(request(*spans)), PROTOBUF, None, store.user_id).store(store.db)
    sql = "select cost_usd, attributes from spans order by started_at"
    stated, looked_up = [(cost, json.loads(said)["timestep.cost.source"]) for cost, said in store.sql(sql).rows]
    assert stated == (pytest.approx(0.25), "sender")
    assert looked_up == (pytest.approx(0.000105), "price table")


def test_text_that_is_no_utf8_is_kept_with_a_replacement_character(store: Store) -> None:
    spans = [
        span(1, "name @@", {"note": "a @@ b", "list": ["x @@"]}, status={"code": 2, "message": "why @@"}),
        span(2, "fine", {}, parent=1),
    ]
    for body, kind in (
        (as_protobuf(request(*spans)), PROTOBUF),
        (json.dumps(request(*spans)).encode(), "application/json"),
    ):
        decoded = read_otlp(body.replace(b"@@", b"\xff\xfe"), kind, None, store.user_id)
        assert (decoded.rejected, len(decoded.spans)) == (0, 2)
        decoded.store(store.db)
        [(name, error, attributes)] = store.sql("select name, error, attributes from spans where status = 'error'").rows
        assert (name, error) == ("name \ufffd\ufffd", "why \ufffd\ufffd")
        assert json.loads(attributes) == {"note": "a \ufffd\ufffd b", "list": ["x \ufffd\ufffd"]}


def test_a_trace_with_a_call_of_unknown_price_costs_at_least_what_is_known(store: Store) -> None:
    chat = {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 20}
    send(store, span(1, "chat", {**chat, "gen_ai.request.model": "in-house", "gen_ai.provider.name": "acme"}))
    assert store.sql("select cost_usd, n_unpriced from traces").rows == [(None, 1)]
    [row] = store.traces.list().data
    assert cost_text(row["cost_usd"], row["n_unpriced"]) == "cost unknown"
    send(store, span(2, "chat", {**chat, "gen_ai.cost.total_cost": 0.25}))
    [row] = store.traces.list().data
    assert (row["cost_usd"], row["n_unpriced"]) == (0.25, 1)
    assert "at least $0.25" in facts_line(row)


@pytest.mark.parametrize(
    ("counts", "output"),
    [
        ({"output_tokens": 12, "reasoning_tokens": 8, "total_tokens": 120}, 20),
        ({"output_tokens": 12, "reasoning_tokens": 30}, 42),
        ({"output_tokens": 20, "reasoning_tokens": 8, "total_tokens": 120}, 20),
        ({"output_tokens": 20, "reasoning_tokens": 8}, 20),
    ],
    ids=["the total counts them apart", "more than the whole", "the total counts them in", "no total"],
)
def test_tokens_of_reasoning_are_part_of_the_output(counts: dict[str, int], output: int) -> None:
    gemini = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gemini-2.5-flash"}
    assert one({**gemini, **usage(input_tokens=100, **counts)})[:2] == (100, output)


def test_a_cost_of_nought_that_openlit_states_without_a_price_table_is_no_cost() -> None:
    said = {**CLAUDE, **usage(input_tokens=2110, output_tokens=33, cache_read_tokens=2000, cache_write_tokens=100)}
    assert one({**said, "gen_ai.usage.cost": 0}) == RIGHT
    assert one({**said, "gen_ai.usage.cost": 0.25})[-1] == 0.25


@pytest.mark.parametrize(("system", "seen"), [("strands-agents", (200, 40)), ("another", (400, 80))])
@pytest.mark.parametrize("order", [1, -1], ids=["forwards", "backwards"])
def test_an_agent_of_strands_that_is_asked_again_is_not_counted_with_its_earlier_calls(
    tmp_path: Path, system: str, seen: tuple[int, int], order: int
) -> None:
    """Its span has the usage of all calls since the agent was made."""
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "Weather", "gen_ai.system": system}
    spans = (
        span(1, "invoke_agent Weather", {**agent, **usage(input_tokens=400, output_tokens=80)}),
        span(2, "chat", {"gen_ai.operation.name": "chat", **usage(input_tokens=200, output_tokens=40)}, parent=1),
    )
    for one in spans[::order]:  # Each part by another process.
        store = open_store(tmp_path / "lab.duckdb")
        send(store, one)
        counted = store.sql("select input_tokens, output_tokens from traces").rows
        store.close()
    assert counted == [seen]


def test_an_agent_of_the_vercel_ai_sdk_4_or_5_used_what_its_steps_used_and_not_the_last_one_alone(store: Store) -> None:
    used = {"ai.usage.promptTokens": 100, "ai.usage.completionTokens": 20, "ai.model.id": "gpt-4o-mini"}
    step = {"ai.operationId": "ai.generateText.doGenerate", **used}
    agent = span(1, "ai.generateText", {"ai.operationId": "ai.generateText", **used})
    send(store, agent, *(span(number, "ai.generateText.doGenerate", step, parent=1) for number in (2, 3)))
    assert store.sql("select turns, input_tokens, output_tokens from traces").rows == [(2, 200, 40)]


def test_the_cache_that_claude_tells_the_vercel_ai_sdk_5_is_read() -> None:
    told = {"usage": {"cache_read_input_tokens": 2000}, "cacheCreationInputTokens": 100}
    counts = {"ai.usage.promptTokens": 10, "ai.usage.completionTokens": 33}
    assert one({**CLAUDE, **counts, "ai.response.providerMetadata": json.dumps({"anthropic": told})}) == RIGHT


def test_the_parts_of_langfuses_usage_are_counted_apart_whether_or_not_a_total_is_stated() -> None:
    told = {"langfuse.observation.type": "generation", "langfuse.observation.model.name": "gpt-4o-mini"}
    parts = {"input": 60, "input_cached_tokens": 40, "output": 12, "output_reasoning_tokens": 8}
    for usage_details in (parts, {**parts, "total": 120}):
        row = one({**told, "langfuse.observation.usage_details": json.dumps(usage_details)})
        assert row == (100, 20, 40, pytest.approx(0.000024))


@pytest.mark.parametrize(
    ("usage_details", "right"),
    [
        ({"input": 10, "output": 33, "input_cache_read": 2000, "input_cache_creation": 100, "total": 2143}, (2110, 33, 2000)),
        ({"input": 10, "output": 33, "input_cache_read": 2000, "input_cache_creation": 0, "input_ephemeral_5m_input_tokens": 100}, (2110, 33, 2000)),
        ({"input": 10, "output": 33, "input_cache_read": 2000, "input_cache_creation": 0, "input_ephemeral_1h_input_tokens": 100}, (2110, 33, 2000)),
        ({"input": 2110, "output": 33, "input_cache_read": 2000, "input_cache_creation": 100, "total": 2143}, (2110, 33, 2000)),
        ({"input": 2090, "output": 30, "input_audio": 20, "output_audio": 3, "input_priority": 9}, (2110, 33, None)),
    ],
)  # fmt: skip
def test_every_part_of_langfuses_usage_counts_unless_its_total_says_that_the_whole_has_it(
    usage_details: dict[str, int], right: tuple[int, int, int | None]
) -> None:
    told = {"langfuse.observation.type": "generation", "langfuse.observation.model.name": "claude-sonnet-4-5"}
    row = one({**told, "langfuse.observation.usage_details": json.dumps(usage_details)})
    assert row[:3] == right
    if right[2]:
        assert row[3] == pytest.approx(0.0015)
