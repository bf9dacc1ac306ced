"""What a run cost is known when every price is, and unknown otherwise; it is never a false zero."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.runtime.bench import Bench, last
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
