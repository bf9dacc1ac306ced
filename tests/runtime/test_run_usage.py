"""What a run cost is known when every price is, and unknown otherwise; it is never a false zero."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from agents import Agent, AgentOutputSchema, function_tool
from pydantic import BaseModel

from tests.runtime.bench import Bench, last, open_bench
from tests.wire import (
    Call,
    Raw,
    Reply,
    Thought,
    WireServer,
    Words,
    anthropic_messages,
    chat_completions,
    openai_responses,
)
from timestep_lab.model.events import RunPaused
from timestep_lab.model.records import RunRecord, Usage
from timestep_lab.runtime import span_records
from timestep_lab.runtime.pricing import cost_so_far

NEW = RunRecord(id="r", user_id="u", thread_id="t", trace_id="x", agent_id=None, agent="A")


def test_the_prices_of_all_generations_are_added_up() -> None:
    assert cost_so_far(NEW, Usage(requests=2), [0.25, 0.5]) == 0.75
    resumed = replace(NEW, usage=Usage(requests=2), cost_usd=0.75)
    assert cost_so_far(resumed, Usage(requests=3), [0.25]) == 1.0


def test_one_unknown_price_makes_the_cost_unknown() -> None:
    assert cost_so_far(NEW, Usage(requests=2), [0.25, None]) is None
    assert cost_so_far(NEW, Usage(requests=1), []) is None
    assert cost_so_far(replace(NEW, usage=Usage(requests=1), cost_usd=None), Usage(requests=2), [0.5]) is None


async def test_a_paused_run_costs_what_both_halves_cost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_records, "price", lambda provider, model, usage: 0.5)
    end = last(await bench.run("What is the weather in Berkeley?"))
    assert isinstance(end, RunPaused)
    assert end.run.cost_usd == 1.5
    assert last(await bench.approve(end.run.id)).run.cost_usd == 2.0


async def test_an_answer_without_a_count_makes_the_cost_of_its_run_unknown_and_is_a_request_all_the_same() -> None:
    asked = Reply(Call("look", {}))
    uncounted = [
        piece.replace(b'"usage": {', b'"counts": {')
        for piece in openai_responses.pieces(Reply(Words("Fog.")), {"model": "m"})
    ]
    with WireServer(openai_responses) as server:
        server.will(asked, Raw(tuple(uncounted)))
        async with open_bench(openai_api_key="k", openai_base_url=f"{server.url}/v1", openai_responses=True) as bench:
            agent = Agent(name="Looker", model="openai/gpt-4.1", tools=[function_tool(look)])
            run = last(await bench.run("Look.", agent)).run
    assert (run.output, run.usage.requests, run.usage.input_tokens, run.cost_usd) == ("Fog.", 2, 20, None)


def look() -> str:
    """Look around."""
    return "Fog."


@pytest.mark.parametrize(
    ("told", "cost"),
    [
        ({"cost": 0.0125, "cost_details": {"upstream_inference_cost": None}}, 0.0125), ({"cost": {"total_cost": 0.006}}, 0.006),
        ({"cost": 0.0, "cost_details": {"upstream_inference_cost": 0.01}, "is_byok": True}, None), ({"cost": 3}, None), ({}, None),
    ],
    ids=["openrouter", "perplexity", "openrouter_with_a_key_of_ones_own", "of_no_known_meaning", "none"],
)  # fmt: skip
async def test_a_server_that_states_what_an_answer_costs_is_believed(told: dict[str, Any], cost: float | None) -> None:
    pieces = [
        piece.replace(b'"prompt_tokens":', f'{json.dumps(told)[1:-1]}{"," * bool(told)} "prompt_tokens":'.encode())
        for piece in chat_completions.pieces(
            Reply(Words("Fog.")), {"model": "m", "stream_options": {"include_usage": True}}
        )
    ]
    with WireServer(chat_completions) as server:
        server.will(Raw(tuple(pieces)))
        async with open_bench(**settings(chat_completions, server.url)) as bench:
            run = last(await bench.run("Look.", Agent(name="Looker"))).run
            [generation] = [span for span in bench.store.traces.spans(run.trace_id) if span.kind == "generation"]
    assert (run.usage.input_tokens, run.cost_usd, generation.cost_usd) == (20, cost, cost)


# -- answers that end before they begin


class Weather(BaseModel):
    sky: str


CUT = Reply(Thought("Let me think about"), stop="length")
HIDDEN = Reply(stop="length")
"""As of OpenAI's models in Chat Completions, which do not show their reasoning."""


def settings(protocol: ModuleType, url: str) -> dict[str, Any]:
    return {
        chat_completions: {"openai_compatible": {"mine": f"{url}/v1"}, "default_agent_model": "openai_compatible/mine/m"},
        anthropic_messages: {"anthropic_api_key": "k", "anthropic_base_url": url, "default_agent_model": "anthropic/claude-haiku-4-5"},
        openai_responses: {
            "openai_api_key": "k", "openai_base_url": f"{url}/v1", "openai_responses": True, "default_agent_model": "openai/gpt-4.1",
        },
    }[protocol]  # fmt: skip


@pytest.fixture(params=[chat_completions, anthropic_messages, openai_responses], ids=lambda protocol: protocol.__name__)
def server(request: pytest.FixtureRequest) -> Iterator[WireServer]:
    with WireServer(request.param) as server:
        server.protocol = request.param
        yield server


@pytest.mark.parametrize("cut", [CUT, HIDDEN], ids=["shown", "hidden"])
@pytest.mark.parametrize("structured", [False, True], ids=["text", "structured"])
async def test_a_run_whose_model_reaches_its_limit_while_it_reasons_says_so_instead_of_answering_nothing(
    server: Any, cut: Reply, structured: bool
) -> None:
    server.will(cut, Reply(Words("Bye.")))
    async with open_bench(**settings(server.protocol, server.url)) as bench:
        agent = Agent(name="Tester", output_type=AgentOutputSchema(Weather) if structured else None)
        end = last(await bench.run("Where?", agent))
        assert (end.run.status, end.run.output, end.error["code"]) == ("failed", None, "length")
        assert "reached its output limit (5 tokens)" in end.run.error
        assert "max_tokens" in end.run.error
        assert (end.run.usage.input_tokens, end.run.usage.output_tokens) == (20, 5)
        [generation] = [span for span in bench.store.traces.spans(end.run.trace_id) if span.kind == "generation"]
        assert (generation.stop_reason, generation.output_tokens, generation.status) == ("length", 5, "ok")
        if cut is CUT:
            [thought] = bench.items(end.run.thread_id, "reasoning")
            assert thought.data["text"] == "Let me think about"
        agent.output_type = None
        again = last(await bench.run("And?", agent, thread_id=end.run.thread_id))
        assert (again.run.status, again.run.output) == ("completed", "Bye.")
        assert len(server.requests) == 2
        assert "Let me think" not in json.dumps(server.requests[1].body)


async def test_reasoning_that_was_cut_off_is_marked_as_incomplete() -> None:
    with WireServer(chat_completions) as server:
        server.will(CUT)
        async with open_bench(**settings(chat_completions, server.url)) as bench:
            run = last(await bench.run("Where?", Agent(name="Tester"))).run
            [thought] = bench.items(run.thread_id, "reasoning")
            assert thought.data["status"] == "incomplete"


async def test_an_answer_that_is_withheld_before_it_begins_is_no_empty_answer() -> None:
    with WireServer(openai_responses) as server:
        pieces = openai_responses.pieces(Reply(stop="length"), {"model": "m"})
        server.will(Raw(tuple(piece.replace(b"max_output_tokens", b"content_filter") for piece in pieces)))
        async with open_bench(**settings(openai_responses, server.url)) as bench:
            end = last(await bench.run("Where?", Agent(name="Tester")))
            assert (end.run.status, end.error["code"]) == ("failed", "refusal")
            assert "content filter" in end.run.error


async def test_an_agent_in_a_tool_that_is_cut_off_while_it_reasons_is_a_tool_that_failed() -> None:
    with WireServer(chat_completions) as server:
        server.will(Reply(Call("ask", {"input": "Where?"})), CUT, Reply(Words("It could not say.")))
        async with open_bench(**settings(chat_completions, server.url)) as bench:
            inner = Agent(name="Inner", model="openai_compatible/mine/m")
            outer = Agent(name="Outer", model="openai_compatible/mine/m", tools=[inner.as_tool("ask", "Ask.")])
            run = last(await bench.run("Where?", outer)).run
            assert run.output == "It could not say."
            [call] = [span for span in bench.store.traces.spans(run.trace_id) if span.kind == "tool"]
            assert call.status == "error"
