"""The same rules over runs that happened already."""

from __future__ import annotations

from pathlib import Path

import agents as sdk
import pytest

from tests.evals.benches import opened
from timestep_lab.evals.compare import new_comparison
from timestep_lab.evals.over_traces import score_traces
from timestep_lab.evals.scorers.registry import make_scorers
from timestep_lab.types.errors import DataError

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
        [stored] = await score_traces(bench.store, make_scorers(RULES), keep=True)
        assert stored == {"trace_id": cell.trace_id, **fresh}
        assert fresh["handoff_path:Front,Back"] == 1.0
        kept = bench.store.sql(
            "select name, value from scores where target = 'trace' and target_id = $1", [cell.trace_id]
        )
        assert dict(kept.rows) == fresh


async def test_the_query_must_say_which_traces(tmp_path: Path) -> None:
    async with opened(tmp_path / "lab.duckdb") as bench:
        with pytest.raises(DataError, match="no column trace_id"):
            await score_traces(bench.store, make_scorers(RULES), "select status from traces")
