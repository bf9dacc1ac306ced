"""A comparison on tape: the tools answer from recorded runs, what was never recorded is not judged, and the verdict says so."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from agents import Agent, function_tool

from tests.runtime.bench import SETTINGS, Bench, calls, last, open_bench, says
from timestep_lab import Lab
from timestep_lab.evals.compare import new_comparison, resume_comparison
from timestep_lab.evals.grid import Grid
from timestep_lab.evals.results import EvalContext
from timestep_lab.evals.statistics.paired import fisher
from timestep_lab.model.comparison import headline
from timestep_lab.model.errors import UsageError

ASKED = "select trace_id, input from traces where workflow = 'Desk' and thread_id is not null order by started_at"


def heard(items: list[Any]) -> list[str]:
    return [item["output"] for item in items if item.get("type") == "function_call_output"]


def looks_up(change: Callable[[str], str] = str) -> Callable[..., list[Any]]:
    """Looks up what it is asked for and says what it heard; `change` turns what it asks for into something else."""

    def decide(_: str, items: list[Any], __: list[Any]) -> list[Any]:
        if answers := heard(items):
            return says(answers[-1])
        return calls(("look", {"order": change(items[0]["content"])}))

    return decide


class Desk:
    """An agent that was run on some orders; what its tool was really asked is in `done`."""

    def __init__(self, bench: Bench) -> None:
        self.done: list[str] = []
        self.bench = bench
        self.evals = EvalContext(bench.store, bench.router, bench.toolbox, SETTINGS, bench.writer)

        @function_tool
        def look(order: str) -> str:
            self.done.append(order)
            return f"Order {order}, call {len(self.done)}"

        self.good = bench.policy(looks_up())
        self.other = bench.policy(looks_up(lambda order: "X" if order in ("1", "2") else order))
        self.agent = Agent(name="Desk", model=self.good, tools=[look])

    async def record(self, n: int = 6) -> None:
        for order in range(n):
            assert last(await self.bench.run(str(order), self.agent)).run.status == "completed"
        self.done.clear()

    async def compare(self, data: Any = ASKED, **options: Any) -> Grid:
        self.bench.writer.flush()
        options = {
            "agents": [self.agent],
            "models": [self.good, self.other],
            "scorers": ["contains:Order"],
            "tools": "tape",
        } | options
        return await (await new_comparison(self.evals, data, **options)).run()


async def test_tools_answer_from_the_traces_and_what_they_never_answered_is_not_judged() -> None:
    async with open_bench() as bench:
        desk = Desk(bench)
        await desk.record()
        grid = await desk.compare()
        assert desk.done == [], "nothing was called"
        assert [c.output for c in grid.cells if c.candidate == desk.good] == [
            f"Order {n}, call {n + 1}" for n in range(6)
        ]
        lost = [cell for cell in grid.cells if cell.status == "error"]
        assert {(cell.candidate, cell.error_type) for cell in lost} == {(desk.other, "TapeMissError")}
        assert [step["tape"] for cell in lost for step in cell.steps] == ["miss", "miss"]
        assert str(grid.tape) == (
            f"10 of 12 calls from tape · 2 misses (2 answers not judged) · by candidate: {desk.good} 0.0 %, {desk.other} 33.3 %"
        )
        rows = {row.name: (row.n, row.errors, row.not_judged) for row in grid.candidate_rows}
        assert rows == {desk.good: (6, 0, 0), desk.other: (4, 0, 2)}
        assert (
            f"On tape, 0 of 6 answers of {desk.good} and 2 of 6 answers of {desk.other} needed results that were never"
            in grid.verdict
        )
        assert "failed" not in headline(grid)


async def test_the_verdict_warns_where_candidates_leave_the_tape_unequally_often() -> None:
    async with open_bench() as bench:
        desk = Desk(bench)
        await desk.record(10)
        strange = bench.policy(looks_up(lambda order: f"X{order}"))
        grid = await desk.compare(models=[desk.good, strange])
        assert "unequally often" in grid.verdict
        assert "unequally often" not in (await desk.compare()).verdict


async def test_a_case_hears_its_own_run_first() -> None:
    async with open_bench() as bench:
        desk = Desk(bench)
        await desk.record(1)
        await desk.record(1)
        later = "select trace_id, input from traces where workflow = 'Desk' order by started_at desc limit 1"
        bench.writer.flush()
        [(newest,), _] = bench.store.sql(
            "select trace_id from traces where workflow = 'Desk' order by started_at desc"
        ).rows
        grid = await desk.compare(later, models=[desk.good], tools='tape:workflow == "Desk"')
        assert [cell.trace_id != newest for cell in grid.cells] == [True]
        assert desk.done == []


async def test_a_cached_answer_is_used_again_on_the_same_tape_alone() -> None:
    async with open_bench() as bench:
        desk = Desk(bench)
        await desk.record(3)
        first = await desk.compare(models=[desk.good])
        again = await desk.compare(models=[desk.good])
        other = await desk.compare(models=[desk.good], ignore={"look": "*"})
        live = await desk.compare(models=[desk.good], tools=None)
        assert [sum(c.cached for c in grid.cells) for grid in (first, again, other, live)] == [0, 3, 0, 0]
        assert len(desk.done) == 3, "without a tape the tools are real"
        assert str(again.tape).startswith("3 of 3 calls from tape")


async def test_a_comparison_goes_on_on_its_tape() -> None:
    async with open_bench() as bench:
        desk = Desk(bench)
        await desk.record()
        grid = await desk.compare()
        again = await (await resume_comparison(desk.evals, grid.id, agents=[desk.agent])).run()
        assert (desk.done, str(again.tape)) == ([], str(grid.tape))


async def test_what_cannot_be_on_tape_is_refused_before_anything_is_asked() -> None:
    async with open_bench() as bench:
        desk = Desk(bench)
        await desk.record(1)
        for options, says_so in [
            ({"data": ["1"]}, "these cases have none"),
            ({"on_miss": "ask"}, "because nobody can be asked"),
            ({"tools": None, "on_miss": "live-if-readonly"}, "need a tape"),
            ({"tools": "tap"}, "is not a valid value"),
            ({"near": {"look": ["ordre"]}}, "no such argument"),
        ]:
            with pytest.raises(UsageError, match=says_so):
                await desk.compare(**options)
        assert desk.done == []


def test_fisher_agrees_with_scipy() -> None:
    for a, b in product(range(8), range(11)):
        ours, theirs = fisher(a, 7, b, 10), scipy.stats.fisher_exact([[a, 7 - a], [b, 10 - b]]).pvalue
        assert ours == pytest.approx(theirs, abs=1e-9)


async def test_traces_are_compared_as_they_stand_and_a_tape_is_made_of_them(tmp_path: Path) -> None:
    async with Lab(tmp_path / "lab.duckdb", settings=SETTINGS) as lab:
        for n in range(2):
            await lab.run(f'call think {{"thought": "{n}"}}', model="demo/assistant")
        runs = lab.traces.where('agent == "Personal Assistant"')
        grid = await lab.compare(runs, agents="Personal Assistant", tools="tape", models=["demo/assistant"])
        assert (
            str(grid.tape)
            == "2 of 2 calls from tape · 0 misses (0 answers not judged) · by candidate: demo/assistant 0.0 %"
        )
        tape = lab.tape(lab.sql("select trace_id from traces where thread_id is not null"))
        assert (len(tape), repr(tape)) == (2, "<Tape: 2 calls of 1 tool in 2 traces>")
        again = await lab.run('call think {"thought": "1"}', tools=lab.tape('agent == "Personal Assistant"'))
        assert again.status == "completed"
        fork = await lab.fork(again, prompt='call think {"thought": "0"}', on_tools=tape)
        assert fork.status == "completed"
        why = await lab.why(again, wrong=lambda answer: True, replays=2, k=2, budget_usd=1)
        assert (why.verdict, len(why.outlook.df())) == ("No step was found that decides it alone.", 2)
