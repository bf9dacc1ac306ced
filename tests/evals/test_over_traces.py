"""The same rules over runs that happened already, and over those that are happening."""

from __future__ import annotations

import asyncio
from pathlib import Path

import agents as sdk
import pytest

from tests.evals.benches import opened
from timestep_lab import Lab
from timestep_lab.evals.compare import new_comparison
from timestep_lab.evals.over_traces import score_traces
from timestep_lab.lab.comparing import in_sample
from timestep_lab.model.errors import DataError, FilterError, UsageError

RULES = ["tool_used:weather", "handoff_path:Front,Back", "steps:2", "contains:Oakland"]


async def test_a_rule_says_of_a_stored_trace_what_it_said_of_the_fresh_answer(tmp_path: Path) -> None:
    @sdk.function_tool
    def weather(location: str) -> str:
        """The weather at a place."""
        return f"Sunny in {location}."

    back = sdk.Agent(name="Back", handoff_description="Knows the weather.", tools=[weather], model="demo/assistant")
    front = sdk.Agent(name="Front", handoffs=[back], model="demo/assistant")
    async with opened(tmp_path / "lab.duckdb") as bench:
        comparison = await new_comparison(bench, ["What is the weather in Oakland?"], agents=[front], scorers=RULES)
        grid = await comparison.run()
        bench.writer.flush()
        [cell] = grid.cells
        fresh = {score.scorer: score.value for score in cell.scores}
        [stored] = await score_traces(bench, "", RULES)
        assert stored == {"trace_id": cell.trace_id, **fresh, "note": None}
        assert fresh["handoff_path:Front,Back"] == 1.0
        kept = bench.store.sql(
            "select name, value from scores where target = 'trace' and target_id = $1", [cell.trace_id]
        )
        assert dict(kept.rows) == fresh


async def test_traces_are_chosen_by_filter_by_sql_or_by_id_and_scored_once(tmp_path: Path) -> None:
    calls = []

    def short(output: str, expected: str | None) -> bool | None:
        calls.append(output)
        return None if expected == "unknown" else len(output) < 200

    async with Lab(str(tmp_path / "lab.duckdb")) as lab:
        runs = [await lab.run(f"Say word{n}.", model="demo/echo") for n in range(3)]
        by_id = await lab.score_traces([runs[0].trace_id], scorers=short)
        assert list(by_id["short"]) == [1.0]
        everything = await lab.score_traces('model == "demo/echo"', scorers=[short, "contains:word1"])
        assert (len(everything), len(calls), everything["contains:word1"].sum()) == (3, 3, 1.0)
        await lab.score_traces(scorers=short)
        assert len(calls) == 3
        again = await lab.score_traces(
            "select trace_id, 'unknown' as expected from traces order by started_at", scorers=short, again=True, limit=1
        )
        assert (again["short"].isna().all(), again["note"][0]) == (True, "short: the function gave no score")
        assert lab.sql("select count(*) as n from scores where name = 'short'")["n"][0] == 3
        with pytest.raises(FilterError):
            await lab.score_traces('modle = "x"', scorers=short)
        with pytest.raises(DataError, match="no column trace_id"):
            await lab.score_traces("select status from traces", scorers=short)
        with pytest.raises(UsageError, match="No scorer"):
            await lab.score_traces(scorers=[])


async def test_a_judge_of_traces_is_shown_what_was_asked_and_asked_once(tmp_path: Path) -> None:
    async with Lab(str(tmp_path / "lab.duckdb")) as lab:
        await lab.run("Say lamp.", model="demo/echo")
        judge = {
            "type": "judge",
            "rubric": 'Reply {"pass": true} for lamps',
            "model": "demo/echo?bare=1",
            "name": "kind",
        }
        first = await lab.score_traces(scorers=judge)
        assert list(first["kind"]) == [1.0]
        [asked] = lab.sql("select input from traces where workflow = 'Judge'")["input"]
        assert "<question>\nSay lamp.\n</question>" in asked
        await lab.score_traces(scorers={**judge, "name": "other"})
        assert len(lab.sql("select 1 from traces where workflow = 'Judge'")) == 1


async def test_new_traces_are_scored_as_they_end(tmp_path: Path) -> None:
    async with Lab(str(tmp_path / "lab.duckdb")) as lab:
        await lab.run("Say before.", model="demo/echo")
        async with lab.watch(scorers="contains:lamp") as watch:
            await lab.run("Say lamp.", model="demo/echo")
            async with asyncio.timeout(20):
                while not watch.scored:
                    await asyncio.sleep(0.05)
            await lab.run("Say bulb.", model="demo/echo")
        scored = lab.sql("select value from scores where source = 'scorer' order by created_at")["value"]
        assert (list(scored), watch.scored, watch.last_error) == ([1.0, 0.0], 2, None)
        async with lab.watch(scorers="contains:lamp", filter='model == "demo/slow"') as watch:
            await lab.run("Say lamp.", model="demo/echo")
        assert watch.scored == 0
        with pytest.raises(UsageError, match="sample=0"):
            lab.watch(scorers="contains:lamp", sample=0)


def test_a_sample_is_the_same_in_every_process_and_as_large_as_asked() -> None:
    ids = [f"{n:032x}" for n in range(10_000)]
    chosen = {id for id in ids if in_sample(id, 0.1)}
    assert 850 < len(chosen) < 1150
    assert chosen <= {id for id in ids if in_sample(id, 0.2)}
    assert all(in_sample(id, 1.0) for id in ids)


async def test_the_answers_of_a_comparison_are_scored_anew_without_asking_anybody(tmp_path: Path) -> None:
    front = sdk.Agent(name="Front", model="demo/echo")
    async with Lab(str(tmp_path / "lab.duckdb")) as lab:
        cases = [{"input": f"Say word{n}.", "expected": f"word{n}"} for n in range(3)]
        grid = await lab.compare(
            cases, agents=[front], models=["demo/echo", "demo/flaky?rate=1&error=auth"], scorers="contains"
        )
        traces = lab.sql("select count(*) as n from traces")["n"][0]
        done = [cell for cell in grid.cells if cell.status == "done"]
        assert len(done) == 3
        scored = await lab.rescore(grid, scorers=["starts_with:Echo", lambda output: len(output)])
        assert scored.status == grid.status
        assert scored.scorers == ["contains", "starts_with:Echo", "<lambda>"]
        assert len(scored.cells) == 6
        again = await lab.rescore(grid.id, scorers={"type": "contains", "value": "no such word", "name": "contains"})
        assert again.candidate_rows[0].scores["contains"]["mean"] == 0.0
        assert again.candidate_rows[0].scores["<lambda>"]["mean"] == scored.candidate_rows[0].scores["<lambda>"]["mean"]
        assert lab.comparison(grid.id).df()["starts_with:Echo"].sum() == 3
        assert lab.sql("select count(*) as n from traces")["n"][0] == traces
