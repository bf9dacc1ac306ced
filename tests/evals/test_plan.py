"""What a plan says before anything is spent, held against what then happened."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.evals.benches import MODEL, opened
from tests.evals.loopback import model_server
from timestep_lab.evals.compare import new_comparison
from timestep_lab.evals.engine import Comparison
from timestep_lab.evals.plan import Options, Plan, _range, _time_s
from timestep_lab.model.comparison import PlanRow

PRICED = ["openai/gpt-4.1", "openai/gpt-4.1-mini"]
PIECES = 60


async def test_calls_cache_hits_money_and_time_come_as_planned(tmp_path: Path) -> None:
    """Answers of 1 to 60 tokens by two models that have a list price, served by a server of our own; a plan and a run, three times over."""
    length = np.random.default_rng(4)
    words: dict[str, str] = {}

    def says(said: str, _: int) -> str:
        return words.setdefault(said, "x" * int(length.integers(1, PIECES)))

    with model_server(says, delay_s=0.1, pieces=PIECES) as server:
        async with opened(tmp_path / "lab.duckdb", openai_base_url=server.url) as bench:
            earlier = [f"earlier {n}" for n in range(40)]
            await (await new_comparison(bench, earlier, models=PRICED, concurrency=10)).run()
            kept = []
            for again in range(3):
                cases = [f"question {again} {n}" for n in range(30)] + earlier[:10]
                comparison = await new_comparison(bench, cases, models=PRICED, concurrency=10)
                plan = await comparison.plan()
                assert (plan.calls, plan.cache_hits) == (60, 20)
                assert plan.cost_usd is not None
                assert plan.time_s is not None
                asked, began = len(server.asked), time.monotonic()
                grid = await comparison.run()
                took_s = time.monotonic() - began
                assert len(server.asked) - asked == plan.calls
                assert sum(cell.cached for cell in grid.cells) == plan.cache_hits
                spent = sum(cell.cost_usd or 0.0 for cell in grid.cells if not cell.cached)
                kept.append(plan.cost_usd[0] <= spent <= plan.cost_usd[1])
                # Sixty answers after 0.1 s each, ten at a time, take 0.6 s. How well the range holds is measured below, on a clock of its own:
                # beside a whole test suite this machine may be several times as busy, or as idle, as when the history was made.
                assert plan.time_s[1] >= 0.6
                assert plan.time_s[0] / 4 <= took_s <= 4 * plan.time_s[1]
            assert sum(kept) >= 2


def coverage(draw: Callable[[np.random.Generator, int], np.ndarray], *, rounds: int = 400) -> float:
    """How often the range that is planned from the history holds what the next comparison adds up to."""
    generator = np.random.default_rng(6)
    held = 0
    for _ in range(rounds):
        history, calls = draw(generator, int(generator.integers(8, 80))), int(generator.integers(5, 200))
        low, high = _range(list(history), calls)
        assert low is not None
        assert high is not None
        held += low <= draw(generator, calls).sum() <= high
    return held / rounds


def test_at_least_four_of_five_plans_hold_what_it_then_cost() -> None:
    assert coverage(lambda generator, n: generator.gamma(4.0, 0.001, n)) >= 0.78, "answers of like size"
    assert coverage(lambda generator, n: generator.lognormal(-6, 0.8, n)) >= 0.75, "a few answers that are much longer"


def test_the_planned_time_holds_the_time_that_a_pool_of_workers_takes() -> None:
    generator, held = np.random.default_rng(7), 0
    for _ in range(300):
        history, answers = generator.gamma(3.0, 100.0, 60), generator.gamma(3.0, 100.0, 90)
        slots = np.zeros(8)
        for ms in answers:
            slots[slots.argmin()] += ms
        low, high = _time_s(list(history), len(answers), Options(concurrency=8))
        assert low is not None
        assert high is not None
        held += low <= slots.max() / 1000.0 <= high
    assert held / 300 >= 0.8


def row(name: str, provider: str, *, high: float | None = 4.0) -> PlanRow:
    return PlanRow(
        candidate=name, calls=1, cache_hits=0, cost_usd_low=0.1, cost_usd_high=0.2, time_s_low=1.0, time_s_high=high, basis="history",
        provider=provider,
    )  # fmt: skip


def test_candidates_of_one_provider_wait_for_each_other_and_providers_do_not() -> None:
    assert Plan((row("a", "one"), row("b", "one"), row("c", "two"))).time_s == (2.0, 8.0)
    assert Plan((row("a", "one"), row("b", "two"))).time_s == (1.0, 4.0)
    assert Plan((row("a", "one"), row("b", "two", high=None))).time_s is None


async def test_a_plan_counts_what_judges_are_asked_and_names_those_whose_price_is_unknown(tmp_path: Path) -> None:
    def says(said: str, _: int) -> str:
        return '{"pass": true, "better": "1"}' if said.startswith("Rubric") else said

    judge = "openai_compatible/loop/judge"
    with model_server(says) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            cases: list[dict[str, object]] = [{"input": f"question {n}"} for n in range(6)]
            cases[0]["assertions"] = [{"type": "judge", "rubric": "Polite.", "model": judge}]
            scorers = [{"type": "judge", "model": judge}, {"type": "pairwise", "model": "demo/echo"}, "contains:q"]

            async def prepared(data: list[dict[str, object]]) -> Comparison:
                return await new_comparison(bench, data, models=["demo/echo", MODEL], scorers=scorers)

            plan = await (await prepared(cases[:4])).plan()
            judges = {row.candidate: (row.calls, row.cache_hits, row.priced) for row in plan.rows if row.judge}
            assert judges == {judge: (10, 0, False), "demo/echo": (8, 0, True)}
            assert str(plan).startswith("26 calls, 18 of them to judges; cost unknown: no price is known for ")
            assert judge in str(plan)
            assert server.asked == []

            await (await prepared(cases[:4])).run()
            asked = [model for _, model, _ in server.asked].count("judge")
            plan = await (await prepared(cases)).plan()
            [row] = [row for row in plan.rows if row.candidate == judge]
            assert (row.calls, row.cache_hits, asked) == (4, 10, 10)
            assert row.basis == "history"
            assert row.time_s_high is not None
            assert "10 judgements from the cache" in str(plan)


async def test_without_history_nothing_is_ventured(tmp_path: Path) -> None:
    async with opened(tmp_path / "lab.duckdb") as bench:
        plan = await (await new_comparison(bench, ["a question"], models=[MODEL, "demo/echo"])).plan()
        assert plan.calls == 2
        assert plan.cost_usd is None
        assert plan.rows[1].cost_usd_high == 0.0, "what is free needs no history"
        assert str(plan) == f"2 calls; cost unknown: no price is known for {MODEL}; time unknown."
