"""A shop in which agents change things: recorded once, evaluated on tape without touching it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.evals import shop
from tests.runtime.bench import Policy, says
from timestep_lab import Lab


@pytest.fixture
async def bench() -> AsyncIterator[shop.Bench]:
    async with Lab(":memory:") as lab:
        yield shop.Bench(lab, n_tasks=16)


def test_the_shop_is_the_same_for_a_seed_and_as_large_as_it_says() -> None:
    made, tasks = shop.make()
    assert (len(made.customers), len(made.orders), len(tasks), len(shop.READS + shop.WRITES)) == (500, 1000, 114, 16)
    assert shop.make()[1] == tasks
    assert len({task.asked for task in tasks}) == 114


def test_every_solution_scores_1_and_every_single_action_mutation_of_one_scores_below() -> None:
    made, tasks = shop.make()
    assert all(shop.score(made, task, task.actions) == 1.0 for task in tasks)
    mutated = [(task, actions) for task in tasks for actions in shop.mutations(made, task)]
    assert len(mutated) > 900
    assert [(task.asked, actions) for task, actions in mutated if shop.score(made, task, actions) >= 1.0] == []


async def test_on_its_own_tape_every_call_is_answered_nothing_is_changed_and_twice_is_the_same(
    bench: shop.Bench,
) -> None:
    recorded = await bench.compare(bench.candidate())
    assert {score.value for cell in recorded.cells for score in cell.scores} == {1.0}
    changed = bench.changed
    assert changed > 0
    tape = bench.tape_of(recorded)
    first, second = [await bench.compare(bench.candidate(), tools=tape) for _ in range(2)]
    assert set(first.tape.calls["Shop desk"]) == {"hit"}
    assert shop.written(first) == shop.written(second)
    assert {score.value for cell in first.cells for score in cell.scores} == {1.0}
    assert bench.changed == changed


async def test_another_agent_changes_nothing_on_tape_and_the_verdict_is_the_one_of_live_tools(
    bench: shop.Bench,
) -> None:
    good, bad = bench.candidate(), bench.candidate(errs=0.6, seed=1, name="Hasty desk")
    live = await bench.compare(good, bad)
    tape, changed = bench.tape_of(await bench.compare(good)), bench.changed
    model = bench.lab.router.add_model(Policy(lambda *_: says('"done"')))
    taped = await bench.compare(good, bad, tools=tape, on_miss=f"simulate:{model}")
    assert bench.changed == changed
    told = [[row.outcome for row in grid.decision if row.measure == "quality"] for grid in (live, taped)]
    assert told[0] == told[1]
    assert taped.tape.miss_rate("Hasty desk") > 0
